"""Commands as Redis reads them (RESP), and the shapes of its replies. Pure; TypeError for what is no text, number or bytes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import hiredis

# A command as bytes; UnicodeEncodeError for a lone surrogate. Its stub knows commands of one word only.
pack_plain: Final[Callable[[tuple[Any, ...]], bytes]] = hiredis.pack_command


def pack(*command: str | bytes | int) -> bytes:
    """A command as bytes. A lone surrogate, which UTF-8 cannot say, is written out: it must not fail a request."""
    try:
        return pack_plain(command)
    except UnicodeEncodeError:
        return pack_plain(
            tuple(part.encode("utf-8", "backslashreplace") if isinstance(part, str) else part for part in command)
        )


def pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Field and value, or member and score, of a list in which they take turns."""
    return zip(flat[::2], flat[1::2], strict=True)
