"""Bills of every shape of answer at once, through real Granian with two workers: what Zion booked is what was served.

The table is `tests/support/shapes.py`: a shape that is met in the world gets a row there.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.comparison import Comparison, compare
from sentinel.devstack.stack import Stack
from sentinel.ledger import open_redis, redis_time
from sentinel.ledger.ledger_admin import LedgerAdmin
from sentinel.ledger.redis.pipeline import Pipeline
from tests.process.conftest import SETTINGS
from tests.support.running import RECONCILED_S, make_user
from tests.support.scripted import END, Asked, Scripted, chunk
from tests.support.shapes import PROVIDER_ACCOUNT, SHAPES, Job

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

PARTITIONS = 16
AT_ONCE = 12
NAMELESS, RENAMED = "no e-mail", "renamed"
ANEW = {"externalId": "anew", "email": "anew@example.test"}
SEGMENT_S = 0.02


class Provider:
    """A scripted provider that keeps its own journal of what it served: `rows`, as the simulator's."""

    def __init__(self, scripted: Scripted) -> None:
        self.rows: list[dict[str, Any]] = []
        self._scripted = scripted

    def expect(self, job: Job, caller: str) -> None:
        """Play `job` when it is asked for, and note it as this caller's."""

        async def play(asked: Asked, writer: asyncio.StreamWriter) -> None:
            if job.shape.served:
                self.rows.append(
                    {
                        "user": caller,
                        "request_id": asked.header("x-request-id"),
                        "status": 200,
                        "client_gone": job.shape.ends == "left",
                        "input_tokens": job.input_tokens,
                        "output_tokens": job.output_tokens,
                    }
                )
            await _send(job, asked, writer)

        self._scripted.acts[str(job.number)] = play


