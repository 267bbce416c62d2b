"""What of a prompt becomes input tokens, as pieces: texts to be tokenised, and constants for the rest (wire.md T1-T4).

Cannot fail: any JSON has pieces. What the published formulas do not name is counted as its compact JSON or its texts; base64
is never text (T3), and nothing is ever fetched. Every figure here is an estimate that the provider's own usage replaces.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from sentinel.records import ChatPrompt, TextPrompt

# OpenAI cookbook, "How to count tokens with tiktoken", for messages …
_MESSAGE: Final = 3
_NAME: Final = 1
_REPLY: Final = 3
# … and for tools; what opens a function differs by encoding.
_FUNCTION_O200K: Final = 7
_FUNCTION_CL100K: Final = 10
_PROPERTIES: Final = 3
_PROPERTY: Final = 3
_ENUM: Final = -3
_ENUM_ITEM: Final = 3
_TOOLS_END: Final = 12
# A call in an earlier answer is framed like a message; not published.
_CALL: Final = 3

# OpenAI's vision guide: tokens of an image of low detail, and of a 1024 × 1024 one otherwise (the size of an image that is
# not opened is unknown; larger ones are scaled down by the provider). First match wins.
_IMAGES: Final = (
    ("gpt-4o-mini", 2833, 25501),  # 2833 + 4 tiles of 5667
    ("gpt-4.1-mini", 1659, 1659),  # 1024 patches × 1.62
    ("gpt-4.1-nano", 2519, 2519),  # × 2.46
    ("gpt-5-mini", 1659, 1659),
    ("gpt-5-nano", 2519, 2519),
    ("o4-mini", 1761, 1761),  # × 1.72
    ("", 85, 765),  # 85 + 4 tiles of 170; other tile models lie within a factor of 1.5
)
# OpenAI's audio guide: a token each 100 ms; of 24 kHz 16 bit mono WAV, or of MP3 at 128 kbit/s.
_WAV_BYTES: Final = 4800
_AUDIO_BYTES: Final = 1600
# Documents: the provider reads both text and pictures of each page; a plain page is about 100 KB and a thousand tokens.
_FILE_BYTES: Final = 100
_FILE_MIN: Final = 1000
_FILE_MAX: Final = 128_000

_PLAIN_SCHEMA: Final = frozenset({"type", "properties", "required", "additionalProperties", "$schema"})
_IMAGE_PARTS: Final = frozenset({"image_url", "input_image", "image"})
_FILE_PARTS: Final = frozenset({"file", "input_file"})
_ENCODED: Final = re.compile(r"data:[^,\s]{0,256},|[A-Za-z0-9+/_=-]{512}")


class Rates(Struct, frozen=True):
    """The constants that differ by model, in tokens."""

    function: int
    image_low: int
    image_high: int


def rates(model: str, encoding_name: str) -> Rates:
    """The constants of `model` (without its provider), whose encoding is `encoding_name`."""
    _, low, high = next(row for row in _IMAGES if model.startswith(row[0]))
    return Rates(_FUNCTION_CL100K if encoding_name == "cl100k_base" else _FUNCTION_O200K, low, high)


def pieces(prompt: ChatPrompt | TextPrompt, constants: Rates) -> Iterator[str | int]:
    """Everything that becomes input tokens: texts to be tokenised one by one, and ints that are tokens already."""
    if isinstance(prompt, TextPrompt):
        yield from prompt.texts
        yield prompt.tokens_given
        return
    for message in prompt.messages:
        yield from _message(message, constants)
    for tool in prompt.tools:
        yield from _tool(tool, constants)
    if prompt.tools:
        yield _TOOLS_END
    yield _REPLY


# ---- messages ----------------------------------------------------------------------------------------------------------


def _message(message: Any, constants: Rates) -> Iterator[str | int]:
    yield _MESSAGE
    if not isinstance(message, dict):
        yield from _unnamed(message)
        return
    for key, value in message.items():
        if isinstance(value, str):
            yield value
            if key == "name":
                yield _NAME
        elif isinstance(value, dict | list):
            if key == "content" and isinstance(value, list):
                for part in value:
                    yield from _part(part, constants)
            elif key == "tool_calls" and isinstance(value, list):
                for call in value:
                    yield from _call(call)
            elif key == "function_call":
                yield from _call(value)
            else:
                yield from _unnamed(value)


def _part(part: Any, constants: Rates) -> Iterator[str | int]:
    """One content part: its text, or a constant for what it shows (wire.md T3)."""
    if not isinstance(part, dict):
        yield from _unnamed(part)
        return
    kind = part.get("type")
    text = part.get("text", part.get("refusal"))
    if isinstance(text, str):
        yield text
    elif not isinstance(kind, str):
        yield from _unnamed(part)
    elif kind in _IMAGE_PARTS:
        yield constants.image_low if "low" in (_detail(part), _detail(part.get("image_url"))) else constants.image_high
    elif kind == "input_audio":
        audio = part.get(kind)
        wav = isinstance(audio, dict) and audio.get("format") == "wav"
        yield max(1, _encoded_bytes(audio) // (_WAV_BYTES if wav else _AUDIO_BYTES))
    elif kind in _FILE_PARTS:
        yield _file(_encoded_bytes(part))
    else:
        yield from _unnamed(part)


def _detail(value: Any) -> Any:
    return value.get("detail") if isinstance(value, dict) else None


def _call(call: Any) -> Iterator[str | int]:
    """A tool call of an earlier answer: its name and its arguments; the id costs no tokens."""
    yield _CALL
    inner = call
    for key in ("function", "custom"):
        if isinstance(call, dict) and isinstance(call.get(key), dict):
            inner = call[key]
    if not isinstance(inner, dict):
        yield from _unnamed(inner)
        return
    for key in ("name", "arguments", "input"):
        value = inner.get(key)
        if value is not None:
            yield value if isinstance(value, str) else _compact(value)


# ---- tools -------------------------------------------------------------------------------------------------------------


def _tool(tool: Any, constants: Rates) -> Iterator[str | int]:
    yield constants.function
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        yield _compact(tool)
        return
    yield f"{_plain(function, 'name')}:{_plain(function, 'description').removesuffix('.')}"
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or not isinstance(properties, dict):
        if schema:
            yield _compact(schema)
        return
    if properties:
        yield _PROPERTIES
    for name, definition in properties.items():
        yield from _property(name, definition)
    rest = {key: value for key, value in schema.items() if key not in _PLAIN_SCHEMA}
    if rest:
        yield _compact(rest)


def _property(name: str, definition: Any) -> Iterator[str | int]:
    """One property as the cookbook's line; all that the cookbook does not name as compact JSON beside it."""
    yield _PROPERTY
    if not isinstance(definition, dict):
        yield f"{name}:{_compact(definition)}"
        return
    rest = dict(definition)
    enum = rest.pop("enum", None)
    if isinstance(enum, list):
        yield _ENUM
        for item in enum:
            yield _ENUM_ITEM
            yield item if isinstance(item, str) else _compact(item)
    elif enum is not None:
        yield _compact(enum)
    if isinstance(rest.get("type", ""), str):
        rest.pop("type", None)
    rest.pop("description", None)
    yield f"{name}:{_plain(definition, 'type')}:{_plain(definition, 'description').removesuffix('.')}"
    if rest:
        yield _compact(rest)


def _plain(fields: dict[str, Any], key: str) -> str:
    """The text at `key`, or nothing where it is missing or something else."""
    value = fields.get(key)
    return value if isinstance(value, str) else ""


# ---- all other JSON ----------------------------------------------------------------------------------------------------


def _unnamed(value: Any) -> Iterator[str | int]:
    """The texts of JSON that no formula names; what is plainly base64 counts as a file of its size."""
    for text in _texts(value):
        if _ENCODED.match(text):
            yield _file(len(text) * 3 // 4)
        else:
            yield text


def _compact(value: Any) -> str:
    """`value` as JSON without blanks."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return ",".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    """All texts in `value`, keys too, in no particular order; without recursion, since a client chooses the depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _encoded_bytes(value: Any) -> int:
    """How many bytes the base64 in `value` stands for."""
    return sum(len(text) for text in _texts(value) if _ENCODED.match(text)) * 3 // 4


def _file(size_bytes: int) -> int:
    return min(max(size_bytes // _FILE_BYTES, _FILE_MIN), _FILE_MAX)
