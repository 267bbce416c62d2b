"""The composition root: builds every edge and stage of one worker by hand, in order, and closes them in reverse.

An unreachable Redis or Zion is not a start-up failure (readiness says so instead); broken package files are, and raise.
"""

import asyncio
import itertools
import secrets
from pathlib import Path
from typing import Final

from sentinel import vocab
from sentinel.edges.bodies import BodyBudget
from sentinel.edges.exchange import Exchange
from sentinel.edges.journal import Journal
from sentinel.edges.ledger import Ledger, open_redis
from sentinel.edges.ledger.gate import Gate
from sentinel.edges.ledger.standby import Standby
from sentinel.edges.provider import PROVIDERS, Patience, Provider
from sentinel.edges.sessions import open_session
from sentinel.edges.zion import Zion
from sentinel.errors import ClientGoneError, DrainingError
from sentinel.journey import Journey
from sentinel.logs import Log
from sentinel.ops.health import Health
from sentinel.ops.usage_page import UsagePage
from sentinel.protocol.cors import Cors
from sentinel.protocol.models import Fallbacks, Models
from sentinel.protocol.tokens import Tokenizer
from sentinel.settings import Settings, lists
from sentinel.settings.origins import origins
from sentinel.stages.admission import Admission
from sentinel.stages.answer_cache import AnswerCache
from sentinel.stages.auth import Auth
from sentinel.stages.background import Background
from sentinel.stages.forward import Forward, RetryBudget
from sentinel.stages.intake import Intake
from sentinel.stages.leases import Leases
from sentinel.stages.owners import Owners
from sentinel.stages.recovery import Recovery
from sentinel.stages.relay import ReadOn, Relay
from sentinel.stages.reporting import Reporting
from sentinel.stages.reporting.delivery import Delivery
from sentinel.stages.settlement import Settlement

_log: Final = Log("worker")
_ZION_CONNECTIONS_MAX: Final = 32
# Between the end of open requests and that of their edges: time for the last event of each.
_LAST_WORDS_S: Final = 1.0
_REDIS_SETUP_S: Final = 1.0


