"""What is base64, and so no text: the one place that says it, of prompts and of answers (docs/tokens.md). Cannot fail.

Honest text has blanks, full stops or quotes: of its longest words, hashes and numbers none is as long as the bounds here.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

# A token each 100 ms, of 24 kHz 16 bit WAV: OpenAI's audio guide, and what it streams.
WAV_BYTES: Final = 4800
# A 1024 × 1024 image of high detail: OpenAI's vision guide.
IMAGE_TOKENS: Final = 765
# In a text a picture begins with `data:`, or it is so long that no model has written it.
EMBEDDED_CHARACTERS_MIN: Final = 1024
_BARE_CHARACTERS_MIN: Final = 16_384

_SIGNS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-"
# As some encoders of JSON write them; their letters are not lost on what has none of these.
_ESCAPED: Final = re.compile(rb"\\(?:/|u00(?:2[bBfF]|3[dD]))")
_LINE_ENDS: Final = re.compile(rb"\\[rn]")
_LINE_BYTES_MIN: Final = 60  # of base64 that is wrapped (MIME 76, PEM 64)

_FIELD: Final = re.compile(r"data:[^,\s]{0,256},|[A-Za-z0-9+/_=-]{512}")
_IN_TEXT: Final = re.compile(
    rf"data:([a-z]{{0,16}})[^,\s]{{0,256}},[A-Za-z0-9+/_=-]{{{EMBEDDED_CHARACTERS_MIN},}}+"
    rf"|(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{{{_BARE_CHARACTERS_MIN},}}+"
)
# What is base64 too, but nothing that is seen or heard: the hidden reasoning of providers.
_HIDDEN: Final = re.compile(r"encrypted|signature", re.IGNORECASE)
_AUDIO: Final = re.compile(r"audio|speech|sound", re.IGNORECASE)
_IMAGE: Final = re.compile(r"image|b64|inline_?data|picture|photo", re.IGNORECASE)


def is_encoded(text: str) -> bool:
    """Whether the value of a field that is no text is base64, or a `data:` URI."""
    return _FIELD.match(text) is not None


def is_signs(block: bytes) -> bool:
    """Whether a piece of JSON is base64 and nothing else: no quote, no blank, no escape that is not one of its signs."""
    left = block.translate(None, _SIGNS)
    if not left:
        return True
    if left.strip(b"\\") or block.count(b"\\u") > block.count(b"\\u00"):
        return False
    plain = _ESCAPED.sub(b"", block)
    if len(_LINE_ENDS.findall(plain)) * _LINE_BYTES_MIN <= 2 * len(block):
        plain = _LINE_ENDS.sub(b"", plain)
    return not plain.translate(None, _SIGNS)


def embedded(text: str) -> tuple[str, list[tuple[str, int]]]:
    """`text` without the media in it, and the type (`image`, `audio` …) and length of each.

    Never an honest text: a `data:` URI counts from 1024 signs on, anything else from 16 384 without a blank.
    """
    media = [(found[1] or "", len(found[0])) for found in _IN_TEXT.finditer(text)]
    return (_IN_TEXT.sub("", text), media) if media else (text, media)


def shown(value: Any, kind: str = "") -> Iterator[tuple[str, int]]:
    """The media in the fields of JSON that are no text: the type (`image` or `audio`) and length of each.

    The type is what its `data:` URI, its MIME type or the name of its field says; what nobody names is an image if it is
    long. Hidden reasoning is none.
    """
    waiting = [(value, kind)]
    while waiting:
        item, kind = waiting.pop()
        if isinstance(item, dict):
            named = [text for key in ("type", "mime_type", "mimeType", "format") if isinstance(text := item.get(key), str)]
            if not any(map(_HIDDEN.search, named)):
                inside = _kind(" ".join(named), kind)
                waiting += [(inner, _kind(key, inside)) for key, inner in item.items() if not _HIDDEN.search(key)]
        elif isinstance(item, list):
            waiting += [(inner, kind) for inner in item]
        elif isinstance(item, str) and is_encoded(item):
            if item.startswith("data:"):
                yield from embedded(item)[1]
            elif kind or len(item) >= _BARE_CHARACTERS_MIN:
                yield kind or "image", len(item)


def _kind(name: str, otherwise: str) -> str:
    if _AUDIO.search(name):
        return "audio"
    return "image" if _IMAGE.search(name) else otherwise
