"""delivery: what is sent to Zion after which answer, over a real Redis and a real HTTP connection, with injected clocks."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sentinel.journal import Journal
from sentinel.ledger import Ledger
from sentinel.ledger.ledger_admin import Sum
from sentinel.ops.records import Bill, Caller, Hold, Remaining
from sentinel.stages.reporting.delivery import Delivery, HeldBack
from sentinel.zion import increments
from sentinel.zion.client import Zion
from sentinel.zion.gate import Gate
from sentinel.zion.increments import Item, Seal
from sentinel.zion.session import open_session
from tests.support.ledgers import emptied, open_ledger
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

NOON_MS = 1_795_262_400_000
NO_LIMIT = Remaining(None, None, None)
BOOKED: tuple[int, Any] = (200, {"success": True, "data": {}})
UNKNOWN_USER = (404, {"success": False, "error": {"code": "NOT_FOUND", "message": "User not found"}})
UNKNOWN_PATH = (
    404,
    {"success": False, "error": {"code": "NOT_FOUND", "message": "Cannot POST /api/v1/usage/external/increment"}},
)
INVALID = (400, {"error": {"code": "INVALID"}})
PROXY_404 = (404, {"error": "Not Found"})


def items_of(seal: Seal) -> list[Item]:
    """What a seal tells to report."""
    return [
        Item(external_id, email, model, *amounts) for external_id, email, model, _, *amounts in json.loads(bytes(seal.items))
    ]


class Told:
    """A Zion that answers as it is told (0: not at all), and remembers what it was sent: (endpoint, idempotency key, body)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.answer: Callable[[str, Any], tuple[int, Any]] = lambda *_: BOOKED

    async def post(self, request: web.Request) -> web.Response:
        """Any POST."""
        endpoint, body = request.path.rpartition("/")[2], await request.json()
        self.sent.append((endpoint, request.headers["idempotency-key"], body))
        status, answer = self.answer(endpoint, body)
        if not status and request.transport is not None:
            request.transport.close()
        return web.Response(status=status, text=json.dumps(answer), content_type="application/json")


class Parts:
    """All that a delivery needs, with clocks that stand still: `now_ms` of the scripts, `now_s` of the worker."""

    def __init__(self, ledger: Ledger, gate: Gate, zion: Zion, journal: Journal, told: Told) -> None:
        self.ledger = ledger
        self.journal = journal
        self.told = told
        self.now_s = 0.0
        self.delivery = Delivery(
            ledger, gate, zion, journal, usage_format="unified", items_max=100, retry_s=60.0, now_s=lambda: self.now_s
        )

    async def use(self, *names: str, mail: str = "@x.test") -> None:
        """Settled usage of these callers, one request each; without an e-mail where `mail` is blank."""
        for name in names:
            caller = Caller(name, name + mail if mail.strip() else mail)
            hold = Hold(f"req_{len(self.told.sent)}_{name}", caller, "m", 0, 0, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT)
            assert (await self.ledger.settle(hold, Bill(1, 2, 3), blind=True)).applied

    async def letters(self) -> dict[str, str]:
        """The reasons of the dead letters by external id."""
        return {letter.sum.external_id: letter.reason async for letter in self.ledger.admin_ledger.dead_letters()}


class Clock:
    """The time the scripts are told, Unix ms."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def parts(redis_server: RedisServer, clock: Clock, tmp_path: Path) -> AsyncIterator[Parts]:
    """One worker's delivery over an empty Redis."""
    await emptied(redis_server.url)
    ledger = open_ledger(redis_server.url, now_ms=clock)
    gate = ledger.gate(requests_per_s=1_000, failures_max=3, open_s=30.0, zion_timeout_s=5.0, waiting_max=64, processes=1)
    told = Told()
    application = web.Application()
    application.router.add_post("/{path:.*}", told.post)
    server = TestServer(application)
    await server.start_server()
    session = open_session(connect_s=5.0, idle_s=5.0, connections_max=4)
    zion = Zion(session, str(server.make_url("")), "key", 5.0, gate)
    journal = Journal(tmp_path, "a" * 16, bytes_max=2**20, keep_s=60.0, refuse_when_full=True)
    journal.tend()
    yield Parts(ledger, gate, zion, journal, told)
    journal.close()
    await zion.close()
    await server.close()
    await ledger.close()


