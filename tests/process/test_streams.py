"""Streams, to the byte and to the moment: what a scripted provider sends, stalls, cuts or sees closed, through real Granian."""

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest

from sentinel.devstack.stack import Stack
from tests.support import sockets
from tests.support.memory import rss_bytes, worker_pid
from tests.support.running import HELLO, User, booked, make_user, sdk
from tests.support.scripted import DONE, END, STREAM_HEAD, Asked, Scripted, chunk, event, plain, usage

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

TEXT = "The river was wide and slow in the evening, and the small boat moved along the bank without a sound."


@dataclass
class Town:
    """A stack with one worker, whose provider does what a test says."""

    stack: Stack
    provider: Scripted

    async def bill(self, user: User) -> tuple[int, int, int]:
        """What Zion has booked for `user` (requests, input, output), once it has."""
        async with asyncio.timeout(10):
            while user.email not in (sums := await booked(self.stack)):
                await asyncio.sleep(0.02)
        return sums[user.email]


@pytest.fixture(scope="module")
def town(scripted: tuple[Stack, Scripted]) -> Town:
    """The stack whose provider is scripted, without what other files wrote for it."""
    scripted[1].acts.clear()
    return Town(*scripted)


def request(user: User, act: str, *, stream: bool = True) -> dict[str, object]:
    """The arguments of one chat for `http.post`."""
    body = {"model": "gpt-4o", "messages": HELLO, "stream": stream, "act": act}
    return {"json": body, "headers": {"authorization": f"Bearer {user.token}"}}


async def answered(town: Town, http: aiohttp.ClientSession, user: User, act: str) -> bytes:
    """The whole body of one streamed chat."""
    async with http.post(f"{town.stack.base_url}/chat/completions", **request(user, act)) as response:  # type: ignore[arg-type]
        return await response.read()


async def test_no_small_write_is_held_back(town: Town, http: aiohttp.ClientSession) -> None:
    """Rule S6: TCP_NODELAY is on the sockets of both sides of a stream that is open."""
    user = await make_user(town.stack)
    go = asyncio.Event()

    async def one_event(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event("a")))
        await go.wait()
        writer.write(chunk(event("b", finish="stop") + DONE) + END)

    town.provider.acts["nodelay"] = one_event
    async with http.post(f"{town.stack.base_url}/chat/completions", **request(user, "nodelay")) as response:  # type: ignore[arg-type]
        await response.content.readany()
        try:
            held = sockets.connected(town.stack)
        except PermissionError:
            pytest.skip("this system does not let one process look at another's sockets")
        sides = {
            "downstream": [one for one in held if one.getsockname()[1] == town.stack.port],
            "upstream": [one for one in held if one.getpeername()[1] == urlsplit(town.provider.url).port],
        }
        for side, found in sides.items():
            assert found, side
            assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in found), side
        for one in held:
            one.close()
        go.set()
        await response.read()


async def test_headers_wait_for_the_providers(town: Town, http: aiohttp.ClientSession) -> None:
    """Rules O3, S8: no status before the provider's own, which is the client's; a stream says that nobody may buffer it."""
    user = await make_user(town.stack)
    go = asyncio.Event()

    async def late(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(plain(b'{"error":{"message":"no","type":"t","param":null,"code":null}}', status="429 Slow"))

    async def well(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event("a", finish="stop")) + chunk(usage(3, 1) + DONE) + END)

    town.provider.acts |= {"late": late, "well": well}
    call = asyncio.create_task(answered(town, http, user, "late"))
    done, _ = await asyncio.wait([call], timeout=0.3)
    assert not done
    go.set()
    assert json.loads(await call)["error"]["message"] == "no"
    async with http.post(f"{town.stack.base_url}/chat/completions", **request(user, "well")) as response:  # type: ignore[arg-type]
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        assert "content-encoding" not in response.headers
        assert await response.read() == event("a", finish="stop") + DONE


