"""connection, link and pipeline against a Redis on a raw socket that answers as it is told, byte by byte."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import lua
from sentinel.edges.ledger import open_redis
from sentinel.edges.ledger.connection import Call, Connection
from sentinel.edges.ledger.pipeline import SCRIPTS, Pipeline
from sentinel.errors import LedgerUnavailableError
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

Command = list[bytes]
Answer = Callable[["Fake", Command], Awaitable[bytes | None] | bytes | None]


class Fake:
    """A Redis of one script: `answer` gets each command and says the bytes of its reply; None says nothing."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.url = f"unix://{path}"
        self.commands: list[list[Command]] = []
        self.chunks: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen: on the path, or with `tls` on a port of 127.0.0.1."""
        if tls is None:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
            self.url = f"rediss://localhost:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Hang up and listen no more."""
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: list[Command] = []
        self.commands.append(commands)
        self.writers.append(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                got = []
                while (command := parser.gets()) is not False:
                    got.append(command)
                self.chunks.append(len(got))
                commands += got
                for command in got:
                    if command[:2] == [b"SCRIPT", b"LOAD"]:
                        writer.write(b"+loaded\r\n")
                        continue
                    said = self._answer(self, command)
                    reply = await said if isinstance(said, Awaitable) else said
                    if reply is not None:
                        writer.write(reply)
        except ConnectionError:
            pass
        finally:
            writer.close()


def echo(_fake: Fake, command: Command) -> bytes:
    """GET x is answered with x."""
    return b"$%d\r\n%s\r\n" % (len(command[-1]), command[-1])


@asynccontextmanager
async def running(path: Path, answer: Answer, timeout_s: float = 2.0, query: str = "") -> AsyncIterator[tuple[Fake, Pipeline]]:
    """A Fake, and a pipeline to it."""
    fake = Fake(path / "fake.sock", answer)
    await fake.start()
    pipeline = Pipeline(open_redis(fake.url + query, 1.0), timeout_s)
    try:
        yield fake, pipeline
    finally:
        fake.stop()
        await pipeline.close()


class Heard:
    """The owner of a Connection, who remembers what it is told."""

    def __init__(self) -> None:
        self.answers = 0
        self.missed: list[Call] = []
        self.dropped: list[Call] = []
        self.error: OSError | None = None

    def heard(self) -> None:
        self.answers += 1

    def missing(self, connection: Connection, calls: list[Call]) -> None:
        self.missed += calls

    def writable(self) -> None:
        raise AssertionError("nothing was written")

    def lost(self, connection: Connection, calls: list[Call], error: OSError) -> None:
        self.dropped, self.error = calls, error


class Wire(asyncio.Transport):
    """A transport that remembers whether it was aborted."""

    aborted = False

    def write(self, data: Any) -> None:
        """Nobody reads it."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Without limits."""

    def abort(self) -> None:
        self.aborted = True


def asked(count: int) -> tuple[Connection, Heard, Wire, list[Call]]:
    """A connection that owes `count` replies."""
    from collections import deque

    loop = asyncio.get_running_loop()
    owner, wire = Heard(), Wire()
    connection = Connection(owner, 60.0)
    connection.connection_made(wire)
    calls = [Call("get", b"x", loop.create_future()) for _ in range(count)]
    for call in calls:
        call.places = 1
    connection.write(deque(calls))
    return connection, owner, wire, calls


REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"*3\r\n:1\r\n$2\r\nok\r\n*0\r\n", [1, b"ok", []]),
    (b"-ERR no\r\n", "ERR no"),
    (b">2\r\n+invalidate\r\n:1\r\n", ...),
]


def read(calls: list[Call]) -> list[Any]:
    """What the calls were answered; an error by its text."""
    return [str(said) if isinstance(said := call.reply.result(), Exception) else said for call in calls]


@given(st.lists(st.sampled_from(REPLIES), min_size=1, max_size=12), st.data())
@settings(max_examples=150, deadline=None)
def test_replies_find_their_calls_wherever_they_are_split(replies: list[tuple[bytes, Any]], data: st.DataObject) -> None:
    """D7: in any number of pieces, an error concerns its own call, and a push belongs to nobody."""

    async def run() -> None:
        expected = [said for _, said in replies if said is not ...]
        connection, _, wire, calls = asked(len(expected))
        text = b"".join(packed for packed, _ in replies)
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            connection.data_received(text[start:end])
        assert read(calls) == expected
        assert not wire.aborted
        assert connection.asked == 0
        connection.connection_lost(None)

    asyncio.run(run())


