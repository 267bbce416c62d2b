"""The kinds of objects an account has, and the fields by which a body names them. Constants; cannot fail."""

from typing import Final

from sentinel.devstack.provider.store import Kind, kind

FILE: Final = Kind("file", "file-", "file", "No such File object: {id}", "id")
UPLOAD: Final = kind("upload", "upload_", "upload")
UPLOAD_PART: Final = kind("upload_part", "part_", "upload.part", "part")
BATCH: Final = kind("batch", "batch_", "batch")
VECTOR_STORE: Final = kind("vector_store", "vs_", "vector_store")
VECTOR_FILE: Final = kind("vector_file", "file-", "vector_store.file", "file")
FILE_BATCH: Final = kind("file_batch", "vsfb_", "vector_store.files_batch", "vector store file batch")
ASSISTANT: Final = kind("assistant", "asst_", "assistant")
THREAD: Final = kind("thread", "thread_", "thread")
MESSAGE: Final = kind("message", "msg_", "thread.message")
RUN: Final = kind("run", "run_", "thread.run")
STEP: Final = kind("step", "step_", "thread.run.step", "run step")
TUNING: Final = kind("fine_tuning_job", "ftjob-", "fine_tuning.job", "fine-tuning job")
TUNING_EVENT: Final = kind("tuning_event", "ftevent-", "fine_tuning.job.event", "event")
TUNING_CHECKPOINT: Final = kind("tuning_checkpoint", "ftckpt_", "fine_tuning.job.checkpoint", "checkpoint")
MODEL: Final = Kind("model", "ft:", "model", "The model '{id}' does not exist", "model", "created")
CONVERSATION: Final = Kind("conversation", "conv_", "conversation", "Conversation with id '{id}' not found.")
ITEM: Final = kind("item", "msg_", "message")
CONTAINER: Final = kind("container", "cntr_", "container")
CONTAINER_FILE: Final = kind("container_file", "cfile_", "container.file", "file")
VIDEO: Final = kind("video", "video_", "video")
CHARACTER: Final = kind("character", "char_", "video.character", "character")
VOICE: Final = kind("voice", "voice_", "audio.voice")
CONSENT: Final = kind("consent", "cons_", "audio.voice_consent", "voice consent")
EVAL: Final = kind("eval", "eval_", "eval")
EVAL_RUN: Final = kind("eval_run", "evalrun_", "eval.run", "eval run")
OUTPUT_ITEM: Final = kind("output_item", "outputitem_", "eval.run.output_item", "output item")
SKILL: Final = kind("skill", "skill_", "skill")
SKILL_VERSION: Final = kind("skill_version", "skillver_", "skill.version", "skill version")
# What an input may refer to: items of the responses that are stored.
REFERABLE: Final = Kind("referable", "msg_", "item", "Item with id '{id}' not found.", "input")
RESPONSE: Final = Kind("response", "resp_", "response", "Response with id '{id}' not found.")
STORED_CHAT: Final = kind("stored_chat", "chatcmpl-", "chat.completion", "chat completion", stamp="created")

# Field -> what it names, and the status where that does not exist.
NAMING: Final = {
    **dict.fromkeys(("file_id", "input_file_id", "file_ids", "training_file", "validation_file"), (FILE, 400)),
    **dict.fromkeys(("vector_store_id", "vector_store_ids"), (VECTOR_STORE, 400)),
    **dict.fromkeys(("container", "container_id"), (CONTAINER, 400)),
    "assistant_id": (ASSISTANT, 404),
    "skill_id": (SKILL, 404),
}
