"""What is base64, and so no text: the one place that says it, of prompts and of answers (docs/tokens.md). Cannot fail.

Honest text has blanks, full stops or quotes: of its longest words, hashes and numbers none is as long as the bounds here.
"""

import re
from collections import Counter
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
# A line of signs, from its beginning on, so that no sign is looked at twice; and one more of a text that is wrapped.
_LINE: Final = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{16,}+")
_NEXT_LINE: Final = re.compile(r"\r?\n[A-Za-z0-9+/_=-]++(?=[\r\n\"')`<]|\Z)")
_HEX: Final = re.compile(r"[0-9a-fA-F\s]*+")
_URI: Final = re.compile(r"data:([a-z]{0,16})")
_URI_CHARACTERS_MAX: Final = 278
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

    Never an honest text: a `data:` URI counts from 1024 signs on, anything else from 16 384 without a blank, or in lines of one
    length.
    """
    media: list[tuple[str, int]] = []
    words: list[str] = []
    before = at = looked = 0
    while line := _LINE.search(text, at):
        start, at = line.span()
        if start >= looked:  # lines that are not wrapped are not counted again from the second on
            at, looked = _end(text, at)
        if at - start < EMBEDDED_CHARACTERS_MIN:
            continue
        kind, start = _uri(text, before, start)
        if kind is not None or at - start >= _BARE_CHARACTERS_MIN:
            media.append((kind or "", at - start))
            words.append(text[before:start])
            before = at
    return ("".join(words) + text[before:], media) if media else (text, media)


def _end(text: str, line_end: int) -> tuple[int, int]:
    """Where base64 ends whose first line ends at `line_end`, which may be wrapped; and how far the lines of signs go.

    Nearly all lines of what is wrapped have one length; those of a list of names have not, and one of hashes is hexadecimal.
    """
    lengths: Counter[int] = Counter()
    end = line_end
    while line := _NEXT_LINE.match(text, end):
        lengths[len(line[0].lstrip())] += 1
        end = line.end()
    if not lengths:
        return line_end, line_end
    ((length, lines),) = lengths.most_common(1)
    wrapped = length >= _LINE_BYTES_MIN and lines * 4 >= lengths.total() * 3 and not _HEX.fullmatch(text, line_end, end)
    return (end if wrapped else line_end), end


def _uri(text: str, before: int, start: int) -> tuple[str | None, int]:
    """The type of the `data:` URI whose signs begin at `start`, and where it begins; None where they are in none."""
    if text[start - 1 : start] != ",":
        return None, start
    first = max(before, start - _URI_CHARACTERS_MAX)
    head = re.split(r"[,\s]", text[first : start - 1])[-1]
    uri = _URI.search(head)
    return (None, start) if uri is None else (uri[1], start - 1 - len(head) + uri.start())


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
