"""How the answers of each dialect are read: where usage, the id and the state stand, what ends a stream, what is text.

Never fails: what cannot be read says nothing. A grammar is chosen once for an answer; every chunk is searched for its two
marks, and only an event that has one of them, or is one of the first, is given to `read`.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from sentinel.openai.response import sse
from sentinel.openai.response.texts import Texts, read_choices, read_response
from sentinel.openai.response.usage import Head, decode, decode_head, greets, is_usage_alone, read_usage, read_usage_of_models
from sentinel.ops.records import Dialect, Usage

END_MARK: Final = b"[DONE]"

# A quote inside a JSON string is escaped, so it cannot match within one (rule U9). Whatever is not plainly null counts:
# the object may stand on the next `data` line.
_USAGE: Final = re.compile(rb'"usage"(?!\s*:\s*null)')
_ANYTHING: Final = re.compile(b"")
# Images travel in base64, in one event with the usage; the last event of a response repeats all of them (rules P2, P5).
_TAIL_BYTES_MAX_IMAGES: Final = 16 << 20
_LAST_EVENTS: Final = frozenset(("response.completed", "response.incomplete", "response.failed"))
_UNFINISHED: Final = frozenset(
    ("queued", "in_progress", "validating", "finalizing", "cancelling", "requires_action", "pending")
)
# Parts of a thread's run: their state is not the run's, and the run's usage contains theirs.
_PARTS: Final = frozenset(("thread.message", "thread.run.step"))


class Reading(Struct, frozen=True):
    """What one event, or one plain body, says beside its text.

    `ends` says that no client reads further, `fails` that it is an error, `alone` that it is there for its usage (rule U5),
    `greets` that beside it a choice has its role. `unfinished` says whether the provider still works on the object; None where
    nothing is said of it.
    """

    usage: Usage | None = None
    object_id: str = ""
    ends: bool = False
    fails: bool = False
    alone: bool = False
    greets: bool = False
    unfinished: bool | None = None


NOTHING: Final = Reading()


class Grammar(NamedTuple):
    """One dialect: what `read` must be given has the bytes `mark` (and there, matches `marked`), or `end`.

    `read_body` reads a plain answer. `say` adds the text of an event or a body, and is None where no text is counted.
    `needs_end` says that a stream which merely stops is not whole (rule F2). `tail_bytes_max` bounds an event that is
    held until it is whole (rule S7). `holder` is the member of an event that holds the object with the usage, where it is
    not the event itself.
    """

    mark: bytes
    marked: re.Pattern[bytes]
    end: bytes
    read: Callable[[bytes], Reading]
    read_body: Callable[[Head], Reading]
    say: Callable[[dict[str, Any], Texts], None] | None
    needs_end: bool
    tail_bytes_max: int = sse.TAIL_BYTES_MAX
    holder: str = ""

    def may_speak(self, fields: dict[str, Any]) -> bool:
        """Whether there may be text in what is not known of an answer, or of an event, of which `fields` are."""
        if self.say is None or "choices" in fields or "output" in fields or fields.get("error"):
            return False
        kind = fields.get("type")
        return not isinstance(kind, str) or kind.endswith(".delta")


def _read_chat(said: bytes) -> Reading:
    if said.startswith(END_MARK):
        return Reading(ends=True)
    head = decode_head(said)
    if head is None:
        return NOTHING
    # All of a chunk is looked at only where there is usage that might be alone in it.
    fields = {} if head.usage is None else decode(said) or {}
    alone = bool(fields) and is_usage_alone(fields)
    return Reading(read_usage(head.usage), head.name, fails=_fails(head), alone=alone, greets=alone and greets(fields))


def _read_body(head: Head) -> Reading:
    unfinished = None if head.status is None else _unfinished(head)
    return Reading(read_usage(head.usage), head.name, fails=_fails(head), unfinished=unfinished)


def _read_responses(said: bytes) -> Reading:
    """Rule P1: usage counts only in the response of a last event; there is no [DONE]."""
    head = decode_head(said)
    if head is None:
        return NOTHING
    if _fails(head):
        return Reading(ends=True, fails=True, unfinished=False)
    response = head.response
    if response is None:
        return NOTHING
    if _is_last(head):
        failed = head.type == "response.failed"
        return Reading(read_usage(response.usage), response.name, ends=True, fails=failed, unfinished=False)
    return Reading(object_id=response.name, unfinished=True)


def _is_last(head: Head) -> bool:
    return isinstance(head.type, str) and head.type in _LAST_EVENTS


def _read_events(said: bytes) -> Reading:
    if said.startswith(END_MARK):
        return Reading(ends=True)
    head = decode_head(said)
    return NOTHING if head is None else _read_object(head)


def _read_object(head: Head) -> Reading:
    """An object with an error of its own (a job, a run) is an answer like any other; an error without an object is none."""
    fails = _fails(head) and head.object is None
    if isinstance(head.object, str) and head.object in _PARTS:
        return Reading(object_id=head.name)
    usage = read_usage(head.usage) or read_usage_of_models(head.per_model_usage or head.model_grader_token_usage_per_model)
    return Reading(usage, head.name, fails=fails, unfinished=_unfinished(head))


def _read_unread(said: bytes) -> Reading:
    """Only its end: also the one of a response that is streamed again, behind which no failure may be told."""
    if said.startswith(END_MARK):
        return Reading(ends=True)
    head = decode_head(said)
    if head is None:
        return NOTHING
    return Reading(object_id=head.name, ends=_is_last(head), fails=_fails(head) and head.object is None)


def _read_unread_body(head: Head) -> Reading:
    return replace(_read_object(head), usage=None)


def _fails(head: Head) -> bool:
    """Whether it is an error; an event of a response that carries the error of a tool (`response.mcp_call.failed`) is none."""
    return head.type == "error" or (bool(head.error) and not (isinstance(head.type, str) and head.type.startswith("response.")))


def _unfinished(head: Head) -> bool | None:
    return head.status in _UNFINISHED if isinstance(head.status, str) else None


_EVENTS: Final = Grammar(
    # A null usage too: it marks the runs of a thread, whose state counts.
    b'"usage"',
    _ANYTHING,
    END_MARK,
    _read_events,
    _read_object,
    say=None,
    needs_end=False,
    tail_bytes_max=_TAIL_BYTES_MAX_IMAGES,
)
GRAMMARS: Final = {
    Dialect.CHAT: Grammar(b'"usage"', _USAGE, END_MARK, _read_chat, _read_body, say=read_choices, needs_end=True),
    # Every event that carries the response, its last ones among them, and every error.
    Dialect.RESPONSES: Grammar(
        b'"response"',
        _ANYTHING,
        b'"error"',
        _read_responses,
        _read_body,
        say=read_response,
        needs_end=True,
        tail_bytes_max=_TAIL_BYTES_MAX_IMAGES,
        holder="response",
    ),
    Dialect.EVENTS: _EVENTS,
    Dialect.MEDIA: _EVENTS,
    Dialect.NONE: Grammar(
        b'"response"', _ANYTHING, END_MARK, _read_unread, _read_unread_body, say=None, needs_end=False, holder="response"
    ),
}


def failure(dialect: Dialect, message: str, type: str, code: str | None, before: bytes) -> bytes:  # noqa: A002  its own name
    """The end of a stream that broke off behind `before`, as both SDKs raise it.

    Chat gets rule F1 and its `[DONE]`. Every other stream that OpenAI documents is one of typed events, also what is not
    metered (a response streamed again): those get F5, whose `error` object holds all that F1 says, and no `[DONE]`, which they
    have not.
    """
    if dialect is Dialect.CHAT:
        return sse.error_event(message, type, code) + sse.DONE
    return sse.typed_error_event(message, type, code, before)
