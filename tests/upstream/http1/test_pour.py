"""http: bodies poured from the socket into a sink, without a task that is woken up for each part."""

import asyncio
import gc
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.upstream.http1 import BrokenError, Connection, LateError, UnreachableError
from sentinel.upstream.http1.outgoing import BUFFERED_BYTES_MAX
from tests.support.wire import HANG_UP, wire
from tests.upstream.http1.test_answer import CHUNKED, LIES, OK, WELL
from tests.upstream.http1.test_client import ask, client, until


class Sink:
    """Takes `parts` parts at a time; whatever comes after that is one too many."""

    def __init__(self, parts: float = math.inf) -> None:
        self.taken: list[bytes] = []
        self.parts = parts

    def __call__(self, part: bytes) -> bool:
        assert len(self.taken) < self.parts, "poured over the brim"
        self.taken.append(part)
        return len(self.taken) < self.parts


async def pour_all(connection: Connection, sink: Sink) -> bytes:
    """All of the answer, as poured at once; its exchange is then over."""
    try:
        await connection.answered()
        assert not await connection.pipe(sink, 10, math.inf)
    finally:
        connection.end(sent=True)
    return b"".join(sink.taken)


@pytest.mark.parametrize("name", WELL)
async def test_what_is_poured_is_what_is_read(name: str) -> None:
    """Rule H19: byte by byte or in one piece, the body is the same, and the connection is used again where it may be."""
    said, body, keeps = WELL[name]
    for pieces in ([said[at : at + 1] for at in range(len(said))], [said]):
        async with wire(pieces) as peer, client(peer.url) as one:
            for _ in range(2):
                assert await pour_all(await ask(one), Sink()) == body
            assert peer.connections == (1 if keeps else 2)


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_pours_nothing_false(name: str) -> None:
    """Rule V5: a lie is told as one where it is poured as well, and its connection is lost."""
    async with wire([LIES[name]]) as peer, client(peer.url) as one:
        with pytest.raises(BrokenError):
            await pour_all(await ask(one), Sink())
        await until(peer, 0)


async def test_each_part_is_poured_before_the_loop_goes_on() -> None:
    """Rule S6: a part is with the sink when it has arrived, and the task that pours sleeps on; it wakes up at the end."""
    async with wire([CHUNKED, b"0\r\n\r\n"], hold=True) as peer, client(peer.url) as one:
        connection, sink = await ask(one), Sink()
        await connection.answered()
        pouring = asyncio.create_task(connection.pipe(sink, 10, math.inf))
        await asyncio.sleep(0)
        for number in range(20):
            connection.data_received(b"2\r\n%02d\r\n" % number)
            assert sink.taken[-1] == b"%02d" % number
        await asyncio.sleep(0)
        assert not pouring.done()
        peer.gate.set()
        assert not await pouring
        connection.end(sent=True)


