"""The composition root: builds every edge and stage of one worker by hand, in order, and closes them in reverse.

An unreachable Redis or Zion is not a start-up failure (readiness says so instead); broken package files are, and raise.
"""

import asyncio
import gc
import itertools
import secrets
import socket
from collections.abc import Iterator
from typing import Final

from sentinel.admin.health import Health
from sentinel.admin.metrics_page import MetricsPage
from sentinel.downstream.cors import Cors
from sentinel.downstream.exchange import Exchange, Scope
from sentinel.downstream.idle_connections import Connections
from sentinel.downstream.offload import Offload
from sentinel.journey import Journey
from sentinel.openai.tokens.histories import Histories
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import metrics, vocab
from sentinel.ops.errors import ClientGoneError, DrainingError
from sentinel.ops.logs import Log
from sentinel.ops.settings import Settings
from sentinel.ops.settings.origins import origins
from sentinel.stages.admission.counting import Counting
from sentinel.stages.background import Background
from sentinel.stages.leases import Leases
from sentinel.stages.ownership import Owners
from sentinel.stages.recovery import Recovery
from sentinel.stages.relay import Relay
from sentinel.stages.response_cache import AnswerCache
from sentinel.stages.settlement import Settlement
from sentinel.stages.turns import Turns
from sentinel.worker import allocator, parts, threads

_log: Final = Log("worker")
# Between the end of open requests and that of their edges: time for the last event of each.
_LAST_WORDS_S: Final = 1.0
# New objects that may form circles before the collector looks for one. Requests leave none behind, and Python's own 700 made it
# look every few requests, at 5 % of their cost.
_COLLECT_EVERY: Final = 20_000
# How late it may be noticed that a client has left, or does not send its body; and so many looks later, that one does not read.
_LOOK_S: Final = 0.1
_LOOKS_AT_ALL: Final = 10
# How often connections are looked at.
_END_IDLE_S: Final = 1.0
# How often metrics are handed over: how late another worker's page may show them, and what a kill can lose of them.
_HAND_OVER_S: Final = 0.25
# From when a worker is open until the server's threads are surely there.
_SERVED_S: Final = 1.0


