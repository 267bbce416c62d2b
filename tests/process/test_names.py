"""Callers without an e-mail, and callers who are renamed, over real processes: what was served is booked under Zion's names."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.process.conftest import SETTINGS
from tests.process.test_usage import admin_ledger, run
from tests.support.running import HELLO, RECONCILED_S, User, booked, compared, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

ABSENT = object()


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["unified", "per_limit"])
async def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, str]]:
    """A stack that reports in each of Zion's formats, and which."""
    settings = SETTINGS | {"ZION_USAGE_FORMAT": request.param}
    async with Stack(tmp_path_factory.mktemp("names"), settings=settings) as running:
        yield running, request.param


async def nameless(stack: Stack, email: Any = ABSENT) -> User:
    """A user without an e-mail, in this one of the ways to have none; goes by the external id."""
    user = await make_user(stack)
    shown = {} if email is ABSENT else {"email": email}
    made = await stack.control("zion", "rename", {"user": user.external_id, "externalId": user.external_id, **shown})
    return User(user.external_id, user.external_id, made["jwt"])


async def rename(stack: Stack, user: User, **names: str) -> User:
    """The same user as Zion calls it from now on, with another token, which makes Sentinel ask."""
    given = {"externalId": user.external_id, "email": user.email} | names
    made = await stack.control("zion", "rename", {"user": user.external_id, **given})
    return User(made["externalId"], made["email"], made["jwt"])


async def call(stack: Stack, user: User, told: User | None = None) -> None:
    """One chat of 7 tokens, which the provider notes for `told`."""
    async with sdk(stack, user.token) as client:
        await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=(told or user).email, extra_body={"simulate": {"output_tokens": 7}}
        )


async def letter(stack: Stack, user: User, *, but: str = "") -> dict[str, Any]:
    """The one dead letter of what was used under a user's external id, when it is there; another than `but`."""
    async with asyncio.timeout(RECONCILED_S):
        while not (found := [row for row in await letters(stack, user) if row["id"] != but]):
            await asyncio.sleep(0.1)
    (one,) = found
    return one


async def letters(stack: Stack, user: User) -> list[dict[str, Any]]:
    """The dead letters of what was used under a user's external id."""
    code, _, _ = await run(stack, "usage", user.external_id, "--json")
    found: list[dict[str, Any]] = (await admin_ledger(stack, user.external_id))["dead_letters"] if code == 0 else []
    return found


async def requeue(stack: Stack, one: dict[str, Any]) -> None:
    """By the command."""
    assert (await run(stack, "usage", "requeue", one["id"]))[0] == 0


async def well(stack: Stack, user: User, requests: int) -> None:
    """All that was served to a user is booked under its present name, to the token, and nothing waits."""
    async with asyncio.timeout(RECONCILED_S):
        while (await booked(stack)).get(user.email, (0, 0, 0))[0] != requests:
            await asyncio.sleep(0.05)
    comparison = await compared(stack, [user])
    assert comparison.equal, comparison
    assert comparison.waiting == {}
    assert comparison.booked[user.email][::2] == (requests, 7 * requests)


async def test_a_user_without_an_email_is_booked(named: tuple[Stack, str]) -> None:
    """By the external id, in whatever format the others are reported, without one increment that Zion refuses."""
    stack, usage_format = named
    users = [await nameless(stack, email) for email in (ABSENT, None, "", " ", "\t\n")]
    other = await make_user(stack)
    await asyncio.gather(*(call(stack, user) for user in (*users, other) for _ in range(3)))
    for user in (*users, other):
        await well(stack, user, 3)
    rows = (await stack.control("zion", "ledger"))["rows"]
    formats = {row["externalId"]: row["format"] for row in rows}
    assert {formats[user.external_id] for user in users} == {"per_limit"}
    assert formats[other.external_id] == usage_format
    assert json.loads((await run(stack, "usage", "--json"))[1])["dead_letters"] == []


async def test_what_is_refused_of_a_user_without_an_email_is_booked_when_there_is_one(named: tuple[Stack, str]) -> None:
    """A dead letter with Zion's reason at once; requeued when the user has an e-mail, it is booked under that."""
    stack, usage_format = named
    user = await nameless(stack)
    told = replace(user, email=f"{user.external_id}@new.test")
    await stack.control("zion", "faults", {"fail_emails": [user.external_id]})
    await call(stack, user, told)
    one = await letter(stack, user)
    assert (one["reason"], one["email"], one["output_tokens"]) == ("This increment could not be applied", "", 7)
    await stack.control("zion", "faults", {"fail_emails": []})
    await call(stack, await rename(stack, user, email=told.email), told)
    await requeue(stack, one)
    await well(stack, told, 2)
    rows = [row for row in (await stack.control("zion", "ledger"))["rows"] if row["externalId"] == user.external_id]
    assert {row["format"] for row in rows} == {usage_format}