async def test_a_failed_batch_goes_again_in_a_minute_more_or_less(parts: Parts, clock: Clock) -> None:
    """60 s ± 10 %, the same bytes under the same key; then it is booked and gone."""
    parts.told.answer = lambda *_: (500, {})
    await parts.use("ada", "bob")
    assert await parts.delivery.deliver(0) == HeldBack(66.0)
    clock.now_ms += 53_999
    assert (await parts.ledger.peek(0)).due == 0
    clock.now_ms += 12_002
    assert (await parts.ledger.peek(0)).due == 1
    parts.told.answer = lambda *_: BOOKED
    assert await parts.delivery.deliver(0) is None
    first, second = parts.told.sent
    assert first == second
    queue = await parts.ledger.peek(0)
    assert (queue.sums, queue.batches) == (0, 0)


async def test_a_batch_stands_on_the_disk_before_zion_hears_of_it(parts: Parts, clock: Clock) -> None:
    """What is sent can be sealed again as it was; that stands there once, however often it is sent."""
    seen: list[list[tuple[str, bytes]]] = []

    def answer(*_: object) -> tuple[int, Any]:
        found = [seal for some in parts.journal.sealed_since(0) for seal in some]
        bodies = [increments.build(items_of(seal), seal.usage_format, seal.stamp_ms).body for seal in found]
        seen.append([(seal.batch_id, body) for seal, body in zip(found, bodies, strict=True)])
        return (500, {}) if len(seen) == 1 else BOOKED

    parts.told.answer = answer
    await parts.use("ada", "bob")
    await parts.delivery.deliver(0)
    clock.now_ms += 66_001
    await parts.delivery.deliver(0)
    sent = [(key, body) for _, key, body in parts.told.sent]
    assert [[(batch_id, json.loads(body)) for batch_id, body in found] for found in seen] == [[one] for one in sent]
    assert len(sent) == 2


async def test_while_the_breaker_is_open_nothing_is_sealed(parts: Parts, clock: Clock) -> None:
    """Three failures, the third with the last batch that is sealed; usage that comes then stays in the sums."""
    parts.told.answer = lambda *_: (500, {})
    for name in ("ada", "bob", "eve"):
        await parts.use(name)
        await parts.delivery.deliver(0)
    await parts.use("joe", "zoe")
    assert await parts.delivery.deliver(0) == HeldBack(30.0, by_gate=True)
    queue = await parts.ledger.peek(0)
    assert (queue.sums, queue.batches, len(parts.told.sent)) == (2, 3, 3)


async def test_a_failure_in_the_middle_keeps_what_was_answered(parts: Parts, clock: Clock) -> None:
    """One by one: what is booked or refused is not sent again, and the batch's own key never again."""
    await parts.use("ada", "bob", "eve", "joe")

    def answer(endpoint: str, body: Any) -> tuple[int, Any]:
        if endpoint == "batch-increment":
            return 400, {"success": False, "error": {"code": "INVALID_REQUEST"}}
        return {"bob@x.test": (500, {}), "eve@x.test": UNKNOWN_USER}.get(body["email"], BOOKED)

    parts.told.answer = answer
    assert await parts.delivery.deliver(0) == HeldBack(66.0)
    assert len(parts.told.sent) == 5
    clock.now_ms += 66_001
    parts.told.answer = lambda *_: BOOKED
    assert await parts.delivery.deliver(0) is None
    (endpoint, key, body) = parts.told.sent[5]
    assert (endpoint, body["email"], len(parts.told.sent)) == ("increment", "bob@x.test", 6)
    assert key in {key for _, key, sent in parts.told.sent[1:5] if sent == body}
    assert await parts.letters() == {"eve": "status 404: User not found"}
    assert (await parts.ledger.peek(0)).batches == 0


@pytest.mark.parametrize("missing", [UNKNOWN_PATH, PROXY_404])
async def test_a_path_that_is_not_there_refuses_nothing(parts: Parts, missing: tuple[int, Any]) -> None:
    """A wrong URL answers 404 to everything: that is a failure, and no word on any increment."""
    parts.told.answer = lambda *_: missing
    await parts.use("ada", "bob")
    assert await parts.delivery.deliver(0) == HeldBack(66.0)
    assert await parts.letters() == {}
    assert (await parts.ledger.peek(0)).batches == 1


