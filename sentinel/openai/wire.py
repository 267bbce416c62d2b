"""OpenAI's wire format: what a request says, read by its route, and the bodies of errors.

Fails closed: whatever the bytes are, what cannot be read is BadRequestError (OpenAI's 400) or UnsupportedMediaTypeError (415),
and nothing else is raised (rule H10-H12).
"""

import re
from typing import Final

import msgspec

from sentinel.openai.request import form_ids, formats, json_edit, media_types, object_ids, validation_errors
from sentinel.openai.request.json_limits import NESTING_MAX, SLICE_BYTES, check_structure
from sentinel.openai.request.json_limits import decoded_bytes as decoded
from sentinel.ops.errors import ForbiddenError, SentinelError, UnknownPathError, WrongMethodError
from sentinel.ops.records import NO_IDS, Call, ChatPrompt, Dialect, Ids, Reads, ResponsesPrompt, Route, TextPrompt

PATH_CHARACTERS_MAX: Final = 256
# Bodies that take milliseconds are read in a thread, while the loop serves others: longer ones, and those that hold more
# values, which cost more than their bytes.
INLINE_BYTES_MAX: Final = 128 * 1024
INLINE_VALUES_MAX: Final = 8192
RESPONSES_CAP_MIN: Final = 16  # the least `max_output_tokens` that OpenAI takes
RUN_CAP_MIN: Final = 256  # the least `max_completion_tokens` of a run

# ---- reading -----------------------------------------------------------------------------------------------------------

_MAYBE_FILES: Final = frozenset({Reads.ANY, Reads.FORM})
# What some editors and frameworks write before JSON: RFC 8259 §8.1 allows to ignore it, and forbids to send it on.
_BOM: Final = b"\xef\xbb\xbf"
_SOMETHING: Final = TextPrompt(tokens_given=1)
# What is left of a prompt, by its kind, once its tokens are counted: decoded texts can take many times what their body takes.
COUNTED: Final = {
    ChatPrompt: ChatPrompt(()),
    ResponsesPrompt: ResponsesPrompt(),
    TextPrompt: TextPrompt(),
    type(None): None,
}


def read_call(route: Route, method: str, path: str, query: bytes, body: bytes, content_type: bytes) -> Call:
    """One request as it will go upstream; `path` and `query` are raw, `content_type` is b"" where there is none.

    On routes that take files, what is not JSON is not read: `body` is then b"" where it streams by, or the whole of a form.
    What such a request costs is unknown, so that one token of input is held, unless its answers are never billed. What is
    long (`is_long`) is for a thread. Raises BadRequestError with OpenAI's message, param and code, and
    UnsupportedMediaTypeError. Sources: rule U2-U4, H9-H12, T4.
    """
    reads = route.reads
    if reads is Reads.NOTHING:
        return Call(route.label, method, path, query, dialect=route.dialect)
    if content_type not in media_types.PLAIN and not media_types.is_json(content_type):
        if reads not in _MAYBE_FILES:
            # It may name what is another caller's, and a provider need not go by its type.
            raise media_types.unsupported(content_type)
        return _unread(route, method, path, query, body, content_type)
    if body.startswith(_BOM):
        body = body[3:]
    form = formats.STRICT.get(reads)
    if form is None:
        if not body.strip():
            return _bare(route, method, path, query, body, NO_IDS)
        form = formats.ANY
    # Few brackets are few levels, wherever they stand. `replace` finds a byte several times as fast as `count` does.
    if len(body) > SLICE_BYTES or len(body) - len(body.replace(b"{", b"").replace(b"[", b"")) > NESTING_MAX:
        check_structure(body)
    try:
        read = form.decode(body)
        if not body.isascii():
            body.decode()  # msgspec does not look into what it skips; the provider would
        members = json_edit.members(body)
        shortest = json_edit.shortest(members)
        if shortest != body or len(members) > json_edit.MEMBERS_MAX:
            json_edit.check_once(body, members, shortest, form.names)
        del shortest  # as large as the body
    except validation_errors.UNREADABLE as error:
        raise validation_errors.refusal(error) from error
    call = form.call(route, method, path, query, body, read, members)
    if b"ft:" in body or b"\\u00" in body or not object_ids.NAMING_MODELS.isdisjoint(members):
        call = msgspec.structs.replace(call, models=call.models | object_ids.models(members, body, call.model))
    return call


def decoded_bytes(body: bytes, content_type: bytes) -> int:
    """At most so many bytes of memory are taken by what is read of a body, beside itself: next to nothing of a form."""
    return decoded(body) if content_type in media_types.PLAIN or media_types.is_json(content_type) else 0


