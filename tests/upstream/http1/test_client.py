"""http: the client over real sockets: what is kept, what is not, what waits for whom, and that nothing is left over."""

import asyncio
import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sentinel.upstream.http1 import BrokenError, Client, Connection, LateError, UnreachableError
from sentinel.upstream.http1 import dial as dialling
from sentinel.upstream.http1.outgoing import BUFFERED_BYTES_MAX
from tests.support.wire import HANG_UP, Wire, wire
from tests.upstream.http1.test_answer import AFTER, CHUNKED, HELLO, LIES, OK, WELL

GET = b"GET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n"


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """A client of `url`, which leaves nothing open."""
    one = Client(url, connect_s=5)
    try:
        yield one
    finally:
        await one.close()
        assert not one._open
        assert not one._idle


async def ask(one: Client) -> Connection:
    """A connection on which something was asked."""
    connection = await one.connection()
    connection.ask(GET, b"")
    connection.expect(asyncio.get_running_loop().time() + 10)
    return connection


async def read(connection: Connection) -> bytes:
    """All of the answer, whose exchange is then over."""
    said = b""
    try:
        await connection.answered()
        while arrived := await connection.read(10, math.inf):
            said += arrived
    finally:
        connection.end(sent=True)
    return said


async def until(peer: Wire, count: int) -> None:
    """Until `count` connections are open at the peer."""
    async with asyncio.timeout(5):
        while len(peer.open) != count:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("name", WELL)
async def test_answers_come_byte_by_byte(name: str) -> None:
    """Rule H19: over a socket as in the parser, and the connection is used again where it may be."""
    said, body, keeps = WELL[name]
    async with wire([said[at : at + 1] for at in range(len(said))]) as peer, client(peer.url) as one:
        for _ in range(2):
            assert await read(await ask(one)) == body
        assert peer.connections == (1 if keeps else 2)


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_loses_its_connection(name: str) -> None:
    """Rules V5, X4: a lie is told as one, and the next answer comes over another connection."""
    async with wire(lambda number: [LIES[name]] if number == 0 else [HELLO]) as peer, client(peer.url) as one:
        with pytest.raises(BrokenError):
            await read(await ask(one))
        await until(peer, 0)
        assert await read(await ask(one)) == b"hello"
        assert peer.connections == 2


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("together", [True, False])
async def test_bytes_nobody_asked_for_reach_nobody(after: str, *, together: bool) -> None:
    """Rules X4, V3: with the answer or while the connection is idle, they never become the next answer."""
    pieces = [HELLO + AFTER[after]] if together else [HELLO, AFTER[after]]
    said = lambda number: pieces if number == 0 else [HELLO.replace(b"hello", b"again")]  # noqa: E731
    async with wire(said, hold=not together) as peer, client(peer.url) as one:
        assert await read(await ask(one)) == b"hello"
        peer.gate.set()
        await until(peer, 0)
        assert await read(await ask(one)) == b"again"
        assert peer.connections == 2


async def test_a_connection_that_was_closed_is_not_used() -> None:
    """Rule V2: also where the loop has yet to see that it was: nothing is sent on it, so nothing is lost."""
    async with wire([HELLO]) as peer, client(peer.url) as one:
        for _ in range(5):
            assert await read(await ask(one)) == b"hello"
            for writer in list(peer.open):
                writer.transport.abort()
            # One round lets the peer close; whether the client has seen it by then is left to the loop.
            await asyncio.sleep(0)
        assert len(peer.heads) == peer.connections == 5


