"""What operators and callers see of the ledger: `sentinel usage`, GET /v1/usage and reconcile over real processes."""

import asyncio
import json
import os
import sys
from datetime import datetime
from typing import Any

import aiohttp
import openai
import pytest

from sentinel.devstack.stack import Stack
from tests.support import covering
from tests.support.running import HELLO, RECONCILED_S, User, booked, compared, make_user, reconciled, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def run(stack: Stack, *words: str, module: str = "sentinel", redis: str = "") -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command with this stack's settings."""
    given = {
        "ZION_API_URL": stack.zion_url,
        "ZION_API_KEY": "unused",
        "OPENAI_API_KEY": "unused",
        "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words),
        env={**os.environ, **covering.told, **given, "REDIS_URL": redis or stack.redis_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def admin_ledger(stack: Stack, caller: str) -> dict[str, Any]:
    """What `sentinel usage CALLER --json` says."""
    code, output, errors = await run(stack, "usage", caller, "--json")
    assert (code, errors) == (0, "")
    return json.loads(output)


async def page(stack: Stack, http: aiohttp.ClientSession, token: str) -> tuple[int, dict[str, Any]]:
    """(status, JSON) of GET /v1/usage."""
    async with http.get(f"{stack.base_url}/usage", headers={"authorization": f"Bearer {token}"}) as response:
        return response.status, await response.json()


async def call(stack: Stack, user: User, **simulate: Any) -> None:
    """One chat completion."""
    async with sdk(stack, user.token) as client:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email, extra_body={"simulate": simulate})


async def until_refused(stack: Stack, user: User) -> dict[str, Any]:
    """The one dead letter of a user, as soon as there is one."""
    async with asyncio.timeout(RECONCILED_S):
        while not (letters := (await admin_ledger(stack, user.external_id))["dead_letters"]):
            await asyncio.sleep(0.1)
    (letter,) = letters
    return letter


async def test_a_caller_sees_its_own_usage(stack: Stack, http: aiohttp.ClientSession) -> None:
    """Two callers, each by its own token and nobody else's figures; nothing is forwarded or billed by asking."""
    one = await make_user(stack, requests={"limit": 50, "used": 7}, output=None)
    two = await make_user(stack)
    await call(stack, one, output_tokens=9)
    (given, taken) = await reconciled(stack, [one])
    assert given == taken
    for _ in range(3):
        status, shown = await page(stack, http, one.token)
        assert (status, shown["external_id"], shown["rate"]) == (200, one.external_id, None)
        requests, spent = shown["limits"]["ai_requests"], shown["limits"]["ai_input_tokens"]
        assert {name: requests[name] for name in ("limit", "used", "held", "remaining", "unreported", "period")} == {
            "limit": 50,
            "used": 8,
            "held": 0,
            "remaining": 42,
            "unreported": 0,
            "period": "MONTHLY",
        }
        assert requests["reset_seconds"] > 0
        assert datetime.fromisoformat(requests["reset_at"]).day == 1
        assert (spent["used"], spent["remaining"]) == (taken[one.email][1], 10**6 - taken[one.email][1])
        assert shown["limits"]["ai_output_tokens"]["limit"] is None
        assert shown["limits"]["ai_output_tokens"]["used"] == 9
        assert 0 <= shown["limits_age_seconds"] < 300
    cold = (await stack.control("zion", "ledger"))["calls"]["limits"]
    status, shown = await page(stack, http, two.token)
    assert (status, shown["external_id"], shown["limits"]["ai_requests"]["used"]) == (200, two.external_id, 0)
    assert shown["limits"]["ai_requests"]["limit"] == 10**6
    # Its limits were learned as an admission learns them, and are not asked for again.
    await page(stack, http, two.token)
    assert (await stack.control("zion", "ledger"))["calls"]["limits"] == cold + 1
    assert two.email not in await booked(stack)


async def test_the_usage_page_needs_a_token_and_get(stack: Stack, http: aiohttp.ClientSession) -> None:
    """401 without a good token, 403 for who is not permitted, 405 for another method."""
    refused = await make_user(stack, permitted=False)
    assert (await page(stack, http, "x.y.z"))[0] == 401
    assert (await page(stack, http, refused.token))[0] == 403
    async with http.get(f"{stack.base_url}/usage") as response:
        assert response.status == 401
    async with http.post(f"{stack.base_url}/usage") as response:
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


async def test_a_held_request_is_seen_while_it_runs(stack: Stack, http: aiohttp.ClientSession) -> None:
    """What a request in flight holds is told by page, JSON and table, and is free again afterwards."""
    user = await make_user(stack, requests=10, output=1000)
    async with sdk(stack, user.token) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o",
            messages=HELLO,
            user=user.email,
            stream=True,
            max_tokens=100,
            extra_body={"simulate": {"stall_after_events": 2}},
        )
        shown = (await page(stack, http, user.token))[1]["limits"]
        assert (shown["ai_requests"]["held"], shown["ai_requests"]["remaining"]) == (1, 9)
        assert (shown["ai_output_tokens"]["held"], shown["ai_output_tokens"]["remaining"]) == (100, 900)
        (listed,) = (await admin_ledger(stack, user.external_id))["callers"]
        assert listed["limits"]["ai_output_tokens"] | {"reset_seconds": 0} == shown["ai_output_tokens"] | {"reset_seconds": 0}
        code, table, _ = await run(stack, "usage", user.external_id)
        assert code == 0
        row = next(line.split() for line in table.splitlines() if "ai_output_tokens" in line)
        assert row[:4] == ["ai_output_tokens", "1000", "0", "100"]
        await stream.close()
    await compared(stack, [user])
    (listed,) = (await admin_ledger(stack, user.external_id))["callers"]
    assert {figures["held"] for figures in listed["limits"].values()} == {0}


