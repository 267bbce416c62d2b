"""Liveness and readiness. Live: the loop runs. Ready: this worker admits, Redis answers or can be done without, and Zion takes
our key.

Never fails and never waits longer than the Redis deadline: a dependency that is away is an answer (503), not an exception.
"""

from collections.abc import Callable

import msgspec

from sentinel.edges.journal import Journal
from sentinel.edges.ledger import Ledger
from sentinel.edges.ledger.standby import Standby
from sentinel.edges.zion import Zion
from sentinel.errors import LedgerUnavailableError


class Health:
    """What an orchestrator asks."""

    def __init__(self, ledger: Ledger, journal: Journal, standby: Standby, zion: Zion, draining: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._journal = journal
        self._standby = standby
        self._zion = zion
        self._draining = draining

    def live(self) -> tuple[int, bytes]:
        """Always 200: that it is answered at all says that the loop runs."""
        return 200, b'{"status":"live"}'

    async def ready(self) -> tuple[int, bytes]:
        """200, or 503 with the reason for each part that is not ready.

        "degraded" (200) where requests are admitted without Redis or without a journal: a load balancer that took such a worker
        away would take all.
        """
        checks = {
            "admitting": "draining" if self._draining() else "ok",
            "redis": await self._redis(),
            "journal": self._journal.state,
            "zion": "ok" if await self._zion.accepts_key() else "refuses the key of this deployment",
        }
        can_do_without = {"redis": self._standby.admits, "journal": not self._journal.refuses}
        ready = all(state == "ok" or can_do_without.get(part, False) for part, state in checks.items())
        degraded = ready and any(state != "ok" for state in checks.values())
        answer = {"status": "degraded" if degraded else "ready" if ready else "not ready", "checks": checks}
        return (200 if ready else 503), msgspec.json.encode(answer)

    async def _redis(self) -> str:
        try:
            await self._ledger.ping()
        except LedgerUnavailableError:
            return f"away: requests are decided without it ({self._standby.mode})"
        return "ok"
