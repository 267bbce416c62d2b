"""The head of a request. Fails as BadRequestError where a part of it could end a line or the head: no caller adds a header."""

from collections.abc import Sequence
from typing import Final

from sentinel import __version__
from sentinel.errors import BadRequestError

USER_AGENT: Final = f"sentinel/{__version__}"

_OUR_AGENT: Final = f"user-agent: {USER_AGENT}\r\n"
# How those begin whose request has no body, not even an empty one (RFC 9110 §8.6).
_WITHOUT_BODY: Final = ("GET ", "HEAD ", "OPTIONS ", "TRACE ")


def opening(method: str, target: str, host: str) -> str:
    """The two lines with which a request to `host` begins, the same for all that ask for one `target`, in visible ASCII.

    Raises BadRequestError.
    """
    said = f"{method} {target} HTTP/1.1\r\nhost: {host}"
    if said.count("\r") != 1 or said.count("\n") != 1 or "\0" in said or " " in target:
        raise _unfit()
    return said


def head(opening: str, lines: Sequence[str], length: int | None) -> bytes:
    """The head of a request whose body has `length` bytes, or comes in chunks (None). `lines` are its headers as they are sent
    (`name: value`, names in lower case), in UTF-8.

    Raises BadRequestError.
    """
    given = "".join(lines)
    if "\r" in given or "\n" in given or "\0" in given or "" in lines:
        raise _unfit()
    said = "\r\n".join([opening, *lines])
    agent = "" if "\r\nuser-agent: " in said else _OUR_AGENT
    if length is None:
        framing = "transfer-encoding: chunked\r\n"
    elif length or not opening.startswith(_WITHOUT_BODY):
        framing = f"content-length: {length}\r\n"
    else:
        framing = ""
    return f"{said}\r\n{agent}{framing}\r\n".encode()


def _unfit() -> BadRequestError:
    return BadRequestError("This request cannot be sent on: a header or the path has characters that end a line.")