async def test_a_dead_letter_is_seen_requeued_and_booked(stack: Stack) -> None:
    """What Zion refuses is listed with its reason, still counts, and is booked once when it is requeued after the fault."""
    user = await make_user(stack)
    await stack.control("zion", "faults", {"fail_emails": [user.email]})
    try:
        await call(stack, user, output_tokens=5)
        letter = await until_refused(stack, user)
        assert (letter["external_id"], letter["email"], letter["requests"], letter["output_tokens"]) == (*who(user), 1, 5)
        assert letter["reason"] == "This increment could not be applied"
        code, table, _ = await run(stack, "usage", user.external_id)
        assert code == 0
        assert letter["id"] in table
        assert letter["reason"] in table
        waiting = await compared(stack, [user])
        assert waiting.equal
        assert waiting.waiting == waiting.served
    finally:
        await stack.control("zion", "faults", {"fail_emails": []})
    code, told, _ = await run(stack, "usage", "requeue", letter["id"])
    assert code == 0
    assert told.startswith("Requeued for the next report: 1 requests")
    given, taken = await reconciled(stack, [user])
    assert given == taken
    code, _, errors = await run(stack, "usage", "requeue", letter["id"])
    assert (code, len(errors.splitlines())) == (1, 1)
    assert (await admin_ledger(stack, user.external_id))["dead_letters"] == []


async def test_a_dropped_letter_is_never_booked_and_given_back(stack: Stack) -> None:
    """Its caller has it again, and Zion never hears of it."""
    user = await make_user(stack, requests=10)
    await stack.control("zion", "faults", {"fail_emails": [user.email]})
    try:
        await call(stack, user)
        letter = await until_refused(stack, user)
    finally:
        await stack.control("zion", "faults", {"fail_emails": []})
    (before,) = (await admin_ledger(stack, user.external_id))["callers"]
    assert (before["limits"]["ai_requests"]["used"], before["limits"]["ai_requests"]["unreported"]) == (1, 1)
    code, told, _ = await run(stack, "usage", "drop", letter["id"])
    assert code == 0
    assert told.startswith("Dropped, never to be reported: 1 requests")
    (after,) = (await admin_ledger(stack, user.external_id))["callers"]
    assert {(figures["used"], figures["unreported"]) for figures in after["limits"].values()} == {(0, 0)}
    assert user.email not in await booked(stack)
    assert (await run(stack, "usage", "drop", letter["id"]))[0] == 1
    lost = await compared(stack, [user], wait_s=0)
    assert [line.split()[-1] for line in lost.lost] == ["requests", "input", "output"]


