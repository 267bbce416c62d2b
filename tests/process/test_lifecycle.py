"""Starting, stopping, and what goes on while Redis or Zion is away: a stack of its own, since its parts are killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest
import pytest_asyncio

from sentinel import __version__
from sentinel.devstack.stack import Stack
from tests.support import covering
from tests.support.running import HELLO, User, make_user, reconciled, redis_away, sdk, whole

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_REPORT_RETRY_SECONDS": "0.2",
    "SENTINEL_ZION_BREAKER_SECONDS": "0.5",
    "SENTINEL_DRAIN_SECONDS": "1",
    "SENTINEL_ON_REDIS_DOWN": "closed",
    "ZION_TIMEOUT_SECONDS": "1",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One stack for most of these."""
    async with Stack(tmp_path_factory.mktemp("lifecycle"), settings=SETTINGS) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own(shared: Stack) -> Stack:
    """A stack whose parts a test may stop. One worker may be killed here: a second death within seconds stops the server."""
    return await whole(shared)


async def state(stack: Stack) -> tuple[int, dict[str, str]]:
    """The readiness answer."""
    async with aiohttp.ClientSession() as http, http.get(f"{stack.url}/health/ready") as response:
        return response.status, (await response.json())["checks"]


async def test_sigterm_lets_streams_end_and_loses_no_usage(own: Stack) -> None:
    """A stream that ends within the drain ends well; one that does not is told so, in the stream; both are billed."""
    quick, slow = await make_user(own), await make_user(own)

    async def stream(user: User, begun: asyncio.Event, simulate: dict[str, object]) -> str:
        async with sdk(own, user.token) as client:
            text = ""
            async for chunk in await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, user=user.email, stream=True, extra_body={"simulate": simulate}
            ):
                text += chunk.choices[0].delta.content or ""
                begun.set()
            return text

    slow_begun, quick_begun = asyncio.Event(), asyncio.Event()
    stalls = asyncio.create_task(stream(slow, slow_begun, {"stall_after_events": 4}))
    await asyncio.wait_for(slow_begun.wait(), 10)
    # The last to begin, so that it has not ended before the drain.
    ends = asyncio.create_task(stream(quick, quick_begun, {"stall_after_events": 4, "stall_s": 0.5}))
    await asyncio.wait_for(quick_begun.wait(), 10)
    await own.stop("sentinel")
    assert await ends
    with pytest.raises(openai.APIError) as caught:
        await stalls
    assert caught.value.code == "draining"
    assert own.child("sentinel").returncode == 0
    # What Zion did not take in time waits in Redis for whoever comes next.
    await own.start("sentinel")
    given, taken = await reconciled(own, [quick, slow])
    assert given == taken
    assert set(taken) == {quick.email, slow.email}


async def test_usage_waits_while_zion_is_away(own: Stack) -> None:
    """A warm caller is served on stale limits while Zion is away, an unknown one gets 503; usage is reported afterwards."""
    warm, cold = await make_user(own), await make_user(own)
    async with sdk(own, warm.token) as client, sdk(own, cold.token) as stranger:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=warm.email)
        await own.control("zion", "faults", {"status": 500})
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=warm.email)
        with pytest.raises(openai.InternalServerError) as caught:
            await stranger.chat.completions.create(model="gpt-4o", messages=HELLO, user=cold.email)
        assert (caught.value.status_code, caught.value.code) == (503, "governance_unavailable")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        await own.control("zion", "reset", {"faults": True})
        await stranger.chat.completions.create(model="gpt-4o", messages=HELLO, user=cold.email)
    given, taken = await reconciled(own, [warm, cold])
    assert given == taken
    assert taken[warm.email][0] == 2


async def test_a_reply_of_zion_that_is_lost_counts_nothing_twice(own: Stack) -> None:
    """Zion applied a report and dropped the connection: the same report goes again under the same key."""
    user = await make_user(own)
    before = (await own.control("zion", "ledger"))["replayed"]
    await own.control("zion", "faults", {"apply_then_drop": True, "call": "batch", "times": 1})
    async with sdk(own, user.token) as client:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
    for _ in range(200):
        if (await own.control("zion", "ledger"))["replayed"] > before:
            break
        await asyncio.sleep(0.05)
    assert (await own.control("zion", "ledger"))["replayed"] == before + 1
    given, taken = await reconciled(own, [user])
    assert given == taken


