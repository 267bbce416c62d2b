"""JSON Web Tokens as Zion's simulator issues them: HS256 (RFC 7519, RFC 7515), nothing else.

`verify` answers None for every token it would not have issued itself, whatever is wrong with it.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, Final

_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def sign(claims: dict[str, Any], secret: str) -> str:
    """The token for `claims`, signed with `secret`."""
    signed = f"{_encode(json.dumps(_HEADER).encode())}.{_encode(json.dumps(claims).encode())}"
    return f"{signed}.{_encode(_mac(signed, secret))}"


def verify(token: str, secret: str, now_s: float) -> dict[str, Any] | None:
    """The claims of `token`, or None if its form, signature, algorithm or `exp` (Unix seconds) is wrong."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims, mac = (_decode(part) for part in parts)
        if not hmac.compare_digest(mac, _mac(f"{parts[0]}.{parts[1]}", secret)):
            return None
        if json.loads(header).get("alg") != "HS256":
            return None
        values = json.loads(claims)
    except (ValueError, binascii.Error, AttributeError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("exp"), int) or values["exp"] <= now_s:
        return None
    return values


def _mac(text: str, secret: str) -> bytes:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