class Worker:
    """All long-lived objects of one worker process. Build it inside its running loop, then `open` it."""

    def __init__(self, settings: Settings) -> None:
        self.draining = False
        self.cors = Cors(origins(settings.cors_origins))
        self._drain_s = settings.drain_s
        self._downstream_idle_s = settings.downstream_idle_s
        self._watch: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._boot = secrets.token_hex(8)
        self._sequence = itertools.count(1)
        self._exchanges: set[Exchange] = set()
        self._ledger = _ledger(settings)
        gate = _gate(settings, self._ledger)
        standby = _standby(settings)
        self._zion = _zion(settings, gate)
        self._provider = PROVIDERS[settings.provider](
            open_session(connect_s=settings.upstream_connect_s, idle_s=None, connections_max=0),
            settings.upstream_url,
            settings.upstream_key,
            connect_s=settings.upstream_connect_s,
            idle_s=settings.upstream_idle_s,
            connections_max=settings.upstream_connections_max,
        )
        tokenizer = Tokenizer.load(vocab.ranks)
        self._admission = Admission(
            self._ledger,
            standby,
            self._zion,
            tokenizer,
            output_tokens_default=settings.output_tokens_default,
            limits_ttl_s=settings.cache_ttl_s,
            limits_wait_s=settings.zion_timeout_s,
            missing_limit=settings.missing_limit,
        )
        self._leases = Leases(self._ledger, lease_s=settings.lease_s)
        self._background = Background(
            self._ledger, self._provider, self._boot, poll_s=settings.background_poll_s, lease_s=settings.lease_s
        )
        self._journal = _journal(settings, self._boot)
        self._settlement = Settlement(self._ledger, self._journal, tokenizer)
        self._recovery = Recovery(self._ledger, self._journal)
        self._reporting = _reporting(settings, self._ledger, gate, self._zion)
        auth = _auth(settings, self._ledger, self._zion)
        self.usage_page = _usage_page(settings, auth, self._admission, self._ledger)
        self.health = Health(self._ledger, self._journal, standby, self._zion, lambda: self.draining)
        self._answer_cache = AnswerCache(self._ledger, ttl_s=settings.answer_cache_s, bytes_max=settings.answer_cache_bytes_max)
        self._read_on = ReadOn(
            answers_max=settings.read_on_answers_max if settings.on_disconnect == "drain" else 0,
            timeout_s=settings.read_on_s,
            bytes_max=settings.read_on_bytes_max,
        )
        owners = Owners(self._ledger, mode=settings.passthrough, life_s=settings.object_life_s)
        self.journey = Journey(
            auth=auth,
            intake=_intake(settings, owners),
            owners=owners,
            admission=self._admission,
            answer_cache=self._answer_cache,
            forward=_forward(settings, self._provider),
            relay=Relay(self._read_on),
            leases=self._leases,
            settlement=self._settlement,
            reporting=self._reporting,
            background=self._background,
        )

    async def open(self) -> None:
        """Start what runs beside the requests."""
        await self._ledger.open()
        self._leases.open()
        self._journal.open()
        self._settlement.open()
        self._recovery.open()
        self._reporting.open()
        self._background.open()
        self._watch = asyncio.create_task(self._watch_writers())
        _log.info("worker open", boot=self._boot)

    def request_id(self) -> str:
        """A new request id: unique over all workers and restarts, and the key of the request in the ledger."""
        return f"req_{self._boot}_{next(self._sequence):x}"

    def enter(self, exchange: Exchange) -> None:
        """An exchange begins; a worker that drains takes none. Raises DrainingError."""
        if self.draining:
            raise DrainingError("This gateway is restarting.", retry_after_s=1)
        self._exchanges.add(exchange)

    def leave(self, exchange: Exchange) -> None:
        """An exchange is over."""
        self._exchanges.discard(exchange)

    def drain(self) -> None:
        """Admit nothing new; what is open may go on until the deadline, then it is ended and settled."""
        if not self.draining:
            self.draining = True
            _log.info("worker drains", open=len(self._exchanges), seconds=self._drain_s)
            asyncio.get_running_loop().call_later(self._drain_s, self._end)

    async def close(self) -> None:
        """Settle and report what is left, then close every edge, in reverse order; once, however often it is called."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._end_open()
        if self._watch is not None:
            self._watch.cancel()
        self._read_on.close()
        await self._background.close()
        await self.journey.settled()
        await self._settlement.close()
        await self._recovery.close()
        await self._reporting.close()
        await self._leases.close()
        await self._admission.close()
        await self._answer_cache.close()
        await self._provider.close()
        await self._zion.close()
        self._journal.close()
        await self._ledger.close()
        _log.info("worker closed", boot=self._boot)

    def _end(self) -> None:
        """The drain is over. Closes even where the server still waits for a connection that will not end: the server kills
        this process in the end, and by then nothing must be left to lose.
        """
        self._end_open()
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, lambda: asyncio.ensure_future(self.close()))

    async def _watch_writers(self) -> None:
        """End exchanges whose client has not read for too long: the server itself never does."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._downstream_idle_s / 10)
            for exchange in list(self._exchanges):
                since_s = exchange.blocked_since_s
                if since_s is not None and loop.time() - since_s > self._downstream_idle_s:
                    _log.warning("client does not read", request_id=exchange.request_id)
                    exchange.interrupt(ClientGoneError())

    def _end_open(self) -> None:
        for exchange in list(self._exchanges):
            exchange.interrupt(DrainingError("This gateway is restarting.", retry_after_s=1))