RENAMES = [("new", ""), ("", "anew"), ("new", "anew")]


@pytest.mark.parametrize(("mail", "external"), RENAMES, ids=["e-mail", "external id", "both"])
async def test_usage_of_a_caller_who_was_renamed_is_booked_under_the_present_names(
    named: tuple[Stack, str], mail: str, external: str
) -> None:
    """Refused under names that Sentinel still knew, again while it knows no others, and booked as soon as it does."""
    stack, usage_format = named
    user = await make_user(stack)
    names = {"email": f"{mail}-{user.email}"} if mail else {}
    names |= {"externalId": f"{user.external_id}-{external}"} if external else {}
    told = replace(user, email=names.get("email", user.email))
    await call(stack, user, told)
    async with asyncio.timeout(RECONCILED_S):
        while (await booked(stack)).get(user.email, (0,))[0] != 1:
            await asyncio.sleep(0.05)
    anew = await rename(stack, user, **names)
    await call(stack, user, told)
    said = external if usage_format == "per_limit" else mail
    if said:
        one = await letter(stack, user)
        assert (one["reason"], one["email"]) == ("User not found", user.email)
        await requeue(stack, one)
        one = await letter(stack, user, but=one["id"])
    await call(stack, anew, told)
    if said:
        await requeue(stack, one)
    # The worker that remembers the first token uses the old names on.
    await call(stack, user, told)
    sums = await under(stack, user.email, anew.email, requests=4)
    served = (await compared(stack, [told], wait_s=0)).served[told.email]
    assert sums == served
    assert await letters(stack, user) == []


async def under(stack: Stack, *emails: str, requests: int) -> tuple[int, int, int]:
    """What is booked under these e-mails together, when it is so many requests."""
    async with asyncio.timeout(RECONCILED_S):
        while True:
            sums = await booked(stack)
            found = [sums[email] for email in dict.fromkeys(emails) if email in sums]
            total = tuple(map(sum, zip(*found, strict=True)))
            if total[:1] == (requests,):
                return total[0], total[1], total[2]
            await asyncio.sleep(0.05)


async def test_a_sealed_report_is_not_renamed_and_not_lost(named: tuple[Stack, str]) -> None:
    """Zion fails while it is sent, and renames the caller meanwhile: the old bytes are refused, and booked when requeued."""
    stack, usage_format = named
    user = await make_user(stack)
    name = user.external_id if usage_format == "per_limit" else user.email
    await stack.control("zion", "faults", {"status": 500, "call": "batch", "user": name})
    told = replace(user, email=f"new-{user.email}")
    await call(stack, user, told)
    async with asyncio.timeout(RECONCILED_S):
        while not (await admin_ledger(stack, user.external_id))["batches"]:
            await asyncio.sleep(0.1)
    anew = await rename(stack, user, email=told.email, externalId=f"{user.external_id}-anew")
    await call(stack, anew)
    (batch,) = (await admin_ledger(stack, user.external_id))["batches"]
    assert [(part["external_id"], part["email"]) for part in batch["sums"]] == [(user.external_id, user.email)]
    await stack.control("zion", "reset", {"faults": True})
    one = await letter(stack, user)
    assert one["id"] == f"{batch['id']}:0"
    await requeue(stack, one)
    await well(stack, anew, 2)


async def test_the_simulator_books_nothing_for_nobody(named: tuple[Stack, str]) -> None:
    """No increment without a name is taken, in a batch or alone, whoever there is without an e-mail."""
    stack, _ = named
    await nameless(stack)
    before = len((await stack.control("zion", "ledger"))["rows"])
    for name in ("", " ", None, 7):
        for body in ({"email": name, "aiRequests": 1}, {"externalId": name, "limitName": "ai_requests", "amount": 1}):
            status, _ = await post(stack, "increment", body)
            assert status == 400
            status, answer = await post(stack, "batch-increment", {"increments": [body]})
            assert (status, answer["data"]["failed"]) == (200, 1)
    assert len((await stack.control("zion", "ledger"))["rows"]) == before


async def post(stack: Stack, endpoint: str, body: Any) -> tuple[int, Any]:
    """(status, JSON) of what Zion's simulator is told."""
    async with (
        aiohttp.ClientSession(headers={"x-api-key": stack.zion_key}) as http,
        http.post(f"{stack.zion_url}/api/v1/usage/external/{endpoint}", json=body) as response,
    ):
        return response.status, await response.json()
