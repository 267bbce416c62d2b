"""What an answer says, by choice and field, in case its usage never comes (wire.md L1). Never raises on odd JSON.

Fields of unknown names or types are absent; what is past the bound is measured, not kept (wire.md L4).
"""

from collections.abc import Iterator
from typing import Any, Final

_FIELDS: Final = ("content", "refusal", "reasoning_content")

# An item is called with one of these, which come after its name; all others are texts of their own.
_CALL_DELTAS: Final = frozenset(
    ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta", "response.mcp_call_arguments.delta")
)
# Not a set: a type may be any JSON, also what has no hash.
_CALL_ITEMS: Final = ("function_call", "custom_tool_call", "mcp_call")
# Base64, not text.
_AUDIO_DELTA: Final = "response.audio.delta"


class Texts:
    """The texts of an answer, concatenated per choice and field (wire.md L1), up to `kept_bytes_max` bytes of UTF-8 (L4).

    `obfuscation` padding and log probabilities are not text (L2). `begun` are the choices that were seen, `ended` those that
    gave their finish reason.
    """

    __slots__ = ("_kept_bytes", "_kept_bytes_max", "_parts", "begun", "bytes_uncounted", "ended")

    def __init__(self, kept_bytes_max: int) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._parts: dict[tuple[int, str, int], list[str]] = {}
        self._kept_bytes = 0
        self.bytes_uncounted = 0
        self.begun: set[int] = set()
        self.ended: set[int] = set()

    def joined(self) -> list[str]:
        """One text per choice and field, in order of appearance."""
        return ["".join(parts) for parts in self._parts.values()]

    def add(self, index: int, field: str, text: Any, position: int = 0) -> None:
        """Adds `text`, a string or a list of parts with one each, behind what this field of this choice said before."""
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
            self.add(index, field, part.get("text"), position)


def read_choices(fields: dict[str, Any], texts: Texts) -> None:
    """Adds what the choices of one chunk or body of /chat/completions or /completions say."""
    for choice in _objects(fields.get("choices")):
        index = _index(choice)
        texts.begun.add(index)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            texts.ended.add(index)
        if text := choice.get("text"):
            texts.add(index, "text", text)
        message = choice.get("delta") or choice.get("message")
        if isinstance(message, dict):
            _read_message(index, message, texts)


def _read_message(index: int, message: dict[str, Any], texts: Texts) -> None:
    for field, part in message.items():
        if not part:
            continue
        if field in _FIELDS:
            texts.add(index, field, part)
        elif field == "reasoning" and not message.get("reasoning_content"):  # some send the same text under both names
            texts.add(index, "reasoning_content", part)
        elif field == "audio" and isinstance(part, dict):
            texts.add(index, field, part.get("transcript"))
        elif field == "function_call":
            _read_function(index, field, 0, part, texts)
        elif field == "tool_calls":
            for position, call in enumerate(_objects(part)):
                _read_function(index, field, _index(call, position), call.get("function") or call.get("custom"), texts)


def _read_function(index: int, field: str, position: int, function: Any, texts: Texts) -> None:
    if isinstance(function, dict):
        for part in ("name", "arguments", "input"):
            texts.add(index, field, function.get(part), position)


def read_response(fields: dict[str, Any], texts: Texts) -> None:
    """Adds what one event, or the whole body, of /responses says.

    Of a stream only the deltas count, and the name of a call, which stands in no delta: `done` events, finished items and
    the last event repeat what was said.
    """
    kind = fields.get("type")
    index = _index(fields, field="output_index")
    if kind is None:
        for position, item in enumerate(_objects(fields.get("output"))):
            _read_item(position, item, texts)
    elif kind == "response.output_item.added":
        added = fields.get("item")
        if isinstance(added, dict) and added.get("type") in _CALL_ITEMS:
            texts.add(index, "call", added.get("name"))
    elif isinstance(kind, str) and kind.endswith(".delta") and kind != _AUDIO_DELTA:
        text = fields.get("delta")
        if isinstance(text, str):
            place = _index(fields, field="content_index") or _index(fields, field="summary_index")
            texts.add(index, "call" if kind in _CALL_DELTAS else kind, text, place)


def _read_item(index: int, item: dict[str, Any], texts: Texts) -> None:
    """Adds one item of `output`: only what the model wrote, not what its tools gave back."""
    kind = item.get("type")
    if kind == "message":
        for place, part in enumerate(_objects(item.get("content"))):
            texts.add(index, "text", part.get("text"), place)
            texts.add(index, "refusal", part.get("refusal"), place)
    elif kind == "reasoning":
        for field in ("summary", "content"):
            for place, part in enumerate(_objects(item.get(field))):
                texts.add(index, field, part.get("text"), place)
    elif kind in _CALL_ITEMS:
        _read_function(index, "call", 0, item, texts)
    elif kind == "code_interpreter_call":
        texts.add(index, "code", item.get("code"))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (element for element in value if isinstance(element, dict)) if isinstance(value, list) else iter(())


def _index(element: dict[str, Any], default: int = 0, field: str = "index") -> int:
    index = element.get(field, default)
    return index if isinstance(index, int) else default