async def test_the_batch_endpoint_is_looked_for_again_after_ten_minutes(parts: Parts) -> None:
    """Until then increments go one by one without asking."""
    parts.told.answer = lambda endpoint, _: PROXY_404 if endpoint == "batch-increment" else BOOKED
    for now_s in (0.0, 1.0, 599.0, 600.0):
        parts.now_s = now_s
        await parts.use("ada")
        assert await parts.delivery.deliver(0) is None
    one = ["batch-increment", "increment"]
    assert [endpoint for endpoint, _, _ in parts.told.sent] == [*one, "increment", "increment", *one]


@pytest.mark.parametrize("status", [0, 500, 504])
async def test_a_batch_that_may_be_booked_goes_again_as_a_batch(parts: Parts, clock: Clock, status: int) -> None:
    """Zion knows it by its own key, not its increments one by one: a 404 meanwhile, as of a proxy, changes nothing in that."""
    parts.told.answer = lambda *_: (status, {})
    await parts.use("ada", "bob")
    await parts.delivery.deliver(0)
    parts.told.answer = lambda *_: PROXY_404
    await parts.use("eve")
    await parts.delivery.deliver(0)
    clock.now_ms += 66_001
    parts.told.answer = lambda *_: BOOKED
    assert await parts.delivery.deliver(0) is None
    lost, _, _, *after = parts.told.sent
    assert lost in after
    assert [endpoint for endpoint, _, body in after if "eve" not in str(body)] == ["batch-increment"]
    assert (await parts.ledger.peek(0)).batches == 0


async def test_what_went_one_by_one_never_goes_as_a_batch(parts: Parts, clock: Clock) -> None:
    """Also where no increment was answered, by a worker that takes Zion to have an endpoint for batches: one may be booked."""
    parts.told.answer = lambda endpoint, _: PROXY_404 if endpoint == "batch-increment" else (0, {})
    await parts.use("ada", "bob")
    await parts.delivery.deliver(0)
    parts.now_s = 600.0
    clock.now_ms += 66_001
    parts.told.answer = lambda *_: BOOKED
    assert await parts.delivery.deliver(0) is None
    whole, first, second, *after = parts.told.sent
    assert whole[0] == "batch-increment"
    assert after == [first, second]
    assert (await parts.ledger.peek(0)).batches == 0


async def test_a_busy_zion_is_not_asked_before_its_time(parts: Parts, clock: Clock) -> None:
    """429 with Retry-After shuts the gate; it is no failure of Zion's and opens no breaker."""
    parts.told.answer = lambda *_: (429, {})
    await parts.use("ada")
    assert await parts.delivery.deliver(0) == HeldBack(66.0)
    await parts.use("bob")
    assert await parts.delivery.deliver(0) == HeldBack(2.0, by_gate=True)
    clock.now_ms += 2_000
    parts.told.answer = lambda *_: BOOKED
    assert await parts.delivery.deliver(0) is None
    clock.now_ms += 66_000
    assert await parts.delivery.deliver(0) is None
    assert [len(body["increments"]) for _, _, body in parts.told.sent] == [1, 1, 1]


async def test_an_answer_that_cannot_be_read_is_not_asked_for_again(parts: Parts) -> None:
    """200 says that the batch is booked, whatever else it says."""
    parts.told.answer = lambda *_: (200, ["what"])
    await parts.use("ada")
    assert await parts.delivery.deliver(0) is None
    assert (await parts.ledger.peek(0)).batches == 0
    assert await parts.letters() == {}


async def test_a_worker_that_closes_begins_nothing_new(parts: Parts) -> None:
    """After its time, what waits is left to the others."""
    parts.delivery.close()
    parts.now_s = 5.1
    await parts.use("ada")
    assert await parts.delivery.deliver(0) is None
    assert parts.told.sent == []
    assert (await parts.ledger.peek(0)).sums == 1


