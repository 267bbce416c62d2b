"""What an answer says, by choice and field, in case its usage never comes (rule L1). Never raises on odd JSON.

Fields of unknown names or types are no text; what is past the bound is measured, not kept (rule L4). Media are told from
text by `encoded`, and cost constants.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from sentinel.openai.tokens import base64_text

_FIELDS: Final = ("content", "refusal", "reasoning_content")
_READ_OF_CHUNK: Final = ("choices", "usage")
_READ_OF_CHOICE: Final = ("delta", "message", "text", "logprobs", "index", "finish_reason")

# An item is called with one of these, which come after its name; all others are texts of their own.
_CALL_DELTAS: Final = frozenset(
    ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta", "response.mcp_call_arguments.delta")
)
# Not a set: a type may be any JSON, also what has no hash.
_CALL_ITEMS: Final = ("function_call", "custom_tool_call", "mcp_call")
# Base64, not text.
_AUDIO_DELTAS: Final = ("response.audio.delta", "response.output_audio.delta")
_PARTIAL_IMAGE: Final = "response.image_generation_call.partial_image"
_IMAGE_ITEM: Final = "image_generation_call"


class Texts:
    """The texts of an answer, concatenated per choice and field (rule L1), up to `kept_bytes_max` bytes of UTF-8 (L4).

    `obfuscation` padding and log probabilities are not text (L2). `begun` are the choices that were seen, `ended` those that
    gave their finish reason.
    """

    __slots__ = ("_audio_bytes", "_images", "_kept_bytes", "_kept_bytes_max", "_parts", "begun", "bytes_uncounted", "ended")

    def __init__(self, kept_bytes_max: int) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._parts: dict[tuple[int, str, int], list[str]] = {}
        self._kept_bytes = 0
        self._images: set[tuple[str, int]] = set()
        self._audio_bytes = 0
        self.bytes_uncounted = 0
        self.begun: set[int] = set()
        self.ended: set[int] = set()

    @property
    def media_tokens(self) -> int:
        """What was shown or spoken, by the constants of docs/tokens.md."""
        return len(self._images) * base64_text.IMAGE_TOKENS + self._audio_bytes // base64_text.WAV_BYTES

    def joined(self) -> list[str]:
        """One text per choice and field, in order of appearance."""
        return ["".join(parts) for parts in self._parts.values()]

    def add(self, index: int, field: str, text: Any, position: int = 0) -> None:
        """Adds `text`, a string or a list of parts with one each, behind what this field of this choice said before."""
        if not text:
            return
        if isinstance(text, str):
            if len(text) >= base64_text.EMBEDDED_CHARACTERS_MIN:
                text, media = base64_text.embedded(text)
                self._show(media)
                if not text:
                    return
            text_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            if self._kept_bytes + text_bytes > self._kept_bytes_max:
                self.bytes_uncounted += text_bytes
                return
            self._kept_bytes += text_bytes
            self._parts.setdefault((index, field, position), []).append(text)
            return
        for part in _objects(text):
            self.add(index, field, part.get("text"), position)
            self.show(part, ("text",))

    def show(self, fields: dict[str, Any], known: Collection[str]) -> None:
        """Adds the media in those of `fields` that are not `known` as something else."""
        for name, value in fields.items():
            if name not in known and (
                isinstance(value, dict | list) or (isinstance(value, str) and base64_text.is_encoded(value))
            ):
                self._show(base64_text.shown({name: value}))

    def show_once(self, index: int) -> None:
        """Adds the image of one item, which may come in several states."""
        self._images.add(("item", index))

    def speak(self, audio: Any) -> None:
        """Adds a piece of audio in base64."""
        if isinstance(audio, str):
            self._audio_bytes += len(audio) * 3 // 4

    def _show(self, media: Iterable[tuple[str, int]]) -> None:
        for kind, characters in media:
            if kind == "audio":
                self._audio_bytes += characters * 3 // 4
            else:
                self._images.add(("", len(self._images)))


def read_choices(fields: dict[str, Any], texts: Texts) -> None:
    """Adds what one chunk or body of /chat/completions or /completions says in its choices, and shows anywhere."""
    texts.show(fields, _READ_OF_CHUNK)
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
        texts.show(choice, _READ_OF_CHOICE)


def _read_message(index: int, message: dict[str, Any], texts: Texts) -> None:
    for field, part in message.items():
        if not part:
            continue
        if field in _FIELDS:
            texts.add(index, field, part)
        elif field == "reasoning":
            if not message.get("reasoning_content"):  # some send the same text under both names
                texts.add(index, "reasoning_content", part)
        elif field == "audio" and isinstance(part, dict):
            texts.add(index, field, part.get("transcript"))
            texts.speak(part.get("data"))
        elif field == "function_call":
            _read_function(index, field, 0, part, texts)
        elif field == "tool_calls":
            for position, call in enumerate(_objects(part)):
                _read_function(index, field, _index(call, position), call.get("function") or call.get("custom"), texts)
        else:
            texts.show({field: part}, ())


def _read_function(index: int, field: str, position: int, function: Any, texts: Texts) -> None:
    if isinstance(function, dict):
        for part in ("name", "arguments", "input"):
            texts.add(index, field, function.get(part), position)


def read_response(fields: dict[str, Any], texts: Texts) -> None:
    """Adds what one event, or the whole body, of /responses says.

    Of a stream only the deltas count, and the name of a call, which stands in no delta: `done` events, finished items and
    the last event repeat what was said. An image counts once, whichever of them show it.
    """
    kind = fields.get("type")
    index = _index(fields, field="output_index")
    if kind is None:
        for position, item in enumerate(_objects(fields.get("output"))):
            _read_item(position, item, texts)
    elif isinstance(response := fields.get("response"), dict):
        for position, item in enumerate(_objects(response.get("output"))):
            if _is_image(item):
                texts.show_once(position)
    elif kind == "response.output_item.added":
        added = fields.get("item")
        if isinstance(added, dict) and added.get("type") in _CALL_ITEMS:
            texts.add(index, "call", added.get("name"))
    elif kind == _PARTIAL_IMAGE or (kind == "response.output_item.done" and _is_image(fields.get("item"))):
        texts.show_once(index)
    elif kind in _AUDIO_DELTAS:
        texts.speak(fields.get("delta"))
    elif isinstance(kind, str) and kind.endswith(".delta"):
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
            texts.show(part, ("text", "refusal", "logprobs", "annotations"))
    elif kind == "reasoning":
        for field in ("summary", "content"):
            for place, part in enumerate(_objects(item.get(field))):
                texts.add(index, field, part.get("text"), place)
    elif kind in _CALL_ITEMS:
        _read_function(index, "call", 0, item, texts)
    elif kind == "code_interpreter_call":
        texts.add(index, "code", item.get("code"))
    elif _is_image(item):
        texts.show_once(index)


def _is_image(item: Any) -> bool:
    """Whether an item is a picture that was made."""
    return isinstance(item, dict) and item.get("type") == _IMAGE_ITEM and bool(item.get("result"))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (element for element in value if isinstance(element, dict)) if isinstance(value, list) else iter(())


def _index(element: dict[str, Any], default: int = 0, field: str = "index") -> int:
    index = element.get(field, default)
    return index if isinstance(index, int) else default
