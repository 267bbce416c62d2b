"""What lets a stream pass between the sockets does with it what the meter and the exchange do."""

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.downstream.exchange import Exchange
from sentinel.openai.response import sse
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.openai.response.unbilled_output import WORDS_BYTES_MAX
from sentinel.ops.records import Dialect
from sentinel.stages.relay.event_sink import words
from tests.downstream.test_exchange import Line
from tests.openai.response.test_meter_fuzz import cuts, dialects, streams
from tests.samples import cases
from tests.samples.cases import STREAMS
from tests.support.metering import cut

WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'


def poured(chunks: list[bytes], dialect: Dialect, **options: Any) -> StreamMeter:
    """A meter behind which `chunks` went down, after each of which it was as far as one that was fed with them."""
    line = Line()
    exchange = line.exchange()
    meter, fed = (StreamMeter(dialect, **options) for _ in range(2))
    sink = words(exchange, meter)
    down = b""
    for chunk in chunks:
        passed = fed.feed(chunk)
        down += passed
        assert sink(chunk) is not fed.terminated
        assert b"".join(message["body"] for message in line.sent) == down
        assert exchange.bytes_down == len(down)
        for name in ("events", "latest", "wary", "usage", "terminated", "object_id", "unfinished", "overflowed", "empty"):
            assert getattr(meter, name) == getattr(fed, name), name
    assert meter.finish() == fed.finish()
    assert (meter.finished, meter.failed, meter.produced()) == (fed.finished, fed.failed, fed.produced())
    return meter


@given(streams, cuts, dialects, st.booleans(), st.booleans())
@example(WORD * 3 + USAGE + sse.DONE, [len(WORD), len(WORD) * 2], Dialect.CHAT, False, True)
def test_any_stream_is_poured_as_it_is_fed(
    stream: bytes, places: list[int], dialect: Dialect, names: bool, hidden: bool
) -> None:
    """Rules S1, S2, U5: whatever comes, cut anywhere: the same bytes go down at the same time, and the same is read."""
    poured(cut(stream, places), dialect, names=names, usage_hidden=hidden)


@pytest.mark.parametrize("name", STREAMS)
def test_each_sample_is_poured_as_it_is_fed(name: str) -> None:
    """The same for every recorded stream, an event in each read, and two; behind its end nothing more is asked for."""
    events = sse.events(cases.read(name))
    for size in (1, 2):
        chunks = [b"".join(events[at : at + size]) for at in range(0, len(events), size)]
        poured(chunks, cases.dialect(name))


@pytest.mark.parametrize("words_bytes", [len(WORD), WORDS_BYTES_MAX - 1, WORDS_BYTES_MAX + 1])
def test_long_streams_are_kept_as_they_are_fed(words_bytes: int) -> None:
    """Rule L4: whatever was said is known at the end, be it in short events, in long ones, or in more than is held raw."""
    event = WORD.replace(b"word", b"word" * (1 + (words_bytes - len(WORD)) // 4))
    meter = poured([event] * 40 + [WORD] * 400, Dialect.CHAT)
    assert len(meter.produced().texts[0]) == 4 * 400 + 40 * 4 * (1 + (words_bytes - len(WORD)) // 4)


async def test_a_server_that_takes_a_part_later_is_waited_for() -> None:
    """Rule D6: while the client's buffer is full no more is asked for, and what the server raises is raised."""
    room = asyncio.Event()

    async def send(message: Any) -> None:
        if room.is_set():
            raise OSError
        await room.wait()

    exchange: Exchange = Line().exchange(send=send)
    sink = words(exchange, StreamMeter(Dialect.CHAT))
    assert not sink(WORD)
    pushed = asyncio.ensure_future(exchange.pushed())
    await asyncio.sleep(0)
    assert not pushed.done()
    room.set()
    await pushed
    sink(WORD[:-1])
    with pytest.raises(OSError):
        sink(b"\n")
    with pytest.raises(OSError):
        sink(WORD)
