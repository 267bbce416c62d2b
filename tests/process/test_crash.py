"""kill -9 of workers and of Redis, at the worst moments: afterwards Zion has booked what the provider served, once."""

import asyncio
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from sentinel.devstack.stack import Stack
from tests.process.test_lifecycle import _children
from tests.support import older
from tests.support.journals import entries_of
from tests.support.running import HELLO, User, booked, kill_workers, make_user, reconciled, redis_away, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

WAIT_S = 20.0
CHAT = {"model": "gpt-4o", "messages": HELLO}


# Whatever is given up is given up soon.
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_LEASE_SECONDS": "5",
    "SENTINEL_REPORT_RETRY_SECONDS": "0.2",
    "SENTINEL_ZION_BREAKER_SECONDS": "0.2",
    "SENTINEL_REDIS_TIMEOUT_SECONDS": "0.2",
    "SENTINEL_DRAIN_SECONDS": "1",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack whose parts are killed; each test leaves all of them running."""
    async with Stack(tmp_path_factory.mktemp("crash"), settings=SETTINGS) as running:
        yield running


async def until(true: Callable[[], bool]) -> None:
    """Wait until this is true. TimeoutError after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.02)


def journals(stack: Stack) -> list[Path]:
    """The journal files of this host."""
    return sorted((stack.directory / "journal").glob("*.jsonl"))


def settled(stack: Stack, user: User) -> list[Path]:
    """The files in which a request of this user is settled, one for each."""
    return [
        path for path in journals(stack) for entry in entries_of(path) if entry.kind == "settled" and entry.email == user.email
    ]


def writer(stack: Stack, path: Path) -> int:
    """The process that has this file open."""
    for pid in _children(stack.child("sentinel").pid):
        if any(link.resolve() == path for link in Path(f"/proc/{pid}/fd").iterdir()):
            return pid
    raise AssertionError(f"nobody writes {path.name}")


async def at_work(stack: Stack, user: User) -> None:
    """Wait until the provider works on a request of this user."""
    async with asyncio.timeout(WAIT_S):
        while True:
            rows = (await stack.control("provider", "served"))["rows"]
            if any(row["user"] == user.email and row["input_tokens"] for row in rows):
                return
            await asyncio.sleep(0.02)


async def read(client: AsyncOpenAI, user: User, simulate: dict[str, object], seen: list[str]) -> None:
    """A stream, read to its end."""
    stream = await client.chat.completions.create(**CHAT, user=user.email, stream=True, extra_body={"simulate": simulate})
    async for chunk in stream:
        seen += [choice.delta.content or "" for choice in chunk.choices]


async def test_killed_before_the_provider_answers(own: Stack) -> None:
    """The provider worked on the prompt: the lease ends, and the prompt is booked, once."""
    user = await make_user(own)
    async with sdk(own, user.token) as client:
        simulate = {"delay_ms": 60_000, "output_tokens": 0}
        asking = asyncio.create_task(client.chat.completions.create(**CHAT, user=user.email, extra_body={"simulate": simulate}))
        await at_work(own, user)
        await kill_workers(own)
        with pytest.raises(openai.APIError):
            await asking
        await own.start("sentinel")
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert taken[user.email][0] == 1


def kill_at_the_second_request(listening: socket.socket, pid: int) -> None:
    """A provider that answers one request, and kills its client as soon as a byte of the next has come."""
    connection, _ = listening.accept()
    with connection:
        while b"\r\n\r\n" not in connection.recv(65_536):
            pass
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"data":[]}')
        connection.recv(1)
        os.kill(pid, signal.SIGKILL)