async def introduce(stack: Stack, user: User) -> None:
    """Have both workers know whose token it is, so that Zion need not be asked again."""
    workers: set[str] = set()
    async with asyncio.timeout(20):
        while len(workers) < 2:
            headers = {"authorization": f"Bearer {user.token}"}
            async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{stack.base_url}/usage") as response:
                assert response.status == 200
                workers.add(response.headers["x-request-id"].split("_")[1])


async def test_redis_away_is_503_and_passes(own: Stack) -> None:
    """Closed: nothing can be held, so 503 and unready; when Redis is back, so is everything, and a waiting bill is written."""
    user = await make_user(own)
    await introduce(own, user)
    async with sdk(own, user.token) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o",
            messages=HELLO,
            user=user.email,
            stream=True,
            extra_body={"simulate": {"stall_after_events": 4, "stall_s": 1}},
        )
        await own.stop("redis")
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
        assert (caught.value.status_code, caught.value.code) == (503, "ledger_unavailable")
        assert (await state(own))[0] == 503
        async for _ in stream:
            pass
        await own.start("redis")
        await redis_away(own, 0)
        assert (await state(own))[0] == 200
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert taken[user.email][0] == 2


async def test_a_dead_worker_is_replaced(own: Stack) -> None:
    """kill -9 of one worker: the other serves on, and a new one comes."""
    parent = own.child("sentinel").pid
    before = _children(parent)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    user = await make_user(own)
    async with asyncio.timeout(20):
        while len(set(_children(parent)) - {before[0]}) < 2:
            await asyncio.sleep(0.1)
    async with sdk(own, user.token, retries=2) as client:
        for _ in range(4):
            await client.models.list()


async def test_a_wrong_key_for_zion_is_loud(own: Stack) -> None:
    """zion.md: 401 on an external endpoint is a fault of the configuration: readiness says so."""
    user = await make_user(own)
    await own.control("zion", "faults", {"status": 401, "call": "limits"})
    async with sdk(own, user.token) as client:
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
    answers = [await state(own) for _ in range(20)]
    assert (503, "refuses the key of this deployment") in {(status, checks["zion"]) for status, checks in answers}


async def test_sigterm_while_a_worker_starts_is_heard(tmp_path: Path) -> None:
    """A worker that is told to stop before it can hear ends as soon as it can, without having served; exit 0."""
    async with Stack(tmp_path, settings=SETTINGS) as own:
        parent = own.child("sentinel").pid
        before = _children(parent)
        # Opening takes as long as a silent Redis is waited for.
        await own.kill("redis", signal.SIGSTOP)
        try:
            os.kill(before[0], signal.SIGKILL)
            async with asyncio.timeout(20):
                while not set(_children(parent)) - set(before):
                    await asyncio.sleep(0.002)
            await own.stop("sentinel")
        finally:
            await own.kill("redis", signal.SIGCONT)
        assert own.child("sentinel").returncode == 0
        log = own.child("sentinel").output()
        assert "Traceback" not in log
        boots = {json.loads(line)["boot"] for line in log.splitlines() if '"event":"worker open"' in line}
        closed = {json.loads(line)["boot"] for line in log.splitlines() if '"event":"worker closed"' in line}
        # All but the one that was killed, perhaps before it was open.
        assert (len(closed), closed <= boots) == (2, True)


