"""What of a prompt becomes input tokens, as pieces: texts to be tokenised, and constants for the rest (rule T1-T4).

Cannot fail: any JSON has pieces. What the published formulas do not name is counted as its compact JSON or its texts; base64
is never text (T3), and nothing is ever fetched. Every figure here is an estimate that the provider's own usage replaces.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import contains
from typing import Any, Final

from msgspec import Struct

from sentinel.openai.tokens import base64_text, schemas
from sentinel.ops.records import ChatPrompt, Prompt, ResponsesPrompt, TextPrompt

# OpenAI cookbook, "How to count tokens with tiktoken", for messages.
_MESSAGE: Final = 3
_NAME: Final = 1
_REPLY: Final = 3
_OBJECTS: Final = {dict}
_TEXTS: Final = {str}
# What opens a function differs by encoding; the rest of the formula for tools is in schemas.py.
_FUNCTION_O200K: Final = 7
_FUNCTION_CL100K: Final = 10
_TOOLS_END: Final = 12
# Not published: items of a response, calls in earlier answers and schemas of answers are framed like a message; a tool that is
# demanded by name costs its name and about this.
_FRAME: Final = 3
_DEMAND: Final = 4
# Of an item of a response, what the model does not read.
_UNREAD_OF_ITEM: Final = frozenset(
    {"type", "id", "call_id", "status", "approval_request_id", "created_by", "encrypted_content"}
)
# Hidden reasoning, encrypted: base64 of about four bytes a token.
_ENCRYPTED_CHARACTERS: Final = 6

# OpenAI's vision guide: tokens of an image of low detail, and of a 1024 × 1024 one otherwise (the size of an image that is
# not opened is unknown; larger ones are scaled down by the provider). First match wins.
_IMAGES: Final = (
    ("gpt-4o-mini", 2833, 25501),  # 2833 + 4 tiles of 5667
    ("gpt-4.1-mini", 1659, 1659),  # 1024 patches × 1.62
    ("gpt-4.1-nano", 2519, 2519),  # × 2.46
    ("gpt-5-mini", 1659, 1659),
    ("gpt-5-nano", 2519, 2519),
    ("o4-mini", 1761, 1761),  # × 1.72
    ("", 85, base64_text.IMAGE_TOKENS),  # 85 + 4 tiles of 170; other tile models lie within a factor of 1.5
)
# The same of MP3 at 128 kbit/s as `encoded` has of WAV.
_AUDIO_BYTES: Final = 1600
_IMAGE_PARTS: Final = frozenset({"image_url", "input_image", "image", "computer_screenshot"})
_FILE_PARTS: Final = frozenset({"file", "input_file"})


class Rates(Struct, frozen=True):
    """The constants that differ by model, in tokens."""

    function: int
    image_low: int
    image_high: int


def rates(model: str, encoding_name: str) -> Rates:
    """The constants of `model` (without its provider), whose encoding is `encoding_name`."""
    _, low, high = next(row for row in _IMAGES if model.startswith(row[0]))
    return Rates(_FUNCTION_CL100K if encoding_name == "cl100k_base" else _FUNCTION_O200K, low, high)


def pieces(prompt: Prompt, constants: Rates) -> Iterable[str | int]:
    """Everything that becomes input tokens, found as it is asked for: texts to be tokenised, and ints, which are tokens."""
    texts, tokens, others = parts(prompt, constants)
    return chain(texts, (tokens,), others)


def parts(prompt: Prompt, constants: Rates) -> tuple[Sequence[str], int, Iterable[str | int]]:
    """The same in three parts: texts that are here already, tokens that are known, and what else is found as it is asked for,
    () where there is nothing else. The messages of nearly all chats are nothing but texts.
    """
    if isinstance(prompt, TextPrompt):
        return prompt.texts, prompt.tokens_given, ()
    beside = _beside(prompt, constants) if prompt.tools or prompt.rest else ()
    if isinstance(prompt, ResponsesPrompt):
        return (), _REPLY, chain(_response(prompt, constants), beside)
    messages: Sequence[Any] = prompt.messages
    if set(map(type, messages)) == _OBJECTS and not any(map(contains, messages, repeat("name"))):
        texts: list[Any] = list(chain.from_iterable(map(dict.values, messages)))
        if set(map(type, texts)) == _TEXTS:
            return texts, _REPLY + _MESSAGE * len(messages), beside
    return (), _REPLY, chain(chain.from_iterable(map(_message, messages, repeat(constants))), beside)


def _beside(prompt: ChatPrompt | ResponsesPrompt, constants: Rates) -> Iterator[str | int]:
    """What is read beside the messages."""
    for tool in prompt.tools:
        yield from schemas.tool(tool, constants.function)
    if prompt.tools:
        yield _TOOLS_END
    for name, value in prompt.rest.items():
        yield from _rest(name, value, constants)


# ---- messages ----------------------------------------------------------------------------------------------------------


def _message(message: Any, constants: Rates) -> Iterator[str | int]:
    yield _MESSAGE
    if not isinstance(message, dict):
        yield from schemas.unnamed(message)
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
                yield from schemas.unnamed(value)


def _parts(content: Any, constants: Rates) -> Iterator[str | int]:
    """A content: a text, which is one whatever it looks like, one part, or a list of parts."""
    if isinstance(content, str):
        yield content
        return
    for part in content if isinstance(content, list) else [content]:
        yield from _part(part, constants)


def _part(part: Any, constants: Rates) -> Iterator[str | int]:
    """One content part: its text, or a constant for what it shows (rule T3)."""
    if not isinstance(part, dict):
        yield from schemas.unnamed(part)
        return
    kind = part.get("type")
    text = part.get("text", part.get("refusal"))
    if isinstance(text, str):
        yield text
    elif not isinstance(kind, str):
        yield from schemas.unnamed(part)
    elif kind in _IMAGE_PARTS:
        yield constants.image_low if "low" in (_detail(part), _detail(part.get("image_url"))) else constants.image_high
    elif kind == "input_audio":
        audio = part.get(kind)
        wav = isinstance(audio, dict) and audio.get("format") == "wav"
        yield max(1, schemas.encoded_bytes(audio) // (base64_text.WAV_BYTES if wav else _AUDIO_BYTES))
    elif kind in _FILE_PARTS:
        yield schemas.file(schemas.encoded_bytes(part))
    else:
        yield from schemas.unnamed(part)


def _detail(value: Any) -> Any:
    return value.get("detail") if isinstance(value, dict) else None


def _call(call: Any) -> Iterator[str | int]:
    """A tool call of an earlier answer: its name and its arguments; the id costs no tokens."""
    yield _FRAME
    inner = call
    for key in ("function", "custom"):
        if isinstance(call, dict) and isinstance(call.get(key), dict):
            inner = call[key]
    if not isinstance(inner, dict):
        yield from schemas.unnamed(inner)
        return
    for key in ("name", "arguments", "input"):
        value = inner.get(key)
        if value is not None:
            yield value if isinstance(value, str) else schemas.compact(value)


# ---- responses ---------------------------------------------------------------------------------------------------------


def _response(prompt: ResponsesPrompt, constants: Rates) -> Iterator[str | int]:
    """The instructions and items of a response, by the formula of chats: no other is published."""
    if prompt.instructions:
        yield from _item({"role": "developer", "content": prompt.instructions}, constants)
    if isinstance(prompt.items, str):
        yield from _item({"role": "user", "content": prompt.items}, constants)
        return
    for item in prompt.items:
        yield from _item(item, constants)


def _item(item: Any, constants: Rates) -> Iterator[str | int]:
    """One item: a message, a call, what came out of it, reasoning, or a reference to one that the provider keeps."""
    yield _FRAME
    if not isinstance(item, dict):
        yield from schemas.unnamed(item)
        return
    if item.get("type") == "image_generation_call":
        yield constants.image_high
        return
    if isinstance(encrypted := item.get("encrypted_content"), str):
        yield len(encrypted) // _ENCRYPTED_CHARACTERS
    for key, value in item.items():
        if key in _UNREAD_OF_ITEM:
            continue
        if key in {"content", "output", "summary"}:
            yield from _parts(value, constants)
        else:
            yield from schemas.unnamed(value)


# ---- what else stands beside the messages ------------------------------------------------------------------------------


def _rest(name: str, value: Any, constants: Rates) -> Iterator[str | int]:
    """Another member of the request that the model reads; as a text it only switches something."""
    if not isinstance(value, dict):
        return
    if name in {"response_format", "format"}:
        yield from schemas.answer_form(value)
    elif name in {"tool_choice", "function_call"}:
        yield _DEMAND
        for demanded in (value, value.get("function"), value.get("custom")):
            yield schemas.plain(demanded, "name")
        yield from schemas.unnamed(value.get("tools"))
    elif name == "prediction":
        yield from _parts(value.get("content"), constants)
    elif name == "variables":
        for variable in value.values():
            yield from _parts(variable, constants)
    else:
        yield from schemas.unnamed(value)