async def test_a_chunk_that_ends_anywhere_is_read_on() -> None:
    """D7: split at every byte, all kinds of replies come out the same."""
    text = b"".join(packed for packed, _ in REPLIES)
    expected = [said for _, said in REPLIES if said is not ...]
    for at in range(len(text) + 1):
        connection, _, _, calls = asked(len(expected))
        connection.data_received(text[:at])
        connection.data_received(text[at:])
        assert read(calls) == expected
        connection.connection_lost(None)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400\r\n", b"\x00\r\n", b"+OK\r\n:1\r\n+late\r\n", b"$x\r\n"])
async def test_what_is_no_reply_ends_the_connection(garbage: bytes) -> None:
    """C5: garbage, and what nobody asked for, are not guessed at: the connection goes, later bytes are not read."""
    connection, owner, wire, calls = asked(2)
    connection.data_received(garbage)
    assert wire.aborted
    connection.data_received(b"+a\r\n+b\r\n")
    connection.connection_lost(None)
    assert isinstance(owner.error, ConnectionError)
    answered = 2 if garbage.startswith(b"+OK") else 0
    assert [call.reply.done() for call in calls] == [at < answered for at in range(2)]
    assert owner.dropped == calls[answered:]


async def test_a_reply_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """C5: what one reply may hold is bounded, over any number of chunks; whole replies may be any number."""
    monkeypatch.setattr("sentinel.edges.ledger.connection._REPLY_BYTES_MAX", 10_000)
    connection, owner, wire, calls = asked(101)
    for _ in range(100):
        connection.data_received(b"$300\r\n" + b"x" * 300 + b"\r\n")
    assert not wire.aborted
    connection.data_received(b"*1000\r\n")
    for _ in range(100):
        connection.data_received(b"$300\r\n" + b"x" * 300 + b"\r\n")
    assert wire.aborted
    connection.connection_lost(None)
    assert owner.dropped == calls[100:]


async def test_callers_of_one_tick_leave_in_one_write(tmp_path: Path) -> None:
    """D7: what one tick asks is one write, and everybody gets its own."""
    async with running(tmp_path, echo) as (fake, pipeline):
        await pipeline.open()
        fake.chunks.clear()
        said = await asyncio.gather(*(pipeline.command("get", f"name-{at}") for at in range(100)))
        assert said == [f"name-{at}".encode() for at in range(100)]
        assert fake.chunks == [100]


async def test_leavers_shift_nobodys_reply(tmp_path: Path) -> None:
    """G1: callers that are cancelled, before or after they are sent, and those that are late, keep their places empty."""
    hold = asyncio.Event()

    async def late(fake: Fake, command: Command) -> bytes:
        await hold.wait()
        return echo(fake, command)

    async with running(tmp_path, late, timeout_s=60.0) as (_, pipeline):
        calls = [asyncio.create_task(pipeline.command("get", f"a-{at}")) for at in range(30)]
        for at, call in enumerate(calls):
            if at % 3 == 0:
                call.cancel()
        await asyncio.sleep(0.05)
        for at, call in enumerate(calls):
            if at % 3 == 1:
                call.cancel()
        await asyncio.sleep(0)
        hold.set()
        assert await asyncio.gather(*calls[2::3]) == [f"a-{at}".encode() for at in range(2, 30, 3)]
        assert await pipeline.command("get", "next") == b"next"


async def test_an_error_concerns_its_call_alone(tmp_path: Path) -> None:
    """D7: Redis refuses one call; its neighbours are answered, and the connection stays."""

    def some(fake: Fake, command: Command) -> bytes:
        return b"-OOM no room\r\n" if command[-1] == b"1" else echo(fake, command)

    async with running(tmp_path, some) as (fake, pipeline):
        calls = (pipeline.command("get", str(at)) for at in range(3))
        said = await asyncio.gather(*calls, return_exceptions=True)
        assert said[::2] == [b"0", b"2"]
        assert isinstance(said[1], LedgerUnavailableError)
        assert said[1].sent
        assert len(fake.commands) == 1
        assert not pipeline.away


