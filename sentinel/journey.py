"""One request from bytes to bill: the calls of its stages in their order. docs/journey.md tells the same with the same words.

What is held is always settled: whatever is raised between admission and the last byte, the bill is written, at once or in a
task of its own, so that nothing can cancel it half-way. Failures rise to `app.py`, the only place that answers them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from sentinel.downstream.exchange import Exchange
from sentinel.downstream.upload import Upload
from sentinel.openai import headers, routes, wire
from sentinel.openai.routes import Match
from sentinel.ops import metrics
from sentinel.ops.errors import ClientGoneError, OverLimitError, SentinelError, Source, WebSocketRefusedError
from sentinel.ops.logs import Line, Log
from sentinel.ops.records import Bill, Call, Ending, Hold, Origin, Outcome
from sentinel.stages.admission import Admission
from sentinel.stages.auth import Auth
from sentinel.stages.background import Background
from sentinel.stages.batches import Batches
from sentinel.stages.forward import Forward
from sentinel.stages.intake import Intake
from sentinel.stages.leases import Lease, Leases
from sentinel.stages.ownership import Owners, not_forwarded
from sentinel.stages.relay import Relay
from sentinel.stages.relay.outcome import unanswered
from sentinel.stages.response_cache import AnswerCache, unpriced
from sentinel.stages.settlement import Settlement
from sentinel.stages.turns import Turns
from sentinel.upstream.provider import Reply

_log: Final = Log("journey")

# Before the request is read; nothing is held then, and nothing billed.
_UNREAD: Final = Call("", "", "")
# What is billed where nothing else is known: before the provider has answered, and afterwards.
_UNSENT: Final = Outcome(Ending.INTERNAL, 500, started=False)
_CUT_SHORT: Final = Outcome(Ending.INTERNAL, 500, started=True)
_PLAINLY: Final = Origin()
# Refusals that are no attempts: what a limit refused, and the WebSocket that some clients ask for before each request.
_UNCOUNTED: Final = (OverLimitError, WebSocketRefusedError)


class Journey:
    """The way of one request through the stages, which are given by constructor.

    Some stages have a plain function for the usual case, which says None where a request needs more than that, and then the
    coroutine for every case is asked. Without `usual` it always is, of authentication, owners and settlement, so that tests can
    compare both.
    """

    def __init__(
        self,
        *,
        auth: Auth,
        turns: Turns,
        intake: Intake,
        owners: Owners,
        batches: Batches,
        admission: Admission,
        answer_cache: AnswerCache,
        forward: Forward,
        relay: Relay,
        leases: Leases,
        settlement: Settlement,
        background: Background,
        usual: bool = True,
    ) -> None:
        self._usual = usual
        self._auth = auth
        self._turns = turns
        self._intake = intake
        self._owners = owners
        self._batches = batches
        self._admission = admission
        self._answer_cache = answer_cache
        self._forward = forward
        self._relay = relay
        self._leases = leases
        self._settlement = settlement
        self._background = background
        self._settling: set[asyncio.Task[None]] = set()

    async def handle(self, exchange: Exchange, match: Match) -> None:
        """Answer one request. Raises SentinelError or ClientGoneError, before or after the answer has begun."""
        usual, given = self._usual, exchange.headers
        headers.check_framing(given)
        caller = found if usual and (found := self._auth.known(given)) else await exchange.within(self._auth.identify, given)
        if not self._turns.at_once(caller.external_id):
            await exchange.within(self._turns.begin, caller.external_id)
        exchange.begun, exchange.attempt = True, caller
        if match.route.scope not in self._owners.forwarded:
            raise not_forwarded(match)
        self._admission.check_denied(caller)
        lease, call, outcome, origin = None, _UNREAD, _UNSENT, _PLAINLY
        try:
            with exchange:
                call, upload = await self._intake.read(exchange, match.route, caller.external_id)
                call = (usual and self._owners.usual(match, call)) or await self._owners.check(caller, match, call)
                if call.detached and call.route == "batches":  # what its lines name is to be the caller's too
                    call = await self._batches.read(caller, call, exchange.request_id)
                    call = await self._owners.check(caller, match, call)
                if self._settlement.journal.refuses:
                    raise self._settlement.no_journal()
                hold = await self._admission.admit(caller, call, exchange.request_id)
                lease = self._leases.take(hold)
                exchange.attempt, call = None, replace(call, prompt=wire.COUNTED[type(call.prompt)])  # both are counted
                if exchange.body is not None and exchange.body.bytes_taken:
                    exchange.body.keep(len(call.body))
                sent_s = time.perf_counter()
                metrics.OVERHEAD[call.route].observe(sent_s - exchange.begun_s)
                reply = await self._opening(exchange, call, upload, hold, lease)
                outcome, lease.opening = _CUT_SHORT, None
                if call.stream:
                    call = wire.drop_body(call)  # a long stream must not keep in memory the request that it answers
                    exchange.forget_body()
                if (origin := reply.origin).model:  # what answered is what is paid for, under the same request id
                    call, lease.hold = replace(call, model=origin.model), (hold := replace(hold, model=origin.model))
                metrics.FIRST_BYTE[call.route].observe(time.perf_counter() - sent_s)
            extra = [(b"x-request-id", hold.request_id.encode()), *headers.limits(hold, int(time.time()))]
            if origin != _PLAINLY:
                extra += headers.origin(origin)
            told = partial(self._owners.keep, caller), partial(self._background.note, hold, match) if call.detached else None
            outcome, rest = await self._relay.copy(reply, exchange, call, extra, lease.watch, *told)
        except (ClientGoneError, SentinelError) as error:
            if lease is not None:
                outcome = self._relay.leaving.judge(call, unanswered(error, sent=lease.sent))
            raise
        finally:
            if lease is not None:
                self._end(exchange, lease, call, outcome, origin)
        if rest is not None:
            await rest()  # nothing is held for it any more

    async def refuse(self, exchange: Exchange, error: SentinelError) -> SentinelError:
        """What to answer where `error` refuses a request: an attempt of its caller like any other, which is counted here.

        Who had no turn yet has one here, and is looked for in memory alone.
        """
        if not exchange.begun:
            exchange.attempt = self._auth.known(exchange.headers)
            await self._turns.brief(exchange.attempt.external_id if exchange.attempt else "")
        caller = exchange.attempt
        if caller is None or error.source is not Source.DOWNSTREAM or isinstance(error, _UNCOUNTED):
            return error
        try:
            self._admission.check_denied(caller)
        except OverLimitError as refusal:
            return refusal
        self._admission.count(caller)
        return error

    def _stay(self, exchange: Exchange, call: Call, reason: Exception) -> Callable[[], None] | None:
        """Whether it goes on for its answer without its client, since the cost would not be known else."""
        if not (isinstance(reason, ClientGoneError) and exchange.listens):
            return None
        return self._relay.leaving.wait(call, lambda: exchange.interrupt(ClientGoneError()))

    def _opening(self, exchange: Exchange, call: Call, upload: Upload | None, hold: Hold, lease: Lease) -> Awaitable[Reply]:
        """The answer to `call`, to be awaited: one that was kept, or the provider's. Raises UpstreamError."""
        if call.detached:
            # Whoever leaves, it is asked to the end: else nobody would learn its name, nor what it costs.
            lease.opening = asyncio.create_task(self._open(exchange, call, upload, hold, lease))
            return asyncio.shield(lease.opening)
        exchange.stays = partial(self._stay, exchange, call)
        if not self._usual or self._answer_cache.keeps or call.method == "DELETE" or call.route == "models":
            return self._open(exchange, call, upload, hold, lease)
        return self._ask(exchange, call, upload, hold, lease)

    def _ask(self, exchange: Exchange, call: Call, upload: Upload | None, hold: Hold, lease: Lease) -> Awaitable[Reply]:
        """The provider's answer, to be awaited."""
        self._settlement.start(hold)
        on_failed = partial(_failed, exchange, lease)
        return self._forward.open(call, exchange.headers, hold, lease.mark_sent, on_failed, upload)

    async def _open(self, exchange: Exchange, call: Call, upload: Upload | None, hold: Hold, lease: Lease) -> Reply:
        """The same, whatever is asked."""
        name = self._answer_cache.name(hold, call) if self._answer_cache.keeps else ""
        kept = await self._answer_cache.find(name) if name else None
        if kept is not None:
            return kept
        if call.method == "DELETE":
            await self._background.before_delete(hold.caller, call.path)
        reply = await self._ask(exchange, call, upload, hold, lease)
        if call.route == "models":
            return await self._owners.show_models(hold.caller, reply)
        return self._answer_cache.watch(name, reply) if name else reply

    async def settled(self) -> None:
        """Wait until every bill of this journey is with settlement, which tells the ledger of it, or keeps it for then."""
        while self._settling:
            await asyncio.wait(self._settling)

    def _end(self, exchange: Exchange, lease: Lease, call: Call, outcome: Outcome, origin: Origin) -> None:
        """It is over: as usual, and settled with all others of this tick, or else in a task that first waits for its answer."""
        usual = self._usual and not (call.detached or outcome.unfinished or origin.cache)
        if usual and (bill := self._settlement.usual(lease.hold, outcome)) is not None:
            self._leases.drop(lease)
            _tell(exchange, lease.hold, call, outcome, origin, bill)
            return
        task = asyncio.create_task(self._settle(exchange, lease, call, outcome, origin))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, exchange: Exchange, lease: Lease, call: Call, outcome: Outcome, origin: Origin) -> None:
        """Settle, at once or when the work is done that goes on at the provider."""
        hold = lease.hold
        if lease.opening is not None and (reply := await self._background.opened(lease.opening)) is not None:
            outcome, origin = await self._relay.abandon(reply, call, partial(self._owners.keep, hold.caller)), reply.origin
        self._leases.drop(lease)
        if origin.cache == "hit":
            outcome = unpriced(outcome)
        # A client that left has ended its own answer, but not work that lasts (rule P3).
        goes_on = outcome.unfinished and (call.detached or outcome.ending is Ending.SUCCESS)
        if path := routes.state_path(exchange.match, outcome.created_ids) if goes_on else "":
            ended = await self._background.follow(hold, outcome, path)
            if ended is None:
                return
            outcome = replace(ended, upstream_request_id=outcome.upstream_request_id)
        elif call.detached and outcome.usage is None and outcome.ending is not Ending.UPSTREAM_ERROR:
            # It may work on, and nobody knows its name.
            outcome = replace(outcome, unseen="no_usage" if outcome.ending is Ending.SUCCESS else outcome.ending.value)
        bill = await self._settlement.settle(hold, call, outcome)
        self._admission.settle(hold, bill)
        if path or call.detached:
            await self._background.done(hold)
        _tell(exchange, hold, call, outcome, origin, bill)


