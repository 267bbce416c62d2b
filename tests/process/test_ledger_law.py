"""The law of the ledger over real processes: nobody overspends, and what Zion booked is what the provider served."""

import asyncio
import hashlib
import json
import random
from collections import Counter

import openai
import pytest
from openai import AsyncOpenAI
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User, booked, make_user, reconciled, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_a_hundred_at_once_with_ten_left(stack: Stack) -> None:
    """100 concurrent requests of one user whose limit leaves 10: exactly 10 succeed, 90 get 429, and Zion books 10."""
    user = await make_user(stack, requests={"limit": 50, "used": 40})

    async def one(client: AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
        except openai.RateLimitError as error:
            return str(error.code)
        return "served"

    async with sdk(stack, user.token) as client:
        ends = Counter(await asyncio.gather(*(one(client) for _ in range(100))))
    assert ends == {"served": 10, "insufficient_quota": 90}
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][0] == 10


@pytest.mark.parametrize("metric", ["input", "output"])
async def test_tokens_are_held_before_the_call(stack: Stack, metric: str) -> None:
    """Concurrent calls never spend more tokens than the limit, though each of them alone would fit."""
    user = await make_user(stack, **{metric: {"limit": 1000, "used": 900}})
    ask = {"max_tokens": 40, "extra_body": {"simulate": {"output_tokens": 40}}}

    async def one(client: AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email, **ask)
        except openai.RateLimitError as error:
            return str(error.code)
        return "served"

    async with sdk(stack, user.token) as client:
        ends = Counter(await asyncio.gather(*(one(client) for _ in range(20))))
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][1 if metric == "input" else 2] <= 100
    assert ends["served"] + ends["insufficient_quota"] == 20
    assert 1 <= ends["served"] < 20