async def test_only_calls_without_their_script_are_sent_again(tmp_path: Path) -> None:
    """D8: NOSCRIPT loads each missing script once and sends its calls once more; the others run once, and what is refused
    twice is an error."""
    seen: set[bytes] = set()

    def forgets(_fake: Fake, command: Command) -> bytes:
        first = command[-1] not in seen
        seen.add(command[-1])
        return b"-NOSCRIPT none\r\n" if command[-1] == b"2" or (first and command[-1] == b"1") else b"+ran\r\n"

    async with running(tmp_path, forgets) as (fake, pipeline):
        await pipeline.open()
        loaded = len(fake.commands[0])
        said = await asyncio.gather(*(pipeline.script("peek", [], [at]) for at in range(3)), return_exceptions=True)
        assert said[:2] == [b"ran", b"ran"]
        assert isinstance(said[2], LedgerUnavailableError)
        later = [command if command[0] == b"SCRIPT" else command[-1] for command in fake.commands[0][loaded:]]
        assert later == [b"0", b"1", b"2", [b"SCRIPT", b"LOAD", lua.source("peek").encode()], b"1", b"2"]


async def test_what_was_under_way_when_the_connection_broke_is_sent_once_more(tmp_path: Path) -> None:
    """D7: closed in the middle of a reply, the unanswered calls go over a new connection, in their order; none runs a third
    time, and what was answered is not asked again."""

    async def breaks(fake: Fake, command: Command) -> bytes | None:
        if (command[-1] == b"2" and len(fake.commands) < 2) or command[-1] == b"5":
            fake.writers[-1].write(b"$5\r\nhal")
            await fake.writers[-1].drain()
            fake.writers[-1].close()
            raise ConnectionError
        return echo(fake, command)

    async with running(tmp_path, breaks) as (fake, pipeline):
        calls = (pipeline.command("get", str(at)) for at in range(4))
        assert await asyncio.gather(*calls) == [b"0", b"1", b"2", b"3"]
        assert [[said[-1] for said in one if said[0] == b"GET"] for one in fake.commands] == [
            [b"0", b"1", b"2", b"3"],
            [b"2", b"3"],
        ]
        with pytest.raises(LedgerUnavailableError) as caught:
            await pipeline.command("get", "5")
        assert caught.value.sent
        assert [said[-1] for one in fake.commands for said in one].count(b"5") == 2


async def test_where_nothing_listens_a_call_fails_at_once_and_unsent(tmp_path: Path) -> None:
    """D7: refused twice, a call says that nothing was sent; when Redis is back, the probe finds it."""
    fake = Fake(tmp_path / "fake.sock", echo)
    pipeline = Pipeline(open_redis(fake.url, 1.0), 60.0)
    async with asyncio.timeout(30):
        for _ in range(4):
            with pytest.raises(LedgerUnavailableError) as caught:
                await pipeline.command("get", "a")
            assert not caught.value.sent
        assert pipeline.away
        await fake.start()
        while pipeline.away:
            await asyncio.sleep(0.01)
        assert await pipeline.command("get", "a") == b"a"
    fake.stop()
    await pipeline.close()


async def test_a_silent_connection_is_given_up(tmp_path: Path) -> None:
    """D7: a call that waits longer than a connection may be silent goes over the next one."""

    def first_silent(fake: Fake, command: Command) -> bytes | None:
        return None if len(fake.commands) == 1 else echo(fake, command)

    async with running(tmp_path, first_silent, timeout_s=60.0) as (fake, pipeline):
        assert await pipeline.command("get", "a") == b"a"
        assert len(fake.commands) == 2


async def test_after_half_the_time_a_second_connection_is_asked_and_stays_the_first(tmp_path: Path) -> None:
    """D7: a call that may be sent again gets the answer of the second connection, and so do later calls, at once."""

    def first_silent(fake: Fake, command: Command) -> bytes | None:
        silent = len(fake.commands) == 1 and command[0] == b"EVALSHA"
        return None if silent else b"$%d\r\n%s\r\n" % (len(command[-1]), command[-1])

    async with running(tmp_path, first_silent, timeout_s=0.6) as (fake, pipeline):
        await pipeline.open()
        assert await pipeline.script("admit", [], ["a"], resend=True) == b"a"
        assert await pipeline.script("admit", [], ["b"]) == b"b"
        sent = [[said[-1] for said in one if said[0] == b"EVALSHA"] for one in fake.commands]
        assert sent[:2] == [[b"a"], [b"a", b"b"]]


