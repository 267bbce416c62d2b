"""What the meters must read of each sample: one row a file. The files follow OpenAI's documented shapes and known deviations.

A directory is a dialect (docs/tokens.md). An `.sse` file is a stream, a `.json` file a plain body.
"""

from pathlib import Path
from typing import NamedTuple

from sentinel.openai.response import sse
from sentinel.ops.records import Dialect, Usage

ROOT = Path(__file__).parent
DIALECTS = {"chat": Dialect.CHAT, "responses": Dialect.RESPONSES, "events": Dialect.EVENTS}

CHAT = 'Hello "usage": {there} 👋 naïve [DONE]'
TEXT = 'Guten Tag "usage": { 👋 [DONE]'
CHAT_ID = "chatcmpl-CcBRc4mZ2zUxkqW0Ppt1aEEWRq4rN"


class Case(NamedTuple):
    """What a sample holds.

    `hidden` are the events a client that did not ask for usage must not see, `left` what stays of them. `added` comes at the
    end although it is not in the file, `dropped` does not come although it is.
    """

    usage: Usage | None
    texts: list[str]
    object_id: str = ""
    hidden: tuple[int, ...] = ()
    terminated: bool = True
    finished: bool = True
    failed: bool = False
    unfinished: bool = False
    added: bytes = b""
    dropped: bytes = b""
    created_ids: bytes = b""


def read(name: str) -> bytes:
    """The bytes of a sample, named by its path without this directory."""
    return (ROOT / name).read_bytes()


def dialect(name: str) -> Dialect:
    """The dialect of a sample, which its directory names."""
    return DIALECTS[name.split("/", maxsplit=1)[0]]


HALF_EVENT = sse.events(read("chat/truncated_half_event.sse"))[-1]

CHATS = {
    "chat/chat.sse": Case(None, [CHAT], CHAT_ID),
    "chat/chat_usage.sse": Case(Usage(19, 10), [], CHAT_ID, (9,)),
    "chat/chat_usage_crlf.sse": Case(Usage(19, 10), [], CHAT_ID, (9,)),
    "chat/chat_usage_cr.sse": Case(Usage(19, 10), [], CHAT_ID, (9,)),
    "chat/tools_usage.sse": Case(Usage(84, 42), [], CHAT_ID, (6,)),
    "chat/refusal.sse": Case(None, ["I'm sorry, I cannot."], CHAT_ID),
    "chat/reasoning.sse": Case(
        Usage(8, 100, reasoning_tokens=100), [], "gen-1763000000-x7", (6,), created_ids=b": OPENROUTER PROCESSING\n"
    ),
    "chat/choices.sse": Case(None, ["Hello", "Good day"], CHAT_ID),
    "chat/choices_logprobs_usage.sse": Case(Usage(9, 4), [], "chatcmpl-Da01", (5,)),
    "chat/logprobs_usage.sse": Case(Usage(19, 2), [], CHAT_ID, (4,)),
    "chat/audio.sse": Case(None, ["Yes, sir"], "chatcmpl-Da01"),
    "chat/completions_usage.sse": Case(Usage(4, 3), [], "cmpl-CcBTf0", (3,)),
    "chat/completions_logprobs.sse": Case(None, [" and so", " or"], "cmpl-2"),
    "chat/azure_usage.sse": Case(Usage(19, 10), [], CHAT_ID, (4,)),
    "chat/azure_filters_with_usage.sse": Case(Usage(7, 1), ["Oui"], CHAT_ID, (0,)),
    "chat/vercel_usage.sse": Case(Usage(14, 3), [], "gen_01K9", (3,)),
    "chat/usage_on_finish.sse": Case(Usage(11, 2), [], CHAT_ID),
    "chat/usage_cumulative.sse": Case(Usage(9, 3), [], CHAT_ID, (4,)),
    "chat/usage_twice.sse": Case(Usage(36, 3), [], CHAT_ID, (2,)),
    "chat/usage_nested.sse": Case(None, ["Nested"], CHAT_ID),
    "chat/comments_mixed_ends.sse": Case(Usage(19, 10), [], CHAT_ID, (4,)),
    "chat/multi_line.sse": Case(Usage(5, 1), [], "c1", (1,)),
    "chat/error_first.sse": Case(None, [], finished=False, failed=True),
    "chat/truncated.sse": Case(None, ['Hello "usage": {'], CHAT_ID, terminated=False, finished=False),
    "chat/truncated_half_event.sse": Case(
        None, ['Hello "usage": {'], CHAT_ID, terminated=False, finished=False, dropped=HALF_EVENT
    ),
    "chat/no_done.sse": Case(None, [CHAT], CHAT_ID, terminated=False),
    "chat/no_last_blank_line.sse": Case(Usage(19, 10), [], CHAT_ID, (9,), added=b"\n\n"),
}