class Crowd:
    """Mixed requests of several users, decided by a seeded generator, so that a failed run can be run again."""

    def __init__(self, stack: Stack, users: list[User], seed: int) -> None:
        self.ends: Counter[str] = Counter()
        self._stack = stack
        self._users = users
        self._random = random.Random(seed)
        self._busy = asyncio.Semaphore(20)

    async def one(self) -> None:
        """One request: plain, streamed, cut by the client, or failed by the provider."""
        user = self._random.choice(self._users)
        kind = self._random.choices(
            ["plain", "stream", "cut_stream", "cut_plain", "refused", "broken", "no_usage", "offset"],
            [6, 6, 3, 2, 2, 2, 2, 2],
        )[0]
        tokens = self._random.randint(5, 60)
        words = " ".join(["river"] * self._random.randint(1, 200))
        async with self._busy, sdk(self._stack, user.token) as client:
            await getattr(self, f"_{kind}")(client, user, [{"role": "user", "content": words}], tokens)
        self.ends[kind] += 1

    async def _plain(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        await self._create(client, user, messages, {"output_tokens": tokens})

    async def _offset(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        await self._create(client, user, messages, {"output_tokens": tokens, "usage_offset": 11})

    async def _stream(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        async for _ in await self._create(client, user, messages, {"output_tokens": tokens}, stream=True):
            pass

    async def _no_usage(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        simulate = {"output_tokens": tokens, "no_usage": True}
        async for _ in await self._create(client, user, messages, simulate, stream=True):
            pass

    async def _cut_stream(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        """The client leaves while the provider is silent, so that both know exactly what was produced."""
        simulate = {"output_tokens": tokens + 20, "stall_after_events": tokens}
        stream = await self._create(client, user, messages, simulate, stream=True)
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == tokens:
                break
        await stream.close()

    async def _cut_plain(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        """The client leaves before there is an answer: the prompt is billed, and nothing that was not produced."""
        asking = asyncio.create_task(self._create(client, user, messages, {"delay_ms": 60_000, "output_tokens": 0}))
        await self._reached(user, len(messages[0]["content"]))
        asking.cancel()
        await asyncio.wait([asking])

    async def _refused(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        with pytest.raises(openai.APIStatusError):
            await self._create(client, user, messages, {"status": self._random.choice([400, 404, 429, 500, 503])})

    async def _broken(self, client: AsyncOpenAI, user: User, messages: list[dict[str, str]], tokens: int) -> None:
        simulate = {"output_tokens": tokens + 20, "cut_after_events": tokens}
        with pytest.raises(openai.APIError):
            async for _ in await self._create(client, user, messages, simulate, stream=True):
                pass

    async def _create(self, client: AsyncOpenAI, user: User, messages, simulate, *, stream: bool = False):
        return await client.chat.completions.create(
            model="gpt-4o", messages=messages, user=user.email, stream=stream, extra_body={"simulate": simulate}
        )

    async def _reached(self, user: User, characters: int) -> None:
        """Wait until the provider has this user's waiting request."""
        for _ in range(500):
            active = (await self._stack.control("provider", "connections"))["active"]
            rows = (await self._stack.control("provider", "served"))["rows"]
            if active and any(row["user"] == user.email and row["status"] == 0 and row["input_tokens"] for row in rows):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"the provider never saw the request of {characters} characters")


async def test_what_zion_booked_is_what_the_provider_served(stack: Stack) -> None:
    """300 mixed requests of several users, some cut by clients, some failed by the provider: equal, per user."""
    users = [await make_user(stack, requests=10**6, input=10**9, output=10**9) for _ in range(5)]
    crowd = Crowd(stack, users, seed=20_261_121)
    async with asyncio.timeout(120):
        await asyncio.gather(*(crowd.one() for _ in range(300)))
    assert sum(crowd.ends.values()) == 300
    assert len(crowd.ends) == 8
    given, taken = await reconciled(stack, users)
    assert given == taken
    assert set(taken) == {user.email for user in users}


async def test_nothing_stays_held(stack: Stack) -> None:
    """After a refused, a served and a cut request, the caller has exactly what it did not spend."""
    user = await make_user(stack, requests=100, output=10_000)
    async with sdk(stack, user.token) as client:
        for simulate in ({"status": 400}, {"output_tokens": 8}):
            try:
                await client.chat.completions.create(
                    model="gpt-4o", messages=HELLO, user=user.email, extra_body={"simulate": simulate}
                )
            except openai.BadRequestError:
                continue
        assert (await reconciled(stack, [user]))[1][user.email][0] == 1
        raw = await client.models.with_raw_response.list()
    # 100 requests less the one served and this one; the refused one was given back.
    assert raw.headers["x-ratelimit-remaining-requests"] == "98"
    assert user.email in await booked(stack)


async def test_a_cold_caller_costs_zion_one_question_a_worker(stack: Stack) -> None:
    """Single flight: 40 concurrent first requests ask Zion who it is once a worker, and for the limits once in the fleet."""
    user = await make_user(stack)
    before = (await stack.control("zion", "ledger"))["calls"]
    async with sdk(stack, user.token) as client:
        await asyncio.gather(*(client.models.list() for _ in range(40)))
    after = (await stack.control("zion", "ledger"))["calls"]
    assert 1 <= after["me"] - before.get("me", 0) <= 2
    assert after["limits"] - before.get("limits", 0) == 1


async def test_operators_find_profiles_and_limits_in_redis(stack: Stack) -> None:
    """Design §5: `jwt:{sha256}` and `limits:{externalId}` hold JSON with a time to live; the token is nowhere."""
    user = await make_user(stack, requests=77)
    async with sdk(stack, user.token) as client:
        await client.models.list()
    async with Redis.from_url(stack.redis_url) as redis:
        digest = hashlib.sha256(user.token.encode()).hexdigest()
        profile, limits = await redis.get(f"jwt:{digest}"), await redis.get(f"limits:{user.external_id}")
        assert json.loads(profile)["caller"] == {"external_id": user.external_id, "email": user.email}
        assert "77" in json.dumps(json.loads(limits))
        assert 0 < await redis.ttl(f"jwt:{digest}") <= 900
        assert 0 < await redis.ttl(f"limits:{user.external_id}") <= 300
        names = [name async for name in redis.scan_iter()]
        assert not any(user.token.encode() in name for name in names)


@pytest.mark.parametrize("choices", [1, 3])
async def test_what_remains_is_told_to_the_provider(stack: Stack, choices: int) -> None:
    """A call without a cap takes what is left, and the provider is held to it: the limit is met exactly, never passed."""
    user = await make_user(stack, output={"limit": 1000, "used": 970})
    async with sdk(stack, user.token) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email, n=choices)
        assert {choice.finish_reason for choice in answer.choices} == {"length"}
        assert (await reconciled(stack, [user]))[1][user.email][2] == 30
        with pytest.raises(openai.RateLimitError, match="ai_output_tokens"):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
