"""The head of a request. Fails as BadRequestError where a part of it could end a line: no caller adds a header."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from sentinel import __version__
from sentinel.errors import BadRequestError

USER_AGENT: Final = f"sentinel/{__version__}"

_OUR_AGENT: Final = f"user-agent: {USER_AGENT}"
# RFC 9110 §5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The names that were found to be tokens: those of every request, and some more.
_known_tokens: Final[set[str]] = set()
_TOKENS_MAX: Final = 256
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


def head(opening: str, headers: Sequence[tuple[str, str]], length: int | None) -> bytes:
    """The head of a request whose body has `length` bytes, or comes in chunks (None). Values are sent as UTF-8.

    Raises BadRequestError.
    """
    names = dict(headers).keys()
    if not names <= _known_tokens:
        _check(names)
    lines = [*map(": ".join, headers)]
    given = "".join(lines)
    if "\r" in given or "\n" in given or "\0" in given:
        raise _unfit()
    if "user-agent" not in names:
        lines.append(_OUR_AGENT)
    if length is None:
        lines.append("transfer-encoding: chunked")
    elif length or not opening.startswith(_WITHOUT_BODY):
        lines.append(f"content-length: {length}")
    return "\r\n".join([opening, *lines, "", ""]).encode()


def _check(names: Iterable[str]) -> None:
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise _unfit()
        if len(_known_tokens) < _TOKENS_MAX:
            _known_tokens.add(name)


def _unfit() -> BadRequestError:
    return BadRequestError("This request cannot be sent on: a header or the path has characters that end a line.")