async def test_a_connection_that_is_readable_is_not_used() -> None:
    """Rule V2: an end that has arrived, but was not read yet."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    async with client(f"http://127.0.0.1:{listener.getsockname()[1]}") as one:
        first = await ask(one)
        peer, _ = await loop.sock_accept(listener)
        await loop.sock_recv(peer, 65536)
        await loop.sock_sendall(peer, HELLO)
        assert await read(first) == b"hello"
        peer.close()
        # The loop has had no round since: only the socket knows.
        assert first.stirs(0)
        second = await ask(one)
        assert second is not first
        second.end(sent=True)
    listener.close()


@pytest.mark.parametrize("said", [[HELLO[:-1]], [HELLO[:10]], [HANG_UP], [CHUNKED + b"5\r\nhel"]])
async def test_what_breaks_off_is_told_and_not_asked_again(said: list[bytes]) -> None:
    """Rule V1: once a byte was handed over, nobody knows whether it was served; so it is sent once."""
    async with wire([*said, HANG_UP]) as peer, client(peer.url) as one:
        with pytest.raises(BrokenError):
            await read(await ask(one))
        assert len(peer.heads) == 1


async def test_an_idle_connection_does_not_outlive_the_other_sides_patience() -> None:
    """Rule V2: where the other side keeps one for a second, it is not kept at all."""
    async with wire([HELLO.replace(b"\r\n\r\n", b"\r\nkeep-alive: timeout=1\r\n\r\n")]) as peer, client(peer.url) as one:
        assert await read(await ask(one)) == b"hello"
        await until(peer, 0)
        assert await read(await ask(one)) == b"hello"
        assert peer.connections == 2


async def test_what_was_idle_too_long_is_closed() -> None:
    """Rule V2: a connection whose time is over is not used, and is swept away without anybody asking."""
    async with wire([HELLO]) as peer, client(peer.url) as one:
        first, second = await ask(one), await ask(one)
        await read(first)
        await read(second)
        first.idle_until_s = second.idle_until_s = 0
        assert await read(await ask(one)) == b"hello"
        assert peer.connections == 3
        for connection in one._idle:
            connection.idle_until_s = 0
        one._sweep()
        await until(peer, 0)


async def test_the_last_used_is_used_next() -> None:
    """Rule V2: so that those which are not needed grow old."""
    async with wire([HELLO]) as peer, client(peer.url) as one:
        first, second = await ask(one), await ask(one)
        await read(first)
        await read(second)
        again = await ask(one)
        assert again is second
        await read(again)


async def test_a_reader_that_is_slow_holds_the_writer_back() -> None:
    """Rule D6: no more is buffered than one bound and one read, however much there is; all of it comes in the end."""
    size = 8 * 2**20
    piece = b"x" * 2**16
    pieces = [OK + b"content-length: %d\r\n\r\n" % size, *[piece] * (size // len(piece))]
    async with wire(pieces) as peer, client(peer.url) as one:
        connection = await ask(one)
        answer = await connection.answered()
        most, count = 0, 0
        for _ in range(50):
            await asyncio.sleep(0.002)
            most = max(most, answer.buffered)
        while arrived := await connection.read(10, math.inf):
            count += len(arrived)
            most = max(most, answer.buffered)
        connection.end(sent=True)
        assert count == size
        assert 0 < most <= BUFFERED_BYTES_MAX + 2**18
        assert await read(await ask(one)) == b"x" * size
        assert peer.connections == 1


async def test_silence_is_late() -> None:
    """Rule O1: before the head, between two reads, and as a whole."""
    loop = asyncio.get_running_loop()
    async with wire([OK + b"content-length: 5\r\n\r\n", b"hello"], hold=True) as peer, client(peer.url) as one:
        for idle_s, ends_s in ((0.01, math.inf), (10, loop.time() + 0.01), (10, 0)):
            connection = await ask(one)
            await connection.answered()
            with pytest.raises(LateError):
                await connection.read(idle_s, ends_s)
            connection.end(sent=True)
        await until(peer, 0)
    async with wire([b"HTTP", b"/1.1"], hold=True) as peer, client(peer.url) as one:
        connection = await ask(one)
        connection.expect(math.inf)
        connection.expect(loop.time() + 0.01)
        with pytest.raises(LateError):
            await connection.answered()
        connection.end(sent=True)


async def test_a_bound_that_moves_away_does_not_ring() -> None:
    """Rule O1: the timer of a bound that was moved is wound up again, for whoever waits then."""
    async with wire([OK, b"content-length: 0\r\n\r\n"], hold=True) as peer, client(peer.url) as one:
        connection = await ask(one)
        connection.expect(asyncio.get_running_loop().time() + 0.02)
        connection.expect(asyncio.get_running_loop().time() + 10)
        asyncio.get_running_loop().call_later(0.06, peer.gate.set)
        assert await read(connection) == b""


async def test_head_and_small_body_leave_in_one_piece() -> None:
    """performance.md: one packet for a usual request; a large body is whole too."""
    received: list[bytes] = []

    class Peer(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.append(data)

    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    async with client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as one:
        connection = await one.connection()
        connection.ask(GET, b"x" * 10_000)
        async with asyncio.timeout(5):
            while not received:
                await asyncio.sleep(0.001)
        assert received == [GET + b"x" * 10_000]
        connection.end(sent=True)
        connection = await one.connection()
        connection.ask(GET, b"y" * 1_000_000)
        async with asyncio.timeout(5):
            while len(b"".join(received[1:])) < len(GET) + 1_000_000:
                await asyncio.sleep(0.001)
        assert b"".join(received[1:]) == GET + b"y" * 1_000_000
        connection.end(sent=True)
    server.close()


def holds_back(connection: Connection) -> bool:
    """Whether the kernel may hold small packets of this connection back, as its socket says."""
    assert connection._transport is not None
    wired = connection._transport.get_extra_info("socket")
    return not wired.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_nothing_that_is_sent_is_held_back() -> None:
    """Rule S6: TCP_NODELAY is on the socket itself, when it is new and when it is used again."""
    async with wire([HELLO]) as peer, client(peer.url) as one:
        for _ in range(2):
            connection = await ask(one)
            assert not holds_back(connection)
            assert await read(connection) == b"hello"
        assert peer.connections == 1


async def test_each_read_is_there_at_once() -> None:
    """Rule S6: an event waits for no other: not for the next read, and no more than one round of the loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    async with client(f"http://127.0.0.1:{listener.getsockname()[1]}") as one:
        connection = await ask(one)
        peer, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(peer, CHUNKED)
        await connection.answered()
        for number in range(50):
            event = b"data: %d\n\n" % number
            waiting = asyncio.create_task(connection.read(5, math.inf))
            await asyncio.sleep(0)
            await loop.sock_sendall(peer, b"%x\r\n%s\r\n" % (len(event), event))
            assert await waiting == event
        waiting = asyncio.create_task(connection.read(5, math.inf))
        await asyncio.sleep(0)
        connection.data_received(b"3\r\nend\r\n")
        await asyncio.sleep(0)
        assert waiting.done()
        assert waiting.result() == b"end"
        connection.end(sent=False)
        peer.close()
    listener.close()


