"""The bodies of requests, each format read as far as it is priced (OpenAI's openapi.yaml; wire.md U2-U4, T4, H9-H12).

Only the named members are decoded; the bytes stay the client's own, at most with `stream_options.include_usage` spliced in.
Fails closed: a body that is not JSON, too deep or too large a structure, a wrong type, or a parameter given twice (two readers
could take different ones) raises BadRequestError, which is OpenAI's 400. Nothing else is raised, whatever the bytes are.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, Raw, Struct
from msgspec.json import Decoder
from msgspec.structs import replace

from sentinel.errors import BadRequestError
from sentinel.protocol import named, refusals, splice
from sentinel.protocol.structure import check_structure
from sentinel.records import ChatPrompt, Prompt, ResponsesPrompt, TextPrompt

MODEL_CHARACTERS_MAX: Final = 256
CHOICES_MAX: Final = 128  # OpenAI's own maximum of `n`
OUTPUT_TOKENS_MAX: Final = 2**31
# What one request may declare over all its choices: far above any model, and sums of it stay exact in Lua's doubles.
OUTPUT_TOKENS_DECLARED_MAX: Final = 2**48
OUTPUT_TOKENS_UNKNOWN: Final = 1  # held where output is possible, so that a limit that is used up refuses it

_Model = Annotated[str, Meta(min_length=1, max_length=MODEL_CHARACTERS_MAX)]
_Choices = Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None
_Cap = Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS_MAX)] | None
# 0 is legal in a completion: with `echo` it scores the prompt and produces nothing.
_CapOrZero = Annotated[int, Meta(ge=0, le=OUTPUT_TOKENS_MAX)] | None
_Inputs = str | list[str | int | list[int]]


class Reading(Struct, frozen=True):
    """What a body says; the fields are those of records.Call."""

    model: str
    body: bytes
    prompt: Prompt
    stream: bool = False
    usage_hidden: bool = False
    output_tokens_declared: int | None = None
    choices: int = 1
    stored: bool = False
    background: bool = False
    named: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    of_account: bool = False


class _Chat(Struct):
    """What is read of POST /v1/chat/completions."""

    model: _Model
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    stream: bool | None = None
    store: bool | None = None
    n: _Choices = None
    max_tokens: _Cap = None
    max_completion_tokens: _Cap = None
    max_output_tokens: _Cap = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: Any = None
    tool_choice: Any = None
    function_call: Any = None
    prediction: Any = None
    web_search_options: Any = None


class _Completions(Struct):
    """What is read of POST /v1/completions."""

    model: _Model
    prompt: _Inputs | None = None
    stream: bool | None = None
    store: bool | None = None
    n: _Choices = None
    best_of: _Choices = None
    max_tokens: _CapOrZero = None


class _Embeddings(Struct):
    """What is read of POST /v1/embeddings."""

    model: _Model
    input: _Inputs


class _Responses(Struct):
    """What is read of POST /v1/responses."""

    model: _Model | None = None
    input: str | list[Any] | None = None
    instructions: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    text: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    max_output_tokens: _Cap = None


class _Any(Struct):
    """What is read of any other JSON; wrong types are the provider's to refuse."""

    model: Any = None
    input: Any = None
    prompt: Any = None
    instructions: Any = None
    stream: Any = None


_Read = TypeVar("_Read", _Chat, _Completions, _Embeddings, _Responses, _Any)
_chat: Final = Decoder(_Chat)
_completions: Final = Decoder(_Completions)
_embeddings: Final = Decoder(_Embeddings)
_responses: Final = Decoder(_Responses)
_any: Final = Decoder(_Any)
_KINDS: Final = (_Chat, _Completions, _Embeddings, _Responses, _Any)
_NAMES: Final = {kind: (*kind.__struct_fields__, splice.STREAM_OPTIONS, *named.MODELS_KEYS) for kind in _KINDS}


# What of a chat besides its messages and tools becomes input tokens.
_REST_OF_CHAT: Final[tuple[str, ...]] = ("response_format", "tool_choice", "function_call", "prediction", "web_search_options")
_UNKNOWN: Final = TextPrompt(tokens_given=1)

# ---- the formats -------------------------------------------------------------------------------------------------------


def chat(body: bytes) -> Reading:
    """A chat. Its cap is the largest that it declares, for each choice."""
    read, members = _read(body, _chat)
    asking = splice.with_usage(body, members.get(splice.STREAM_OPTIONS)) if read.stream else None
    rest = {name: value for name in _REST_OF_CHAT if name in members and (value := getattr(read, name)) is not None}
    choices = read.n or 1
    cap = max(read.max_tokens or 0, read.max_completion_tokens or 0, read.max_output_tokens or 0)
    return Reading(
        model=_printable(read.model),
        body=asking or body,
        prompt=ChatPrompt(read.messages, _tools(read), rest),
        stream=read.stream is True,
        usage_hidden=asking is not None,
        output_tokens_declared=_declared(cap, choices) if cap else None,
        choices=choices,
        stored=read.store is True,
        named=named.in_chat(body),
        models=named.models(members),
    )


