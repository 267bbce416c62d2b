"""Token counts before the call: tiktoken's exact count of every text, and OpenAI's published formula around it (wire.md §3).

Never raises on a caller's JSON: what the formula does not know is counted as the tokens of its JSON, images, audio and files by
constants (docs/tokens.md), and a text over its bound by its bytes. The provider's own usage replaces every estimate later.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import tiktoken

from sentinel.records import ChatPrompt, TextPrompt

DEFAULT_ENCODING: Final = "o200k_base"
# Longest prefix wins. Everything else, other vendors included, is counted by the default (wire.md M1).
_CL100K_PREFIXES: Final = ("gpt-4", "gpt-3.5", "gpt-35", "text-embedding-", "davinci-002", "babbage-002")
_O200K_PREFIXES: Final = ("gpt-4o", "gpt-4.1", "gpt-4.5")

_PATTERNS: Final = {
    "cl100k_base": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s",
    "o200k_base": "|".join(
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
}

# The cookbook's formula (wire.md T1, T2).
_MESSAGE: Final = 3
_NAME: Final = 1
_REPLY: Final = 3
_FUNCTION: Final = {"o200k_base": 7, "cl100k_base": 10}
_PROPERTIES: Final = 3
_PROPERTY: Final = 3
_ENUM: Final = -3
_ENUM_ITEM: Final = 3
_TOOLS_END: Final = 12

# Constants for what is not text (wire.md T3); docs/tokens.md says where they come from.
IMAGE_LOW: Final = 85
IMAGE: Final = 765
AUDIO: Final = 500
FILE: Final = 1500
UNCOUNTABLE: Final = 1024
_MEDIA: Final = {"image_url": IMAGE, "input_image": IMAGE, "input_audio": AUDIO, "file": FILE, "input_file": FILE}

# One memo entry a text: system prompts and histories come again and again. Bounded to about 32 MB a worker.
_MEMO_TEXTS: Final = 1024
_MEMO_CHARACTERS_MAX: Final = 32_768
_EXACT_CHARACTERS_MAX: Final = 1_000_000


class Tokenizer:
    """Counts tokens. Safe to use from several threads; a count releases the GIL while it encodes."""

    def __init__(self, encodings: Mapping[str, tiktoken.Encoding], exact_characters_max: int = _EXACT_CHARACTERS_MAX) -> None:
        self._encodings = dict(encodings)
        self._exact_characters_max = exact_characters_max
        self._memoised = lru_cache(maxsize=_MEMO_TEXTS)(self._encode)

    @classmethod
    def load(cls, ranks: Callable[[str], bytes]) -> "Tokenizer":
        """Build the encodings from their ranks (0.4 s, about 110 MB). Raises what `ranks` raises."""
        return cls({name: _encoding(name, ranks(name)) for name in _PATTERNS})

    def text(self, text: str, model: str) -> int:
        """Tokens of one text; special tokens count as the text they are written with (wire.md K1)."""
        return self._count(text, encoding_name(model))

    def prompt(self, prompt: ChatPrompt | TextPrompt, model: str) -> int:
        """Input tokens of a request, estimated. Never raises."""
        encoding = encoding_name(model)
        if isinstance(prompt, TextPrompt):
            return prompt.tokens_given + sum(self._count(text, encoding) for text in prompt.texts)
        messages = sum(self._message(message, encoding) for message in prompt.messages)
        return messages + _REPLY + self._tools(prompt.tools, encoding)

    def characters(self, prompt: ChatPrompt | TextPrompt) -> int:
        """Roughly how long counting takes, in characters: what decides whether it is done off the event loop."""
        if isinstance(prompt, TextPrompt):
            return sum(map(len, prompt.texts))
        # Tools are rarely long, and costly where they are: a thousand characters stand for each.
        return sum(_length(message.get("content")) for message in prompt.messages) + 1000 * len(prompt.tools)

    def _message(self, message: Mapping[str, Any], encoding: str) -> int:
        tokens = _MESSAGE
        for name, value in message.items():
            if isinstance(value, str):
                tokens += self._count(value, encoding) + (_NAME if name == "name" else 0)
            elif isinstance(value, list) and name == "content":
                tokens += sum(self._part(part, encoding) for part in value)
            elif isinstance(value, list | dict):
                tokens += self._json(value, encoding)
        return tokens

    def _part(self, part: Any, encoding: str) -> int:
        """A content part: text is counted, media never is (a base64 image is not its text)."""
        if not isinstance(part, dict):
            return self._count(part, encoding) if isinstance(part, str) else 0
        kind = part.get("type")
        if isinstance(kind, str) and kind in _MEDIA:
            image = part.get("image_url")
            detail = image.get("detail") if isinstance(image, dict) else part.get("detail")
            return IMAGE_LOW if detail == "low" and _MEDIA[kind] == IMAGE else _MEDIA[kind]
        texts = [part[name] for name in ("text", "refusal", "input_text") if isinstance(part.get(name), str)]
        return sum(self._count(text, encoding) for text in texts) if texts else self._json(part, encoding)

    def _tools(self, tools: Iterable[Any], encoding: str) -> int:
        counts = [self._tool(tool, encoding) for tool in tools]
        return sum(counts) + _TOOLS_END if counts else 0

    def _tool(self, tool: Any, encoding: str) -> int:
        """One function by the formula; what is not shaped like one, as its JSON."""
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return self._json(tool, encoding)
        tokens = _FUNCTION[encoding] + self._line(encoding, function["name"], function.get("description"))
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(properties, dict) and properties:
            tokens += _PROPERTIES + sum(self._property(name, value, encoding) for name, value in properties.items())
        elif parameters:
            tokens += self._json(parameters, encoding)
        return tokens

    def _property(self, name: str, value: Any, encoding: str) -> int:
        if not isinstance(value, dict) or not isinstance(value.get("type"), str) or "properties" in value or "items" in value:
            return _PROPERTY + self._count(name, encoding) + self._json(value, encoding)
        tokens = _PROPERTY + self._line(encoding, name, value["type"], value.get("description"))
        choices = value.get("enum")
        if isinstance(choices, list):
            tokens += _ENUM + sum(
                _ENUM_ITEM + self._count(choice if isinstance(choice, str) else _compact(choice), encoding)
                for choice in choices
            )
        return tokens

    def _line(self, encoding: str, *words: Any) -> int:
        """`name:description`, without the full stop at its end."""
        return self._count(":".join(word for word in words if isinstance(word, str)).removesuffix("."), encoding)

    def _json(self, value: Any, encoding: str) -> int:
        return self._count(_compact(value), encoding)

    def _count(self, text: str, encoding: str) -> int:
        if len(text) <= _MEMO_CHARACTERS_MAX:
            return self._memoised(text, encoding)
        if len(text) <= self._exact_characters_max:
            return self._encode(text, encoding)
        return len(text.encode("utf-8", "surrogatepass")) // 4

    def _encode(self, text: str, encoding: str) -> int:
        return len(self._encodings[encoding].encode_ordinary(text))


@lru_cache(maxsize=1024)
def encoding_name(model: str) -> str:
    """The encoding of a model: provider prefix and fine-tuning stripped, then by prefix, else the default. Never raises."""
    name = model.rsplit("/", maxsplit=1)[-1]
    if name.startswith("ft:"):
        name = name.removeprefix("ft:").split(":", maxsplit=1)[0]
    if name.startswith(_CL100K_PREFIXES) and not name.startswith(_O200K_PREFIXES):
        return "cl100k_base"
    return DEFAULT_ENCODING


def _encoding(name: str, ranks: bytes) -> tiktoken.Encoding:
    mergeable = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in ranks.splitlines() if line)}
    # Special tokens are never counted as such, so the encodings are built without them.
    return tiktoken.Encoding(name, pat_str=_PATTERNS[name], mergeable_ranks=mergeable, special_tokens={})


def _compact(value: Any) -> str:
    """The compact JSON of a value; a text of the right length where it is nested too deeply to be written."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    except RecursionError:
        return " a" * UNCOUNTABLE


def _length(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(len(text) for part in content if isinstance(part, dict) and isinstance(text := part.get("text"), str))
    return 0