async def test_nobody_there_is_unreachable() -> None:
    """Rule E6: refused, unknown by name, and not a name at all."""
    for url in ("http://127.0.0.1:1/", "http://nobody.invalid/", f"http://{'x' * 70}.test/"):
        async with client(url) as one:
            with pytest.raises(UnreachableError):
                await one.connection()


async def test_a_connection_that_is_not_made_in_time_is_unreachable() -> None:
    """Rule O1: TLS with somebody who says nothing ends with the time for connecting."""
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    one = Client(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_s=0.05)
    with pytest.raises(UnreachableError):
        await one.connection()
    async with asyncio.timeout(5):
        await gone.wait()
    await one.close()
    server.close()


class Names:
    """What the resolver says of every name: addresses, or a failure."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] | None = addresses
        self.asked = 0
        self.slow_s = 0.0

    async def __call__(self, _host: str, port: int, **_rest: object) -> list[tuple[object, ...]]:
        """As loop.getaddrinfo."""
        self.asked += 1
        await asyncio.sleep(self.slow_s)
        if self.addresses is None:
            raise socket.gaierror("away")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


@pytest.mark.parametrize("first", ["refuses", "hangs"])
async def test_each_address_of_a_name_is_tried(first: str) -> None:
    """RFC 8305: an address that refuses or hangs does not keep the next one from being asked."""
    full = socket.create_server(("127.0.0.2", 0), backlog=0)
    waiting = []
    async with wire([HELLO]) as peer:
        port = int(peer.url.rsplit(":", 1)[1].removesuffix("/v1"))
        if first == "hangs":
            full.close()
            full = socket.create_server(("127.0.0.2", port), backlog=0)
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(full.getsockname())
                waiting.append(one)
        async with client(f"http://provider.test:{port}/v1") as asking:
            names = Names("127.0.0.2", "127.0.0.1")
            asking._dialer = dialling.Dialer("provider.test", port, None, 5, names)
            first_one = await ask(asking)
            assert await read(first_one) == b"hello"
            several = await asyncio.gather(*(ask(asking) for _ in range(5)))
            assert [await read(each) for each in several] == [b"hello"] * 5
            assert (names.asked, asking._dialer._addresses) == (1, ["127.0.0.1", "127.0.0.2"])
    for each in (*waiting, full):
        each.close()


async def test_names_are_asked_once_and_old_answers_serve_while_the_resolver_is_away() -> None:
    """Rule V7: one look-up for all who wait; a failure is one only where nothing was ever known."""
    async with wire([HELLO]) as peer:
        port = int(peer.url.rsplit(":", 1)[1].removesuffix("/v1"))
        async with client(peer.url) as one:
            names = Names("127.0.0.1")
            names.addresses = None
            one._dialer = dialling.Dialer("provider.test", port, None, 5, names)
            with pytest.raises(UnreachableError):
                await one.connection()
            names.addresses = ("127.0.0.1",)
            several = await asyncio.gather(*(ask(one) for _ in range(5)))
            assert names.asked == 2
            assert [await read(each) for each in several] == [b"hello"] * 5
            names.addresses = None
            one._dialer.forget()
            several = await asyncio.gather(*(ask(one) for _ in range(6)))
            assert names.asked == 3
            assert [await read(each) for each in several] == [b"hello"] * 6
            names.slow_s = 60
            several = await asyncio.gather(*(ask(one) for _ in range(7)))
            assert [await read(each) for each in several] == [b"hello"] * 7
            one._dialer._addresses = ()
            names.slow_s = 0.05
            waiting = [asyncio.create_task(one.connection()) for _ in range(9)]
            await asyncio.sleep(0.01)
            one._dialer.close()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert sum(isinstance(each, UnreachableError) for each in ended) == 2


@pytest.mark.parametrize(
    ("url", "host", "base"),
    [
        ("https://api.openai.com/v1", "api.openai.com", "/v1"),
        ("https://api.test:8443/v1/", "api.test:8443", "/v1"),
        ("http://[::1]:80", "[::1]", ""),
        ("http://[::1]:81/a/b", "[::1]:81", "/a/b"),
        ("https://API.test:443/v1", "api.test", "/v1"),
    ],
)
async def test_the_origin_of_a_url(url: str, host: str, base: str) -> None:
    """RFC 9110 §7.2: Host names the port only where it is not the scheme's own."""
    one = Client(url, connect_s=1)
    assert (one.host, one.base) == (host, base)
    await one.close()


