"""The bodies of requests, each format read as far as it is priced (OpenAI's openapi.yaml; rule U2-U4, T4, H9-H12).

Only the named members are decoded; the bytes stay the client's own, at most with `stream_options.include_usage` spliced in.
Fails closed: what cannot be priced raises BadRequestError, which is OpenAI's 400, and nothing else, whatever was read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NoReturn

from msgspec import Meta, Raw, Struct
from msgspec.json import Decoder
from msgspec.structs import replace

from sentinel.openai.request import hidden_cost, json_edit, media_types, object_ids, validation_errors
from sentinel.openai.tokens import text_inputs
from sentinel.ops.errors import BadRequestError
from sentinel.ops.records import Call, ChatPrompt, Dialect, Reads, ResponsesPrompt, Route

MODEL_CHARACTERS_MAX: Final = 256
CHOICES_MAX: Final = 128  # OpenAI's own maximum of `n`
OUTPUT_TOKENS_MAX: Final = 2**31
# What one request may declare over all its choices: far above any model, and sums of it stay exact in Lua's doubles.
OUTPUT_TOKENS_DECLARED_MAX: Final = 2**48
_ECHOED_MAX: Final = 4096  # so many texts are known when they are said again; others are taken for the model's

_Members = Mapping[str, Raw]
_Model = Annotated[str, Meta(min_length=1, max_length=MODEL_CHARACTERS_MAX)]
# Whether 0 means something is the provider's to judge; what is held for it is what is held where nothing is said.
_Choices = Annotated[int, Meta(ge=0, le=CHOICES_MAX)] | None
_Cap = Annotated[int, Meta(ge=0, le=OUTPUT_TOKENS_MAX)] | None


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
    prompt: text_inputs.Given | None = None
    stream: bool | None = None
    store: bool | None = None
    n: _Choices = None
    best_of: _Choices = None
    max_tokens: _Cap = None
    echo: Any = None


class _Embeddings(Struct):
    """What is read of POST /v1/embeddings."""

    model: _Model
    input: text_inputs.Given


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
    max_completion_tokens: Any = None


# What of a chat besides its messages and tools becomes input tokens.
_REST_OF_CHAT: Final = frozenset({"response_format", "tool_choice", "function_call", "prediction", "web_search_options"})
_UNUSUAL_IN_CHAT: Final = _REST_OF_CHAT | hidden_cost.HIDDEN

# ---- the formats -------------------------------------------------------------------------------------------------------


def _chat(route: Route, method: str, path: str, query: bytes, body: bytes, read: _Chat, members: _Members) -> Call:
    """A chat. Its cap is the largest that it declares, for each choice; that of a response is heeded by no provider."""
    sent, hidden = json_edit.with_usage(body, members.get(json_edit.STREAM_OPTIONS)) if read.stream else (body, False)
    tools = _tools(read) if read.tools or read.functions else ()
    choices = read.n or 1
    heeded = max(read.max_tokens or 0, read.max_completion_tokens or 0)
    cap = heeded or read.max_output_tokens or 0
    call = Call(
        route.label,
        method,
        path,
        query,
        model=read.model if read.model.isprintable() else _refuse_model(),
        body=sent,
        stream=read.stream is True,
        usage_hidden=hidden,
        prompt=ChatPrompt(read.messages, tools),
        output_tokens_declared=cap * choices if cap else None,
        choices=choices,
        dialect=route.dialect,
        stored=read.store is True,
        referenced_ids=object_ids.in_chat(body, route.names),
        cap_unheeded=cap > heeded,
    )
    if _UNUSUAL_IN_CHAT.isdisjoint(members):
        return call
    return replace(
        call,
        prompt=ChatPrompt(read.messages, tools, _rest(read)),
        unseen_input=read.web_search_options is not None,
        unseen_output=not hidden_cost.HIDDEN.isdisjoint(members),
    )


def _completion(route: Route, method: str, path: str, query: bytes, body: bytes, read: _Completions, members: _Members) -> Call:
    """A completion. Each prompt of a list is answered on its own, max(n, best_of) times."""
    sent, hidden = json_edit.with_usage(body, members.get(json_edit.STREAM_OPTIONS)) if read.stream else (body, False)
    prompt, prompts = text_inputs.read("" if read.prompt is None else read.prompt, "prompt")
    choices = max(read.n or 1, read.best_of or 1) * prompts
    # 0 scores the prompt, with `echo`, and produces nothing; but at least a token is held where output is possible.
    cap = None if read.max_tokens is None else min(max(read.max_tokens, 1) * choices, OUTPUT_TOKENS_DECLARED_MAX)
    return Call(
        route.label,
        method,
        path,
        query,
        model=read.model if read.model.isprintable() else _refuse_model(),
        body=sent,
        stream=read.stream is True,
        usage_hidden=hidden,
        prompt=prompt,
        output_tokens_declared=cap,
        choices=choices,
        dialect=route.dialect,
        stored=read.store is True,
        referenced_ids=object_ids.in_chat(body, route.names),
        echoed=frozenset(map(hash, prompt.texts[:_ECHOED_MAX])) if read.echo else frozenset(),
    )


def _embedding(route: Route, method: str, path: str, query: bytes, body: bytes, read: _Embeddings, _: _Members) -> Call:
    """An embedding, which produces no tokens."""
    prompt = text_inputs.read(read.input, "input")[0]
    if isinstance(read.input, list) and [] in read.input:
        raise validation_errors.empty_array("input")
    return Call(
        route.label,
        method,
        path,
        query,
        model=read.model if read.model.isprintable() else _refuse_model(),
        body=body,
        prompt=prompt,
        output_tokens_declared=0,
        dialect=route.dialect,
        referenced_ids=object_ids.in_chat(body, route.names),
    )


def _response(route: Route, method: str, path: str, query: bytes, body: bytes, read: _Responses, members: _Members) -> Call:
    """A response. Its body never changes: its streams tell their usage unasked (rules U3, P1)."""
    if read.model is None and read.prompt is None:
        raise validation_errors.missing("model")
    if read.input is None and read.prompt is None and read.previous_response_id is None and read.conversation is None:
        raise validation_errors.missing("input")
    rest = {
        "format": read.text and read.text.get("format"),
        "tool_choice": read.tool_choice,
        "variables": read.prompt and read.prompt.get("variables"),
    }
    model = read.model or ""
    hosted = hidden_cost.has_hosted(read.tools)
    earlier = (read.previous_response_id, read.conversation, read.prompt) != (None, None, None)
    return Call(
        route.label,
        method,
        path,
        query,
        model=model if model.isprintable() else _refuse_model(),
        body=body,
        stream=read.stream is True,
        prompt=ResponsesPrompt(read.input or (), read.instructions, read.tools or (), {k: v for k, v in rest.items() if v}),
        output_tokens_declared=read.max_output_tokens or None,
        dialect=route.dialect,
        stored=read.store is not False,
        background=read.background is True,
        referenced_ids=object_ids.in_response(body, route.names),
        models=object_ids.models_of_tools(members),
        unseen_input=hosted or earlier or hidden_cost.refers(body, read.input) or object_ids.has_escaped(body),
        unseen_output=hosted or not hidden_cost.HIDDEN.isdisjoint(members),
    )


def _anything(route: Route, method: str, path: str, query: bytes, body: bytes, read: _Any, _: _Members) -> Call:
    """Any other JSON object. Its prompt is what looks like one, and at least a token; of its output nothing is known.

    Answers of no dialect are never billed, so that nothing is held for them. Work by models that the body does not all show is
    that of none: the one at its top level says nothing.
    """
    model = read.model
    shown = isinstance(model, str) and len(model) <= MODEL_CHARACTERS_MAX and model.isprintable()
    unbilled = route.dialect is Dialect.NONE
    working = route.reads is Reads.WORK
    known = model if shown and not working else ""
    return Call(
        route.label,
        method,
        path,
        query,
        model=known,
        body=body,
        stream=read.stream is True,
        prompt=None if unbilled else text_inputs.guess(read.instructions, read.prompt, read.input),
        output_tokens_declared=_cap_of_work(route, read) if route.polls and not unbilled else media_types.output_tokens(route),
        dialect=route.dialect,
        referenced_ids=object_ids.in_json(body, route.names),
        of_account=working and object_ids.runs_over_account(body),
    )


def _cap_of_work(route: Route, read: _Any) -> int | None:
    """The cap of work that goes on after its answer, None where it has none that is heeded: only runs of threads have one."""
    cap = read.max_completion_tokens if route.polls.startswith("/threads/") else None
    return cap if type(cap) is int and 0 < cap <= OUTPUT_TOKENS_MAX else None


# ---- their parts -------------------------------------------------------------------------------------------------------


def _refuse_model() -> NoReturn:
    """The model becomes a field of logs, of ledger keys and of reports."""
    raise BadRequestError("Invalid 'model': it holds characters that no model has.", param="model", code="invalid_value")


def _rest(read: _Chat) -> dict[str, Any]:
    """What beside its messages and tools a chat gives the model to read, by name."""
    return {name: value for name in sorted(_REST_OF_CHAT) if (value := getattr(read, name)) is not None}


def _tools(read: _Chat) -> Sequence[Any]:
    """The tools of a chat, with the older `functions` in the same shape."""
    if not read.functions:
        return read.tools or ()
    return [*(read.tools or ()), *({"type": "function", "function": function} for function in read.functions)]


# ---- all of them -------------------------------------------------------------------------------------------------------


class Format(Struct, frozen=True):
    """How a body is read: what `decode` reads of it, and the `call` that is made of this and of all its members undecoded. None
    of `names` may come twice.
    """

    decode: Callable[[bytes], Any]
    names: tuple[str, ...]
    call: Callable[[Route, str, str, bytes, bytes, Any, _Members], Call]


def _format(kind: type[Struct], call: Callable[..., Call]) -> Format:
    return Format(Decoder(kind).decode, (*kind.__struct_fields__, json_edit.STREAM_OPTIONS, *object_ids.MODELS_KEYS), call)


STRICT: Final = {
    Reads.CHAT: _format(_Chat, _chat),
    Reads.COMPLETIONS: _format(_Completions, _completion),
    Reads.EMBEDDINGS: _format(_Embeddings, _embedding),
    Reads.RESPONSES: _format(_Responses, _response),
}
ANY: Final = _format(_Any, _anything)
