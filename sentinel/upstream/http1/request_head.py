"""The head of a request. Fails as BadRequestError where its first line could end too early: no caller adds another one."""

from typing import Final

from sentinel.ops.errors import BadRequestError

# How those begin whose request has no body, not even an empty one (RFC 9110 §8.6).
_WITHOUT_BODY: Final = (b"GET ", b"HEAD ", b"OPTIONS ", b"TRACE ")


def opening(method: str, target: str, host: str) -> bytes:
    """The two lines with which a request to `host` begins, the same for all that ask for one `target`, in visible ASCII.

    Raises BadRequestError.
    """
    said = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n"
    if said.count("\r") != 2 or said.count("\n") != 2 or "\0" in said or " " in target:
        raise BadRequestError("This request cannot be sent on: its path has characters that end a line.")
    return said.encode()


def head(opening: bytes, lines: bytes, length: int | None) -> bytes:
    """The head of a request whose body has `length` bytes, or comes in chunks (None). `lines` are its headers, each with its
    end: whoever wrote them has seen to it that none is more than one line (`openai/headers.py`).
    """
    if length is None:
        return b"%b%btransfer-encoding: chunked\r\n\r\n" % (opening, lines)
    if length or not opening.startswith(_WITHOUT_BODY):
        return b"%b%bcontent-length: %d\r\n\r\n" % (opening, lines, length)
    return b"%b%b\r\n" % (opening, lines)
