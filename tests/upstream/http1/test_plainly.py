"""http: a request whose answer comes whole in one read is over at once; any other is answered as ever. Over real sockets."""

import asyncio
import math

import pytest

from sentinel.upstream.http1 import BrokenError, Client, Connection, LateError
from tests.support.wire import HANG_UP, wire
from tests.upstream.http1.test_answer import AFTER, LIES, WELL
from tests.upstream.http1.test_client import GET, client, until
from tests.upstream.http1.test_whole_answer import BARE, NODE, OPENAI, PLAIN


async def kept(one: Client) -> Connection:
    """A connection of `one` that was kept, or is as good as one."""
    return one.kept() or await one.connection()


async def ask(one: Client, within_s: float = 10) -> tuple[bytes, bool]:
    """The body of an answer, and whether it came whole; its exchange is over then."""
    connection = await kept(one)
    came = connection.ask_plainly(GET, b"", connection.loop.time() + within_s)
    said = b""
    try:
        whole = await came
        if whole is not None:
            return whole.body, True
        await connection.answered()
        while arrived := await connection.read(10, math.inf):
            said += arrived
    finally:
        connection.end(sent=True)
    return said, False


@pytest.mark.parametrize("data", PLAIN)
async def test_an_answer_in_one_read_is_over_at_once(data: bytes) -> None:
    """One that came whole is given as it is, and the next request goes over the same connection."""
    body = data.partition(b"\r\n\r\n")[2]
    async with wire([data]) as peer, client(peer.url) as one:
        assert [await ask(one) for _ in range(3)] == [(body, True)] * 3
        assert peer.connections == 1


@pytest.mark.parametrize("name", WELL)
async def test_any_other_answer_is_read_as_ever(name: str) -> None:
    """Rule H19: whole or byte by byte, what is not plain is the parser's, and the plain one behind it is as ever."""
    said, body, keeps = WELL[name]
    for pieces in ([said], [said[at : at + 1] for at in range(len(said))]):
        async with wire(lambda number, pieces=pieces: [BARE] if number % 2 else pieces) as peer, client(peer.url) as one:
            for _ in range(2):
                assert await ask(one) == (body, False)
                assert await ask(one) == (b"{}", True)
            assert peer.connections == (1 if keeps else 3)


@pytest.mark.parametrize("at", [1, 20, OPENAI.index(b"\r\n\r\n") + 2, OPENAI.index(b"\r\n\r\n") + 4, len(OPENAI) - 1])
async def test_an_answer_in_two_reads_is_read_as_ever(at: int) -> None:
    """Wherever it is cut, a plain answer is the same, and keeps its connection."""
    async with wire([OPENAI[:at], OPENAI[at:]]) as peer, client(peer.url) as one:
        for _ in range(2):
            assert (await ask(one))[0] == OPENAI.partition(b"\r\n\r\n")[2]
        assert peer.connections == 1


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_loses_its_connection(name: str) -> None:
    """Rules V5, X4: behind a plain answer too, a lie is told as one, and the next comes over another connection."""
    said = [[BARE], [LIES[name]], [BARE]]
    async with wire(lambda number: said[number]) as peer, client(peer.url) as one:
        assert await ask(one) == (b"{}", True)
        with pytest.raises(BrokenError):
            await ask(one)
        await until(peer, 0)
        assert await ask(one) == (b"{}", True)
        assert peer.connections == 2


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("together", [True, False])
async def test_bytes_behind_a_plain_answer_reach_nobody(after: str, *, together: bool) -> None:
    """Rules X4, V3: with the answer or behind it, they cost the connection, and never become the next answer."""
    pieces = [NODE + AFTER[after]] if together else [NODE, AFTER[after]]
    async with wire(lambda number: [BARE] if number else pieces) as peer, client(peer.url) as one:
        peer.gate.set()
        assert (await ask(one))[0] == NODE.partition(b"\r\n\r\n")[2]
        await until(peer, 0)
        assert await ask(one) == (b"{}", True)
        assert peer.connections == 2


@pytest.mark.parametrize("after", AFTER.values())
async def test_bytes_that_come_before_anybody_looks_cost_the_connection(after: bytes) -> None:
    """Rule X4: between the answer and the end of its exchange too; the answer itself is whole, and stays so."""
    async with wire([HANG_UP]) as peer, client(peer.url) as one:
        connection = await kept(one)
        came = connection.ask_plainly(GET, b"", math.inf)
        connection.data_received(BARE)
        connection.data_received(after)
        whole = await came
        assert whole is not None
        assert whole.body == b"{}"
        connection.end(sent=True)
        assert one.kept() is None


async def test_an_end_behind_a_plain_answer_harms_it_not() -> None:
    """A provider that closes behind each answer has given it all the same; the next one takes another connection."""
    async with wire([BARE, HANG_UP]) as peer, client(peer.url) as one:
        peer.gate.set()
        for _ in range(3):
            assert (await ask(one))[0] == b"{}"
            async with asyncio.timeout(5):
                while one._open:
                    await asyncio.sleep(0.001)
        assert peer.connections == 3


async def test_silence_is_late_and_an_end_is_told() -> None:
    """Rule O1, rule V1: None says nothing by itself: `answered` raises what it is, behind a plain answer too."""
    async with wire(lambda number: [BARE] if number == 0 else [b"HTTP"]) as peer, client(peer.url) as one:
        assert await ask(one) == (b"{}", True)
        with pytest.raises(LateError):
            await ask(one, 0.02)
    async with wire(lambda number: [BARE] if number == 0 else [HANG_UP]) as peer, client(peer.url) as one:
        assert await ask(one) == (b"{}", True)
        with pytest.raises(BrokenError):
            await ask(one)


async def test_who_gives_up_leaves_nothing_to_the_next() -> None:
    """D2: a cancelled wait ends its connection, whatever comes on it later."""
    async with wire([b"HTTP"]) as peer, client(peer.url) as one:
        connection = await kept(one)
        came = connection.ask_plainly(GET, b"", math.inf)
        waits = asyncio.ensure_future(asyncio.wait_for(came, 0.01))
        with pytest.raises(TimeoutError):
            await waits
        connection.data_received(BARE)
        connection.end(sent=False)
        await until(peer, 0)
        assert one.kept() is None
