"""What is read of a provider's answer once decoded: its usage, its texts, and whether it finished. Never raises on odd JSON.

Providers differ, so every field may be missing or of another type (wire.md U10); what cannot be understood is absent.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sentinel.records import Usage

# Far above any context window; a larger figure is a fault of the provider, and must not empty a caller's quota.
TOKENS_MAX: Final = 2**31

# OpenAI's own envelope of a chunk, and `provider`, which aggregators add: nothing that an application would miss.
_ENVELOPE: Final = frozenset(
    ("id", "object", "created", "model", "service_tier", "system_fingerprint", "obfuscation", "provider", "choices", "usage")
)
_TEXT_FIELDS: Final = ("content", "refusal", "reasoning_content")

_decoder: Final = msgspec.json.Decoder()


def decode(text: bytes) -> dict[str, Any] | None:
    """The JSON object in `text`, or None. What msgspec refuses (lone surrogates, NaN, bad UTF-8) is tried again leniently."""
    if not text:
        return None
    try:
        fields = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = _decode_leniently(text)
    return fields if isinstance(fields, dict) else None


def _decode_leniently(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def read_usage(usage: Any) -> Usage | None:
    """The provider's figures, or None where they cannot be used (wire.md U10).

    A missing output is the total less the input. Zero for everything is no figure but a place-holder (wire.md U11): every
    prompt has a token. Details such as reasoning tokens are part of the output and never added.
    """
    if not isinstance(usage, dict):
        return None
    input_tokens = _tokens(usage.get("prompt_tokens", usage.get("input_tokens")))
    output_tokens = _tokens(usage.get("completion_tokens", usage.get("output_tokens")))
    if input_tokens is None:
        return None
    if usage.get("completion_tokens", usage.get("output_tokens")) is None:
        total = _tokens(usage.get("total_tokens"))
        output_tokens = total - input_tokens if total is not None and total >= input_tokens else None
    if output_tokens is None or input_tokens + output_tokens == 0:
        return None
    return Usage(input_tokens, output_tokens)


def _tokens(figure: Any) -> int | None:
    """A count that may come as an integer, a float or a string of either."""
    if isinstance(figure, bool) or not isinstance(figure, int | float | str):
        return None
    if isinstance(figure, str):
        try:
            figure = float(figure)
        except ValueError:
            return None
    # NaN fails every comparison.
    return int(figure) if 0 <= figure <= TOKENS_MAX else None


def is_usage_alone(fields: dict[str, Any]) -> bool:
    """Whether a chunk carries usage and nothing else (wire.md U5): no choices, and beside its envelope only empty fields."""
    if fields.get("choices") != [] or not isinstance(fields.get("usage"), dict):
        return False
    return all(name in _ENVELOPE or field in (None, [], {}) for name, field in fields.items())


class Texts:
    """The texts of an answer, concatenated per choice and field (wire.md L1), up to `kept_bytes_max` bytes of UTF-8 (L4).

    `obfuscation` padding and log probabilities are not text (L2). `finished` says that a choice gave its finish reason.
    """

    __slots__ = ("_kept_bytes", "_kept_bytes_max", "_parts", "bytes_uncounted", "finished")

    def __init__(self, kept_bytes_max: int) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._parts: dict[tuple[int, str, int], list[str]] = {}
        self._kept_bytes = 0
        self.bytes_uncounted = 0
        self.finished = False

    def joined(self) -> list[str]:
        """One text per choice and field, in order of appearance."""
        return ["".join(parts) for parts in self._parts.values()]

    def read(self, fields: dict[str, Any] | None) -> None:
        """Adds what the choices of one chunk or body say."""
        if fields is None:
            return
        for choice in _objects(fields.get("choices")):
            index = _index(choice)
            if isinstance(reason := choice.get("finish_reason"), str) and reason:
                self.finished = True
            if text := choice.get("text"):
                self._add(index, "text", text)
            message = choice.get("delta") or choice.get("message")
            if isinstance(message, dict):
                self._read_message(index, message)

    def _read_message(self, index: int, message: dict[str, Any]) -> None:
        for field, part in message.items():
            if not part:
                continue
            if field in _TEXT_FIELDS:
                self._add(index, field, part)
            elif field == "reasoning" and not message.get("reasoning_content"):  # some send the same text under both names
                self._add(index, "reasoning_content", part)
            elif field == "audio" and isinstance(part, dict):
                self._add(index, field, part.get("transcript"))
            elif field == "function_call":
                self._read_function(index, field, 0, part)
            elif field == "tool_calls":
                for position, call in enumerate(_objects(part)):
                    self._read_function(index, field, _index(call, position), call.get("function") or call.get("custom"))

    def _read_function(self, index: int, field: str, position: int, function: Any) -> None:
        if isinstance(function, dict):
            for part in ("name", "arguments", "input"):
                self._add(index, field, function.get(part), position)

    def _add(self, index: int, field: str, text: Any, position: int = 0) -> None:
        if not text:
            return
        if isinstance(text, str):
            text_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            if self._kept_bytes + text_bytes > self._kept_bytes_max:
                self.bytes_uncounted += text_bytes
                return
            self._kept_bytes += text_bytes
            self._parts.setdefault((index, field, position), []).append(text)
            return
        for part in _objects(text):
            self._add(index, field, part.get("text"), position)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (element for element in value if isinstance(element, dict)) if isinstance(value, list) else iter(())


def _index(element: dict[str, Any], default: int = 0) -> int:
    index = element.get("index", default)
    return index if isinstance(index, int) else default
