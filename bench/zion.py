"""A Zion that costs next to nothing: `python -m bench.zion` prints its URL and serves until it is told to stop.

A caller is whatever the `sub` of a token says, so that a hundred thousand of them need no set-up: `token(name)` makes one. The
simulator of `sentinel dev` looks through all users for each call. Names that begin with `spent` have used up their requests,
those with `nobody` are refused; the others have more than they can use. Signatures are not checked.

`GET /booked` tells the sums of all increments as JSON; callers whose names begin with `odd` (they leave, hang, do not read)
have sums of their own, since what they cost is an estimate. An idempotency key that comes again books nothing, and is counted
as `replayed`.
"""

import base64
import json
from typing import Any, Final

from bench.http1 import Connection, header, plain, serve
from sentinel.devstack import jwt

MAIL: Final = "@load.test"
_EXPIRES_S: Final = 4_102_444_800  # the year 2100
_AMOUNTS: Final = {"requests": "aiRequests", "input_tokens": "aiInputTokens", "output_tokens": "aiOutputTokens"}
_PERIOD: Final = {"resetPeriod": "MONTHLY", "periodStart": "2026-01-01T00:00:00.000Z", "periodEnd": "2099-01-01T00:00:00.000Z"}
_REFUSED: Final = plain(b'{"success":false,"error":{"code":"UNAUTHORIZED","message":"Invalid token"}}', "401 Unauthorized")
_UNKNOWN: Final = plain(b'{"success":false,"error":{"code":"NOT_FOUND","message":"No such path"}}', "404 Not Found")


def token(name: str) -> str:
    """The token of a caller."""
    claims = {"sub": name, "email": name + MAIL, "iat": 1_700_000_000, "exp": _EXPIRES_S}
    return jwt.sign(claims, "nobody checks it")


class LedgerAdmin:
    """What was booked, by kind of caller."""

    def __init__(self) -> None:
        self.replayed = 0
        self.sums = {kind: dict.fromkeys(_AMOUNTS, 0) for kind in ("plain", "odd")}
        self._keys: set[bytes] = set()

    def book(self, key: bytes, increments: list[dict[str, Any]]) -> None:
        """Add increments, once for a key."""
        if key in self._keys:
            self.replayed += 1
            return
        self._keys.add(key)
        for increment in increments:
            sums = self.sums["odd" if increment["email"].startswith("odd") else "plain"]
            for name, given in _AMOUNTS.items():
                sums[name] += increment.get(given, 0)


class Zion(Connection):
    """One connection to it."""

    def __init__(self, admin_ledger: LedgerAdmin) -> None:
        super().__init__()
        self._books = admin_ledger

    def asked(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if path == "/booked":
            self.write(plain(json.dumps({"replayed": self._books.replayed, **self._books.sums}).encode()))
        elif path == "/api/v1/users/me":
            self.write(_profile(header(head, b"authorization:").decode()))
        elif path.startswith("/api/v1/limits/external/"):
            self.write(_limits(path.rpartition("/")[2]))
        elif path == "/api/v1/usage/external/batch-increment":
            increments = json.loads(body)["increments"]
            self._books.book(header(head, b"idempotency-key:"), increments)
            results = [{"email": increment["email"], "success": True} for increment in increments]
            self.write(_success({"processed": len(results), "failed": 0, "results": results}))
        else:
            self.write(_UNKNOWN)


def _profile(authorization: str) -> bytes:
    encoded = authorization.split(".")[1]
    name = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))["sub"]
    if name.startswith("nobody"):
        return _REFUSED
    return _success({"id": name, "email": name + MAIL, "name": name, "externalId": name})


def _limits(name: str) -> bytes:
    limit, used = (10, 10) if name.startswith("spent") else (10**12, 0)
    entry = {"limit": limit, "used": used, "remaining": limit - used}
    unified = {"name": "ai_usage", "displayName": "AI usage", **dict.fromkeys(_AMOUNTS.values(), entry), **_PERIOD}
    return _success({"userId": name, "externalId": name, "limits": [unified]})


def _success(answer: dict[str, Any]) -> bytes:
    return plain(json.dumps({"success": True, "data": answer}).encode())


def main() -> None:
    """Serve until told to stop."""
    admin_ledger = LedgerAdmin()
    serve(lambda: Zion(admin_ledger), "")


if __name__ == "__main__":
    main()
