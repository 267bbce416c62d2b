"""recovery: what crashes leave untold is told to the ledger again, once: journals of dead workers, bills and batches that Redis
lost.

Fails safe: every replay is idempotent by its request id, so a replay that breaks off is made again from its beginning, by this
worker or another. Lines too old to be told safely (Redis has forgotten whether it has them) are kept aside with an error. Where
files cannot be read the log says so once, and all that does not need them goes on.
"""

import asyncio
import random
from collections.abc import Iterable
from typing import Final

from sentinel.journal import Journal, Orphan, adopt
from sentinel.ledger import Ledger
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Entry
from sentinel.zion.increments import Seal

_log: Final = Log("recovery")

_LOOK_S: Final = 1.0
_ADOPT_S: Final = 4.0
_AT_ONCE: Final = 32
# An hour less than Redis remembers what is settled.
_AGE_MAX_MS: Final = 47 * 3_600_000


class Recovery:
    """Tends the journal of this worker, adopts those of dead ones, and notices when Redis was started again."""

    def __init__(self, ledger: Ledger, journal: Journal) -> None:
        self._ledger = ledger
        self._journal = journal
        self._now_s = asyncio.get_running_loop().time
        self._run_id = ""
        self._seen_ms = journal.now_ms()
        self._adopt_at_s = 0.0
        # What cannot be read, as it was said last.
        self._trouble = ""
        # Told, but kept for as long as Redis may lose it again.
        self._told: list[tuple[float, Orphan]] = []
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look, at once and then every second. From now on a restarted Redis admits when it was told what it lost."""
        self._ledger.guard()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop, and leave every journal to whoever lives."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for _, orphan in self._told:
            orphan.release()
        self._told.clear()

    async def look(self) -> None:
        """One look. Raises LedgerUnavailableError; the next one tries again, as it does what the disk refuses."""
        self._journal.tend()
        troubles = []
        for part in (self._notice_restart, self._let_go, self._adopt_all):
            try:
                await part()
            except OSError as error:
                troubles.append(str(error))
        if (trouble := troubles[0] if troubles else "") != self._trouble:
            self._trouble = trouble
            if trouble:
                _log.error("journals cannot be read", error=trouble)
            else:
                _log.info("journals can be read again")

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except LedgerUnavailableError as error:
                _log.debug("replay waits for redis", error=error.message)
            except Exception as error:  # noqa: BLE001 - a defect met with one journal must not end the watch over all others
                _log.error("defect", exception=error)
            await asyncio.sleep(_LOOK_S)

    async def _notice_restart(self) -> None:
        """Tell a Redis that was started again what the one before took in its last moments."""
        run_id = await self._ledger.run_id()
        if self._run_id and run_id != self._run_id:
            since_ms = self._seen_ms - int(self._journal.keep_s * 1000)
            applied = await self._tell(self._journal.settled_since(since_ms), "restart")
            for _, orphan in self._told:
                applied += await self._tell(orphan.tell(), "restart")
            # After the bills that they are made of.
            await self._seal(self._journal.sealed_since(since_ms))
            for _, orphan in self._told:
                await self._seal(orphan.sealed())
            _log.warning("redis was started again", run_id=run_id, lost_settlements=applied)
        self._ledger.told(run_id)
        self._run_id = run_id
        self._seen_ms = self._journal.now_ms()
        self._journal.confirm()

    async def _let_go(self) -> None:
        """Delete the files that were told so long ago that Redis cannot lose it any more."""
        for told_at_s, orphan in list(self._told):
            if self._now_s() - told_at_s > self._journal.keep_s:
                orphan.delete()
                self._told.remove((told_at_s, orphan))

    async def _adopt_all(self) -> None:
        if self._now_s() >= self._adopt_at_s:
            # Jittered, so that the workers of a host do not all look at once.
            self._adopt_at_s = self._now_s() + _ADOPT_S * random.uniform(0.5, 1.0)
            while (found := adopt(self._journal.directory)) is not None:
                await self._adopt(found)

    async def _adopt(self, orphan: Orphan) -> None:
        """Tell what a dead worker left. Its files stay locked to us until Redis cannot lose it any more."""
        self._ledger.doubt()
        try:
            late = any(self._late(entry) for told in orphan.tell() for entry in told)
            applied = await self._tell(orphan.tell(), "adopted")
            await self._seal(orphan.sealed())
        except BaseException:
            orphan.release()
            raise
        if late:
            _log.error("a dead worker's journal is too old to be told whole: its files are kept as .late", boot=orphan.boot)
            orphan.put_aside()
        else:
            tell = _log.warning if applied else _log.info  # one that ended in order leaves its last minutes, told already
            tell("the journal of a dead worker was told", boot=orphan.boot, applied=applied)
            self._told.append((self._now_s(), orphan))

    async def _tell(self, lines: Iterable[list[Entry]], kind: str) -> int:
        """Replay what the ledger does not have; how many requests that were."""
        applied = 0
        for told in lines:
            missing = await self._ledger.unsettled([entry for entry in told if not self._late(entry)])
            for at in range(0, len(missing), _AT_ONCE):
                answers = await asyncio.gather(*(self._ledger.replay(entry) for entry in missing[at : at + _AT_ONCE]))
                applied += sum(answer.applied for answer in answers)
        metrics.REPLAYED[kind] += applied
        return applied

    async def _seal(self, lines: Iterable[list[Seal]]) -> None:
        """Seal the batches again that Redis has lost: Zion may have them, and must not get their usage in others."""
        lost = 0
        for sealed in lines:
            missing = await self._ledger.unsealed([seal for seal in sealed if not self._late(seal)])
            lost += sum(await asyncio.gather(*(self._ledger.reseal(seal) for seal in missing)))
        if lost:
            _log.warning("batches that redis had lost are reported again as they were", count=lost)

    def _late(self, entry: Entry | Seal) -> bool:
        return self._journal.now_ms() - entry.at_ms > _AGE_MAX_MS