async def test_too_many_calls_are_refused_unsent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E9: the number of calls on their way is bounded; those beyond are told at once that nothing was sent."""
    monkeypatch.setattr("sentinel.edges.ledger.pipeline._CALLS_MAX", 10)
    async with running(tmp_path, echo) as (_, pipeline):
        said = await asyncio.gather(*(pipeline.command("get", str(at)) for at in range(15)), return_exceptions=True)
        assert said[:10] == [str(at).encode() for at in range(10)]
        assert [isinstance(one, LedgerUnavailableError) and not one.sent for one in said[10:]] == [True] * 5
        assert not pipeline.away


@pytest.mark.parametrize("size", [1, 5_000])
async def test_ten_thousand_calls_at_once(redis_server: RedisServer, size: int) -> None:
    """E1: a real Redis answers 10 000 callers of one tick, each with its own, small or beyond what one write takes."""
    pipeline = Pipeline(open_redis(redis_server.url, 5.0), 30.0)
    redis = open_redis(redis_server.url, 5.0)
    await redis.flushall()
    values = [f"{at}".encode() * size for at in range(100)]
    await asyncio.gather(*(pipeline.command("set", f"k{at}", value) for at, value in enumerate(values)))
    said = await asyncio.gather(*(pipeline.command("get", f"k{at % 100}") for at in range(10_000)))
    assert all(one == values[at % 100] for at, one in enumerate(said))
    await redis.flushall()
    await redis.aclose()
    await pipeline.close()


async def test_the_greeting_says_who_asks_and_which_database(tmp_path: Path) -> None:
    """D7: user, password and database of the URL come first, then all scripts, in RESP2: nobody says HELLO."""

    def polite(_fake: Fake, command: Command) -> bytes:
        return b"+OK\r\n"

    async with running(tmp_path, polite, query="?db=3&username=anna&password=se%20cret") as (fake, pipeline):
        await pipeline.open()
        assert fake.commands[0][:2] == [[b"AUTH", b"anna", b"se cret"], [b"SELECT", b"3"]]
        assert {one[2] for one in fake.commands[0][2:]} == {lua.source(name).encode() for name in SCRIPTS}
        assert not pipeline.away


@pytest.mark.parametrize("refused", [b"AUTH", b"SELECT"])
async def test_a_refused_greeting_is_no_connection(tmp_path: Path, refused: bytes) -> None:
    """D7: a wrong password or database is a Redis that is away, and no call is sent."""

    def rude(_fake: Fake, command: Command) -> bytes:
        return b"-WRONGPASS no\r\n" if command[0] == refused else b"+OK\r\n"

    async with running(tmp_path, rude, query="?db=3&password=x") as (fake, pipeline):
        await pipeline.open()
        assert pipeline.away
        with pytest.raises(LedgerUnavailableError):
            await pipeline.command("get", "a")
        assert not any(said[0] == b"GET" for one in fake.commands for said in one)


async def test_tls_is_verified(tmp_path: Path) -> None:
    """H5: rediss:// talks to a server whose certificate the given authority signed, and to no other."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *files, *subject], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    fake = Fake(tmp_path / "unused", echo)
    await fake.start(context)
    trusting = Pipeline(open_redis(f"{fake.url}?ssl_ca_certs={certificate}", 1.0), 5.0)
    assert await trusting.command("get", "a") == b"a"
    await trusting.close()
    strict = Pipeline(open_redis(fake.url, 1.0), 5.0)
    with pytest.raises(LedgerUnavailableError) as caught:
        await strict.command("get", "a")
    assert not caught.value.sent
    fake.stop()
    await strict.close()


def test_it_runs_on_the_loop_of_production(redis_server: RedisServer) -> None:
    """G1: the same over uvloop's transports: cancelled callers among others, on a real Redis."""

    async def run() -> None:
        pipeline = Pipeline(open_redis(redis_server.url, 5.0), 5.0)
        await pipeline.open()
        await asyncio.gather(*(pipeline.command("set", f"u{at}", str(at), "EX", 60) for at in range(50)))
        for _ in range(20):
            calls = [asyncio.create_task(pipeline.command("get", f"u{at}")) for at in range(50)]
            await asyncio.sleep(0)
            for call in calls[::3]:
                call.cancel()
            said = await asyncio.gather(*calls, return_exceptions=True)
            assert all(one == str(at).encode() for at, one in enumerate(said) if at % 3)
        assert not pipeline.away
        await pipeline.close()

    uvloop.run(run())
