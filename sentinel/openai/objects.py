"""What an account at the provider holds: the kinds of objects that have an owner, what lies in them, and its words for none.

Cannot fail: an id of no known form is a file's, as ids of old files are free text.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from sentinel.ops.errors import NotFoundError

_DAY_S: Final = 86_400


class Kind(Struct, frozen=True):
    """A kind of object with an owner: how its ids begin, and the provider's own words where there is none (`message`, `param`).

    `life_s` is how long the provider keeps it after it was last used; 0 is as long as SENTINEL_OBJECT_LIFE_SECONDS says.
    """

    prefixes: tuple[str, ...]
    message: str
    param: str | None = None
    life_s: int = 0


def _kind(noun: str, *prefixes: str, life_s: int = 0) -> Kind:
    return Kind(prefixes, f"No {noun} found with id '{{id}}'.", life_s=life_s)


KINDS: Final[Mapping[str, Kind]] = {
    "file": Kind(("file-", "file_"), "No such File object: {id}", "id"),
    "upload": _kind("upload", "upload_", life_s=2 * _DAY_S),
    "batch": _kind("batch", "batch_"),
    "response": Kind(("resp_",), "Response with id '{id}' not found.", life_s=31 * _DAY_S),
    "completion": _kind("chat completion", "chatcmpl-", life_s=31 * _DAY_S),
    "conversation": Kind(("conv_",), "Conversation with id '{id}' not found."),
    "vector_store": _kind("vector store", "vs_"),
    "assistant": _kind("assistant", "asst_"),
    "thread": _kind("thread", "thread_"),
    "job": _kind("fine-tuning job", "ftjob-"),
    "container": _kind("container", "cntr_", life_s=2 * _DAY_S),
    "video": _kind("video", "video_"),
    "character": _kind("character", "char_"),
    "eval": _kind("eval", "eval_"),
    "skill": _kind("skill", "skill_"),
    "voice": _kind("voice", "voice_"),
    "consent": _kind("voice consent", "cons_"),
}
# What lies within an object and is reached through it, by its name in the route table. That of others is told by what was noted
# when it was made.
_PARTS: Final[Mapping[str, Kind]] = {
    "_message": _kind("message", "msg_", life_s=31 * _DAY_S),
    "_run": _kind("run", "run_", life_s=31 * _DAY_S),
    "_eval_run": _kind("eval run", "evalrun_", life_s=31 * _DAY_S),
    "_step": _kind("run step", "step_", life_s=31 * _DAY_S),
    "_item": _kind("item", "fc_", "rs_", "ws_", "fs_", "ci_", "cu_", "mcp_", life_s=31 * _DAY_S),
    "_batch": _kind("vector store file batch", "vsfb_", life_s=31 * _DAY_S),
    "_file": _kind("file", "cfile_", life_s=2 * _DAY_S),
    "_version": _kind("version", life_s=31 * _DAY_S),
}
_ALL: Final = {**KINDS, **_PARTS}


def not_found(kind: str, object_id: str) -> NotFoundError:
    """What the provider answers where it has no such object: nobody can tell another's object from none."""
    words = _ALL[kind]
    return NotFoundError(words.message.format(id=object_id), param=words.param)


def model_not_found(model: str) -> NotFoundError:
    """What the provider answers where it has no such model (rule E3)."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return NotFoundError(message, code="model_not_found")


def kind_of(object_id: str) -> str:
    """The kind of an object by how its id begins; `file` where nothing else fits, as ids of old files are free text."""
    return next((name for name, kind in _ALL.items() if object_id.startswith(kind.prefixes)), "file")


def life_s(kind: str) -> int:
    """How long the provider keeps it after its last use; 0 is as long as SENTINEL_OBJECT_LIFE_SECONDS says."""
    return _ALL[kind].life_s
