"""background: work that is deleted, forgotten or cancelled is charged all the same. Real Redis, a scripted provider."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sentinel.ledger import Ledger
from sentinel.ledger.background_jobs import BackgroundJob
from sentinel.openai import routes
from sentinel.ops.errors import UpstreamError
from sentinel.ops.records import Caller, Ending, Hold, Outcome, Remaining, Usage
from sentinel.stages.background import Background
from sentinel.upstream.provider import Provider, Timeouts
from tests.stages.test_relay import Answer
from tests.support.ledgers import emptied, open_ledger
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

ADA, BOB = Caller("ada", "ada@example.com"), Caller("bob", "bob@example.com")
FREE = Remaining(None, None, None)
HELD = Hold("req_00000000000000aa_1", ADA, "o3", 12, 500, FREE, FREE, FREE, FREE)
ANSWERED = Outcome(Ending.SUCCESS, 200, started=True, unfinished=True)
JSON = b"application/json"
DONE = {"id": "x", "object": "response", "status": "completed", "usage": {"input_tokens": 30, "output_tokens": 90_000}}
WORKING = {"id": "x", "object": "response", "status": "in_progress", "usage": None}
CANCELLED = WORKING | {"status": "cancelled"}
FAILED = WORKING | {"status": "failed"}


class Shows(Provider):
    """A provider that shows one state after the other, the last one again and again; None: it has no such object."""

    name = "shows"
    chat_cap = ""
    key = "key"

    def __init__(self, *states: dict[str, Any] | UpstreamError | None) -> None:
        self.states = list(states)
        self.asked: list[tuple[str, str]] = []

    async def send(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Sequence[str],
        body: Any,
        on_sent: Callable[[], None],
        patience: Timeouts,
    ) -> Any:
        self.asked.append((method, path))
        if method == "POST":
            return Answer(JSON, [b"{}"])
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, UpstreamError):
            raise state
        return Answer(JSON, [b"{}" if state is None else json.dumps(state).encode()], 404 if state is None else 200)

    async def close(self) -> None: ...


def follower(ledger: Ledger, provider: Provider) -> Background:
    """One that looks often."""
    return Background(ledger, provider, "worker", poll_s=0.01, lease_s=60)


async def opened(server: RedisServer) -> Ledger:
    """The ledger over an empty Redis."""
    await emptied(server.url)
    return open_ledger(server.url, rate_window_ms=1000, fresh_ms=10**9, stale_ms=10**9)


@pytest.mark.parametrize(
    ("states", "usage", "unseen"),
    [
        ([WORKING, DONE], Usage(30, 90_000), ""),
        ([UpstreamError("away"), DONE], Usage(30, 90_000), ""),
        ([WORKING, None], None, "gone"),
        ([CANCELLED], None, "no_usage"),
        ([WORKING | {"status": "expired"}], None, "no_usage"),
        ([DONE | {"usage": None}], None, "no_usage"),
        ([FAILED], None, ""),
        ([FAILED | {"usage": DONE["usage"]}], Usage(30, 90_000), ""),
    ],
)
async def test_an_end_is_billed_or_its_hold(
    redis_server: RedisServer, states: list[Any], usage: Usage | None, unseen: str
) -> None:
    """What has ended is billed by its usage; what is gone, or ended without one, by its hold; a failure is not."""
    ledger = await opened(redis_server)
    outcome = await follower(ledger, Shows(*states)).follow(HELD, ANSWERED, "/responses/resp_1")
    await ledger.close()
    assert outcome is not None
    assert (outcome.usage, outcome.unseen) == (usage, unseen)


@pytest.mark.parametrize(
    ("path", "deleted", "whose", "seen"),
    [
        ("/responses/resp_1", "/responses/resp_1", ADA, True),
        ("/threads/t/runs/r", "/threads/t", ADA, True),
        ("/threads/t/runs/r", "/threads/t/runs/r", ADA, True),
        ("/evals/e/runs/r", "/evals/e", ADA, True),
        ("/evals/e/runs/r", "/evals/e/runs/r", ADA, True),
        ("/responses/resp_12", "/responses/resp_1", ADA, False),
        ("/responses/resp_1", "/responses/resp_1", BOB, False),
        ("/batches/b", "/files/f", ADA, False),
    ],
)
async def test_a_delete_is_settled_before_it_goes_up(
    redis_server: RedisServer, path: str, deleted: str, whose: Caller, seen: bool
) -> None:
    """What is deleted, or lies in what is deleted, is looked at first, and billed by that when it is gone."""
    ledger, provider = await opened(redis_server), Shows(WORKING)
    worker = follower(ledger, provider)
    following = asyncio.create_task(worker.follow(HELD, ANSWERED, path))
    async with asyncio.timeout(10):
        while not provider.asked:
            await asyncio.sleep(0.01)
    provider.states = [DONE]
    following.cancel()
    # Another worker is asked to delete it.
    await follower(ledger, provider).before_delete(whose, deleted)
    provider.states = [None]
    outcome = await worker.follow(HELD, ANSWERED, path) if not seen else await _look_again(worker, ledger, path)
    await ledger.close()
    assert outcome is not None
    assert (outcome.usage, outcome.unseen) == ((Usage(30, 90_000), "") if seen else (None, "gone"))


async def _look_again(worker: Background, ledger: Ledger, path: str) -> Outcome | None:
    """What a worker finds that follows what was noted."""
    (work,) = await ledger.unfinished.of(ADA.external_id)
    assert work.path == path
    return await worker._watch(work, HELD)


@pytest.mark.parametrize(
    ("states", "cost"),
    [
        ([WORKING, DONE], (30, 90_000)),
        ([WORKING, WORKING, WORKING | {"status": "cancelling"}, DONE | {"status": "cancelled"}], (30, 90_000)),
        ([WORKING, FAILED], (12, 0)),
        ([WORKING, CANCELLED], None),
        ([WORKING], None),
        ([None], None),
        ([UpstreamError("away")], None),
    ],
)
async def test_what_works_is_cancelled_before_it_is_deleted(
    redis_server: RedisServer, states: list[Any], cost: tuple[int, int] | None
) -> None:
    """Work that goes on is cancelled, since only then it tells its cost; who tells nothing pays the hold."""
    ledger, provider = await opened(redis_server), Shows(*states)
    work = BackgroundJob(HELD.request_id, "ada", "", "o3", 12, "/threads/t/runs/r", 0, 500)
    await ledger.unfinished.add(work)
    await follower(ledger, provider).before_delete(ADA, "/threads/t")
    (noted,) = await ledger.unfinished.of("ada")
    await ledger.close()
    assert noted.cost == cost
    assert (("POST", "/threads/t/runs/r/cancel") in provider.asked) == (states[0] is not None)


@pytest.mark.parametrize(
    ("states", "charged"),
    [([None], (12, 500)), ([CANCELLED], (12, 500)), ([DONE], (30, 90_000)), ([FAILED], (12, 0))],
)
async def test_what_others_left_costs_the_same(redis_server: RedisServer, states: list[Any], charged: tuple[int, int]) -> None:
    """Work that is adopted is charged as by the worker that began it: gone or untold, by its hold."""
    ledger = await opened(redis_server)
    await ledger.unfinished.add(BackgroundJob(HELD.request_id, "ada", "ada@example.com", "o3", 12, "/responses/resp_1", 0, 500))
    worker = Background(ledger, Shows(*states), "other", poll_s=0.01, lease_s=0.05, now_s=lambda: 1.0)
    worker.open()
    async with asyncio.timeout(10):
        while await ledger.unfinished.of("ada"):
            await asyncio.sleep(0.01)
    await worker.close()
    sums = [one async for one in ledger.admin_ledger.sums()]
    await ledger.close()
    assert [(one.input_tokens, one.output_tokens, one.requests) for one in sums] == [(*charged, 1)]


async def test_work_is_noted_once_and_stays_its_workers(redis_server: RedisServer) -> None:
    """Rule P3: work that is noted while its answer goes on is left alone by the others as long as its worker lives, followed
    under the same record, and forgotten when it is settled, also where nobody had to follow it.
    """
    ledger, match = await opened(redis_server), routes.match("POST", "/v1/responses")
    own = Background(ledger, Shows(WORKING), "own", poll_s=0.01, lease_s=0.1)
    other = Background(ledger, Shows(DONE), "other", poll_s=0.01, lease_s=0.1)
    ledger.unfinished._claim_ms = 200
    tried: list[bool] = []

    async def claim(work: BackgroundJob, worker: str, *, renew: bool) -> bool:
        taken = await real(work, worker, renew=renew)
        if worker == "other":
            tried.append(taken)
        return taken

    real, ledger.unfinished.claim = ledger.unfinished.claim, claim  # type: ignore[method-assign]
    await own.note(HELD, match, {})
    assert await ledger.unfinished.of("ada") == []
    await own.note(HELD, match, {"id": ["resp_1"]})
    first = await ledger.unfinished.of("ada")
    await own.note(HELD, match, {"id": ["resp_2"]})
    own.open()
    other.open()
    async with asyncio.timeout(10):
        while len(tried) < 8:  # for longer than a claim lasts that nobody renews
            await asyncio.sleep(0.01)
    assert not any(tried)
    assert await ledger.unfinished.of("ada") == first
    following = asyncio.create_task(own.follow(HELD, ANSWERED, "/responses/resp_1"))
    await asyncio.sleep(0)
    assert await ledger.unfinished.of("ada") == first
    own._provider.states = [DONE]  # type: ignore[attr-defined]
    outcome = await following
    assert outcome is not None
    assert outcome.usage == Usage(30, 90_000)
    await own.done(HELD)
    assert await ledger.unfinished.of("ada") == []
    await own.note(HELD, match, {"id": ["resp_1"]})
    await own.done(HELD)
    assert await ledger.unfinished.of("ada") == []
    await own.close()
    await other.close()
    await ledger.close()


async def test_work_that_cannot_be_noted_is_charged_by_its_hold(redis_server: RedisServer) -> None:
    """Where Redis is away the answer goes down all the same, and the bill says that its cost will never be known."""
    ledger = await opened(redis_server)
    worker = follower(ledger, Shows(DONE))
    await ledger.close()
    await worker.note(HELD, routes.match("POST", "/v1/responses"), {"id": ["resp_1"]})
    outcome = await worker.follow(HELD, ANSWERED, "/responses/resp_1")
    assert outcome is not None
    assert outcome.unseen == "unfinished"
    await worker.done(HELD)


async def test_a_look_that_hangs_keeps_no_worker(redis_server: RedisServer) -> None:
    """A provider that does not answer for the state of some work is waited for no longer than its worker lives."""
    ledger, hangs = await opened(redis_server), Shows(WORKING)
    asked = asyncio.Event()

    async def send(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    hangs.send = send  # type: ignore[method-assign]
    worker = follower(ledger, hangs)
    following = asyncio.create_task(worker.follow(HELD, ANSWERED, "/responses/resp_1"))
    async with asyncio.timeout(10):
        await asked.wait()
        await worker.close()
        assert await following is None
    assert [work.request_id for work in await ledger.unfinished.of("ada")] == [HELD.request_id]
    await ledger.close()


def test_a_record_of_an_older_version_is_read() -> None:
    """What a worker before this version has noted is still followed."""
    from sentinel.ledger import background_jobs

    work = background_jobs._read(b'["r","ada","a@b","o3",12,"/responses/resp_1",7]')
    assert (work.output_tokens, work.cost, work.lies_in("/responses/resp_1")) == (0, None, True)
