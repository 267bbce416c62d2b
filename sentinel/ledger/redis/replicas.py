"""Replicas of Redis, if there are any: a report waits until one of them has its batch before Zion hears of it.

A bound on one risk, not a promise: where no replica answers in time, where Redis does not say, or where it is away, the report
goes on. Without replicas this costs one ROLE in ten seconds.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sentinel.ops.logs import Log

_log: Final = Log("replicas")

_LOOK_S: Final = 10.0
_WAIT_MS: Final = 100


class Replicas:
    """Asks the same Redis as the ledger, beside its pipeline, which a WAIT would hold up."""

    def __init__(self, redis: Redis, now_s: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._now_s = now_s
        self._count = 0
        self._look_at_s = float("-inf")

    async def hold(self) -> bool:
        """Wait until a replica has what was written before, or 100 ms; whether one has. False at once where there is none."""
        try:
            if self._now_s() >= self._look_at_s:
                self._look_at_s = self._now_s() + _LOOK_S
                self._count = _replicas((await self._ask(("ROLE",)))[0])
            if not self._count:
                return False
            # On one connection: WAIT covers all that was written before this connection's last command, by whomever.
            return int((await self._ask(("PING",), ("WAIT", "1", str(_WAIT_MS))))[1]) >= 1
        except (RedisError, OSError) as error:
            self._count = 0
            _log.debug("no word of replicas", error=str(error))
            return False

    async def _ask(self, *commands: tuple[str, ...]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute())


def _replicas(role: object) -> int:
    """How many replicas a master names; 0 for whatever else answers."""
    if isinstance(role, list) and len(role) > 2 and role[0] == b"master":
        return len(role[2])
    return 0
