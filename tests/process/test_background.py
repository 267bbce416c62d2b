"""Work that goes on after its answer: it is billed once, when it is done, whoever asks for it and whoever dies meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from tests.process.conftest import SETTINGS
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
    """wire.md P3: created, looked at again and again, and billed once: a request for each call, its tokens once."""
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
    """wire.md P3: work whose caller never comes back is billed all the same."""
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


async def test_a_client_that_leaves_a_background_stream_pays_for_all_of_it(stack: Stack, user: User) -> None:
    """wire.md P3: a disconnect is not the end of work in the background."""
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


@pytest.mark.parametrize("death", ["kill", "restart"])
async def test_another_worker_goes_on(stack: Stack, user: User, death: str) -> None:
    """Whoever dies, and however: the next worker finds the work, and what its ended lease was charged is corrected."""
    async with sdk(stack, user.token) as client:
        made = await client.responses.create(
            model="gpt-4o", input="Say something.", background=True, extra_body={"simulate": {"background_s": 12.0}}
        )
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