def _ledger(settings: Settings) -> Ledger:
    return Ledger(
        # Its own bound: a connection takes several round trips, and no request waits for it longer than for a call.
        open_redis(settings.redis_url, max(_REDIS_SETUP_S, settings.redis_timeout_s)),
        partitions=settings.ledger_partitions,
        timeout_s=settings.redis_timeout_s,
        lease_ms=settings.lease_s * 1000,
        rate_requests=settings.rate_requests,
        rate_tokens=settings.rate_tokens,
        rate_window_ms=settings.rate_window_s * 1000,
        fresh_ms=settings.cache_ttl_s * 1000,
        stale_ms=settings.limits_stale_s * 1000,
        concurrency_max=settings.caller_concurrency_max,
    )


def _journal(settings: Settings, boot: str) -> Journal:
    return Journal(
        Path(settings.data_dir),
        boot,
        bytes_max=settings.journal_bytes_max,
        keep_s=settings.journal_keep_s,
        refuse_when_full=settings.on_journal_full == "refuse",
    )


def _gate(settings: Settings, ledger: Ledger) -> Gate:
    return ledger.gate(
        requests_per_s=settings.zion_requests_per_s,
        failures_max=settings.zion_failures_max,
        open_s=settings.zion_open_s,
        zion_timeout_s=settings.zion_timeout_s,
    )


def _zion(settings: Settings, gate: Gate) -> Zion:
    session = open_session(
        connect_s=settings.zion_timeout_s, idle_s=settings.zion_timeout_s, connections_max=_ZION_CONNECTIONS_MAX
    )
    return Zion(session, settings.zion_api_url, settings.zion_api_key, settings.zion_timeout_s, gate)


def _reporting(settings: Settings, ledger: Ledger, gate: Gate, zion: Zion) -> Reporting:
    delivery = Delivery(
        ledger,
        gate,
        zion,
        usage_format=settings.zion_usage_format,
        items_max=settings.report_items_max,
        retry_s=settings.report_retry_s,
    )
    return Reporting(ledger, delivery, items_max=settings.report_items_max, interval_ms=settings.report_interval_ms)


def _forward(settings: Settings, provider: Provider) -> Forward:
    fallbacks = lists.fallback_models(settings.fallback_models)
    return Forward(
        provider,
        RetryBudget(),
        Patience(settings.upstream_first_byte_s, settings.upstream_total_s),
        {label: Patience(seconds, seconds) for label, seconds in lists.route_timeouts(settings.route_timeouts).items()},
        Fallbacks({model: lists.fallback_chain(fallbacks, model) for model in fallbacks}),
    )


def _standby(settings: Settings) -> Standby:
    return Standby(
        settings.on_redis_down,
        ratio=settings.slice_ratio,
        processes=settings.fleet_processes or settings.workers,
        window_ms=settings.rate_window_s * 1000,
        callers_max=settings.jwt_cache_entries_max,
    )


def _auth(settings: Settings, ledger: Ledger, zion: Zion) -> Auth:
    return Auth(
        ledger,
        zion,
        profile_ttl_s=settings.jwt_cache_ttl_s,
        refusal_ttl_s=settings.jwt_refusal_ttl_s,
        entries_max=settings.jwt_cache_entries_max,
    )


def _intake(settings: Settings, owners: Owners) -> Intake:
    return Intake(
        BodyBudget(settings.bodies_bytes_max),
        Models(lists.patterns(settings.allowed_models)),
        body_bytes_max=settings.body_bytes_max,
        body_timeout_s=settings.body_timeout_s,
        upload_bytes_max=settings.upload_bytes_max,
        searching=owners.guarding,
        trace_upstream=settings.trace_upstream == "true",
    )


def _usage_page(settings: Settings, auth: Auth, admission: Admission, ledger: Ledger) -> UsagePage:
    stale_ms = settings.limits_stale_s * 1000
    return UsagePage(auth, admission, ledger.books, limits_stale_ms=stale_ms, window_s=settings.rate_window_s)
