"""What is read of an answer after its end was said, or after its client has left. Never fails: the client needs none of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from sentinel.downstream.exchange import Exchange
from sentinel.openai.response.meter import Meter
from sentinel.ops.errors import ClientGoneError, DrainingError, UpstreamError
from sentinel.ops.logs import Log
from sentinel.ops.records import Call, Dialect
from sentinel.upstream.provider import Reply

_log: Final = Log("relay")
_now: Final = time.monotonic

# An event that ends a stream may have another behind it: OpenAI says `error` and then `response.failed`, Azure the reverse. It
# is waited for so long, the stream is open for so long in all, and so much goes down: a failed response repeats its images.
_REST_IDLE_S: Final = 1.0
_REST_TOTAL_S: Final = 5.0
_REST_BYTES_MAX: Final = 32 << 20
# No client reads beyond [DONE], nor does one that has left: its stream is to end at once (rule D5).
_DONE_REST_S: Final = 0.1
# Then only the connection to the provider is at stake (rule D5).
_TAIL_S: Final = 1.0
_ENDED_BY_DONE: Final = frozenset((Dialect.CHAT, Dialect.EVENTS, Dialect.MEDIA))


class BackgroundDrain:
    """Reads answers on whose client has left, for the provider's own figures.

    At most `answers_max` at a time, waited for or read, each for `timeout_s` and `bytes_max`; what goes beyond is closed.
    """

    def __init__(self, *, answers_max: int, timeout_s: float, bytes_max: int) -> None:
        self._answers_max = answers_max
        self._timeout_s = timeout_s
        self._bytes_max = bytes_max
        self._bounds: set[asyncio.Timeout] = set()
        self._waits: dict[object, Callable[[], None]] = {}

    def wait(self, interrupt: Callable[[], None]) -> Callable[[], None] | None:
        """Wait for the head of such an answer, where there is room; `interrupt` is called when its time is over. The answer is
        what to call when the head is there, or nobody waits any more.
        """
        if self._is_full():
            return None
        timer = asyncio.get_running_loop().call_later(self._timeout_s, interrupt)
        self._waits[timer] = interrupt

        def over() -> None:
            timer.cancel()
            self._waits.pop(timer, None)

        return over

    async def read(self, reply: Reply, meter: Meter) -> None:
        """Feed the rest of `reply` to `meter`, within the bounds. Never fails."""
        if self._is_full():
            return
        left = self._bytes_max
        bound = asyncio.timeout(self._timeout_s)
        self._bounds.add(bound)
        try:
            async with bound:
                while left > 0 and not meter.terminated and (chunk := await reply.read()):
                    left -= len(chunk)
                    meter.feed(chunk)
                if meter.terminated:
                    await read_rest(reply, meter)
        except (TimeoutError, UpstreamError):
            _log.debug("an answer was not read to its end")
        finally:
            self._bounds.discard(bound)
        meter.finish()

    def close(self) -> None:
        """End what is being read."""
        self._answers_max = 0
        for bound in self._bounds:
            bound.reschedule(0)
        for interrupt in list(self._waits.values()):
            interrupt()

    def _is_full(self) -> bool:
        return len(self._bounds) + len(self._waits) >= self._answers_max


def is_paid(meter: Meter, call: Call) -> bool:
    """Whether the bill of a stream whose end was said is known: behind [DONE] nothing changes the usage that came before it."""
    return meter.usage is not None and call.dialect in _ENDED_BY_DONE


async def pass_rest(reply: Reply, meter: Meter, call: Call, send: Callable[[bytes], Awaitable[None]]) -> None:
    """What the provider says after the event that ends a stream goes down too, until it ends or has had its time."""
    if call.dialect in _ENDED_BY_DONE:
        await read_rest(reply, meter, send)
    else:
        await read_rest(reply, meter, send, idle_s=_REST_IDLE_S, total_s=_REST_TOTAL_S)


async def read_rest(
    reply: Reply,
    meter: Meter,
    send: Callable[[bytes], Awaitable[None]] | None = None,
    *,
    idle_s: float = _DONE_REST_S,
    total_s: float = _DONE_REST_S,
) -> None:
    """Read on after the end was said: the last usage counts. Whatever becomes of the rest, the answer is whole."""
    ends_s = _now() + total_s
    left = _REST_BYTES_MAX
    try:
        while left > 0 and (chunk := await reply.more(min(idle_s, ends_s - _now()))):
            left -= len(chunk)
            passed = meter.feed(chunk)
            if passed and send is not None:
                await send(passed)
    except UpstreamError as error:
        _log.debug("a provider did not end its stream", code=error.code)


async def end(reply: Reply, exchange: Exchange, call: Call, meter: Meter) -> None:
    """The end of an answer that has said all that is billed: what comes behind it still goes down, for its time; then only the
    connection to the provider is at stake (rule D5). Never fails.
    """
    try:
        if not exchange.ended:
            with exchange:
                await pass_rest(reply, meter, call, exchange.send)
                await exchange.finish(meter.finish())
                await exchange.linger()
        await reply.drain(_TAIL_S)
    except (ClientGoneError, DrainingError):
        _log.debug("a client left behind the end of its answer", request_id=exchange.request_id)
    finally:
        reply.close()
