"""Content codings of requests (RFC 9110 §8.4): which ones a body has, and the body without them.

Fails closed: a coding that is not read here, or more of them than a client has a use for, is UnsupportedMediaTypeError (415)
that tells which are; bytes that are not what they are said to be are BadRequestError (400); a body that is too large once it is
plain is BodyTooLargeError (413). Pieces come one by one, so that whoever takes them decides how much is in memory at a time.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import BadRequestError, BodyTooLargeError, UnsupportedMediaTypeError
from sentinel.upstream import inflate

HEADER: Final = b"content-encoding"
CODINGS_MAX: Final = 3
# Compressed streams in a row: tools that compress in parallel write some hundreds, and each costs time whatever is in it.
STREAMS_MAX: Final = 4096

# What says nothing of compression. The latter two are no codings, but many a client names its charset here.
_NONE: Final = frozenset({b"", b"identity", b"utf-8", b"utf8"})
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,32}")
# So little is given to a decoder at a time, since each copies what it has not taken yet.
_SLICE_BYTES: Final = 16_384


def named(fields: Fields) -> tuple[bytes, ...]:
    """The codings of a body in lower case, in the order in which they were applied.

    Raises UnsupportedMediaTypeError for what is no list of names.
    """
    listed = [name.strip(b" \t").lower() for value in fields.every(HEADER) for name in value.split(b",")]
    names = tuple(name for name in listed if name not in _NONE)
    if not all(map(_NAME.fullmatch, names)):
        raise _unsupported("The Content-Encoding of this request is not a list of codings.")
    return names


def check_readable(names: Sequence[bytes]) -> None:
    """Raise UnsupportedMediaTypeError where a body with these codings is not read here."""
    for name in names:
        if not inflate.installed(name):
            raise _unsupported(f"Unsupported Content-Encoding: '{name.decode('ascii')}'.")
    if len(names) > CODINGS_MAX:
        raise _unsupported(f"A body may be compressed at most {CODINGS_MAX} times over.")


def plain(body: bytes, names: Sequence[bytes], bytes_max: int) -> Iterator[bytes]:
    """`body` without the codings `names`, piece by piece: work for a thread.

    What comes out of each coding is bounded by `bytes_max`. Raises BadRequestError and BodyTooLargeError.
    """
    pieces: Iterator[bytes] = (body[start : start + _SLICE_BYTES] for start in range(0, len(body), _SLICE_BYTES))
    for name in reversed(names):
        pieces = _without(pieces, name, bytes_max)
    return pieces


def batch(pieces: Iterator[bytes], bytes_min: int) -> bytes:
    """The next of `pieces`, joined: at least `bytes_min` bytes, or all that are left."""
    taken: list[bytes] = []
    count = 0
    for piece in pieces:
        taken.append(piece)
        count += len(piece)
        if count >= bytes_min:
            break
    return b"".join(taken)


def _without(chunks: Iterable[bytes], coding: bytes, bytes_max: int) -> Iterator[bytes]:
    inflater = inflate.Inflater(coding)
    count = 0
    try:
        for chunk in chunks:
            inflater.feed(chunk)
            while piece := inflater.piece():
                count += len(piece)
                if count > bytes_max:
                    raise BodyTooLargeError(f"The request body is larger than the {bytes_max} bytes this gateway takes.")
                yield piece
            if inflater.streams > STREAMS_MAX:
                raise ValueError("too many compressed streams")
        inflater.end()
    except ValueError as error:
        raise BadRequestError(
            f"The request body could not be read as '{coding.decode('ascii')}', which its Content-Encoding says it is.",
            code="invalid_body",
        ) from error


def _unsupported(message: str) -> UnsupportedMediaTypeError:
    """The 415 that says what would be read (RFC 9110 §15.5.16)."""
    accepted = inflate.ACCEPTED
    return UnsupportedMediaTypeError(
        f"{message} This gateway reads: {accepted.decode('ascii')}, or no compression.",
        code="unsupported_content_encoding",
        headers=((b"accept-encoding", accepted),),
    )