async def test_killed_at_the_first_byte_that_goes_up(tmp_path: Path) -> None:
    """A worker that dies when the provider gets a byte, while Redis is away, has that in its journal: the prompt
    is booked, once.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = {
            "SENTINEL_REDIS_TIMEOUT_SECONDS": "0.2",
            "SENTINEL_DRAIN_SECONDS": "1",
            "OPENAI_API_URL": f"http://127.0.0.1:{listening.getsockname()[1]}/v1",
        }
        async with Stack(tmp_path, workers=1, settings=settings) as stack:
            user = await make_user(stack)
            (pid,) = _children(stack.child("sentinel").pid)
            provider = threading.Thread(target=kill_at_the_second_request, args=(listening, pid), daemon=True)
            provider.start()
            async with sdk(stack, user.token) as client:
                await client.models.list()
                await stack.kill("redis")
                with pytest.raises(openai.APIConnectionError):
                    await client.chat.completions.create(**CHAT, user=user.email)
            provider.join()
            await stack.start("redis")
            async with asyncio.timeout(WAIT_S):
                while (await booked(stack)).get(user.email, (0, 0, 0))[0] < 2:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1)  # a second charge would come with the next looks at the journals
            requests, given, produced = (await booked(stack))[user.email]
            assert (requests, produced) == (2, 0)
            assert given > 0


async def test_killed_in_the_middle_of_a_stream(own: Stack) -> None:
    """Counted once, with the exact prompt and what was produced up to the last renewal of the lease at most."""
    user = await make_user(own)
    seen: list[str] = []
    async with sdk(own, user.token) as client:
        asking = asyncio.create_task(read(client, user, {"stall_after_events": 8, "output_tokens": 20}, seen))
        await until(lambda: len(seen) >= 8)
        await kill_workers(own)
        with pytest.raises(openai.APIError):
            await asking
        await own.start("sentinel")
    async with asyncio.timeout(WAIT_S):
        while user.email not in (sums := await booked(own)):
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)  # a second charge would come with the next looks at the journals
    assert await booked(own) == sums
    rows = [row for row in (await own.control("provider", "served"))["rows"] if row["user"] == user.email]
    requests, given, produced = sums[user.email]
    assert (requests, given) == (1, rows[0]["input_tokens"])
    assert 0 <= produced <= 8


async def test_killed_between_the_bill_and_redis(own: Stack) -> None:
    """Redis is frozen when the answer ends, and the workers die before it thaws: the bill is read from the journal."""
    user = await make_user(own)
    seen: list[str] = []
    async with sdk(own, user.token) as client:
        asking = asyncio.create_task(read(client, user, {"stall_after_events": 4, "stall_s": 0.5, "output_tokens": 9}, seen))
        await until(lambda: len(seen) >= 4)
        await own.kill("redis", signal.SIGSTOP)
        try:
            await asking
            await until(lambda: bool(settled(own, user)))
            await kill_workers(own)
        finally:
            await own.kill("redis", signal.SIGCONT)
        await own.start("sentinel")
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert taken[user.email] == (1, taken[user.email][1], 9)


async def test_a_living_sibling_tells_what_a_dead_worker_owed(own: Stack) -> None:
    """One of two workers is killed with a bill that Redis does not have: the other adopts its journal."""
    user = await make_user(own)
    async with sdk(own, user.token) as client:
        await client.chat.completions.create(**CHAT, user=user.email)
        await own.kill("redis", signal.SIGSTOP)
        try:
            stopped = len(settled(own, user))
            await client.chat.completions.create(**CHAT, user=user.email)
            await until(lambda: len(settled(own, user)) > stopped)
            path = settled(own, user)[-1]
            (sibling,) = [pid for pid in _children(own.child("sentinel").pid) if pid != writer(own, path)]
            os.kill(writer(own, path), signal.SIGKILL)
        finally:
            await own.kill("redis", signal.SIGCONT)
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert taken[user.email][0] == 2
    await until(lambda: "the journal of a dead worker was told" in own.child("sentinel").output())
    assert sibling in _children(own.child("sentinel").pid)


async def test_redis_killed_and_started_again_under_traffic(own: Stack) -> None:
    """Requests go on from slices or are refused; every one that was served is booked, and none twice."""
    users = [await make_user(own) for _ in range(4)]
    ends: Counter[str] = Counter()
    over = asyncio.Event()

    async def ask(user: User) -> None:
        async with sdk(own, user.token) as client:
            while not over.is_set():
                try:
                    await client.chat.completions.create(**CHAT, user=user.email)
                    ends["served"] += 1
                except openai.InternalServerError as error:
                    ends[str(error.code)] += 1
                    await asyncio.sleep(0.05)

    asking = [asyncio.create_task(ask(user)) for user in users for _ in range(3)]
    await until(lambda: ends["served"] > 50)
    await own.kill("redis")
    before = ends["served"]
    await asyncio.sleep(1.5)
    await own.start("redis")
    await redis_away(own, 0)
    await until(lambda: ends["served"] > before + 100)
    over.set()
    await asyncio.gather(*asking)
    assert set(ends) <= {"served", "ledger_unavailable"}
    given, taken = await reconciled(own, users)
    assert given == taken
    assert sum(sums[0] for sums in taken.values()) == ends["served"]


async def test_a_redis_that_lost_its_last_moments(own: Stack) -> None:
    """Redis comes back with an older append-only file: bills it had taken since are told again, and none twice."""
    user = await make_user(own)
    async with sdk(own, user.token) as client:
        await client.chat.completions.create(**CHAT, user=user.email)
        assert (await reconciled(own, [user]))[1][user.email][0] == 1
        before = await older.copy(own)
        for _ in range(10):
            await client.chat.completions.create(**CHAT, user=user.email)
        await own.kill("redis")
        await older.bring_back(own, before)
        await redis_away(own, 0)
        await client.chat.completions.create(**CHAT, user=user.email)
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert taken[user.email][0] == 12


async def test_a_journal_that_cannot_be_written_refuses_new_work(own: Stack) -> None:
    """503 `journal_full` and not ready, while a stream that runs ends well and is booked; then all is well again."""
    user = await make_user(own)
    folder = own.directory / "journal"
    seen: list[str] = []
    async with sdk(own, user.token) as client, aiohttp.ClientSession() as http:
        asking = asyncio.create_task(read(client, user, {"stall_after_events": 4, "stall_s": 4, "output_tokens": 9}, seen))
        await until(lambda: len(seen) >= 4)
        folder.rename(own.directory / "aside")
        folder.write_text("not a directory")
        codes: set[object] = set()
        async with asyncio.timeout(WAIT_S):
            while "journal_full" not in codes:
                try:
                    await client.chat.completions.create(**CHAT, user=user.email)
                except openai.InternalServerError as error:
                    codes.add(error.code)
        folder.unlink()
        (own.directory / "aside").rename(folder)
        await asking
        async with asyncio.timeout(WAIT_S):
            while True:
                async with http.get(f"{own.url}/health/ready") as response:
                    if response.status == 200 and (await response.json())["checks"]["journal"] == "ok":
                        break
                await asyncio.sleep(0.1)
        await client.chat.completions.create(**CHAT, user=user.email)
    given, taken = await reconciled(own, [user])
    assert given == taken