@pytest.mark.parametrize("blank", ["", " ", "\t "])
async def test_a_caller_without_an_email_is_reported_per_limit(parts: Parts, blank: str) -> None:
    """In a report of its own, by the external id: Zion is never told of nobody; the others are reported as ever."""
    await parts.use("ada")
    await parts.use("bob", "eve", mail=blank)
    assert await parts.delivery.deliver(0) is None
    told = [increment for _, _, body in parts.told.sent for increment in body["increments"]]
    assert [len(body["increments"]) for _, _, body in parts.told.sent] in ([1, 6], [6, 1])
    assert [one["email"] for one in told if "email" in one] == ["ada@x.test"]
    assert sorted((one["externalId"], one["limitName"], one["amount"]) for one in told if "email" not in one) == [
        (name, limit, amount)
        for name in ("bob", "eve")
        for limit, amount in (("ai_input_tokens", 2), ("ai_output_tokens", 3), ("ai_requests", 1))
    ]
    assert await parts.letters() == {}


def refused_items(body: Any) -> tuple[int, Any]:
    """What Zion answers where it books no limit by its name."""
    return 200, {"results": [{"success": "limitName" not in one, "error": "No such limit"} for one in body["increments"]]}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _, body: refused_items(body), "No such limit"),
        (lambda _, body: INVALID if "email" not in str(body) else BOOKED, "status 400: INVALID"),
        (
            lambda _, body: UNKNOWN_USER if "limitName" in body else PROXY_404 if "increments" in body else BOOKED,
            "status 404: User not found",
        ),
    ],
)
async def test_what_zion_does_not_book_per_limit_is_a_dead_letter_at_once(
    parts: Parts, answer: Callable[[str, Any], tuple[int, Any]], reason: str
) -> None:
    """With Zion's reason, after one attempt; and it is booked under the e-mail that its caller has got since, requeued."""
    parts.told.answer = answer
    await parts.use("ada")
    await parts.use("bob", mail="")
    assert await parts.delivery.deliver(0) is None
    assert await parts.letters() == {"bob": reason}
    await parts.ledger.names.learn("u-2", Caller("bob", ""))
    await parts.ledger.names.learn("u-2", Caller("bob", "bob@new.test"))
    (letter,) = [one async for one in parts.ledger.admin_ledger.dead_letters()]
    assert letter.sum == Sum("bob", "", "m", letter.sum.start_ms, 2, 3, 1)
    assert await parts.ledger.admin_ledger.requeue_letter(letter)
    assert await parts.delivery.deliver(0) is None
    _, _, body = parts.told.sent[-1]
    (told,) = body.get("increments", [body])
    amounts = {name: told[name] for name in ("email", "aiInputTokens", "aiOutputTokens", "aiRequests")}
    assert amounts == {"email": "bob@new.test", "aiInputTokens": 2, "aiOutputTokens": 3, "aiRequests": 1}
    assert await parts.letters() == {}


async def test_a_report_goes_again_as_it_was_sealed_though_its_caller_is_renamed(parts: Parts, clock: Clock) -> None:
    """The same bytes under the same key; refused then, it is booked under the present e-mail when it is requeued."""
    parts.told.answer = lambda *_: (500, {})
    await parts.use("ada")
    await parts.delivery.deliver(0)
    for mail in ("ada@x.test", "ada@new.test"):
        await parts.ledger.names.learn("u-1", Caller("ada", mail))
    clock.now_ms += 66_001

    def answer(_endpoint: str, body: Any) -> tuple[int, Any]:
        known = [one["email"] == "ada@new.test" for one in body["increments"]]
        return 200, {"results": [{"success": good, "error": "User not found"} for good in known]}

    parts.told.answer = answer
    assert await parts.delivery.deliver(0) is None
    assert parts.told.sent[0] == parts.told.sent[1]
    assert await parts.letters() == {"ada": "User not found"}
    (letter,) = [one async for one in parts.ledger.admin_ledger.dead_letters()]
    assert await parts.ledger.admin_ledger.requeue_letter(letter)
    assert await parts.delivery.deliver(0) is None
    assert await parts.letters() == {}
    first, _, last = parts.told.sent
    assert last[1] != first[1]
    (told,) = last[2]["increments"]
    assert told == first[2]["increments"][0] | {"email": "ada@new.test", "timestamp": told["timestamp"]}