def _failed(exchange: Exchange, lease: Lease) -> None:
    """An attempt was no success: a client that has left is not waited for, and owes nothing of it."""
    lease.mark_failed()
    exchange.stay_no_more()


def _tell(exchange: Exchange, hold: Hold, call: Call, outcome: Outcome, origin: Origin, bill: Bill) -> None:
    """Count the request and log its one line."""
    seconds = time.perf_counter() - exchange.begun_s
    metrics.ENDINGS[call.route, outcome.ending._value_] += 1  # a plain attribute, where `value` is two calls
    metrics.DURATION[call.route].observe(seconds)
    if not _log.info_enabled:
        return
    trace = exchange.trace
    line = Line(
        request_id=hold.request_id,
        client_request_id=headers.client_request_id(exchange.headers),
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        upstream_request_id=outcome.upstream_request_id,
        external_id=hold.caller.external_id,
        route=call.route,
        model=call.model,
        fallback=bool(origin.model),
        cache=origin.cache,
        stream=call.stream,
        status=outcome.status,
        ending=outcome.ending.value,
        input_tokens=bill.input_tokens,
        output_tokens=bill.output_tokens,
        estimated=bill.reason,
        bytes_down=outcome.bytes_down,
        milliseconds=round(seconds * 1000, 1),
        parent_id=trace.parent_id,
        retry_count=headers.retry_count(exchange.headers),
    )
    _log.request(line)