def completion(body: bytes) -> Reading:
    """A completion. Each prompt of a list is answered on its own, max(n, best_of) times."""
    read, members = _read(body, _completions)
    asking = splice.with_usage(body, members.get(splice.STREAM_OPTIONS)) if read.stream else None
    prompt, prompts = _inputs("" if read.prompt is None else read.prompt, "prompt")
    choices = max(read.n or 1, read.best_of or 1) * prompts
    return Reading(
        model=_printable(read.model),
        body=asking or body,
        prompt=prompt,
        stream=read.stream is True,
        usage_hidden=asking is not None,
        # The ledger holds at least one token where output is possible.
        output_tokens_declared=None if read.max_tokens is None else _declared(max(read.max_tokens, 1), choices),
        choices=choices,
        stored=read.store is True,
        named=named.in_chat(body),
        models=named.models(members),
    )


def embedding(body: bytes) -> Reading:
    """An embedding, which produces no tokens."""
    read, members = _read(body, _embeddings)
    prompt, _ = _inputs(read.input, "input")
    if isinstance(read.input, list) and [] in read.input:
        raise refusals.empty_array("input")
    return Reading(
        model=_printable(read.model),
        body=body,
        prompt=prompt,
        output_tokens_declared=0,
        named=named.in_chat(body),
        models=named.models(members),
    )


def response(body: bytes) -> Reading:
    """A response. Its body never changes: its streams tell their usage unasked (wire.md U3, P1)."""
    read, members = _read(body, _responses)
    if read.model is None and read.prompt is None:
        raise refusals.missing("model")
    if read.input is None and read.prompt is None and read.previous_response_id is None and read.conversation is None:
        raise refusals.missing("input")
    rest = {
        "format": read.text and read.text.get("format"),
        "tool_choice": read.tool_choice,
        "variables": read.prompt and read.prompt.get("variables"),
    }
    return Reading(
        model=_printable(read.model or ""),
        body=body,
        prompt=ResponsesPrompt(read.input or (), read.instructions, read.tools or (), {k: v for k, v in rest.items() if v}),
        stream=read.stream is True,
        output_tokens_declared=read.max_output_tokens,
        stored=read.store is not False,
        background=read.background is True,
        named=named.in_response(body),
        models=named.models(members) | named.models_of_tools(members),
    )


def anything(body: bytes) -> Reading:
    """Any other JSON object. Its prompt is what looks like one, and at least a token; of its output nothing is known."""
    read, members = _read(body, _any)
    model = read.model
    return Reading(
        model=model if isinstance(model, str) and len(model) <= MODEL_CHARACTERS_MAX and model.isprintable() else "",
        body=body,
        prompt=_loose_prompt(read),
        stream=read.stream is True,
        output_tokens_declared=OUTPUT_TOKENS_UNKNOWN,
        named=named.in_json(body),
        models=named.models(members),
    )


def work(body: bytes) -> Reading:
    """JSON that asks for work by models that it does not all show, so that a model at its top level says nothing."""
    return replace(anything(body), model="", of_account=named.runs_over_account(body))


# ---- their parts -------------------------------------------------------------------------------------------------------


def _read(body: bytes, decoder: Decoder[_Read]) -> tuple[_Read, dict[str, Raw]]:
    """What is read of `body`, and all its members undecoded."""
    check_structure(body)
    try:
        read = decoder.decode(body)
        if not body.isascii():
            body.decode()  # msgspec does not look into what it skips; the provider would
        members = splice.members(body)
        splice.check_once(body, members, _NAMES[type(read)])
    except refusals.UNREADABLE as error:
        raise refusals.refusal(error) from error
    return read, members


def _printable(model: str) -> str:
    """`model`, which becomes a field of logs, of ledger keys and of reports."""
    if not model.isprintable():
        raise BadRequestError("Invalid 'model': it holds characters that no model has.", param="model", code="invalid_value")
    return model


def _declared(cap: int, choices: int) -> int:
    return min(cap * choices, OUTPUT_TOKENS_DECLARED_MAX)


def _tools(read: _Chat) -> Sequence[Any]:
    """The tools of a chat, with the older `functions` in the same shape."""
    if not read.functions:
        return read.tools or ()
    return [*(read.tools or ()), *({"type": "function", "function": function} for function in read.functions)]


def _inputs(given: _Inputs, name: str) -> tuple[TextPrompt, int]:
    """The prompt in `given` and how many prompts it holds; a list of integers is one prompt (wire.md T4)."""
    if isinstance(given, str):
        return TextPrompt((given,)), 1
    kinds = set(map(type, given))
    if kinds == {str}:
        return TextPrompt(given), len(given)  # type: ignore[arg-type]
    if kinds == {int}:
        return TextPrompt(tokens_given=len(given)), 1
    if kinds == {list}:
        return TextPrompt(tokens_given=sum(map(len, given))), len(given)  # type: ignore[arg-type]
    raise refusals.mixed_array(name) if kinds else refusals.empty_array(name)


def _loose_prompt(read: _Any) -> Prompt:
    """Texts and token lists under the usual names, or items as a response has them."""
    texts: list[str] = []
    tokens = 0
    for value in (read.instructions, read.prompt, read.input):
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            if any(isinstance(part, dict) for part in value):
                return ResponsesPrompt(value, read.instructions)
            texts += [part for part in value if isinstance(part, str)]
            tokens += sum(len(part) if isinstance(part, list) else isinstance(part, int) for part in value)
    return TextPrompt(texts, tokens) if tokens or any(texts) else _UNKNOWN
