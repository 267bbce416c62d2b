"""GET /v1/usage: what the caller of a token has used and has left, for itself alone (docs/usage.md). Not billed, not forwarded.

Fails as authentication does (401, 403, 503), with 503 where Redis is away, and where the caller is new and Zion is away. Limits
that are merely old are shown with their age.
"""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sentinel.ledger.ledger_admin import Account, LedgerAdmin, Use
from sentinel.openai import headers
from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import ZionUnavailableError
from sentinel.ops.records import Metric
from sentinel.stages.admission import Admission
from sentinel.stages.auth import Auth
from sentinel.stages.turns import Turns

_ORDER: Final = (Metric.REQUESTS, Metric.INPUT, Metric.OUTPUT)
_encode: Final = msgspec.json.Encoder().encode


class UsagePage:
    """The page. `limits_stale_ms` is the age at which an admission, too, would ask Zion first; `window_s` the rate window's."""

    def __init__(
        self, auth: Auth, turns: Turns, admission: Admission, admin_ledger: LedgerAdmin, *, limits_stale_ms: int, window_s: int
    ) -> None:
        self._auth = auth
        self._turns = turns
        self._admission = admission
        self._books = admin_ledger
        self._limits_stale_ms = limits_stale_ms
        self._window_s = window_s

    async def render(self, request_headers: Fields) -> bytes:
        """The page of whoever the bearer token belongs to, as JSON.

        Raises BadRequestError, UnauthorizedError, ForbiddenError, OverLimitError, OverloadedError, ZionUnavailableError or
        LedgerUnavailableError.
        """
        headers.check_framing(request_headers)
        caller = await self._auth.identify(request_headers)
        await self._turns.begin(caller.external_id)
        account = await self._books.account(caller.external_id)
        if account.clock_ms - account.fetched_ms > self._limits_stale_ms:
            try:
                await self._admission.learning.learn(caller.external_id, account)
            except ZionUnavailableError:
                if not account.fetched_ms:
                    raise
            account = await self._books.account(caller.external_id)
        return _encode(shown(account, self._window_s))


def shown(account: Account, window_s: int) -> dict[str, Any]:
    """An account as JSON (docs/usage.md)."""
    rate = account.rate
    return {
        "object": "usage",
        "external_id": account.external_id,
        "limits": {metric.value: _metric(account.uses[metric], account.clock_ms) for metric in _ORDER},
        "rate": None
        if rate.limit is None
        else {
            "limit": rate.limit,
            "remaining": rate.remaining,
            "window_seconds": window_s,
            # Where nothing of the window is used there is nothing to wait for.
            "reset_at": iso(account.clock_ms + rate.reset_ms) if rate.reset_ms else None,
            "reset_seconds": seconds(rate.reset_ms) if rate.reset_ms else None,
        },
        "limits_fetched_at": iso(account.fetched_ms),
        "limits_age_seconds": seconds(account.clock_ms - account.fetched_ms),
    }


def iso(at_ms: int) -> str:
    """Unix ms as ISO 8601 in UTC."""
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def seconds(duration_ms: int) -> float:
    """Milliseconds as seconds."""
    return duration_ms / 1000


def _metric(use: Use, now_ms: int) -> dict[str, Any]:
    return {
        "limit": use.limit,
        "used": use.used,
        "held": use.held,
        "remaining": use.remaining,
        "unreported": use.unreported,
        "period": use.period or None,
        "period_start": iso(use.start_ms) if use.start_ms else None,
        "reset_at": iso(use.end_ms) if use.end_ms else None,
        "reset_seconds": seconds(max(0, use.end_ms - now_ms)) if use.end_ms else None,
    }