async def test_batches_that_wait_are_seen(stack: Stack) -> None:
    """While Zion is silent, a sealed batch is listed with its age and attempts; afterwards it is booked and gone."""
    user = await make_user(stack)
    # Once: more failures in a row would open the breaker for everybody else.
    await stack.control("zion", "faults", {"hang": True, "times": 1, "call": "batch", "user": user.email})
    await call(stack, user)
    async with asyncio.timeout(RECONCILED_S):
        while not (waiting := (await admin_ledger(stack, user.external_id))["batches"]):
            await asyncio.sleep(0.1)
    (batch,) = waiting
    assert batch["attempts"] >= 1
    assert batch["age_seconds"] >= 0
    assert user.email in {part["email"] for part in batch["sums"]}
    assert (await compared(stack, [user], wait_s=0)).equal
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert (await admin_ledger(stack, user.external_id))["batches"] == []


async def test_the_command_says_in_one_sentence_what_is_wrong(stack: Stack) -> None:
    """1 where there is no such caller or letter, or no Redis; 2 where the words make no sense."""
    cases = {
        ("nobody-of-this-name",): 1,
        ("requeue", "no:0"): 1,
        ("drop", "no:0"): 1,
        ("requeue",): 2,
        ("one", "two"): 2,
        ("drop", "a", "b"): 2,
    }
    ends = await asyncio.gather(*(run(stack, "usage", *words) for words in cases))
    assert [(ended, output, len(errors.splitlines())) for ended, output, errors in ends] == [
        (code, "", 1) for code in cases.values()
    ]
    ended, output, errors = await run(stack, "usage", redis="redis://127.0.0.1:9")
    assert (ended, output) == (1, "")
    assert len(errors.splitlines()) == 1
    assert errors.startswith("sentinel: Redis does not answer")


async def test_all_callers_are_listed_within_bounds(stack: Stack) -> None:
    """Without a name everybody is; what a bound cuts off is counted."""
    users = [await make_user(stack) for _ in range(3)]
    for user in users:
        async with sdk(stack, user.token) as client:
            await client.models.list()
    code, output, _ = await run(stack, "usage", "--json")
    assert code == 0
    told = json.loads(output)
    assert {user.external_id for user in users} <= {caller["external_id"] for caller in told["callers"]}
    code, output, _ = await run(stack, "usage", "--json", "--rows", "2")
    few = json.loads(output)
    assert len(few["callers"]) == 2
    assert few["not_shown"]["callers"] == len(told["callers"]) - 2
    code, table, _ = await run(stack, "usage", "--rows", "2")
    assert code == 0
    assert f"and {len(told['callers']) - 2} more" in table


async def test_reconcile_as_a_command(stack: Stack) -> None:
    """0 where all is booked, and 1 with the difference where the provider served what Zion never will."""
    user = await make_user(stack)
    await call(stack, user)
    where = ("--provider", stack.provider_url, "--zion", stack.zion_url, "--redis", stack.redis_url, "--user", user.email)
    code, output, _ = await run(stack, *where, "--wait", "20", module="sentinel.devstack.reconcile")
    assert (code, output.splitlines()[:3]) == (0, ["lost: nothing", "unexpected: nothing", "duplicated: nothing"])
    # Past Sentinel, so that nobody bills it.
    async with openai.AsyncOpenAI(base_url=f"{stack.provider_url}/v1", api_key=stack.provider_key, max_retries=0) as client:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
    code, output, _ = await run(stack, *where, "--json", module="sentinel.devstack.reconcile")
    assert code == 1
    assert f"{user.email}: 1 requests" in json.loads(output)["lost"]


def who(user: User) -> tuple[str, str]:
    """What a dead letter says of its caller."""
    return user.external_id, user.email
