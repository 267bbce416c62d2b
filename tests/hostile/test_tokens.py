"""Forged tokens, sixty and then two hundred a second, from somebody without any credential."""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt as pyjwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sentinel.devstack import jwt
from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User, make_user, reconciled

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_DRAIN_SECONDS": "1",
    # Profiles of known callers age in the midst of it.
    "JWT_CACHE_TTL_SECONDS": "1",
    # A busy machine is not what is tried here.
    "SENTINEL_REDIS_TIMEOUT_SECONDS": "0.5",
}
ZION_PER_S = 20
ATTACK_S = 6.0
NEWCOMERS = 4
# How often a newcomer who does as Retry-After says has to ask: among 200 strangers for 10 places, 20 times by luck alone.
TRIES_MAX = 5


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers."""
    async with Stack(tmp_path_factory.mktemp("tokens"), settings=SETTINGS) as running:
        yield running


class Client:
    """One caller with a connection of its own; the statuses it has seen."""

    def __init__(self, stack: Stack, user: User | None = None) -> None:
        self._url = f"{stack.base_url}/chat/completions"
        self._session = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {user.token}"} if user else None, connector=aiohttp.TCPConnector(limit=0)
        )
        # The provider's simulator notes whom it has served by this.
        self._body = {"model": "gpt-4o", "messages": HELLO, "user": user.email if user else ""}
        self.statuses: Counter[int] = Counter()

    async def ask(self, **headers: str) -> float | None:
        """Ask once; the seconds of Retry-After, None where it was served."""
        async with self._session.post(self._url, json=self._body, headers=headers) as response:
            await response.read()
            self.statuses[response.status] += 1
            return None if response.status == 200 else float(response.headers.get("retry-after", 0))

    async def tries(self) -> int:
        """How often it has to ask until it is served, waiting as it is told."""
        for count in itertools.count(1):
            wait_s = await self.ask()
            if wait_s is None:
                return count
            await asyncio.sleep(wait_s)
        raise AssertionError

    async def close(self) -> None:
        """Close its connection."""
        await self._session.close()


def claims() -> dict[str, Any]:
    """What a token says that was made up."""
    now_s = int(time.time())
    return {"sub": secrets.token_hex(8), "email": "a@x.test", "iat": now_s, "exp": now_s + 3600, "jti": secrets.token_hex(8)}


def forged() -> str:
    """A token that only its signature tells from one of Zion's."""
    return jwt.sign(claims(), "somebody else's")


async def attack(stack: Stack, per_s: int, forge: Callable[[], str] = forged) -> Counter[int]:
    """So many forged tokens a second, each once; what they were answered."""
    attacker = Client(stack)
    begun_s, asked = time.monotonic(), list[asyncio.Task[float | None]]()
    while (passed_s := time.monotonic() - begun_s) < ATTACK_S:
        while len(asked) < passed_s * per_s:
            asked.append(asyncio.create_task(attacker.ask(authorization=f"Bearer {forge()}")))
        await asyncio.sleep(0.01)
    await asyncio.gather(*asked)
    await attacker.close()
    return attacker.statuses


async def over_and_over(until: asyncio.Task[Counter[int]], ask: Callable[[], Awaitable[object]], pause_s: float) -> None:
    """Ask until the attack is over."""
    while not until.done():
        await ask()
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize("per_s", [60, 200])
async def test_forged_tokens_stop_nobody(stack: Stack, per_s: int) -> None:
    """A known caller is served as ever, newcomers after a few tries, reports go on, and Zion keeps its bound."""
    users = [await make_user(stack) for _ in range(1 + NEWCOMERS)]
    known = Client(stack, users[0])
    assert await known.ask() is None
    await stack.control("zion", "reset", {"ledger": True})
    attacking = asyncio.create_task(attack(stack, per_s))
    usual = asyncio.create_task(over_and_over(attacking, known.ask, 0.05))
    tries = [await newcomer(stack, user) for user in users[1:]]
    answered = await attacking
    await usual
    await known.close()

    assert set(known.statuses) == {200}
    assert known.statuses[200] > ATTACK_S  # it went on all the time
    assert max(tries) <= TRIES_MAX, tries
    assert set(answered) <= {401, 503}
    assert answered.total() >= 2 * ZION_PER_S * ATTACK_S  # far more than Zion may be asked, however slow this machine is
    seen = await stack.control("zion", "ledger")
    assert seen["busiest_second"] <= ZION_PER_S
    # At least one report a second; without an attack it is two, for one busy caller.
    assert seen["calls"]["batch"] >= ATTACK_S
    assert "redis is away" not in stack.child("sentinel").output()


async def newcomer(stack: Stack, user: User) -> int:
    """How often somebody whom nobody here knows has to ask."""
    client = Client(stack, user)
    try:
        return await client.tries()
    finally:
        await client.close()


async def test_what_was_served_beside_an_attack_is_booked(stack: Stack) -> None:
    """Reports that stood back for callers went all the same: served is booked, to the token, once."""
    user = await make_user(stack)
    client = Client(stack, user)
    attacking = asyncio.create_task(attack(stack, 60))
    await client.tries()
    await over_and_over(attacking, client.ask, 0.05)
    await client.close()
    served, noted = await reconciled(stack, [user])
    assert served == noted
    assert served[user.email][0] == client.statuses[200]


async def calls(stack: Stack, name: str) -> int:
    """How often Zion was called so."""
    return int((await stack.control("zion", "ledger"))["calls"].get(name, 0))


async def test_where_keys_are_published_forged_tokens_reach_nobody(tmp_path: Path) -> None:
    """Signed by a secret, by another key under Zion's name for its own, under names made up: Zion is asked about none of them.

    A newcomer gets in at once, also with a key that is new, and with the last good keys where none can be had.
    """
    stack = Stack(tmp_path, settings=SETTINGS)
    own = Ed25519PrivateKey.generate()
    kids = itertools.cycle((lambda: "first", lambda: secrets.token_hex(4), lambda: ""))

    def forge() -> str:
        kid = next(kids)()
        return pyjwt.encode(claims(), own, "EdDSA", headers={"kid": kid}) if kid else forged()

    try:
        await stack.start("redis", "zion", "provider")
        stack._settings["ZION_JWKS_URL"] = f"{stack.zion_url}/.well-known/jwks.json"
        await stack.control("zion", "keys", {"kid": "first"})
        await stack.start("sentinel")
        attacking = asyncio.create_task(attack(stack, 200, forge))
        tries = [await newcomer(stack, await make_user(stack)) for _ in range(NEWCOMERS)]
        answered = await attacking
        assert tries == [1] * NEWCOMERS
        # 503: a name that may be one of a key that is newer than the last fetch.
        assert set(answered) <= {401, 503}
        assert answered[401] >= answered.total() / 2
        assert await calls(stack, "me") <= 2 * NEWCOMERS
        assert 1 <= await calls(stack, "keys") <= 2 * (2 + ATTACK_S / 10)

        await stack.control("zion", "keys", {"kid": "second"})
        assert await newcomer(stack, await make_user(stack)) <= 2  # the second time after the next fetch
        await stack.control("zion", "faults", {"status": 500, "call": "keys"})
        # The other worker may not have the new key: within 10 s of its last fetch that is 503, then Zion decides.
        assert await newcomer(stack, await make_user(stack)) <= 2
    finally:
        await stack.stop()