def _children(pid: int) -> list[int]:
    """The worker processes of a supervisor."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(stat[1]) == pid and stat[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


async def test_the_window_is_kept_over_all_workers(tmp_path: Path) -> None:
    """Never more than the window's requests, over 2 workers; the refusal says when to come back, and then it is let in."""
    settings = {
        "SENTINEL_RATE_LIMIT_REQUESTS": "5",
        "SENTINEL_RATE_LIMIT_TOKENS": "200",
        "SENTINEL_RATE_LIMIT_WINDOW_SECONDS": "2",
    }
    async with Stack(tmp_path, settings=settings) as running:
        user = await make_user(running)

        async def one() -> str:
            async with sdk(running, user.token) as client:
                try:
                    await client.models.list()
                except openai.RateLimitError as error:
                    headers = error.response.headers
                    assert error.code == "rate_limit_exceeded"
                    assert headers["x-ratelimit-limit"] == "5"
                    assert headers["x-ratelimit-remaining"] == "0"
                    assert 1 <= int(headers["retry-after-ms"]) <= 2400
                    return "refused"
                return "served"

        ends = await asyncio.gather(*(one() for _ in range(30)))
        assert ends.count("served") == 5
        async with sdk(running, user.token, retries=2) as client:
            await client.models.list()
        other = await make_user(running)
        async with sdk(running, other.token) as client:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=120)
            with pytest.raises(openai.RateLimitError, match="tokens: limit 200") as caught:
                await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=200)
            assert "x-should-retry" not in caught.value.response.headers
            answer = await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, extra_body={"simulate": {"output_tokens": 1000}}
            )
        assert answer.choices[0].finish_reason == "length"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`sentinel …` with nothing in its environment but what is given."""
    return subprocess.run(
        [sys.executable, "-m", "sentinel", *arguments],
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            **covering.told,
            **environ,
        },
        timeout=30,
        check=False,
        cwd="/",
    )


COMPLETE = {"ZION_API_URL": "http://127.0.0.1:9", "ZION_API_KEY": "zk-canary", "OPENAI_API_KEY": "sk-canary"}


async def test_the_version_is_told() -> None:
    """`sentinel --version`."""
    assert run("--version").stdout == f"sentinel {__version__}\n"


async def test_settings_are_shown_without_secrets() -> None:
    """`sentinel config` shows what is in effect."""
    done = run("config", **COMPLETE, SENTINEL_PORT="9999")
    assert done.returncode == 0
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) > 1)
    assert rows["SENTINEL_PORT"] == "9999"
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["serve", "config"])
async def test_wrong_settings_are_all_named(command: str) -> None:
    """Exit 2, and one line for each problem, by variable name."""
    done = run(command, SENTINEL_PORT="x", SENTINEL_WORKERS="0")
    assert done.returncode == 2
    named = {line.removeprefix("sentinel: ").split()[0] for line in done.stderr.splitlines()}
    assert named == {"SENTINEL_PORT", "SENTINEL_WORKERS", "ZION_API_URL", "ZION_API_KEY", "VERCEL_AI_GATEWAY_API_KEY"}


async def test_a_port_in_use_is_one_sentence(stack: Stack) -> None:
    """`sentinel serve` on a port somebody serves: exit 1, no share of it taken."""
    done = await asyncio.to_thread(run, "serve", **COMPLETE, SENTINEL_HOST="127.0.0.1", SENTINEL_PORT=str(stack.port))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "SENTINEL_PORT" in done.stderr


async def test_health_answers_without_a_key(stack: Stack) -> None:
    """An orchestrator needs no token: live says that the loop runs, ready what it depends on."""
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{stack.url}/health/live") as response:
            assert (response.status, await response.json()) == (200, {"status": "live"})
        async with http.head(f"{stack.url}/health/ready") as response:
            assert response.status == 200
    assert await state(stack) == (200, {"admitting": "ok", "redis": "ok", "journal": "ok", "zion": "ok"})


async def test_metrics_merge_the_workers(stack: Stack) -> None:
    """/metrics is one page for all workers: soon it shows all of them, and figures only grow."""
    user = await make_user(stack)
    async with sdk(stack, user.token) as client:
        for _ in range(10):
            await client.models.list()
    counts = [0.0]
    async with aiohttp.ClientSession() as http, asyncio.timeout(10):
        while counts[-1] < 10 or len(counts) < 8:
            async with http.get(f"{stack.admin_url}/metrics") as response:
                page = await response.text()
            shown = [
                line for line in page.splitlines() if line.startswith('sentinel_requests_total{route="models",status="200"}')
            ]
            counts.append(float(shown[0].split()[-1]) if shown else 0)
            await asyncio.sleep(0.05)
    assert counts == sorted(counts)


async def test_logs_are_json_lines_without_secrets(stack: Stack) -> None:
    """One line a request, machine-readable, with the id the client saw and nothing secret."""
    user = await make_user(stack)
    async with sdk(stack, user.token) as client:
        raw = await client.models.with_raw_response.list()
    assert raw.headers["server"] == "sentinel"
    assert all(json.loads(line)["level"] for line in stack.child("sentinel").output().splitlines())
    for _ in range(100):
        lines = [json.loads(line) for line in stack.child("sentinel").output().splitlines() if '"event":"request"' in line]
        found = [line for line in lines if line.get("request_id") == raw.headers["x-request-id"]]
        if found:
            break
        await asyncio.sleep(0.02)
    assert (found[0]["route"], found[0]["status"], found[0]["ending"]) == ("models", 200, "success")
    assert user.token not in str(lines)
