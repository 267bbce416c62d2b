"""Liveness and readiness. Live: the loop runs. Ready: this worker admits, Redis answers or can be done without, and Zion takes
our key.

Never fails: a dependency that is away is an answer (503), not an exception. Waits no longer than the Redis deadline, and where
Zion refused our key no longer than for Zion. Whoever asks while the dependencies are asked waits for that answer: on the public
port anybody may ask, and nobody makes Redis work with it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from sentinel.journal import Journal
from sentinel.ledger import Ledger
from sentinel.ledger.degraded import DegradedAdmission
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.zion.client import Zion


class Health:
    """What an orchestrator asks. `admitting` says whether this worker takes new work: "ok", or why not."""

    def __init__(
        self, ledger: Ledger, journal: Journal, standby: DegradedAdmission, zion: Zion, admitting: Callable[[], str]
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._standby = standby
        self._zion = zion
        self._admitting = admitting
        self._redis_answers = True
        self._zion_takes_key = True
        self._looking: asyncio.Task[None] | None = None

    def live(self) -> tuple[int, bytes]:
        """Always 200: that it is answered at all says that the loop runs."""
        return 200, b'{"status":"live"}'

    async def ready(self) -> tuple[int, bytes]:
        """200, or 503 with the reason for each part that is not ready, as they are now."""
        await self.look()
        state = self.state()
        return (200 if state["status"] in {"ready", "degraded"} else 503), msgspec.json.encode(state)

    async def look(self) -> None:
        """Ask the dependencies how they are; one look at a time, which all wait for who want one meanwhile."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, _task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _look(self) -> None:
        try:
            await self._ledger.ping()
        except LedgerUnavailableError:
            self._redis_answers = False
        else:
            self._redis_answers = True
        self._zion_takes_key = await self._zion.accepts_key()

    def state(self) -> dict[str, Any]:
        """How this worker is, with the dependencies as last seen: "ready", "degraded", "not ready" or "starting".

        "degraded" where requests are admitted without Redis or without a journal: a load balancer that took such a worker away
        would take all.
        """
        away = f"away: requests are decided without it ({self._standby.mode})"
        checks = {
            "admitting": self._admitting(),
            "redis": "ok" if self._redis_answers else away,
            "journal": self._journal.state,
            "zion": "ok" if self._zion_takes_key else "refuses the key of this deployment",
        }
        can_do_without = {"redis": self._standby.admits, "journal": not self._journal.refuses}
        ready = all(state == "ok" or can_do_without.get(part, False) for part, state in checks.items())
        degraded = ready and any(state != "ok" for state in checks.values())
        status = "degraded" if degraded else "ready" if ready else "not ready"
        return {"status": "starting" if checks["admitting"] == "starting" else status, "checks": checks}
