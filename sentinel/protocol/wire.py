"""OpenAI's wire format: requests read as far as they are priced, error bodies written.

Only the named parameters are decoded; the client's own bytes go upstream, at most with `stream_options.include_usage` spliced
in. Fails closed: a body that is not JSON, a wrong type, or a parameter given twice (two readers could take different ones)
raises BadRequestError, which is OpenAI's 400. Nothing else is raised, whatever the bytes are (wire.md H10, H12).
"""

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.json import Decoder

from sentinel.errors import BadRequestError, SentinelError, UnknownPathError, WrongMethodError
from sentinel.protocol import splice
from sentinel.records import Call, ChatPrompt, TextPrompt

MODEL_CHARACTERS_MAX: Final = 256
CHOICES_MAX: Final = 128  # OpenAI's own maximum of `n`
OUTPUT_TOKENS_MAX: Final = 2**31
# What one request may declare over all its choices: far above any model, and sums of it stay exact in Lua's doubles.
OUTPUT_TOKENS_DECLARED_MAX: Final = 2**48
PATH_CHARACTERS_MAX: Final = 256

PARSE_MESSAGE: Final = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. "
    "The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)

# ---- reading -----------------------------------------------------------------------------------------------------------

_Model = Annotated[str, Meta(min_length=1, max_length=MODEL_CHARACTERS_MAX)]
_Choices = Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None
_Cap = Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS_MAX)] | None
# 0 is legal in a completion: with `echo` it scores the prompt and produces nothing.
_CapOrZero = Annotated[int, Meta(ge=0, le=OUTPUT_TOKENS_MAX)] | None


class _Chat(Struct):
    """What is read of POST /v1/chat/completions."""

    model: _Model
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    stream: bool | None = None
    n: _Choices = None
    max_tokens: _Cap = None
    max_completion_tokens: _Cap = None
    max_output_tokens: _Cap = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None


class _Completions(Struct):
    """What is read of POST /v1/completions."""

    model: _Model
    prompt: str | list[str | int | list[int]] | None = None
    stream: bool | None = None
    n: _Choices = None
    best_of: _Choices = None
    max_tokens: _CapOrZero = None


_Read = TypeVar("_Read", _Chat, _Completions)
_chat: Final = Decoder(_Chat)
_completions: Final = Decoder(_Completions)
_NAMES: Final = {kind: (*kind.__struct_fields__, splice.STREAM_OPTIONS) for kind in (_Chat, _Completions)}
_SENT: Final = TextPrompt()
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_call(route: str, method: str, path: str, query: bytes, body: bytes) -> Call:
    """One request as it will go upstream; `path` and `query` are raw, `route` is a label of the path table.

    The body is read on chat_completions and completions only; elsewhere it is dropped. `choices` is how many answers the
    request asks for: max(n, best_of) × prompts, since each prompt of a list is answered on its own. Raises BadRequestError
    with OpenAI's message, param and code. Sources: wire.md U2-U4, H9, H10, H12, T4.
    """
    read: _Chat | _Completions
    prompt: ChatPrompt | TextPrompt
    if route == "chat_completions":
        read, asking = _read(body, _chat)
        prompt = ChatPrompt(read.messages, _tools(read))
        choices = read.n or 1
        cap = max(read.max_tokens or 0, read.max_completion_tokens or 0, read.max_output_tokens or 0) or None
    elif route == "completions":
        read, asking = _read(body, _completions)
        prompt, prompts = _text_prompt(read.prompt)
        choices = max(read.n or 1, read.best_of or 1) * prompts
        # The ledger holds at least one token where output is possible.
        cap = None if read.max_tokens is None else max(read.max_tokens, 1)
    else:
        return Call(route, method, path, query)
    if not read.model.isprintable():  # it becomes a field of logs, of ledger keys and of reports
        raise BadRequestError("Invalid 'model': it holds characters that no model has.", param="model", code="invalid_value")
    return Call(
        route=route,
        method=method,
        path=path,
        query=query,
        model=read.model,
        body=asking or body,
        stream=read.stream is True,
        usage_hidden=asking is not None,
        prompt=prompt,
        output_tokens_declared=None if cap is None else min(cap * choices, OUTPUT_TOKENS_DECLARED_MAX),
        choices=choices,
    )


def capped(call: Call, output_tokens: int, chat_cap: str) -> Call:
    """`call`, which declared no cap, with one of `output_tokens` for each choice; `chat_cap` is the provider's name for it."""
    name = chat_cap if call.route == "chat_completions" else "max_tokens"
    return msgspec.structs.replace(call, body=splice.with_member(call.body, name, b"%d" % max(output_tokens, 1)))


def shed(call: Call) -> Call:
    """`call` without what it asked, once that is sent: its body and prompt may be large, and its answer long."""
    return msgspec.structs.replace(call, body=b"", prompt=None if call.prompt is None else _SENT)


