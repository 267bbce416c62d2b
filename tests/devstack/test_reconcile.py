"""reconcile: each kind of difference between journals that are made up, and none where there is none."""

import asyncio
import json
import sys
from typing import Any

import pytest
from redis.asyncio import Redis

from sentinel.devstack import reconcile
from sentinel.devstack.comparison import Batch, Comparison, Waiting, compare
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

ONE, TWO = "one@example.test", "two@example.test"


def served(user: str | None, request_id: str, given: int = 10, produced: int = 5, **changes: Any) -> dict[str, Any]:
    """A row of the provider's journal."""
    row = {"user": user, "request_id": request_id, "status": 200, "client_gone": False}
    return {**row, "input_tokens": given, "output_tokens": produced, **changes}


def booked(email: str, key: str, requests: int = 1, given: int = 10, produced: int = 5, **changes: Any) -> dict[str, Any]:
    """A row of Zion's ledger."""
    amounts = {"aiRequests": requests, "aiInputTokens": given, "aiOutputTokens": produced}
    who = {"email": email, "externalId": email, "format": "unified", "idempotencyKey": key, "position": 0}
    return {**who, **amounts, **changes}


def test_equal_journals_have_no_difference() -> None:
    """Two users, one of them booked as a sum of two requests."""
    rows = [served(ONE, "req_1"), served(ONE, "req_2"), served(TWO, "req_3")]
    comparison = compare(rows, [booked(ONE, "k", 2, 20, 10), booked(TWO, "k")])
    assert comparison.equal
    assert comparison.served == comparison.booked == {ONE: (2, 20, 10), TWO: (1, 10, 5)}


def test_what_was_served_and_is_nowhere_is_lost() -> None:
    """By user and metric, and only where something is missing."""
    comparison = compare([served(ONE, "req_1"), served(TWO, "req_2")], [booked(ONE, "k", produced=3)])
    assert comparison.lost == (f"{ONE}: 2 output", f"{TWO}: 1 requests", f"{TWO}: 10 input", f"{TWO}: 5 output")
    assert (comparison.unexpected, comparison.duplicated, comparison.equal) == ((), (), False)


def test_what_was_booked_and_never_served_is_unexpected() -> None:
    """Too much of one metric, and a user nobody served."""
    comparison = compare([served(ONE, "req_1")], [booked(ONE, "k", given=11), booked(TWO, "k")])
    assert comparison.unexpected == (f"{ONE}: 1 input", f"{TWO}: 1 requests", f"{TWO}: 10 input", f"{TWO}: 5 output")
    assert comparison.lost == ()


def test_a_request_the_provider_served_twice_is_told() -> None:
    """Also where both are booked, so that the sums agree."""
    comparison = compare([served(ONE, "req_1"), served(ONE, "req_1")], [booked(ONE, "k", 2, 20, 10)])
    assert comparison.duplicated == (f"{ONE}: request req_1 was served 2 times",)
    assert (comparison.lost, comparison.unexpected, comparison.equal) == ((), (), False)


def test_a_key_that_was_applied_twice_is_told() -> None:
    """The same place in the report of one key; another of the same user, with the same amounts, is not the same increment."""
    rows = [served(ONE, "req_1"), served(ONE, "req_2")]
    once = compare(rows, [booked(ONE, "k"), booked(ONE, "k", position=1)])
    assert once.equal
    twice = compare([served(ONE, "req_1")], [booked(ONE, "k"), booked(ONE, "k")])
    assert twice.duplicated == (f"{ONE}: key k was applied more than once",)
    assert twice.unexpected == (f"{ONE}: 1 requests", f"{ONE}: 10 input", f"{ONE}: 5 output")


def test_a_user_without_an_email_goes_by_the_external_id() -> None:
    """In Zion's ledger, where such a user is booked per limit, and among what waits."""
    report = [
        booked("", "k", 0, 10, 0, externalId="one", format="per_limit"),
        booked("", "k", 0, 0, 5, externalId="one", format="per_limit", position=1),
        booked("", "k", 1, 0, 0, externalId="one", format="per_limit", position=2),
    ]
    assert compare([served("one", "req_1")], report).equal
    assert compare([served("one", "req_1")], report * 2).duplicated == ("one: key k was applied more than once",)
    assert compare([served("one", "req_1")], report[:2], Waiting(dead={"one": (1, 0, 0)})).equal


def test_rows_without_a_key_are_never_duplicates() -> None:
    """Increments without a key cannot be told apart."""
    assert compare([served(ONE, "req_1"), served(ONE, "req_2")], [booked(ONE, ""), booked(ONE, "")]).equal


