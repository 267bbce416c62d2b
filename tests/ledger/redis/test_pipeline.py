"""pipeline and link: against a Redis that answers as it is told, lies, breaks off or says nothing, and against a real one."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
import uvloop

from sentinel.ledger import open_redis, scripts
from sentinel.ledger.redis.pipeline import SCRIPTS, Pipeline
from sentinel.ops.errors import LedgerUnavailableError
from tests.support.fake_redis import Command, Fake, echo, running
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]


async def test_callers_of_one_tick_leave_in_one_write(tmp_path: Path) -> None:
    """What one tick asks is one write, and everybody gets its own."""
    async with running(tmp_path, echo) as (fake, pipeline):
        await pipeline.open()
        fake.chunks.clear()
        said = await asyncio.gather(*(pipeline.command("get", f"name-{at}") for at in range(100)))
        assert said == [f"name-{at}".encode() for at in range(100)]
        assert fake.chunks == [100]


async def test_leavers_shift_nobodys_reply(tmp_path: Path) -> None:
    """Callers that are cancelled, before or after they are sent, and those that are late, keep their places empty."""
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
    """Redis refuses one call; its neighbours are answered, and the connection stays."""

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
    """NOSCRIPT loads each missing script once and sends its calls once more; the others run once, and what is refused
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
        assert later == [b"0", b"1", b"2", [b"SCRIPT", b"LOAD", scripts.source("peek").encode()], b"1", b"2"]


async def test_what_was_under_way_when_the_connection_broke_is_sent_once_more(tmp_path: Path) -> None:
    """Closed in the middle of a reply, the unanswered calls go over a new connection, in their order; none runs a third
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
    """Refused twice, a call says that nothing was sent; when Redis is back, the probe finds it."""
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
    """A call that waits longer than a connection may be silent goes over the next one."""

    def first_silent(fake: Fake, command: Command) -> bytes | None:
        return None if len(fake.commands) == 1 else echo(fake, command)

    async with running(tmp_path, first_silent, timeout_s=60.0) as (fake, pipeline):
        assert await pipeline.command("get", "a") == b"a"
        assert len(fake.commands) == 2


async def test_after_half_the_time_a_second_connection_is_asked_and_stays_the_first(tmp_path: Path) -> None:
    """A call that may be sent again gets the answer of the second connection, and so do later calls, at once."""

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
    """The number of calls on their way is bounded; those beyond are told at once that nothing was sent."""
    monkeypatch.setattr("sentinel.ledger.redis.link.CALLS_MAX", 10)
    async with running(tmp_path, echo) as (_, pipeline):
        said = await asyncio.gather(*(pipeline.command("get", str(at)) for at in range(15)), return_exceptions=True)
        assert said[:10] == [str(at).encode() for at in range(10)]
        assert [isinstance(one, LedgerUnavailableError) and not one.sent for one in said[10:]] == [True] * 5
        assert not pipeline.away


@pytest.mark.parametrize("size", [1, 5_000])
async def test_ten_thousand_calls_at_once(redis_server: RedisServer, size: int) -> None:
    """A real Redis answers 10 000 callers of one tick, each with its own, small or beyond what one write takes."""
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
    """User, password and database of the URL come first, then all scripts, in RESP2: nobody says HELLO."""

    def polite(_fake: Fake, command: Command) -> bytes:
        return b"+OK\r\n"

    async with running(tmp_path, polite, query="?db=3&username=anna&password=se%20cret") as (fake, pipeline):
        await pipeline.open()
        assert fake.commands[0][:2] == [[b"AUTH", b"anna", b"se cret"], [b"SELECT", b"3"]]
        assert {one[2] for one in fake.commands[0][2:]} == {scripts.source(name).encode() for name in SCRIPTS}
        assert not pipeline.away


@pytest.mark.parametrize("refused", [b"AUTH", b"SELECT"])
async def test_a_refused_greeting_is_no_connection(tmp_path: Path, refused: bytes) -> None:
    """A wrong password or database is a Redis that is away, and no call is sent."""

    def rude(_fake: Fake, command: Command) -> bytes:
        return b"-WRONGPASS no\r\n" if command[0] == refused else b"+OK\r\n"

    async with running(tmp_path, rude, query="?db=3&password=x") as (fake, pipeline):
        await pipeline.open()
        assert pipeline.away
        with pytest.raises(LedgerUnavailableError):
            await pipeline.command("get", "a")
        assert not any(said[0] == b"GET" for one in fake.commands for said in one)


async def test_tls_is_verified(tmp_path: Path) -> None:
    """Rediss:// talks to a server whose certificate the given authority signed, and to no other."""
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
    """The same over uvloop's transports: cancelled callers among others, on a real Redis."""

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
