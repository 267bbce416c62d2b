"""Work that goes on after its answer: it is billed once, when it is done, whoever asks for it and whoever dies meanwhile."""

import asyncio
import json
import os
import re
import signal
import socket
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from tests.process.conftest import SETTINGS
from tests.process.test_lifecycle import _children
from tests.support.running import User, booked, kill_workers, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack that looks at unfinished work often, and whose leases end soon."""
    more = {"SENTINEL_BACKGROUND_POLL_SECONDS": "0.2", "SENTINEL_LEASE_SECONDS": "5"}
    async with Stack(tmp_path_factory.mktemp("background"), settings=SETTINGS | more) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def user(stack: Stack) -> User:
    """A user of this stack."""
    return await make_user(stack)


async def held(stack: Stack) -> int:
    """How many requests have a hold."""
    async with Redis.from_url(stack.redis_url) as redis:
        return sum([await redis.zcard(name) async for name in redis.scan_iter("z:*")])


async def noted(stack: Stack) -> int:
    """How many requests are noted as unfinished."""
    async with Redis.from_url(stack.redis_url) as redis:
        return sum([await redis.hlen(name) async for name in redis.scan_iter("g:*")])


async def billed(stack: Stack, user: User, expected: tuple[int, int, int]) -> None:
    """Wait until Zion has booked exactly this for `user`, and see that it stays so."""
    async with asyncio.timeout(20):
        while (await booked(stack)).get(user.email) != expected:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    assert (await booked(stack))[user.email] == expected
    assert await noted(stack) == 0


async def test_a_background_response_is_billed_when_it_is_done(stack: Stack, user: User) -> None:
    """Rule P3: created, looked at again and again, and billed once: a request for each call, its tokens once."""
    async with sdk(stack, user.token) as client:
        made = await client.responses.create(
            model="gpt-4o", input="Say something.", background=True, extra_body={"simulate": {"background_s": 1.5}}
        )
        assert made.status in {"queued", "in_progress"}
        assert made.usage is None
        assert await noted(stack) == 1
        assert await held(stack) == 1
        looks = 1
        while (seen := await client.responses.retrieve(made.id)).status != "completed":
            looks += 1
            await asyncio.sleep(0.3)
        again = await client.responses.retrieve(made.id)
    assert seen.usage is not None
    assert again.usage == seen.usage
    await billed(stack, user, (looks + 2, seen.usage.input_tokens, seen.usage.output_tokens))
    assert await held(stack) == 0


async def test_nobody_needs_to_look(stack: Stack, user: User) -> None:
    """Rule P3: work whose caller never comes back is billed all the same."""
    async with sdk(stack, user.token) as client:
        await client.responses.create(
            model="gpt-4o", input="Say something.", background=True, extra_body={"simulate": {"background_s": 0.5}}
        )
    rows = [row for row in (await stack.control("provider", "served"))["rows"] if row["path"] == "/v1/responses"]
    async with asyncio.timeout(10):
        while not rows[-1]["output_tokens"]:
            await asyncio.sleep(0.1)
            rows = [row for row in (await stack.control("provider", "served"))["rows"] if row["path"] == "/v1/responses"]
    await billed(stack, user, (1, rows[-1]["input_tokens"], rows[-1]["output_tokens"]))
    assert await held(stack) == 0


async def test_a_client_that_leaves_a_background_stream_pays_for_all_of_it(stack: Stack, user: User) -> None:
    """Rule P3: a disconnect is not the end of work in the background."""
    async with sdk(stack, user.token) as client:
        stream = await client.responses.create(
            model="gpt-4o", input="Say something.", background=True, stream=True, extra_body={"simulate": {"token_ms": 30}}
        )
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
            if event.type == "response.created":
                name = event.response.id
        await stream.close()
        looks = 1
        while (seen := await client.responses.retrieve(name)).status != "completed":
            looks += 1
            await asyncio.sleep(0.3)
    assert seen.usage is not None
    await billed(stack, user, (1 + looks, seen.usage.input_tokens, seen.usage.output_tokens))


async def posted(stack: Stack, path: str) -> list[dict[str, Any]]:
    """What the provider has seen of POST `path`."""
    rows = (await stack.control("provider", "served"))["rows"]
    return [row for row in rows if (row["method"], row["path"]) == ("POST", f"/v1{path}")]


async def leave(stack: Stack, user: User, path: str, fields: dict[str, object], *, after_bytes: int) -> None:
    """Send a request and reset its connection: before its answer begins, or after so many bytes of it."""
    body, known = json.dumps(fields).encode(), len(await posted(stack, path))
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    head = f"POST /v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(10):
        if after_bytes:
            await reader.readexactly(after_bytes)
        else:
            while len(await posted(stack, path)) == known:
                await asyncio.sleep(0.02)
    writer.transport.abort()


@pytest.mark.parametrize(("stream", "after_bytes"), [(False, 0), (True, 0), (True, 900)])
async def test_a_client_that_leaves_a_run_pays_for_it(stack: Stack, user: User, *, stream: bool, after_bytes: int) -> None:
    """Rule P3: a run goes on whoever waits for it, and what it says can be read later; so it is billed when it is done."""
    async with sdk(stack, user.token) as client:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assistant = await client.beta.assistants.create(model="gpt-4o")
            thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Say something."}])
        simulate = {"delay_ms": 0 if after_bytes else 500, "token_ms": 20, "background_s": 1}
        fields = {"assistant_id": assistant.id, "stream": stream, "simulate": simulate}
        await leave(stack, user, f"/threads/{thread.id}/runs", fields, after_bytes=after_bytes)
        looks = 0
        async with asyncio.timeout(15):
            while True:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    runs = (await client.beta.threads.runs.list(thread.id)).data
                looks += 1
                if runs and runs[0].status == "completed":
                    break
                await asyncio.sleep(0.2)
    usage = runs[0].usage
    assert usage is not None
    await billed(stack, user, (3 + looks, usage.prompt_tokens, usage.completion_tokens))
    assert await held(stack) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_a_background_response_pays_for_it(stack: Stack, user: User, *, stream: bool) -> None:
    """Rule P3: what it says is in its conversation, though its caller never learned its name."""
    async with sdk(stack, user.token) as client:
        conversation = await client.conversations.create()
        fields = {"model": "gpt-4o", "input": "Say something.", "background": True, "stream": stream}
        fields |= {"conversation": conversation.id, "simulate": {"delay_ms": 500, "background_s": 0.5, "token_ms": 5}}
        await leave(stack, user, "/responses", fields, after_bytes=0)
        looks = 1
        async with asyncio.timeout(15):
            while not (await client.conversations.items.list(conversation.id)).data:
                looks += 1
                await asyncio.sleep(0.2)
    row = (await posted(stack, "/responses"))[-1]
    await billed(stack, user, (2 + looks, row["input_tokens"], row["output_tokens"]))
    assert await held(stack) == 0


async def test_a_batch_is_billed_when_it_is_done(stack: Stack, user: User) -> None:
    """What a batch reports as its usage is billed once."""
    async with sdk(stack, user.token) as client:
        file = await client.files.create(file=("a.jsonl", b'{"custom_id":"1"}\n'), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body={"simulate": {"background_s": 0.5}},
        )
        looks = 1
        while (seen := await client.batches.retrieve(batch.id)).status != "completed":
            looks += 1
            await asyncio.sleep(0.2)
    assert seen.usage is not None
    await billed(stack, user, (2 + looks, seen.usage.input_tokens, seen.usage.output_tokens))


async def test_a_run_of_an_eval_is_billed_when_it_is_done(stack: Stack, user: User) -> None:
    """Rule P3: what the models of a run have used, which it tells of each of them, is billed once."""
    async with sdk(stack, user.token) as client:
        made = await client.evals.create(
            name="e", data_source_config={"type": "custom", "item_schema": {"type": "object"}}, testing_criteria=[]
        )
        run = await client.evals.runs.create(
            made.id,
            data_source={
                "type": "completions",
                "model": "gpt-4o",
                "source": {"type": "file_content", "content": [{"item": {"a": "b"}}]},
            },
            extra_body={"simulate": {"background_s": 0.5}},
        )
        looks = 1
        while (seen := await client.evals.runs.retrieve(run.id, eval_id=made.id)).status != "completed":
            looks += 1
            await asyncio.sleep(0.2)
    [usage] = seen.per_model_usage
    assert usage.completion_tokens
    await billed(stack, user, (2 + looks, usage.prompt_tokens, usage.completion_tokens))


def ask_for_work(stack: Stack, user: User, fields: dict[str, object]) -> socket.socket:
    """Ask for a background response, on a connection of its own."""
    body = json.dumps({"model": "gpt-4o", "input": "Say something.", "background": True} | fields).encode()
    head = (
        f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=20)
    connection.sendall(head.encode() + body)
    return connection


def read_its_name(connection: socket.socket) -> None:
    """Read an answer as far as the id of the response."""
    came = b""
    while not re.search(rb'"resp_\w+"', came):
        came += connection.recv(65_536)


async def test_who_was_told_of_work_pays_for_it_whoever_dies(stack: Stack, user: User) -> None:
    """The workers are killed at the very byte that tells the id of work, of a plain answer and of a stream: what it
    costs is billed all the same, since it was noted before.
    """
    pids = _children(stack.child("sentinel").pid)
    known = len(await posted(stack, "/responses"))

    def be_told() -> None:
        with ask_for_work(stack, user, {"stream": True, "simulate": {"token_ms": 30}}) as streamed:
            read_its_name(streamed)
            with ask_for_work(stack, user, {"simulate": {"background_s": 1.0}}) as plain:
                read_its_name(plain)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)

    await asyncio.to_thread(be_told)
    await kill_workers(stack)
    await stack.start("sentinel")
    async with asyncio.timeout(20):
        rows = (await posted(stack, "/responses"))[known:]
        while not all(row["output_tokens"] for row in rows):
            await asyncio.sleep(0.1)
            rows = (await posted(stack, "/responses"))[known:]
    assert len(rows) == 2
    await billed(stack, user, (2, sum(row["input_tokens"] for row in rows), sum(row["output_tokens"] for row in rows)))


@pytest.mark.parametrize("death", ["kill", "restart"])
async def test_another_worker_goes_on(stack: Stack, user: User, death: str) -> None:
    """Whoever dies, and however: the next worker finds the work, and its hold stays until it is settled."""
    async with sdk(stack, user.token) as client:
        made = await client.responses.create(
            model="gpt-4o", input="Say something.", background=True, extra_body={"simulate": {"background_s": 12.0}}
        )
    assert await noted(stack) == 1
    if death == "kill":
        await kill_workers(stack)
    else:
        await stack.stop("sentinel")
    await stack.start("sentinel")
    async with asyncio.timeout(20):
        while await held(stack):
            await asyncio.sleep(0.1)
    async with asyncio.timeout(40), sdk(stack, user.token) as client:
        looks = 1
        while (seen := await client.responses.retrieve(made.id)).status != "completed":
            looks += 1
            await asyncio.sleep(0.5)
    assert seen.usage is not None
    await billed(stack, user, (1 + looks, seen.usage.input_tokens, seen.usage.output_tokens))