async def _send(job: Job, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The answer of a job, each segment by itself."""
    shape = job.shape
    label = f"content-type: {shape.label}\r\n" if shape.label else ""
    writer.write(f"HTTP/1.1 {shape.status} X\r\n{label}transfer-encoding: chunked\r\n\r\n".encode())
    for segment in shape.answer(job):
        writer.write(chunk(segment))
        await writer.drain()
        await asyncio.sleep(SEGMENT_S)
    if shape.ends == "left":
        await asked.gone.wait()
    elif shape.ends == "cut":
        writer.close()
    else:
        writer.write(END)


class Town:
    """A stack, its provider, and clients who ask for jobs."""

    def __init__(self, stack: Stack, provider: Provider, http: aiohttp.ClientSession) -> None:
        self.stack, self.provider, self.http = stack, provider, http
        self.told: set[int] = set()
        self.callers: dict[str, str] = {}
        self.tokens: dict[str, list[str]] = {}

    async def add(self, caller: str, names: Mapping[str, Any] | None = None) -> None:
        """A caller of this name, whom Zion gives others, if any."""
        user = await make_user(self.stack, input=10**9, output=10**9)
        self.callers[user.external_id] = caller
        self.tokens[caller] = [user.token]
        if names is not None:
            self.tokens[caller] = [await self.rename(caller, names)]

    async def rename(self, caller: str, names: Mapping[str, Any]) -> str:
        """Another token of a caller, whom Zion calls so from now on."""
        (external_id,) = [known for known, name in self.callers.items() if name == caller]
        made = await self.stack.control("zion", "rename", {"user": external_id, "externalId": external_id, **names})
        self.callers[made["externalId"]] = caller
        return str(made["jwt"])

    async def ask(self, job: Job, token: str) -> None:
        """One request of a client, which sees what was said, and no usage that it did not ask for."""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", **job.shape.headers}
        url = f"{self.stack.base_url}{job.shape.path}"
        async with self.http.post(url, data=job.body(), headers=headers) as answer:
            body = await (_until(answer, job) if job.shape.ends == "left" else answer.read())
            if job.shape.ends == "left":
                answer.close()
        shown = body[-2000:]
        assert answer.status == job.shape.down, shown
        assert PROVIDER_ACCOUNT not in body, shown
        if job.shape.served:
            missing = [piece for text in job.said for piece in text if piece.encode() not in body]
            assert missing == [], shown
            assert not (job.shape.hides and b'"usage"' in body), shown
        self.told.add(job.number)

    async def compared(self) -> Comparison:
        """What Zion has booked against what was served, by caller, whatever Zion calls it."""
        ledger = await self.stack.control("zion", "ledger")
        booked = [row | {"email": self.callers[row["externalId"]]} for row in ledger["rows"]]
        return compare(self.provider.rows, booked)

    async def reconciled(self) -> Comparison:
        """The same as soon as it agrees; what was reported under names that are no more is requeued meanwhile."""
        until_s = asyncio.get_running_loop().time() + 2 * RECONCILED_S
        while not (comparison := await self.compared()).equal and asyncio.get_running_loop().time() < until_s:
            await self.letters(requeue=True)
            await asyncio.sleep(0.2)
        return comparison

    async def letters(self, *, requeue: bool = False) -> int:
        """How many dead letters there are, each sent again where an operator would."""
        window = (-1, 60_000)
        pipeline = Pipeline(open_redis(self.stack.redis_url, 5.0), 5.0)
        admin_ledger = LedgerAdmin(pipeline, partitions=PARTITIONS, window=window, now_ms=redis_time)
        try:
            letters = [letter async for letter in admin_ledger.dead_letters()]
            return sum([await admin_ledger.requeue_letter(letter) for letter in letters]) if requeue else len(letters)
        finally:
            await admin_ledger.close()


async def _until(answer: aiohttp.ClientResponse, job: Job) -> bytes:
    """An answer as far as the provider sends it, which then says nothing more."""
    body, sent_bytes = bytearray(), sum(map(len, job.shape.answer(job)))
    while len(body) < sent_bytes:
        body += await answer.content.readany()
    return bytes(body)


@pytest_asyncio.fixture(params=["unified", "per_limit"], loop_scope="session")
async def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """Two workers, in each format of reports."""
    async with Scripted() as scripted, aiohttp.ClientSession(auto_decompress=False) as http:
        settings = SETTINGS | {"OPENAI_API_URL": scripted.url, "ZION_USAGE_FORMAT": request.param}
        settings |= {"SENTINEL_LEDGER_PARTITIONS": str(PARTITIONS), "SENTINEL_ZION_REQUESTS_PER_SECOND": "200"}
        async with Stack(tmp_path_factory.mktemp("wire"), settings=settings) as stack:
            yield Town(stack, Provider(scripted), http)


async def test_what_zion_booked_is_what_was_served_in_every_shape(town: Town) -> None:
    """A caller for each row of the table, and two who ask for all of them, mixed: equal to the token, nothing twice.

    One of the two has no e-mail, the other is renamed in the middle; Zion fails, and loses replies.
    """
    chance = random.Random(20_261_127)
    await asyncio.gather(*(town.add(caller) for caller in (*SHAPES, RENAMED)), town.add(NAMELESS, {"email": None}))
    numbered = [(caller, shape) for name, shape in SHAPES.items() for caller in (name, name, NAMELESS, RENAMED)]
    jobs = [(caller, shape.job(number, chance)) for number, (caller, shape) in enumerate(numbered)]
    chance.shuffle(jobs)
    for caller, job in jobs:
        town.provider.expect(job, caller)
    for fault in ({"apply_then_drop": True, "times": 2}, {"status": 500, "times": 1}):
        await town.stack.control("zion", "faults", fault | {"call": "batch"})
    busy = asyncio.Semaphore(AT_ONCE)

    async def one(caller: str, job: Job) -> None:
        async with busy:
            await town.ask(job, chance.choice(town.tokens[caller]))

    async def ask(some: list[tuple[str, Job]]) -> None:
        async with asyncio.timeout(120):
            await asyncio.gather(*(one(caller, job) for caller, job in some))

    half = len(jobs) // 2
    await ask(jobs[:half])
    assert await town.letters() == 0
    another = await town.rename(RENAMED, ANEW)
    # With the first token Sentinel still knows the old names, under which Zion books nothing any more.
    await ask([(caller, job) for caller, job in jobs[half:] if caller == RENAMED][:8])
    async with asyncio.timeout(RECONCILED_S):
        while not await town.letters():
            await asyncio.sleep(0.1)
    town.tokens[RENAMED].append(another)
    await ask([(caller, job) for caller, job in jobs[half:] if job.number not in town.told])
    assert len(town.told) == len(jobs)
    comparison = await town.reconciled()
    assert (comparison.lost, comparison.unexpected, comparison.duplicated) == ((), (), ())
    assert all(row["request_id"] for row in town.provider.rows)
    served = {name for name, shape in SHAPES.items() if shape.served}
    assert set(comparison.booked) == {NAMELESS, RENAMED, *served}
