"""The head of a request. Fails as BadRequestError where a part of it could end a line: no caller adds a header."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from sentinel import __version__
from sentinel.errors import BadRequestError

USER_AGENT: Final = f"sentinel/{__version__}"

# RFC 9110 §5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Methods whose request has no body, not even an empty one (RFC 9110 §8.6).
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def head(method: str, target: str, host: str, headers: Iterable[tuple[str, str]], length: int | None) -> bytes:
    """The head of a request to `host` whose body has `length` bytes, or comes in chunks (None). Values are sent as UTF-8.

    `target` is visible ASCII. Raises BadRequestError.
    """
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}"]
    named = False
    for name, value in headers:
        if not _is_token(name):
            raise _unfit()
        named = named or name == "user-agent"
        lines.append(f"{name}: {value}")
    if not named:
        lines.append(f"user-agent: {USER_AGENT}")
    if length is None:
        lines.append("transfer-encoding: chunked")
    elif length or method not in _WITHOUT_BODY:
        lines.append(f"content-length: {length}")
    said = "\r\n".join(lines)
    if said.count("\r") != len(lines) - 1 or said.count("\n") != len(lines) - 1 or "\0" in said or target.count(" "):
        raise _unfit()
    return f"{said}\r\n\r\n".encode()


@lru_cache(maxsize=256)
def _is_token(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None


def _unfit() -> BadRequestError:
    return BadRequestError("This request cannot be sent on: a header or the path has characters that end a line.")
