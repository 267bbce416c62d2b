"""What is read of a provider's answer once decoded: its usage, its name, its state. Never raises on odd JSON.

Providers differ, so every field may be missing or of another type (rule U10); what cannot be understood is absent.
"""

import json
from typing import Annotated, Any, Final

import msgspec

from sentinel.ops.records import Usage

# Far above any context window; a larger figure is a fault of the provider, and must not empty a caller's quota.
TOKENS_MAX: Final = 2**31

_ID_CHARACTERS_MAX: Final = 256
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})


class Details(msgspec.Struct):
    """What a usage says of its output."""

    reasoning_tokens: Any = None


class Figures(msgspec.Struct):
    """A usage, as far as it is read, by either of its names."""

    prompt_tokens: Any = None
    input_tokens: Any = None
    completion_tokens: Any = None
    output_tokens: Any = None
    total_tokens: Any = None
    completion_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


_Tokens = Annotated[int, msgspec.Meta(gt=0, le=TOKENS_MAX)]


class _UsualDetails(msgspec.Struct):
    reasoning_tokens: Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)] | None = None


class _UsualFigures(msgspec.Struct):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    completion_tokens_details: _UsualDetails | None = None
    output_tokens_details: None = None


class _Usual(msgspec.Struct):
    """A chat as most providers answer one: what has to be asked about is refused by its types."""

    usage: _UsualFigures
    error: None = None
    type: None = None
    status: None = None


class Head(msgspec.Struct):
    """The fields of an answer, or of one event, that decide what it costs; all others are passed over, not built.

    A last event of /responses repeats the whole answer, an embedding is a million numbers: decoding them in full would hold
    up the event loop for milliseconds.
    """

    id: Any = None
    object: Any = None
    type: Any = None
    status: Any = None
    error: Any = None
    usage: Figures | None = None
    per_model_usage: Any = None
    model_grader_token_usage_per_model: Any = None
    response: "Head | None" = None

    @property
    def name(self) -> str:
        """The id, "" where it has none that could be one."""
        return self.id if isinstance(self.id, str) and len(self.id) <= _ID_CHARACTERS_MAX else ""


_decoder: Final = msgspec.json.Decoder()
_head_decoder: Final = msgspec.json.Decoder(Head)
_usual_decoder: Final = msgspec.json.Decoder(_Usual)


def decode(text: bytes) -> dict[str, Any] | None:
    """The JSON object in `text`, or None. What msgspec refuses (lone surrogates, NaN, bad UTF-8) is tried again leniently."""
    if not text:
        return None
    try:
        fields = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = _decode_leniently(text)
    return fields if isinstance(fields, dict) else None


def decode_head(text: bytes) -> Head | None:
    """The head of the JSON object in `text`, or None where there is no object; as lenient as `decode`."""
    if not text:
        return None
    try:
        return _head_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = _decode_leniently(text)
    return head_of(fields) if isinstance(fields, dict) else None


def usage_of(body: bytes) -> Usage | None:
    """What a whole chat has cost, where it is one object that says both figures and nothing else that counts here: the usual
    case. None where a BodyMeter is to look.
    """
    try:
        figures = _usual_decoder.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    details = figures.completion_tokens_details
    thought = 0 if details is None else details.reasoning_tokens or 0
    return Usage(figures.prompt_tokens, figures.completion_tokens, reasoning_tokens=thought)


def head_of(fields: dict[str, Any]) -> Head:
    """The head of an object that is decoded."""
    known = {name: fields.get(name) for name in Head.__struct_fields__}
    response = known["response"]
    inner = head_of(response) if isinstance(response, dict) else None
    return Head(**known | {"response": inner, "usage": _figures(known["usage"])})


def _figures(usage: Any) -> Figures | None:
    if not isinstance(usage, dict):
        return None
    figures = Figures(*map(usage.get, Figures.__struct_fields__))
    details = (figures.completion_tokens_details, figures.output_tokens_details)
    figures.completion_tokens_details, figures.output_tokens_details = map(_details, details)
    return figures


def _details(details: Any) -> Details | None:
    return Details(details.get("reasoning_tokens")) if isinstance(details, dict) else None