async def test_a_sink_that_is_full_holds_the_writer_back() -> None:
    """Rule D6: what it does not take now waits, no more than a bound and a read of it, and comes when it is asked for."""
    size = 4 * 2**20
    pieces = [OK + b"content-length: %d\r\n\r\n" % size, *[b"x" * 2**16] * (size // 2**16)]
    async with wire(pieces) as peer, client(peer.url) as one:
        connection = await ask(one)
        answer = await connection.answered()
        count, most, full = 0, 0, True
        while full:
            sink = Sink(parts=3)
            full = await connection.pipe(sink, 10, math.inf)
            count += sum(map(len, sink.taken))
            await asyncio.sleep(0.001)
            most = max(most, answer.buffered)
        connection.end(sent=True)
        assert count == size
        assert 0 < most <= BUFFERED_BYTES_MAX + 2**18


async def test_silence_ends_the_pouring() -> None:
    """Rule O1: silence counts from the last part, and an end for the whole is kept however much comes."""
    loop = asyncio.get_running_loop()
    async with wire([CHUNKED + b"5\r\nhello\r\n"], hold=True) as peer, client(peer.url) as one:
        for idle_s, ends_s in ((0.02, math.inf), (10, loop.time() + 0.02), (10, 0)):
            connection, sink = await ask(one), Sink()
            await connection.answered()
            with pytest.raises(LateError):
                await connection.pipe(sink, idle_s, ends_s)
            assert sink.taken == [b"hello"]
            connection.end(sent=True)
        await until(peer, 0)
        connection, sink = await ask(one), Sink()
        await connection.answered()
        pouring = asyncio.create_task(connection.pipe(sink, 0.2, math.inf))
        begun_s = loop.time()
        for _ in range(10):
            await asyncio.sleep(0.05)
            connection.data_received(b"2\r\nhi\r\n")
        with pytest.raises(LateError):
            await pouring
        assert loop.time() - begun_s >= 0.6
        assert sink.taken == [b"hello", *[b"hi"] * 10]
        connection.end(sent=True)


async def test_an_end_too_soon_is_told_after_what_came() -> None:
    """Rule V5: a body that breaks off is poured as far as it came, and is then broken."""
    async with wire([CHUNKED + b"5\r\nhello\r\n", HANG_UP]) as peer, client(peer.url) as one:
        connection, sink = await ask(one), Sink()
        with pytest.raises(BrokenError):
            await pour_all(connection, sink)
        assert sink.taken == [b"hello"]


@pytest.mark.parametrize(
    "pieces", [[CHUNKED + b"5\r\nhello\r\n"], [CHUNKED, b"5\r\nhello\r\n"], [CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"]]
)
async def test_what_a_sink_raises_is_raised(pieces: list[bytes]) -> None:
    """A defect of the sink is its caller's, is met once, and costs the connection, also where the answer was whole by then."""
    met = 0

    def sink(_part: bytes) -> bool:
        nonlocal met
        met += 1
        raise ZeroDivisionError

    async with wire(pieces, hold=True) as peer, client(peer.url) as one:
        connection = await ask(one)
        await connection.answered()
        asyncio.get_running_loop().call_later(0.01, peer.gate.set)
        with pytest.raises(ZeroDivisionError):
            await connection.pipe(sink, 10, math.inf)
        connection.end(sent=True)
        await until(peer, 0)
        assert met == 1


async def test_who_reaches_nobody_leaves_nothing_behind() -> None:
    """A connection that was never made is no circle that only the collector would find."""
    gc.collect()
    earlier = [left for left in gc.get_objects() if isinstance(left, Connection)]  # another test's
    gc.disable()
    try:
        async with client("http://127.0.0.1:1/") as one:
            for _ in range(3):
                with pytest.raises(UnreachableError):
                    await one.connection()
        # uvloop lets go of the last one when its loop comes round.
        async with asyncio.timeout(5):
            while sum(isinstance(left, Connection) for left in gc.get_objects()) > len(earlier):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_a_cancelled_pouring_gives_nothing_more() -> None:
    """Rule D5: what comes after it was ended waits for whoever reads on."""
    async with wire([CHUNKED], hold=True) as peer, client(peer.url) as one:
        connection, sink = await ask(one), Sink()
        await connection.answered()
        pouring = asyncio.create_task(connection.pipe(sink, 10, math.inf))
        await asyncio.sleep(0)
        connection.data_received(b"3\r\none\r\n")
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring
        connection.data_received(b"3\r\ntwo\r\n")
        assert sink.taken == [b"one"]
        assert await connection.read(10, math.inf) == b"two"
        connection.end(sent=True)


EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'


@given(
    st.lists(st.integers(0, len(b"2f\r\n" + EVENT + b"\r\n") * 4 + 5), max_size=8),
    st.sets(st.integers(0, 9)),
    st.none() | st.integers(0, 9),
)
@settings(max_examples=80, deadline=None)
def test_a_stream_is_poured_the_same_however_it_is_cut(cuts: list[int], full: set[int], fails: int | None) -> None:
    """Whole chunks in a read of their own, or cut and joined anywhere; a sink that is full at any part, or fails at one."""
    data = (b"%x\r\n%b\r\n" % (len(EVENT), EVENT)) * 4 + b"0\r\n\r\n"
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})

    async def run() -> None:
        said: list[bytes] = []

        def sink(part: bytes) -> bool:
            if len(said) == fails:
                raise RuntimeError("the sink failed")
            said.append(part)
            return len(said) not in full

        async with wire(lambda _: []) as peer, client(peer.url) as one:
            connection = await ask(one)
            connection.data_received(CHUNKED)
            await connection.answered()

            async def pipe() -> None:
                while await connection.pipe(sink, 10, math.inf):
                    pass

            pouring = asyncio.create_task(pipe())
            try:
                for start, end in itertools.pairwise(places):
                    await asyncio.sleep(0)
                    connection.data_received(data[start:end])
                await pouring
            except RuntimeError:
                assert len(said) == fails
                assert (EVENT * 4).startswith(b"".join(said))
            else:
                assert fails is None or fails >= len(said)
                assert b"".join(said) == EVENT * 4
            connection.end(sent=True)

    asyncio.run(run())
