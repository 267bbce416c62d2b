"""The bearer token of a request, and what a JWT says of itself. Fails closed: whatever is not exactly one fit token is
UnauthorizedError.
"""

import base64
import re
from typing import Final

import msgspec

from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import INVALID_KEY_MESSAGE, UnauthorizedError

TOKEN_BYTES_MAX: Final = 32_768
# Visible ASCII (RFC 9110 §5.6.2 and §11.6.2 allow no more in a token); the scheme in any case, as §11.1 wants.
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+)")
# RFC 7519 §3 and RFC 7515 §3.1: three parts in base64url, none empty. Padding should be left out, and is taken.
_JWT: Final = re.compile(r"[\w-]+={0,2}\.[\w-]+={0,2}\.[\w-]+={0,2}", re.ASCII)
_TOO_LONG: Final = f"The API key is too long: a key has at most {TOKEN_BYTES_MAX} characters."


class Head(msgspec.Struct, frozen=True):
    """The first part of a JWT: how it is signed (RFC 7515 §4.1.1: there always is an `alg`), and with which key."""

    alg: str
    kid: str | None = None


class _Claims(msgspec.Struct):
    exp: float | None = None


_read_head: Final = msgspec.json.Decoder(Head).decode
_read_claims: Final = msgspec.json.Decoder(_Claims).decode


def bearer_token(fields: Fields) -> str:
    """The bearer token of a request (RFC 6750 §2.1).

    Raises UnauthorizedError unless there is exactly one Authorization header with the scheme Bearer and visible ASCII (rule
    H15, rule Y3), with one text for every cause; only a token of over TOKEN_BYTES_MAX is told to be too long.
    """
    values = fields.every(b"authorization")
    found = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        raise UnauthorizedError(INVALID_KEY_MESSAGE)
    if len(found[1]) > TOKEN_BYTES_MAX:
        raise UnauthorizedError(_TOO_LONG)
    return found[1].decode("ascii")


def read_jwt(token: str) -> tuple[Head, float]:
    """The head of a JWT, and its `exp` in wall-clock seconds: infinity without one. Nothing of it is verified here.

    Raises UnauthorizedError for what is no JWT: to ask anybody about it would be in vain.
    """
    try:
        if _JWT.fullmatch(token) is None:
            raise ValueError("not three parts")
        head, claims, _ = map(_decoded, token.split("."))
        expires_s = _read_claims(claims).exp
        return _read_head(head), float("inf") if expires_s is None else expires_s
    except (ValueError, RecursionError):
        raise UnauthorizedError(INVALID_KEY_MESSAGE) from None


def _decoded(part: str) -> bytes:
    bare = part.rstrip("=")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
