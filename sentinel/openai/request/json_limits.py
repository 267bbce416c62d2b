"""How deep and how large a JSON body is, and what memory it will take, found out before anything is built of it.

Fails closed: too deep or too many values raise BadRequestError (rules H12, H13; rule Y7). Whether a text is JSON at
all is not asked here: up to its first fault a text is measured as the parser would read it, and there the parser stops.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from sentinel.ops.errors import BadRequestError

NESTING_MAX: Final = 64
# Arrays, objects, and the values in them. OpenAI takes 300 000 tokens in one embeddings request, each a value of its own;
# so many values are decoded in some 50 ms, the millions that fit into a body in seconds.
VALUES_MAX: Final = 500_000

# A body up to this size cannot hold VALUES_MAX values, and is measured at once; longer ones in slices of this size, so that
# other threads get their turn in between.
SLICE_BYTES: Final = 256 * 1024

_QUOTE: Final = b'"'
_BRACKETS: Final = b"[]{}"
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(_QUOTE + _BRACKETS))
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(_QUOTE + _BRACKETS + b","))
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
# +1 and -1 as signed bytes.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_STEPS: Final = bytes(set(range(256)) - set(_BRACKETS))

# What the parts of a body take at most once they are decoded, beside their text (CPython, 64 bits; a test measures it).
_DECODED_BYTES: Final = {b"{": 200, b"[": 96, b",": 40, _QUOTE: 40}
# A text takes for each character what its widest one takes: 1 byte in ASCII, 2, or 4 beyond the first 65 536 characters. Others
# than ASCII are kept in UTF-8 as well once their tokens are counted.
_WIDE, _WIDEST = 3, 5
_WIDEST_LEADS: Final = bytes(range(0xF0, 0x100))
# Slices with more texts than that are not taken apart: all of it is then as wide as the widest.
_TEXTS_A_SLICE_MAX: Final = 2000


def check_structure(body: bytes, *, slice_bytes: int = SLICE_BYTES) -> None:
    """Raise BadRequestError where `body` nests deeper than NESTING_MAX or holds more than VALUES_MAX values.

    Long bodies are settled by counting their opening brackets, wherever those stand; only with many of them they are looked at
    with their strings left out. Stops at the first of the slices, `slice_bytes` each, that is too much.
    """
    if len(body) <= slice_bytes:
        _measure(body)
        return
    opened = commas = 0
    for start in range(0, len(body), slice_bytes):
        end = start + slice_bytes
        opened += body.count(b"{", start, end) + body.count(b"[", start, end)
        commas += body.count(b",", start, end)
        if opened > NESTING_MAX or commas > VALUES_MAX - NESTING_MAX:
            _measure_slices(body, slice_bytes)
            return


def _measure(body: bytes) -> None:
    """Each round takes away the innermost level, which is faster than to follow every bracket; what is left is odd."""
    outside = _outside(body, _NOT_BRACKETS)
    left = outside.translate(_ALIKE)
    for _ in range(NESTING_MAX):
        left = left.replace(b"[]", b"")
        if not left:
            return
    _deepest(outside, 0)


def _measure_slices(body: bytes, slice_bytes: int) -> None:
    """The same for a long body, whose values are counted as well."""
    depth = values = 0
    inside = False
    for text in _slices(body, slice_bytes):
        outside = _outside(_QUOTE + text if inside else text, _NOT_STRUCTURE)
        inside ^= _unescaped(text).count(_QUOTE) % 2 == 1
        values += outside.count(b",") + outside.count(b"{") + outside.count(b"[")
        if values > VALUES_MAX:
            raise BadRequestError(f"The body holds too many values: at most {VALUES_MAX} are read.", code="invalid_body")
        depth = _deepest(outside, depth)


def _slices(body: bytes, slice_bytes: int) -> Iterator[bytes]:
    """`body` in slices, none of which ends within an escape."""
    start = 0
    while start < len(body):
        text = body[start : start + slice_bytes]
        if (len(text) - len(text.rstrip(b"\\"))) % 2:
            text = body[start : start + slice_bytes + 1]
        start += len(text)
        yield text


def decoded_bytes(body: bytes, *, slice_bytes: int = SLICE_BYTES) -> int:
    """At most so many bytes of memory are taken by all that can be decoded of `body`, beside `body` itself."""
    count = len(body)
    for start in range(0, len(body), slice_bytes):
        for part, size in _DECODED_BYTES.items():
            count += size * body.count(part, start, start + slice_bytes)
    return count if body.isascii() and b"\\u" not in body else count + _beyond_ascii(body, slice_bytes)


def _beyond_ascii(body: bytes, slice_bytes: int) -> int:
    """What its texts take beyond a byte for each of theirs. What is between two texts is taken for one."""
    beyond = length = 0
    width = 1  # of the text that is open, of which `length` bytes were seen
    for text in _slices(body, slice_bytes):
        # As long as it was, but each quote left begins or ends a text.
        bare = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        if bare.count(_QUOTE) > _TEXTS_A_SLICE_MAX:
            width = max(width, _width(bare))
            beyond += (length + len(bare)) * (width - 1)
            pieces = [bare[bare.rindex(_QUOTE) + 1 :]]
            length, width = 0, 1
        else:
            pieces = bare.split(_QUOTE)
        for number, piece in enumerate(pieces):
            if number:
                beyond += length * (width - 1)
                length, width = 0, 1
            length += len(piece)
            width = max(width, _width(piece))
    return beyond + length * (width - 1)


def _width(text: bytes) -> int:
    if text.isascii() and b"\\u" not in text:
        return 1
    # Searches for a few fixed bytes, which are many times as fast as a pattern; some narrower escapes count as well.
    widest = b"\\ud" in text or b"\\uD" in text or len(text.translate(None, _WIDEST_LEADS)) < len(text)
    return _WIDEST if widest else _WIDE


def _unescaped(text: bytes) -> bytes:
    """`text` without escaped backslashes and escaped quotes, so that each quote left begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b'\\"' in text else text


def _outside(text: bytes, left_out: bytes) -> bytes:
    """What is outside the strings of `text`, which begins outside of one, without the bytes `left_out`.

    Once these are gone most strings are two quotes with nothing between them, as is what lay between two strings; neither
    matters for what is inside and what is outside.
    """
    text = _unescaped(text).translate(None, left_out).replace(b'""', b"")
    return b"".join(text.split(_QUOTE)[::2])


def _deepest(outside: bytes, depth: int) -> int:
    """The depth behind `outside`, which begins at `depth`."""
    reached = depth
    for reached in accumulate(memoryview(outside.translate(_STEPS, _NOT_STEPS)).cast("b"), initial=depth):
        if reached > NESTING_MAX:
            raise BadRequestError(f"The body is nested too deeply: at most {NESTING_MAX} levels are read.", code="invalid_body")
    return reached