async def test_each_read_goes_down_before_the_next_is_sent(town: Town, http: aiohttp.ClientSession) -> None:
    """Rules S6, O2: every event is with the client before the provider sends the next, however long that takes."""
    user = await make_user(town.stack)
    received = asyncio.Semaphore(0)

    async def turns(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for number in range(20):
            writer.write(chunk(event(str(number))))
            await writer.drain()
            await received.acquire()
        writer.write(chunk(event("", finish="stop") + usage(3, 20) + DONE) + END)

    town.provider.acts["turns"] = turns
    async with (
        asyncio.timeout(10),
        http.post(f"{town.stack.base_url}/chat/completions", **request(user, "turns")) as response,  # type: ignore[arg-type]
    ):
        for number in range(20):
            assert await response.content.readany() == event(str(number))
            received.release()
        assert await response.content.read() == event("", finish="stop") + DONE


@pytest.mark.parametrize("content", ["text/event-stream", "application/json"])
async def test_the_answers_own_type_decides(town: Town, http: aiohttp.ClientSession, content: str) -> None:
    """Rule S5: a stream that was asked for and answered as JSON is a plain body; events nobody asked for are a stream."""
    user = await make_user(town.stack)
    whole = b'{"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'

    async def other(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        body = whole if content == "application/json" else event("a", finish="stop") + usage(5, 2) + DONE
        writer.write(plain(body, kind=content))

    town.provider.acts["other"] = other
    call = request(user, "other", stream=content == "application/json")
    async with http.post(f"{town.stack.base_url}/chat/completions", **call) as response:  # type: ignore[arg-type]
        body = await response.read()
    # Nobody asked for the usage of the second on the caller's behalf, so it is shown.
    assert body == (whole if content == "application/json" else event("a", finish="stop") + usage(5, 2) + DONE)
    assert await town.bill(user) == (1, 5, 2)


@pytest.mark.parametrize("window", ["before the headers", "between two events"])
async def test_a_client_that_leaves_ends_the_call(town: Town, http: aiohttp.ClientSession, window: str) -> None:
    """Rules D1, D2, D4, T5: in both windows the provider's connection is closed, and what was produced is billed.

    A plain answer is read on (tests/hostile/test_leaving.py).
    """
    user = await make_user(town.stack)
    begun = asyncio.Event()
    asked_one: list[Asked] = []

    async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
        asked_one.append(asked)
        if window == "between two events":
            writer.write(STREAM_HEAD + chunk(event(TEXT)))
        await writer.drain()
        begun.set()
        await asyncio.sleep(60)

    town.provider.acts["endless"] = endless

    async def leave() -> None:
        call = request(user, "endless", stream=True)
        async with http.post(f"{town.stack.base_url}/chat/completions", **call) as response:  # type: ignore[arg-type]
            await response.content.readany()
            await response.content.readany()

    leaver = asyncio.create_task(leave())
    await begun.wait()
    await asyncio.sleep(0.1)
    leaver.cancel()
    await asyncio.wait([leaver])
    async with asyncio.timeout(1):
        await asked_one[0].gone.wait()
    requests, input_tokens, output_tokens = await town.bill(user)
    assert requests == 1
    assert input_tokens > 0
    assert (output_tokens >= len(TEXT) // 6) is (window == "between two events")


async def test_leaving_after_the_end_is_success(town: Town) -> None:
    """Rule D5: SDKs close on purpose after [DONE]: it is a success, ends at once, and the provider's connection is kept."""
    user = await make_user(town.stack)
    ended = asyncio.Event()

    async def lingering(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event("a", finish="stop")) + chunk(usage(4, 9)) + chunk(DONE))
        await writer.drain()
        await ended.wait()
        writer.write(END)

    town.provider.acts["lingering"] = lingering
    connections = town.provider.connections
    for _ in range(3):
        ended.clear()
        async with asyncio.timeout(5), sdk(town.stack, user.token) as client:
            stream = await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, stream=True, extra_body={"act": "lingering"}
            )
            assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "a"
        ended.set()
        await asyncio.sleep(0.1)
    assert town.provider.connections <= connections + 1
    async with asyncio.timeout(10):
        while (await booked(town.stack)).get(user.email) != (3, 12, 27):
            await asyncio.sleep(0.02)


async def test_a_silent_provider_is_told_in_the_stream(town: Town) -> None:
    """Rules D7, F1: a stream that stalls past the idle bound ends with an error event that the SDK raises."""
    user = await make_user(town.stack)

    async def stalls(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event(TEXT)))
        await writer.drain()
        await asyncio.sleep(60)

    town.provider.acts["stalls"] = stalls
    seen = []
    async with sdk(town.stack, user.token) as client:
        with pytest.raises(openai.APIError) as caught:
            async for part in await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, stream=True, extra_body={"act": "stalls"}
            ):
                seen.append(part.choices[0].delta.content)
    assert seen == [TEXT]
    assert (caught.value.code, caught.value.type) == ("upstream_timeout", "server_error")
    requests, _, output_tokens = await town.bill(user)
    assert requests == 1
    assert output_tokens >= len(TEXT) // 6