RESPONSES = {
    "responses/text.sse": Case(Usage(21, 9), [], "resp_text01"),
    "responses/no_usage.sse": Case(None, [TEXT], "resp_nousage"),
    "responses/truncated.sse": Case(
        None, ['Guten Tag "usage": {'], "resp_text01", terminated=False, finished=False, unfinished=True
    ),
    "responses/function_call.sse": Case(Usage(60, 25), [], "resp_call01"),
    "responses/function_call_truncated.sse": Case(
        None, ['get_weather{"city":"Oslo"}', "runprint(1)"], "resp_call01", terminated=False, finished=False, unfinished=True
    ),
    "responses/reasoning_summary.sse": Case(Usage(12, 140, reasoning_tokens=128), [], "resp_reason01"),
    "responses/reasoning_summary_truncated.sse": Case(
        None, ["**Plan**", "Then act", "42"], "resp_reason01", terminated=False, finished=False, unfinished=True
    ),
    "responses/reasoning_text_truncated.sse": Case(
        None, ["We add"], "resp_raw01", terminated=False, finished=False, unfinished=True
    ),
    "responses/refusal.sse": Case(Usage(18, 7), [], "resp_refuse01"),
    "responses/incomplete.sse": Case(Usage(14, 16), [], "resp_inc01"),
    "responses/failed_at_once.sse": Case(None, [], "resp_fail01", failed=True),
    "responses/failed_with_usage.sse": Case(Usage(33, 4), [], "resp_fail02", failed=True),
    "responses/failed_halfway.sse": Case(None, ["Half said"], "resp_fail03"),
    "responses/error_event.sse": Case(None, ["Two words"], "resp_err01"),
    "responses/error_first.sse": Case(None, [], failed=True),
    "responses/tools.sse": Case(Usage(310, 44), [], "resp_tools01"),
    "responses/tools_truncated.sse": Case(
        None, ["1+1", 'roll{"d":6}', "Four."], "resp_tools01", terminated=False, finished=False, unfinished=True
    ),
    "responses/image_generation.sse": Case(Usage(40, 12), [], "resp_img01"),
    "responses/background_queued.sse": Case(None, [], "resp_bg01", terminated=False, finished=False, unfinished=True),
    "responses/audio_truncated.sse": Case(None, ["Hello"], "resp_aud01", terminated=False, finished=False, unfinished=True),
}

EVENTS = {
    "events/speech.sse": Case(Usage(14, 101), [], terminated=False),
    "events/transcription.sse": Case(Usage(39, 6), [], terminated=False),
    "events/transcription_duration.sse": Case(None, [], terminated=False),
    "events/image_generation.sse": Case(Usage(50, 1056), [], terminated=False),
    "events/image_edit.sse": Case(Usage(400, 1056), [], terminated=False),
    "events/error_event.sse": Case(None, [], terminated=False, failed=True),
    "events/thread_run.sse": Case(Usage(95, 12), [], "run_01"),
    "events/thread_run_requires_action.sse": Case(None, [], "run_01", unfinished=True),
    "events/thread_created_and_run.sse": Case(Usage(70, 0), [], "thread_02"),
}

STREAMS = CHATS | RESPONSES | EVENTS

BODIES = {
    "chat/chat.json": Case(Usage(19, 10), [], CHAT_ID),
    "chat/tools.json": Case(Usage(84, 17), [], CHAT_ID),
    "chat/completions.json": Case(Usage(4, 6), [], "cmpl-CcBTf0"),
    "chat/no_usage.json": Case(None, ["No bill", "at all", "Hm."], CHAT_ID),
    "chat/error.json": Case(None, [], failed=True),
    "responses/text.json": Case(Usage(30, 12, reasoning_tokens=8), [], "resp_body01"),
    "responses/all_items.json": Case(
        None,
        ["**Plan**", "Then act", "raw", 'get_weather{"city":"Oslo"}', "runprint(1)", "1+1", 'roll{"d":6}', "Four.", "No."],
        "resp_body02",
    ),
    "responses/background.json": Case(None, [], "resp_body03", unfinished=True),
    "responses/failed.json": Case(None, [], "resp_body04", failed=True),
    "responses/incomplete.json": Case(Usage(5, 16), [], "resp_body05"),
    "events/embeddings.json": Case(Usage(8, 0), []),
    "events/images.json": Case(Usage(50, 1056), []),
    "events/transcription_verbose.json": Case(None, []),
    "events/thread_run_queued.json": Case(None, [], "run_01", unfinished=True),
    "events/batch.json": Case(None, [], "batch_01", unfinished=True),
    "events/fine_tuning_job_failed.json": Case(None, [], "ftjob-01"),
    "events/moderation.json": Case(None, [], "modr-01"),
    "events/error.json": Case(None, [], failed=True),
}