def is_long(body: bytes) -> bool:
    """Whether `body` is for a thread. Signs within its texts count as well: they are few there."""
    if len(body) > INLINE_BYTES_MAX:
        return True
    return body.count(b",") + body.count(b"[") + body.count(b"{") > INLINE_VALUES_MAX


def _unread(route: Route, method: str, path: str, query: bytes, body: bytes, content_type: bytes) -> Call:
    """A call whose body is not JSON; of a form that is held back the ids are read."""
    media_types.check_opaque(content_type)
    if route.reads is Reads.ANY:
        return _bare(route, method, path, query, body, NO_IDS)
    if not media_types.is_form(content_type):
        raise media_types.unsupported(content_type)
    if not body:
        return _bare(route, method, path, query, body, NO_IDS)  # it streams by, or there is none
    return _bare(route, method, path, query, body, form_ids.ids(body, content_type, route.names))


def _bare(route: Route, method: str, path: str, query: bytes, body: bytes, named: Ids) -> Call:
    unbilled = route.dialect is Dialect.NONE
    return Call(
        route.label,
        method,
        path,
        query,
        body=body,
        prompt=None if unbilled else _SOMETHING,
        output_tokens_declared=media_types.output_tokens(route),
        dialect=route.dialect,
        referenced_ids=named,
    )


def capped(call: Call, output_tokens: int, chat_cap: str) -> Call:
    """`call`, which declared no cap that is heeded, with one of `output_tokens` for each choice; `chat_cap` is the provider's
    name for it. What heeds none stays as it is.
    """
    least = 1
    if isinstance(call.prompt, ChatPrompt):
        name = chat_cap
    elif isinstance(call.prompt, ResponsesPrompt):
        name, least = "max_output_tokens", RESPONSES_CAP_MIN
    elif call.detached or call.dialect is Dialect.MEDIA:
        if not _is_run(call):
            return call
        name, least = "max_completion_tokens", RUN_CAP_MIN
    else:
        name = "max_tokens"
    return msgspec.structs.replace(call, body=json_edit.with_member(call.body, name, b"%d" % max(output_tokens, least)))


def output_min(call: Call) -> int:
    """The least output that `capped` can ask for, in tokens over all choices."""
    if call.detached and _is_run(call):
        return RUN_CAP_MIN
    return RESPONSES_CAP_MIN if isinstance(call.prompt, ResponsesPrompt) else call.choices


def _is_run(call: Call) -> bool:
    """Whether it is a run of a thread, in JSON."""
    return call.path.startswith("/threads/") and call.body[:1] == b"{"


def unstored(call: Call) -> Call:
    """`call` whose answer the provider does not keep, whatever its default is."""
    return msgspec.structs.replace(call, body=json_edit.with_member(call.body, "store", b"false"), stored=False, creates=())


def drop_body(call: Call) -> Call:
    """`call` without its body, once that is sent: it may be large, and its answer long."""
    return msgspec.structs.replace(call, body=b"")


# ---- answering ---------------------------------------------------------------------------------------------------------

_encoder: Final = msgspec.json.Encoder()
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")


def error_body(error: SentinelError) -> bytes:
    """The JSON body of an error: OpenAI's shape with all four keys, whatever they hold (rule E1)."""
    return _encoder.encode({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


def unknown_path(method: str, path: str, refusal: str = "") -> SentinelError:
    """The 404 for a path outside the table, in OpenAI's words (rule E4); the 403 where it is refused, with its reason."""
    if refusal:
        message = f"{_shown(method)} {_shown(path)} is not available through this gateway: {refusal}."
        return ForbiddenError(message, code="route_not_available")
    return UnknownPathError(f"Invalid URL ({_shown(method)} {_shown(path)})")


def wrong_method(method: str, path: str, allowed: str) -> WrongMethodError:
    """The 405 for a known path, in OpenAI's words; `allowed` is the value of `Allow` (rule E4, RFC 9110 §15.5.6)."""
    return WrongMethodError(
        f"Not allowed to {_shown(method)} on {_shown(path)} (HINT: Perhaps you meant to use a different HTTP method?)",
        headers=((b"allow", allowed.encode("ascii")),),
    )


def _shown(text: str) -> str:
    """`text` as printable ASCII of bounded length: it is the client's, and it is echoed and logged."""
    shown = _NOT_PRINTABLE.sub("?", text[:PATH_CHARACTERS_MAX])
    return shown if len(text) <= PATH_CHARACTERS_MAX else f"{shown}..."