def _decode_leniently(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None


def read_usage(figures: Figures | None) -> Usage | None:
    """The provider's figures, or None where they cannot be used (rule U10).

    A side that is missing, absurd or 0 is the total less the other, or else 0, which whoever makes the bill judges. Zero for
    everything is no figure but a place-holder (rule U11); a total alone is kept for whoever makes the bill. Details such as
    reasoning tokens are part of the output and never added.
    """
    if figures is None:
        return None
    # Some providers give both names, one of them null.
    given = figures.input_tokens if figures.prompt_tokens is None else figures.prompt_tokens
    produced = figures.output_tokens if figures.completion_tokens is None else figures.completion_tokens
    details = figures.completion_tokens_details or figures.output_tokens_details
    thought = 0 if details is None else details.reasoning_tokens
    thought = thought if type(thought) is int and 0 < thought <= TOKENS_MAX else 0
    if type(given) is int and type(produced) is int and 0 < given <= TOKENS_MAX and 0 < produced <= TOKENS_MAX:
        return Usage(given, produced, reasoning_tokens=thought)
    input_tokens, output_tokens, total = _tokens(given), _tokens(produced), _tokens(figures.total_tokens)
    if not input_tokens and not output_tokens:
        return Usage(0, 0, derived=True, total_tokens=total) if total else None
    if (input_tokens and output_tokens) or total <= input_tokens + output_tokens:
        return Usage(input_tokens, output_tokens, reasoning_tokens=thought)
    sides = (input_tokens or total - output_tokens, output_tokens or total - input_tokens)
    return Usage(*sides, derived=True, reasoning_tokens=thought)


def latest(before: Usage | None, usage: Usage) -> Usage:
    """The last figure of each side (rule U8): some providers tell one of them early, and none tells a 0 in its place."""
    if before is None or before.total_tokens or (usage.input_tokens and usage.output_tokens):
        return usage
    sides = (usage.input_tokens or before.input_tokens, usage.output_tokens or before.output_tokens)
    thought = max(before.reasoning_tokens, usage.reasoning_tokens)
    return Usage(*sides, derived=before.derived or usage.derived, reasoning_tokens=thought)


def read_usage_of_models(usages: Any) -> Usage | None:
    """The sum over the models of a run of an eval (a list) or of a grader (by name); None where there is no such figure."""
    if isinstance(usages, dict):
        usages = list(usages.values())
    if not isinstance(usages, list):
        return None
    read = [usage for usage in map(read_usage, map(_figures, usages)) if usage is not None]
    return Usage(sum(usage.input_tokens for usage in read), sum(usage.output_tokens for usage in read)) if read else None


def _tokens(figure: Any) -> int:
    """A count that may come as an integer, a float or a string of either; 0 where it is none."""
    if isinstance(figure, bool) or not isinstance(figure, int | float | str):
        return 0
    if isinstance(figure, str):
        try:
            figure = float(figure)
        except ValueError:
            return 0
    # NaN fails every comparison.
    return int(figure) if 0 <= figure <= TOKENS_MAX else 0


def is_usage_alone(fields: dict[str, Any]) -> bool:
    """Whether a chunk is there for its usage (rule U5): no choice in it says anything, and it is no error.

    Whatever a vendor adds to it, inside the usage or beside it, came because usage was asked for, and goes with it.
    """
    if not isinstance(fields.get("usage"), dict) or fields.get("error"):
        return False
    choices = fields.get("choices")
    return not choices or (isinstance(choices, list) and all(map(_is_silent, choices)))


def greets(fields: dict[str, Any]) -> bool:
    """Whether a choice in a chunk has its role: in the first one of a stream SDKs look for whose words follow."""
    return any(isinstance(delta := choice.get("delta"), dict) and "role" in delta for choice in fields.get("choices") or ())


def _is_silent(choice: Any) -> bool:
    """Whether a choice has but its number: no word, no reason to end, no judgement of a filter. A role is no word, but that of
    a second choice may be its first.
    """
    if not isinstance(choice, dict):
        return False
    role = "" if choice.get("index") else "role"
    return all(name == "index" or _is_empty(value, role) for name, value in choice.items())


def _is_empty(value: Any, but: str) -> bool:
    if isinstance(value, dict):
        return all(inner in _EMPTY or name == but for name, inner in value.items())
    return value in _EMPTY