class Worker:
    """All long-lived objects of one worker process. Build it inside its running loop, then `open` it.

    `listener` is the socket it serves on, which begins to listen later; None where somebody else looks after that. `usual`: see
    Journey.
    """

    def __init__(self, settings: Settings, listener: socket.socket | None = None, *, usual: bool = True) -> None:
        self.draining = False
        allowed = origins(settings.cors_origins)
        self.cors = Cors(allowed) if allowed else None
        self._drain_s = settings.drain_s
        self._downstream_idle_s = settings.downstream_idle_s
        self._beside: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._boot = secrets.token_hex(8)
        # Unique over all workers and restarts: each is the key of a request in the ledger.
        self.request_ids = map(f"req_{self._boot}_%x".__mod__, itertools.count(1))
        # What is answered is in one of these, and ends when the drain is over: what begins, until its request is read and it is
        # looked at, then what goes on.
        self.beginning: set[Exchange] = set()
        self.going_on: set[Exchange] = set()
        self._ledger = parts.ledger(settings)
        self._gate = gate = parts.gate(settings, self._ledger)
        standby = parts.standby(settings)
        self._zion = parts.zion(settings, gate)
        self._provider = parts.provider(settings)
        tokenizer, aside = Tokenizer.load(vocab.ranks), Offload()
        self._journal = parts.journal(settings, self._boot)
        histories = Histories(settings.unseen_input_tokens_default)
        self._admission = parts.admission(
            settings, self._ledger, self._journal, standby, self._zion, Counting(tokenizer, aside), histories
        )
        self._leases = Leases(self._ledger, lease_s=settings.lease_s)
        self._background = Background(
            self._ledger, self._provider, self._boot, poll_s=settings.background_poll_s, lease_s=settings.lease_s
        )
        self._recovery = Recovery(self._ledger, self._journal)
        self._reporting = parts.reporting(settings, self._ledger, gate, self._zion, self._journal)
        self._settlement = Settlement(self._ledger, self._journal, tokenizer, self._reporting.report)
        self._auth = auth = parts.auth(settings, self._ledger, self._zion)
        self.turns = Turns(wait_s_max=settings.turn_wait_s)
        self.usage_page = parts.usage_page(settings, auth, self.turns, self._admission, self._ledger)
        self._listener = listener
        self._connections = parts.connections(settings, listener)
        self.health = Health(self._ledger, self._journal, standby, self._zion, self._admitting)
        self._heartbeat = parts.heartbeat(self.health)
        self.metrics_page = MetricsPage()
        self.public_pages = parts.public_pages(settings)
        self._answer_cache = AnswerCache(self._ledger, ttl_s=settings.answer_cache_s, bytes_max=settings.answer_cache_bytes_max)
        leaving = parts.leaving(settings, histories)
        self._read_on = leaving.background_drain
        owners = Owners(self._ledger, mode=settings.passthrough, life_s=settings.object_life_s)
        self._batches = parts.batches(settings, self._provider)
        self.journey = Journey(
            auth=auth,
            turns=self.turns,
            intake=parts.intake(settings, owners, aside),
            owners=owners,
            batches=self._batches,
            admission=self._admission,
            answer_cache=self._answer_cache,
            forward=parts.forward(settings, self._provider, usual=usual),
            relay=Relay(leaving),
            leases=self._leases,
            settlement=self._settlement,
            background=self._background,
            usual=usual,
        )

    async def open(self) -> None:
        """Start what runs beside the requests."""
        await self._ledger.open()
        self._leases.open()
        self._journal.tend()
        self._settlement.open()
        self._recovery.open()
        self._reporting.open()
        self._background.open()
        if self._heartbeat is not None:
            self._heartbeat.open()
        self._beside = [asyncio.create_task(self._look()), asyncio.create_task(self._hand_over())]
        if self._connections is not None:
            self._beside.append(asyncio.create_task(self._end_idle(self._connections)))
        _calm_collector()
        allocator.give_back_large_blocks()
        asyncio.get_running_loop().call_later(_SERVED_S, threads.let_this_go_first)
        _log.info("worker open", boot=self._boot)

    def drain(self) -> None:
        """Admit nothing new; what is open may go on until the deadline, then it is ended and settled."""
        if not self.draining:
            self.draining = True
            _log.info("worker drains", open=len(self._exchanges()), seconds=self._drain_s)
            if self._heartbeat is not None:
                self._heartbeat.beat()
            asyncio.get_running_loop().call_later(self._drain_s, self._end)

    async def close(self) -> None:
        """Settle and report what is left, then close every edge, in reverse order; once, however often it is called."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._end_open()
        for task in self._beside:
            task.cancel()
        if self._heartbeat is not None:
            self._heartbeat.close()
        self._read_on.close()
        await self._background.close()
        await self._batches.close()
        await self.journey.settled()
        await self._settlement.close()
        await self._recovery.close()
        await self._reporting.close()
        await self._leases.close()
        await self._admission.learning.close()
        await self._answer_cache.close()
        await self._provider.close()
        await self._auth.close()
        await self._zion.close()
        self._gate.close()
        self._journal.close()
        await self._ledger.close()
        self._hand_over_now()
        _log.info("worker closed", boot=self._boot)

    def _admitting(self) -> str:
        """Whether this worker takes new work: "ok", or why it does not."""
        if self.draining:
            return "draining"
        listens = self._listener is None or self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return "ok" if listens else "starting"

    def _end(self) -> None:
        """The drain is over. Closes even where the server still waits for a connection that will not end: the server kills
        this process in the end, and by then nothing must be left to lose.
        """
        self._end_open()
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, lambda: asyncio.ensure_future(self.close()))

    async def _look(self) -> None:
        """Look often after what begins, and seldom after what goes on: there may be thousands of streams."""
        loop = asyncio.get_running_loop()
        for count in itertools.count(1):
            await asyncio.sleep(_LOOK_S)
            self._look_at(list(self.beginning) if count % _LOOKS_AT_ALL else self._exchanges(), loop.time())

    def _look_at(self, exchanges: list[Exchange], now_s: float) -> None:
        """Look after open exchanges; end those whose client has not read for too long: the server itself never does.

        Not part of the loop above, which would keep the last of them while it sleeps, and its connection open.
        """
        for exchange in exchanges:
            try:
                idle = exchange.check_deadlines(now_s, self._downstream_idle_s)
            except Exception as error:  # noqa: BLE001 - a defect met with one must not take the deadlines of all others
                _log.error("defect", exception=error, request_id=exchange.request_id)
                continue
            if exchange.listens and exchange in self.beginning:
                self.beginning.remove(exchange)
                self.going_on.add(exchange)
            if idle:
                _log.warning("client does not read", request_id=exchange.request_id)
                exchange.interrupt(ClientGoneError())

    async def _hand_over(self) -> None:
        while True:
            await asyncio.sleep(_HAND_OVER_S)
            try:
                self._hand_over_now()
            except Exception as error:  # noqa: BLE001 - without it, what is observed would be kept for ever
                _log.error("defect", exception=error)

    def _hand_over_now(self) -> None:
        metrics.IN_FLIGHT.set(len(self._exchanges()))
        metrics.hand_over()

    async def _end_idle(self, connections: Connections) -> None:
        while True:
            await asyncio.sleep(_END_IDLE_S)
            try:
                await connections.end_idle(self._under_way)
            except Exception as error:  # noqa: BLE001 - without it, who asks for nothing would keep others out
                _log.error("defect", exception=error)

    def _under_way(self) -> Iterator[Scope]:
        """The scopes of requests that wait for something; what only lingers keeps a place as an idle connection does."""
        return (exchange.scope for exchange in self._exchanges() if not exchange.lingers)

    def _exchanges(self) -> list[Exchange]:
        return [*self.beginning, *self.going_on]

    def _end_open(self) -> None:
        for exchange in self._exchanges():
            exchange.interrupt(DrainingError())


def _calm_collector() -> None:
    """What there is at the start stays for good: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 10, 10)
