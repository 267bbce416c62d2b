"""What the process tests do with a running stack: make users, call by SDK, reconcile what was served and booked."""

import asyncio
import itertools
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from sentinel.admin.metrics_page import KEPT_S
from sentinel.devstack import reconcile
from sentinel.devstack.child import StackError
from sentinel.devstack.claims import require_free
from sentinel.devstack.comparison import Comparison, Sums
from sentinel.devstack.stack import Stack

METRICS = {"requests": "ai_requests", "input": "ai_input_tokens", "output": "ai_output_tokens"}
HELLO = [{"role": "user", "content": "Say something about rivers."}]
RECONCILED_S = 20.0
_HANDED_OVER_S = 0.35  # a worker does so four times a second
# Of no use to what is not encrypted, but each SDK would make its own, and read the machine's certificates for that: 40 ms.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_numbers = itertools.count(1)


@dataclass(frozen=True)
class User:
    """A user that Zion's simulator knows."""

    external_id: str
    email: str
    token: str


async def make_user(
    stack: Stack, *, permitted: bool = True, external: bool = True, token_bytes: int = 0, **limits: Any
) -> User:
    """A new user with these limits (requests, input, output: a number, None, or {"limit", "used"}); absent is a million.

    The token is made as long as `token_bytes`, but for two bytes at most.
    """
    number = next(_numbers)
    given = {"requests": 10**6, "input": 10**6, "output": 10**6} | limits
    made = await stack.control(
        "zion",
        "users",
        {
            "externalId": f"user-{number}" if external else "",
            "email": f"user-{number}@example.test",
            "permitted": permitted,
            "token_bytes": token_bytes,
            "limits": {METRICS[name]: value for name, value in given.items()},
        },
    )
    return User(made["externalId"], made["email"], made["jwt"])


def sdk(stack: Stack, token: str, *, retries: int = 0) -> AsyncOpenAI:
    """The official SDK, unmodified but for its base URL. Close it: it warns of open connections otherwise."""
    http = DefaultAsyncHttpxClient(verify=_TLS)
    return AsyncOpenAI(base_url=stack.base_url, api_key=token, max_retries=retries, timeout=30, http_client=http)


async def redis_away(stack: Stack, workers: int) -> None:
    """Wait until so many workers decide without Redis, 0: it is back for all of them. TimeoutError after RECONCILED_S."""
    async with asyncio.timeout(RECONCILED_S), aiohttp.ClientSession() as http:
        if workers == 0:
            await asyncio.sleep(_HANDED_OVER_S + KEPT_S)  # else the page may be one from before it went away
        while True:
            async with http.get(f"{stack.admin_url}/metrics") as response:
                page = await response.text()
            if f"\nsentinel_ledger_away {workers}.0\n" in page or (workers == 0 and "\nsentinel_ledger_away " not in page):
                return
            await asyncio.sleep(0.05)


async def metrics_page(stack: Stack) -> str:
    """The page of metrics, once it shows all that was counted before."""
    await asyncio.sleep(_HANDED_OVER_S + KEPT_S)
    async with aiohttp.ClientSession() as http, http.get(f"{stack.admin_url}/metrics") as response:
        assert response.status == 200
        return await response.text()


async def kill_workers(stack: Stack) -> None:
    """kill -9 of the supervisor and all workers at once; when this returns the ports are free and the locks are too."""
    await stack.kill("sentinel")
    async with asyncio.timeout(RECONCILED_S):
        while True:
            try:
                require_free(stack.port)
                require_free(stack.admin_port)
            except StackError:
                await asyncio.sleep(0.02)
            else:
                return


async def whole(stack: Stack) -> Stack:
    """The stack, with every piece running that another test has stopped, and a Zion without faults."""
    for name in stack.pieces:
        if not stack.child(name).running:
            await stack.start(name)
    await stack.control("zion", "reset", {"faults": True})
    return stack


async def booked(stack: Stack) -> Sums:
    """What Zion has booked, per e-mail, as (requests, input, output)."""
    users = (await stack.control("zion", "ledger"))["users"]
    return {email: (sums["aiRequests"], sums["aiInputTokens"], sums["aiOutputTokens"]) for email, sums in users.items()}


async def reconciled(stack: Stack, users: list[User]) -> tuple[Sums, Sums]:
    """(served, booked) for these users, as soon as they agree or RECONCILED_S are over; nothing may be counted twice."""
    names = {user.email for user in users}
    comparison = await reconcile.reconciled(stack.provider_url, stack.zion_url, users=names, wait_s=RECONCILED_S)
    assert comparison.duplicated == ()
    return comparison.served, comparison.booked


async def compared(stack: Stack, users: list[User], *, wait_s: float = RECONCILED_S) -> Comparison:
    """The same with what still waits in Redis: the provider's journal against Zion's ledger and that."""
    names = {user.email for user in users}
    return await reconcile.reconciled(stack.provider_url, stack.zion_url, stack.redis_url, names, wait_s=wait_s)