async def test_what_cannot_carry_an_error_is_cut(town: Town, http: aiohttp.ClientSession) -> None:
    """Rule F3: bytes that are no events, with a length or in chunks, never look whole when the provider breaks off."""
    user = await make_user(town.stack)

    async def audio(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"\xff\xfb" * 500)
        )
        await writer.drain()
        writer.close()

    async def short(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(b"\xff" * 1000, kind="audio/mpeg")[:-10])
        await writer.drain()
        writer.close()

    town.provider.acts |= {"audio": audio, "short": short}
    for act in ("audio", "short"):
        call = {"json": {"model": "tts-1", "input": "hi", "voice": "alloy", "act": act}}
        headers = {"authorization": f"Bearer {user.token}"}
        async with http.post(f"{town.stack.base_url}/audio/speech", headers=headers, **call) as response:
            assert response.headers["content-type"] == "audio/mpeg"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_a_slow_reader_costs_no_memory(town: Town) -> None:
    """Rule D6: while a client does not read, the provider is not read: its sending stops, and the worker does not grow."""
    user = await make_user(town.stack)
    sent = 0
    filler = chunk(event("x" * 60_000))

    async def flood(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        for _ in range(1500):
            writer.write(filler)
            await writer.drain()
            sent += len(filler)
        writer.write(chunk(event("", finish="stop") + usage(1, 1) + DONE) + END)

    town.provider.acts["flood"] = flood
    body = json.dumps(request(user, "flood")["json"]).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", town.stack.port, limit=65536)
    before = rss_bytes(town.stack)
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    last = -1
    async with asyncio.timeout(15):
        while last != sent or not sent:
            last = sent
            await asyncio.sleep(0.4)
    assert sent < 30_000_000
    assert rss_bytes(town.stack) - before < 30_000_000
    async with asyncio.timeout(30):
        while b"[DONE]" not in await reader.read(1 << 20):
            pass
    writer.close()


async def test_what_was_not_reported_is_marked_as_estimated(town: Town, http: aiohttp.ClientSession) -> None:
    """Rules L3, U11: what is counted here is a lower bound, since hidden reasoning cannot be seen, and says so in the log."""
    user = await make_user(town.stack)

    async def silent(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event(TEXT, finish="stop") + DONE) + END)

    town.provider.acts["silent"] = silent
    async with http.post(f"{town.stack.base_url}/chat/completions", **request(user, "silent")) as response:  # type: ignore[arg-type]
        await response.read()
        request_id = response.headers["x-request-id"]
    _, _, output_tokens = await town.bill(user)
    lines = [json.loads(line) for line in town.stack.child("sentinel").output().splitlines() if request_id in line]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["estimated"], line["output_tokens"]) == ("no_usage", output_tokens)
    assert output_tokens >= len(TEXT) // 6


async def test_the_servers_threads_wait_for_the_loop(town: Town) -> None:
    """Issue 12: in a worker that serves, the threads of the server are scheduled as batches, and the event loop's is not."""
    pid = worker_pid(town.stack)
    async with asyncio.timeout(10):
        while True:
            policies = [os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()]
            if policies.count(os.SCHED_BATCH) >= 2:
                break
            await asyncio.sleep(0.1)
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER
