"""background.follow: work that goes on at the provider after its answer is looked at until its cost is known, then settled.

A background response, a batch or a run answers before it has worked. Its hold stays, with its lease, and a record in Redis
names it, so that another worker goes on where this one ends. Before an object is deleted, what it has cost is noted there.
Fails late, never silently, and never free: what cannot be looked at is tried again; what is gone, has ended without usage, or
has not ended after two days, is charged by its hold, and marked; where no record can be written, at once.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec.structs import replace

from sentinel.ledger import Ledger
from sentinel.ledger.background_jobs import BackgroundJob
from sentinel.openai import headers, routes
from sentinel.openai.header_fields import Fields
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.routes import Match
from sentinel.ops import metrics
from sentinel.ops.errors import ClientGoneError, LedgerUnavailableError, SentinelError, UpstreamError
from sentinel.ops.logs import Log
from sentinel.ops.records import UNLIMITED, Caller, Dialect, Ending, Entry, Hold, Outcome, Usage
from sentinel.upstream.provider import Provider, Reply, Timeouts

_log: Final = Log("background")

_GIVE_UP_S: Final = 172_800.0
# Work that is cancelled ends soon, and then tells what it has cost; a caller who deletes it waits for that.
_ENDING_S: Final = (0.1, 0.4, 1.0)
_FIRST_LOOK_S: Final = 1.0
# More is left to other workers, or to later: each costs a call to the provider in every round.
_FOLLOWED_MAX: Final = 1000
# To show the state of something is no work.
_PATIENCE: Final = Timeouts(first_byte_s=30.0, total_s=60.0)


class Background:
    """Follows unfinished work, this worker's own and what others left. `worker` names it; `now_s` is the wall clock."""

    def __init__(
        self,
        ledger: Ledger,
        provider: Provider,
        worker: str,
        *,
        poll_s: float,
        lease_s: float,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._provider = provider
        self._worker = worker
        # Each look renews the lease: two may fail before it is over.
        self._poll_s = min(poll_s, lease_s / 3)
        self._adopt_s = lease_s / 2
        self._now_s = now_s
        self._closing = asyncio.Event()
        self._followed: set[str] = set()
        # What is noted and not yet settled, by request id.
        self._noted: dict[str, BackgroundJob] = {}
        self._adopted: set[asyncio.Task[None]] = set()
        self._adopter: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look for work that others left."""
        self._adopter = asyncio.create_task(self._adopt_all())

    async def close(self) -> None:
        """Stop to look; what is unfinished stays in Redis for another worker."""
        self._closing.set()
        tasks = [*self._adopted, *([self._adopter] if self._adopter is not None else [])]
        if tasks:
            await asyncio.wait(tasks)

    async def note(self, hold: Hold, match: Match, left: Mapping[str, Sequence[str]]) -> None:
        """Note the work of `hold`, once, as soon as the ids that its answer names (`left`) show where it can be looked at. Who
        is told of it pays for it then, whoever dies. Call `done` when it is settled. Never fails: where Redis cannot note it,
        `follow` says so.
        """
        if hold.request_id not in self._noted and (path := routes.state_path(match, left)):
            with suppress(LedgerUnavailableError):
                await self._add(hold, path)

    async def follow(self, hold: Hold, outcome: Outcome, path: str) -> Outcome | None:
        """What the work of `hold` has cost in the end; `path` shows its state. None: it goes on, with another worker.

        Call `done` when it is settled. Where Redis cannot note it, `outcome` is all that will be known.
        """
        try:
            work = self._noted.get(hold.request_id)
            if work is None or work.path != path:
                work = await self._add(hold, path)
        except LedgerUnavailableError:
            _log.error("unfinished work cannot be noted: it is charged by its hold", request_id=hold.request_id)
            return replace(outcome, unseen="unfinished")
        ended = None
        try:
            ended = await self._watch(work, hold)
        finally:
            if ended is None:
                self._noted.pop(hold.request_id)
        return ended

    async def _add(self, hold: Hold, path: str) -> BackgroundJob:
        caller = hold.caller
        since_ms = int(self._now_s() * 1000)
        work = BackgroundJob(
            hold.request_id, caller.external_id, caller.email, hold.model, hold.input_tokens, path, since_ms, hold.output_tokens
        )
        await self._ledger.unfinished.claim(work, self._worker, renew=True)
        await self._ledger.unfinished.add(work)
        self._noted[hold.request_id] = work
        return work

    async def before_delete(self, caller: Caller, path: str) -> None:
        """Note what the caller's work has cost that is deleted with `path` (below `/v1`): afterwards nobody could see it.

        What has not ended is cancelled first. Raises LedgerUnavailableError.
        """
        works = [work for work in await self._ledger.unfinished.of(caller.external_id) if work.lies_in(path)]
        await asyncio.gather(*map(self._note_cost, works))

    async def opened(self, opening: asyncio.Task[Reply]) -> Reply | None:
        """What `opening` gives that nobody waits for any more; None where it fails, or is given up since this worker ends."""
        await self._unless_closing(opening)
        try:
            return await opening
        except (SentinelError, ClientGoneError, asyncio.CancelledError):
            return None

    async def done(self, hold: Hold) -> None:
        """The work of `hold`, if any is noted, is settled, or its bill waits in the journal."""
        if (work := self._noted.pop(hold.request_id, None)) is not None:
            await self._forget(work)

    async def _watch(self, work: BackgroundJob, hold: Hold) -> Outcome | None:
        wait_s = min(_FIRST_LOOK_S, self._poll_s)
        self._followed.add(work.request_id)
        metrics.UNFINISHED.inc()
        try:
            while not await self._closes_within(wait_s):
                wait_s = min(2 * wait_s, self._poll_s)
                await self._renew(work, hold)
                look = asyncio.create_task(self._look(work))
                await self._unless_closing(look)
                if look.cancelled():
                    return None
                if (outcome := look.result()) is not None:
                    return outcome
                if self._now_s() - work.since_ms / 1000 > _GIVE_UP_S:
                    _log.warning("unfinished work is given up", request_id=work.request_id)
                    return Outcome(Ending.TRUNCATED, 504, started=True, unseen="unfinished")
            return None
        finally:
            self._followed.discard(work.request_id)
            metrics.UNFINISHED.dec()

    async def _renew(self, work: BackgroundJob, hold: Hold) -> None:
        try:
            await self._ledger.renew(hold, 0)
            await self._ledger.unfinished.claim(work, self._worker, renew=True)
        except LedgerUnavailableError:
            _log.debug("lease of unfinished work not renewed", request_id=work.request_id)

    async def _look(self, work: BackgroundJob) -> Outcome | None:
        """The outcome if an end is known, None while the provider works or does not answer."""
        outcome = await self._ask("GET", work, work.path)
        if outcome is None or outcome.status != 404:
            return outcome
        try:
            noted = await self._ledger.unfinished.find(work)
        except LedgerUnavailableError:
            return None
        if noted is None or noted.cost is None:
            return outcome
        return Outcome(Ending.SUCCESS, 200, started=True, usage=Usage(*noted.cost))

    async def _ask(self, method: str, work: BackgroundJob, path: str) -> Outcome | None:
        """What the provider answers of the state of `work`."""
        sent = headers.upstream(Fields.of(()), work.request_id, self._provider.key)
        try:
            reply = await self._provider.send(method, path, b"", sent, b"", _ignore, _PATIENCE)
            try:
                return await _read(reply)
            finally:
                reply.close()
        except UpstreamError as error:
            _log.debug("unfinished work cannot be looked at", request_id=work.request_id, error=error.message)
            return None

    async def _note_cost(self, work: BackgroundJob) -> None:
        """Note what `work` has cost, if the provider tells."""
        outcome = await self._ask("GET", work, work.path)
        if outcome is None:
            await self._ask("POST", work, f"{work.path}/cancel")
            for wait_s in _ENDING_S:
                if (outcome := await self._ask("GET", work, work.path)) is not None:
                    break
                await asyncio.sleep(wait_s)
        if outcome is not None and not outcome.unseen:
            await self._ledger.unfinished.add(replace(work, cost=_tokens(work, outcome)))

    async def _unless_closing(self, task: asyncio.Task[Any]) -> None:
        """Wait for `task`, which is cancelled where this worker ends, or where nobody waits any more."""
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((task, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            if not task.done():
                task.cancel()
        await asyncio.wait((task,))

    async def _closes_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        return self._closing.is_set()

    # ---- what others left ----------------------------------------------------------------------------------------------

    async def _adopt_all(self) -> None:
        while not await self._closes_within(self._adopt_s):
            try:
                for work in list(self._noted.values()):
                    await self._ledger.unfinished.claim(work, self._worker, renew=True)
                async for work in self._ledger.unfinished.all():
                    known = work.request_id in self._noted or work.request_id in self._followed
                    if known or len(self._followed) >= _FOLLOWED_MAX:
                        continue
                    if await self._ledger.unfinished.claim(work, self._worker, renew=False):
                        task = asyncio.create_task(self._adopt(work))
                        self._adopted.add(task)
                        task.add_done_callback(self._adopted.discard)
            except LedgerUnavailableError:
                _log.debug("unfinished work cannot be listed")
            except Exception as error:  # noqa: BLE001 - a defect met with one record must not end the search for all others
                _log.error("defect", exception=error)

    async def _adopt(self, work: BackgroundJob) -> None:
        """Follow `work` of a worker that is gone, and settle it: the truth corrects what its ended lease was charged."""
        caller = Caller(work.external_id, work.email)
        unknown = (UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)
        hold = Hold(work.request_id, caller, work.model, work.input_tokens, work.output_tokens, *unknown)
        outcome = await self._watch(work, hold)
        if outcome is None:
            return
        tokens = _tokens(work, outcome)
        at_ms = int(self._now_s() * 1000)
        entry = Entry("settled", at_ms, work.request_id, work.external_id, work.email, work.model, *tokens, 1)
        try:
            await self._ledger.replay(entry)
        except LedgerUnavailableError:
            _log.debug("unfinished work is settled later", request_id=work.request_id)
        else:
            _log.info("unfinished work of another worker settled", request_id=work.request_id)
            await self._forget(work)

    async def _forget(self, work: BackgroundJob) -> None:
        try:
            await self._ledger.unfinished.remove(work)
        except LedgerUnavailableError:
            # Whoever finds it settles it again, which changes nothing.
            _log.debug("settled work is still noted", request_id=work.request_id)


async def _read(reply: Reply) -> Outcome | None:
    """What the state of some work says. One that has ended without usage was paid for all the same, unless it failed."""
    if reply.status == 404:
        return Outcome(Ending.TRUNCATED, 404, started=True, unseen="gone")
    if reply.status != 200:
        return None
    meter = BodyMeter(Dialect.EVENTS)
    while chunk := await reply.read():
        meter.feed(chunk)
    meter.finish()
    if meter.unfinished or not meter.finished:
        return None
    failed = (meter.fields() or {}).get("status") == "failed"
    unseen = "" if failed or meter.usage is not None else "no_usage"
    return Outcome(Ending.SUCCESS, 200, started=True, usage=meter.usage, unseen=unseen)


def _tokens(work: BackgroundJob, outcome: Outcome) -> tuple[int, int]:
    """What `work` is charged."""
    if outcome.unseen:
        return work.input_tokens, work.output_tokens
    usage = outcome.usage
    return (work.input_tokens, 0) if usage is None else (usage.input_tokens or work.input_tokens, usage.output_tokens)


def _ignore() -> None:
    """Nothing hangs on when a look is sent."""
