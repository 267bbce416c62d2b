"""How an answer ended, and what is known of its cost. Never fails."""

import asyncio
from typing import Final

from sentinel.downstream.exchange import Exchange
from sentinel.openai.response.body_meter import PassMeter
from sentinel.openai.response.meter import Meter
from sentinel.openai.response.select_meter import values
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops import metrics
from sentinel.ops.errors import ClientGoneError, DrainingError, SentinelError, UpstreamError, UpstreamTimeoutError
from sentinel.ops.records import NOTHING_PRODUCED, Ending, Outcome, Produced
from sentinel.upstream.provider import Reply, tell_disclosed

Failure = ClientGoneError | SentinelError

# About 1 000 events, and 10 ms of reading where an answer had no usage: more than that is read off the loop.
_INLINE_BYTES_MAX: Final = 262_144

_ENDINGS: Final[tuple[tuple[type[Exception], Ending], ...]] = (
    (ClientGoneError, Ending.CLIENT_CLOSED),
    (UpstreamTimeoutError, Ending.UPSTREAM_TIMEOUT),
    (UpstreamError, Ending.TRUNCATED),
    (DrainingError, Ending.INTERNAL),
)


async def _produced(bytes_down: int, meter: Meter, ending: Ending, reading: asyncio.Semaphore) -> Produced:
    """What no usage of the provider covers; one without an output may leave out all of it."""
    usage = meter.usage
    if not meter.counts or (ending is Ending.SUCCESS and usage is not None and usage.output_tokens):
        return NOTHING_PRODUCED
    if bytes_down > _INLINE_BYTES_MAX and not isinstance(meter, PassMeter):
        async with reading:
            return await asyncio.to_thread(meter.produced)
    return meter.produced()


def truncation(meter: Meter) -> UpstreamError | None:
    """The failure of a stream that ended cleanly but incomplete: not by its own end, nor by an error (rule F2)."""
    if not isinstance(meter, StreamMeter) or meter.terminated or meter.failed:
        return None
    if meter.empty:
        # A page, an empty body or comments alone: no model said that, so that nothing is owed.
        return UpstreamError("The provider answered with no event.", code="upstream_not_json", retry=False, sent=False)
    if meter.finished:
        return None
    return UpstreamError("The provider ended its stream before the answer was complete.", code="upstream_truncated")


def has_told(meter: Meter) -> bool:
    """Whether an answer has told all it will of its cost: a stream may tell its usage behind its last words, sound none."""
    if isinstance(meter, PassMeter) and not meter.counts:
        return True
    return meter.terminated or (meter.finished and (meter.usage is not None or not isinstance(meter, StreamMeter)))


async def outcome_of(
    reply: Reply, exchange: Exchange | None, meter: Meter, failure: Failure | None, reading: asyncio.Semaphore
) -> Outcome:
    """What happened to an answer; a long one is read off the loop, one at a time (`reading`)."""
    bytes_down = 0 if exchange is None else exchange.bytes_down
    status = reply.status
    if isinstance(failure, SentinelError) and exchange is not None and not exchange.started:
        status = failure.status
    ending = Ending.SUCCESS
    if failure is not None:
        ending = next((told for kind, told in _ENDINGS if isinstance(failure, kind)), Ending.SUCCESS)
    started = reply.status < 400 and not (isinstance(failure, UpstreamError) and not failure.sent)
    if reply.status >= 400:
        ending = Ending.REFUSED
    elif not started or meter.failed:
        ending = Ending.UPSTREAM_ERROR
    if isinstance(meter, StreamMeter):
        if meter.overflowed:
            metrics.STREAM_OVERFLOWS.inc(meter.overflowed)
        if meter.hidden.disclosed is not None:
            tell_disclosed(meter.hidden.disclosed, "" if exchange is None else exchange.request_id, reply.status)
    return Outcome(
        ending=ending,
        status=status,
        started=started,
        usage=meter.usage,
        produced=await _produced(bytes_down, meter, ending, reading),
        bytes_down=bytes_down,
        upstream_request_id=b"".join(values(reply.headers, b"x-request-id")[:1]).decode("latin-1")[:128],
    )


def unanswered(error: ClientGoneError | SentinelError, *, sent: bool) -> Outcome:
    """The outcome where no answer of the provider came down; nothing is billed where nothing was sent to it."""
    if isinstance(error, ClientGoneError):
        return Outcome(Ending.CLIENT_CLOSED, 499, started=sent)
    if isinstance(error, DrainingError):
        return Outcome(Ending.INTERNAL, error.status, started=sent)
    if not isinstance(error, UpstreamError):
        # A body that streamed by and broke its bounds: the provider never had the whole request.
        return Outcome(Ending.REFUSED, error.status, started=False)
    started = sent and error.sent
    if isinstance(error, UpstreamTimeoutError):
        return Outcome(Ending.UPSTREAM_TIMEOUT, error.status, started=started)
    return Outcome(Ending.TRUNCATED if started else Ending.UPSTREAM_ERROR, error.status, started=started)
