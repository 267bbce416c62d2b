"""The bearer token of a request. Fails closed: whatever is not exactly one fit token is UnauthorizedError."""

import re
from typing import Final

from sentinel.errors import INVALID_KEY_MESSAGE, UnauthorizedError
from sentinel.protocol.fields import Fields

TOKEN_BYTES_MAX: Final = 32_768
# Visible ASCII (RFC 9110 §5.6.2 and §11.6.2 allow no more in a token); the scheme in any case, as §11.1 wants.
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+)")
_TOO_LONG: Final = f"The API key is too long: a key has at most {TOKEN_BYTES_MAX} characters."


def bearer_token(fields: Fields) -> str:
    """The bearer token of a request (RFC 6750 §2.1).

    Raises UnauthorizedError unless there is exactly one Authorization header with the scheme Bearer and visible ASCII (wire.md
    H15, reliability.md G3), with one text for every cause; only a token of over TOKEN_BYTES_MAX is told to be too long.
    """
    values = fields.every(b"authorization")
    found = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        raise UnauthorizedError(INVALID_KEY_MESSAGE)
    if len(found[1]) > TOKEN_BYTES_MAX:
        raise UnauthorizedError(_TOO_LONG)
    return found[1].decode("ascii")


def usual_token(fields: Fields) -> bytes:
    """What stands where nearly every client has its bearer token, unchecked; b"" where it has it, or several, elsewhere."""
    said = fields.first.get(b"authorization", b"")
    return said[7:] if said.startswith(b"Bearer ") and b"authorization" not in fields.repeated else b""