@pytest.mark.parametrize("url", ["ftp://x/", "x", "http:///v1", ""])
async def test_what_is_no_origin_is_refused(url: str) -> None:
    """A deployment's mistake is seen at start."""
    with pytest.raises(ValueError, match="not the URL"):
        Client(url, connect_s=1)


async def test_a_client_that_is_closed_asks_nobody() -> None:
    """A worker that closes leaves no connection, also not one in use."""
    async with wire([OK, b"content-length: 0\r\n\r\n"], hold=True) as peer:
        one = Client(peer.url, connect_s=5)
        connection = await ask(one)
        waiting = asyncio.create_task(read(connection))
        await asyncio.sleep(0.01)
        await one.close()
        with pytest.raises(BrokenError):
            await waiting
        with pytest.raises(UnreachableError):
            await one.connection()
        await until(peer, 0)


async def test_nothing_is_left_of_a_thousand_that_were_given_up() -> None:
    """Rule V3: cancelled while connecting, waiting or reading: no connection, no task, and no answer of another."""
    chance = random.Random(7)
    body = b"z" * 3000

    def said(number: int) -> list[bytes]:
        whole = OK + b"x-number: %d\r\ncontent-length: %d\r\n\r\n%s" % (number, len(body), body)
        cut = chance.randrange(1, len(whole))
        return [whole[:cut], whole[cut:]]

    async with wire(said) as peer, client(peer.url) as one:

        async def request() -> None:
            assert await read(await ask(one)) == body

        for _ in range(20):
            tasks = [asyncio.create_task(request()) for _ in range(50)]
            for task in tasks:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.7:
                    task.cancel()
            assert {type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)} <= {
                type(None),
                asyncio.CancelledError,
            }
        await until(peer, len(one._idle))
        assert one._open == set(one._idle)
        assert await read(await ask(one)) == body
        assert asyncio.all_tasks() == {asyncio.current_task(), *peer.tasks}