def test_what_still_waits_is_not_lost() -> None:
    """Unreported sums, sealed batches and dead letters make up what Zion has not booked; what a correction owes counts too."""
    rows = [served(ONE, f"req_{at}") for at in range(5)]
    waiting = Waiting(
        unreported={ONE: (1, 12, 5), TWO: (0, 0, 0)}, batches=(Batch("b1", {ONE: (1, 10, 5)}),), dead={ONE: (2, 18, 10)}
    )
    comparison = compare(rows, [booked(ONE, "k")], waiting)
    assert comparison.equal
    assert comparison.waiting == {ONE: (4, 40, 20)}
    assert not compare(rows, [booked(ONE, "k")]).equal


def test_a_batch_that_zion_applied_and_nobody_knows_it_waits_only_for_the_answer() -> None:
    """Its rows, also those of single increments, are known by its id; what it failed to apply still waits."""
    batch = Batch("b1", {ONE: (1, 10, 5), TWO: (1, 10, 5)})
    rows = [served(ONE, "req_1"), served(TWO, "req_2")]
    for key in ("b1", "b1-0"):
        comparison = compare(rows, [booked(ONE, key)], Waiting(batches=(batch,)))
        assert comparison.equal
        assert comparison.waiting == {TWO: (1, 10, 5)}


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"status": 500}, False),
        ({"status": 429}, False),
        ({"status": 0}, False),
        ({"status": 0, "client_gone": True}, True),
        ({"status": 0, "client_gone": True, "input_tokens": 0}, False),
        ({"status": 200, "client_gone": True}, True),
    ],
)
def test_what_counts_as_served(changes: dict[str, Any], counts: bool) -> None:
    """An answer, and work that was under way when the client left; no error, and nothing that never began."""
    assert bool(compare([served(ONE, "req_1", **changes)], []).served) is counts


def test_other_users_and_the_nameless_are_left_out() -> None:
    """Only the users asked for are compared; rows without a user are counted, not compared."""
    rows = [served(ONE, "req_1"), served(TWO, "req_2"), served(TWO, "req_2"), served(None, "req_3")]
    comparison = compare(rows, [booked(ONE, "k"), booked(TWO, "l"), booked(TWO, "l")], Waiting(dead={TWO: (9, 9, 9)}), {ONE})
    assert comparison.equal
    assert (set(comparison.served), comparison.nameless) == ({ONE}, 1)


def test_the_report_names_every_difference() -> None:
    """One line a difference, one a user, and nothing where there is nothing."""
    comparison = compare([served(ONE, "req_1"), served(None, "req_2")], [booked(TWO, "k"), booked(TWO, "k")])
    text = reconcile.report(comparison)
    told = (f"{ONE}: 10 input", f"{TWO}: 20 input", "was applied more than once", "not compared: 1", "1/10/5", "2/20/10")
    assert [line for line in told if line not in text] == []
    nothing = reconcile.report(Comparison({}, {}, {}, (), (), (), 0))
    assert nothing.splitlines()[:3] == ["lost: nothing", "unexpected: nothing", "duplicated: nothing"]


async def test_what_waits_is_read_from_every_partition(redis_server: RedisServer) -> None:
    """Sums, sealed batches without their side fields, and dead letters, as the scripts write them."""
    item = json.dumps(["one", ONE, "m", 1795219200000, 10, 5, 1])
    async with Redis.from_url(redis_server.url) as redis:
        await redis.flushall()
        for partition in range(3):
            await redis.hset(f"a:{{s{partition:02d}}}", f'["one","{ONE}","m",1795219200000]', "10|-5|1")
        await redis.hset("b:{s01}", mapping={"abc": f"[{item},{item}]", "abc:head": "[1795219200000]", "abc:attempt": "2"})
        await redis.hset("x:{s02}", "abc:0", f'["refused",1795219200000,{item}]')
        await redis.hset("zg:{s00}", "state", "1")
        await redis.hset("a:{s03}", '["two","","m",1795219200000]', "1|2|3")
        renamed = json.dumps(["one", "old@x", "m", 1795219200000, 10, 5, 1, ["one", TWO]])
        await redis.hset("x:{s03}", "abc:1", f'["refused",1795219200000,{renamed}]')
        waiting = await reconcile.read_waiting(redis_server.url)
        await redis.flushall()
    unreported = {ONE: (3, 30, -15), "two": (3, 1, 2)}
    assert waiting == Waiting(unreported, (Batch("abc", {ONE: (2, 20, 10)}),), {ONE: (1, 10, 5), TWO: (1, 10, 5)})


async def test_a_part_that_does_not_answer_is_one_sentence() -> None:
    """Exit code 2, not a trace."""
    command = (
        sys.executable,
        "-m",
        "sentinel.devstack.reconcile",
        "--provider",
        "http://127.0.0.1:9",
        "--zion",
        "http://127.0.0.1:9",
    )
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, told = await process.communicate()
    assert process.returncode == 2
    assert len(told.decode().splitlines()) == 1
