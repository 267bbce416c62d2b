"""What the process tests do with a running stack: make users, call by SDK, reconcile what was served and booked."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from sentinel.devstack.stack import Stack

METRICS = {"requests": "ai_requests", "input": "ai_input_tokens", "output": "ai_output_tokens"}
HELLO = [{"role": "user", "content": "Say something about rivers."}]
RECONCILED_S = 20.0

_numbers = itertools.count(1)

Sums = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class User:
    """A user that Zion's simulator knows."""

    external_id: str
    email: str
    token: str


async def make_user(stack: Stack, *, permitted: bool = True, external: bool = True, **limits: Any) -> User:
    """A new user with these limits (requests, input, output: a number, None, or {"limit", "used"}); absent is a million."""
    number = next(_numbers)
    given = {"requests": 10**6, "input": 10**6, "output": 10**6} | limits
    made = await stack.control(
        "zion",
        "users",
        {
            "externalId": f"user-{number}" if external else "",
            "email": f"user-{number}@example.test",
            "permitted": permitted,
            "limits": {METRICS[name]: value for name, value in given.items()},
        },
    )
    return User(made["externalId"], made["email"], made["jwt"])


def sdk(stack: Stack, token: str, *, retries: int = 0) -> AsyncOpenAI:
    """The official SDK, unmodified but for its base URL. Close it: it warns of open connections otherwise."""
    return AsyncOpenAI(base_url=stack.base_url, api_key=token, max_retries=retries, timeout=30)


async def redis_away(stack: Stack, workers: int) -> None:
    """Wait until so many workers decide without Redis: 0 is that it is back for all of them. TimeoutError after RECONCILED_S."""
    async with asyncio.timeout(RECONCILED_S), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{stack.url}/metrics") as response:
                page = await response.text()
            if f"\nsentinel_ledger_away {workers}.0\n" in page or (workers == 0 and "\nsentinel_ledger_away " not in page):
                return
            await asyncio.sleep(0.05)


async def booked(stack: Stack) -> Sums:
    """What Zion has booked, per e-mail, as (requests, input, output)."""
    users = (await stack.control("zion", "ledger"))["users"]
    return {email: (sums["aiRequests"], sums["aiInputTokens"], sums["aiOutputTokens"]) for email, sums in users.items()}


async def served(stack: Stack, users: Mapping[str, str]) -> Sums:
    """What the provider has served, per e-mail; `users` says whose a body's `user` is."""
    sums: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    for row in (await stack.control("provider", "served"))["rows"]:
        # No status yet, but a counted prompt: the client left while the provider was at work on it.
        at_work = row["status"] == 0 and row["client_gone"] and row["input_tokens"]
        if row["user"] in users and (row["status"] == 200 or at_work):
            requests, given, produced = sums[users[row["user"]]]
            sums[users[row["user"]]] = (requests + 1, given + row["input_tokens"], produced + row["output_tokens"])
    return dict(sums)


async def reconciled(stack: Stack, users: list[User]) -> tuple[Sums, Sums]:
    """(served, booked) for these users, as soon as they agree or RECONCILED_S are over."""
    names = {user.email: user.email for user in users}
    deadline_s = asyncio.get_running_loop().time() + RECONCILED_S
    while True:
        given = await served(stack, names)
        taken = {email: sums for email, sums in (await booked(stack)).items() if email in names}
        if given == taken or asyncio.get_running_loop().time() > deadline_s:
            return given, taken
        await asyncio.sleep(0.1)