def _read(body: bytes, decoder: Decoder[_Read]) -> tuple[_Read, bytes | None]:
    """What is read of `body`, and the body that asks for usage where it is a stream that does not (wire.md U2-U4)."""
    try:
        read = decoder.decode(body)
        if not body.isascii():
            body.decode()  # msgspec does not look into what it skips; the provider would
        members = splice.members(body)
        splice.check_once(body, members, _NAMES[type(read)])
        return read, splice.with_usage(body, members.get(splice.STREAM_OPTIONS)) if read.stream else None
    except _UNREADABLE as error:
        raise _refusal(error) from error


def _tools(chat: _Chat) -> list[Any] | tuple[()]:
    """The tools of a chat, with the older `functions` in the same shape."""
    if not chat.functions:
        return chat.tools or ()
    return [*(chat.tools or ()), *({"type": "function", "function": function} for function in chat.functions)]


def _text_prompt(given: str | list[Any] | None) -> tuple[TextPrompt, int]:
    """The prompt of a completion and how many prompts it holds; a list of integers is one prompt (wire.md T4)."""
    if given is None or isinstance(given, str):
        return TextPrompt((given or "",)), 1
    kinds = set(map(type, given))
    if kinds == {str}:
        return TextPrompt(given), len(given)
    if kinds == {int}:
        return TextPrompt(tokens_given=len(given)), 1
    if kinds == {list}:
        return TextPrompt(tokens_given=sum(map(len, given))), len(given)
    if not kinds:
        raise BadRequestError("Invalid 'prompt': expected an array of length >= 1.", param="prompt", code="empty_array")
    raise BadRequestError(
        "Invalid type for 'prompt': expected a string, an array of strings, an array of integers or an array of arrays of "
        "integers, but got a mixed array instead.",
        param="prompt",
        code="invalid_type",
    )


# ---- refusing ----------------------------------------------------------------------------------------------------------

# msgspec's words, held by tests/test_wire.py.
_WRONG_TYPE: Final = re.compile(r"Expected `([a-z| ]+)`, got `([a-z]+)`(?: - at `\$\.?([a-z_\[\]\d]*)`)?$")
_WRONG_SIZE: Final = re.compile(r"Expected `(int|str|array)`( of length)? (>=|<=) (\d+) - at `\$\.([a-z_]+)`$")
_MISSING: Final = re.compile(r"Object missing required field `([a-z_]+)`$")
_WORDS: Final = {
    "int": "an integer",
    "float": "a decimal number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_SIZE_CODES: Final = {
    ("int", ">="): "integer_below_min_value",
    ("int", "<="): "integer_above_max_value",
    ("str", ">="): "empty_string",
    ("str", "<="): "string_above_max_length",
    ("array", ">="): "empty_array",
}


def _refusal(error: Exception) -> BadRequestError:
    """The 400 for what msgspec raised, in OpenAI's wording: a wrong parameter by name, anything else as unparsable."""
    text = str(error) if isinstance(error, msgspec.ValidationError) else ""
    missing = _MISSING.match(text)
    if missing:
        name = missing[1]
        return BadRequestError(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    wrong = _WRONG_TYPE.match(text)
    if wrong:
        expected = " or ".join(_WORDS.get(kind, kind) for kind in wrong[1].split(" | ") if kind != "null")
        where = f"'{wrong[3]}'" if wrong[3] else "the request body"
        return BadRequestError(
            f"Invalid type for {where}: expected {expected}, but got {_WORDS.get(wrong[2], wrong[2])} instead.",
            param=wrong[3] or None,
            code="invalid_type",
        )
    size = _WRONG_SIZE.match(text)
    if size:
        kind, length, side, bound, name = size.groups()
        measure = f"{_WORDS[kind]} of length" if length else "a value"
        return BadRequestError(
            f"Invalid '{name}': expected {measure} {side} {bound}.", param=name, code=_SIZE_CODES[kind, side]
        )
    return BadRequestError(PARSE_MESSAGE)


# ---- answering ---------------------------------------------------------------------------------------------------------

_encoder: Final = msgspec.json.Encoder()
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")


def error_body(error: SentinelError) -> bytes:
    """The JSON body of an error: OpenAI's shape with all four keys, whatever they hold (wire.md E1)."""
    return _encoder.encode({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


def unknown_path(method: str, path: str) -> UnknownPathError:
    """The 404 for a path outside the table, in OpenAI's words (wire.md E4)."""
    return UnknownPathError(f"Invalid URL ({_shown(method)} {_shown(path)})")


def wrong_method(method: str, path: str, allowed: str) -> WrongMethodError:
    """The 405 for a known path, in OpenAI's words; `allowed` is the value of `Allow` (wire.md E4, RFC 9110 §15.5.6)."""
    return WrongMethodError(
        f"Not allowed to {_shown(method)} on {_shown(path)} (HINT: Perhaps you meant to use a different HTTP method?)",
        headers=((b"allow", allowed.encode("ascii")),),
    )


def _shown(text: str) -> str:
    """`text` as printable ASCII of bounded length: it is the client's, and it is echoed and logged."""
    shown = _NOT_PRINTABLE.sub("?", text[:PATH_CHARACTERS_MAX])
    return shown if len(text) <= PATH_CHARACTERS_MAX else f"{shown}..."
