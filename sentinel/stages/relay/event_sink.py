"""From the provider's socket to the client's, outside of any task. Fails as the reply does, and as the server's `send`."""

from collections.abc import Callable
from functools import partial
from typing import Final

from sentinel.downstream.exchange import Exchange
from sentinel.downstream.pending_send import TAKEN
from sentinel.openai.response.meter import Meter
from sentinel.openai.response.sse import ENDS
from sentinel.openai.response.stream_meter import ERROR, StreamMeter
from sentinel.openai.response.unbilled_output import WORDS_BYTES_MAX
from sentinel.upstream.provider import Reply

_BODY: Final = "http.response.body"


async def pipe(reply: Reply, exchange: Exchange, meter: Meter) -> None:
    """Let all of the answer go down as it comes; the task is woken up only where the client is slower, and at the end."""
    sink: Callable[[bytes], bool] = partial(_feed, exchange, meter)
    if isinstance(meter, StreamMeter) and exchange.method != "HEAD":
        sink = words(exchange, meter)
    while not meter.terminated and await reply.pipe(sink):
        await exchange.pushed()


def words(exchange: Exchange, meter: StreamMeter) -> Callable[[bytes], bool]:
    """What takes the reads of a stream. Events of words alone, as nearly all are, are metered and handed over here, in the one
    function between the connection and the server: it is their cost, so it is written out, with `find` instead of `in`, and
    does with them what `StreamMeter.feed` and `Exchange.push` would. All others are given to these.
    """
    hand_over, waits = exchange.hand_over, exchange.waits
    unpaid, mark, marked, end = meter.unpaid, meter.mark, meter.marked, meter.end
    counts = meter.counts

    def sink(chunk: bytes) -> bool:
        size = len(chunk)
        if (
            meter.wary
            or size > WORDS_BYTES_MAX
            or chunk.find(end) >= 0
            or chunk.find(ERROR) >= 0
            or ((at := chunk.find(mark)) >= 0 and marked.search(chunk, at))
            or not chunk.endswith(ENDS)
        ):
            return _feed(exchange, meter, chunk)
        meter.latest = chunk
        meter.events += chunk.count(b"data:")
        if counts:
            unpaid.latest.append(chunk)
            unpaid.latest_bytes += size
            if unpaid.latest_bytes > WORDS_BYTES_MAX:
                unpaid.store()
        exchange.bytes_down += size
        sending = hand_over({"type": _BODY, "body": chunk, "more_body": True}).__await__()
        return (waits_for := next(sending, TAKEN)) is TAKEN or waits(waits_for, sending)

    return sink


def _feed(exchange: Exchange, meter: Meter, chunk: bytes) -> bool:
    """The same for whatever else comes."""
    passed = meter.feed(chunk)
    return (not passed or exchange.push(passed)) and not meter.terminated
