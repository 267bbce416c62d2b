"""auth: what Zion's profile says of a caller, over real HTTP and a real Redis, and what becomes of other names."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sentinel.ledger import Ledger, open_redis
from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import ForbiddenError, SentinelError, UnauthorizedError, ZionUnavailableError
from sentinel.ops.records import Bill, Caller, Hold, Remaining
from sentinel.stages.auth import Auth
from sentinel.zion.client import Zion
from sentinel.zion.credentials import Head
from sentinel.zion.increments import Item
from sentinel.zion.session import open_session
from tests.support.ledgers import open_ledger
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

NO_LIMIT = Remaining(None, None, None)


class World:
    """Two workers' Auth over one Redis, and a Zion that says `profile` to every token."""

    def __init__(self, zion: Zion, ledger: Ledger, redis: Any) -> None:
        self.profile: Any = {}
        self.status, self.asked = 200, 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.turns: list[str] = []
        self.now_s = 1_700_000_000.0
        self.zion, self.ledger, self.redis = zion, ledger, redis
        self.workers = [self.worker() for _ in range(2)]

    def worker(self) -> Auth:
        """One that knows nobody."""
        times = {"profile_ttl_s": 300, "stale_s": 600, "refusal_ttl_s": 0.0}
        return Auth(self.ledger, self.zion, None, **times, entries_max=100, now_s=lambda: self.now_s)

    async def identify(self, token: str, worker: int = 0, claims: Any = None) -> Caller:
        """Who this token belongs to."""
        parts = '{"alg":"HS256"}', json.dumps(claims or {}), token
        written = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
        return await self.workers[worker].identify(Fields.of([(b"authorization", f"Bearer {written}".encode())]))

    async def use(self, request_id: str, caller: Caller) -> None:
        """Usage, settled."""
        hold = Hold(request_id, caller, "m", 0, 0, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT)
        assert (await self.ledger.settle(hold, Bill(1, 2, 3), blind=True)).applied


@pytest.fixture
async def world(redis_server: RedisServer) -> AsyncIterator[World]:
    """An empty Redis, and Zion on a socket."""
    redis = open_redis(redis_server.url, 5.0)
    await redis.flushall()
    ledger = open_ledger(redis_server.url)

    async def me(_request: web.Request) -> web.Response:
        made.asked += 1
        await made.answers.wait()
        if made.status != 200:
            return web.json_response({"success": False}, status=made.status)
        return web.Response(text=json.dumps(made.profile), content_type="application/json")

    application = web.Application()
    application.router.add_get("/api/v1/users/me", me)
    server = TestServer(application)
    await server.start_server()
    gate = ledger.gate(requests_per_s=1_000, failures_max=3, open_s=30.0, zion_timeout_s=5.0, waiting_max=64, processes=1)
    turn = gate.turn

    async def noted(kind: Any, *, first: bool) -> None:
        made.turns.append(kind)
        await turn(kind, first=first)

    gate.turn = noted  # type: ignore[method-assign]
    zion = Zion(open_session(connect_s=5.0, idle_s=5.0, connections_max=4), str(server.make_url("")), "key", 5.0, gate)
    made = World(zion, ledger, redis)
    yield made
    made.answers.set()
    for worker in made.workers:
        await worker.close()
    await zion.close()
    await server.close()
    await ledger.close()
    await redis.aclose()


@pytest.mark.parametrize("enveloped", [True, False])
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ({"id": "u-1", "externalId": "ada", "email": "ada@x.test"}, ("u-1", Caller("ada", "ada@x.test"))),
        ({"id": "u-1", "externalId": "ada", "email": ""}, ("u-1", Caller("ada", ""))),
        ({"id": "u-1", "externalId": "ada", "email": None}, ("u-1", Caller("ada", ""))),
        ({"id": "u-1", "externalId": "ada", "email": " \t\n"}, ("u-1", Caller("ada", ""))),
        ({"id": "u-1", "externalId": "ada", "email": "\u00a0"}, ("u-1", Caller("ada", ""))),
        ({"id": "u-1", "externalId": "ada"}, ("u-1", Caller("ada", ""))),
        ({"id": "u-1", "externalId": "ada", "email": " ada@x.test"}, ("u-1", Caller("ada", " ada@x.test"))),
        ({"id": 17, "externalId": "ada", "email": "a@x"}, ("17", Caller("ada", "a@x"))),
        ({"id": None, "externalId": "ada", "email": "a@x"}, ("ada", Caller("ada", "a@x"))),
        ({"externalId": "ada", "email": "a@x"}, ("ada", Caller("ada", "a@x"))),
        ({"id": "u-1", "externalId": "", "email": "a@x"}, ForbiddenError),
        ({"id": "u-1", "externalId": "  ", "email": "a@x"}, ForbiddenError),
        ({"id": "u-1", "externalId": None, "email": "a@x"}, ForbiddenError),
        ({"id": "u-1", "email": "a@x"}, ForbiddenError),
        ({"id": "u-1", "externalId": "ada", "email": ["a@x"]}, ZionUnavailableError),
        ({"id": "u-1", "externalId": 7, "email": "a@x"}, ZionUnavailableError),
    ],
)
async def test_what_a_profile_says(world: World, profile: Any, expected: Any, enveloped: bool) -> None:
    """No e-mail in any of its ways is none; others stay as Zion writes them; without an external id nobody is served."""
    world.profile = {"success": True, "data": profile} if enveloped else profile
    if isinstance(expected, type):
        assert issubclass(expected, SentinelError)
        with pytest.raises(expected):
            await world.zion.profile("token")
    else:
        assert await world.zion.profile("token") == expected


@pytest.mark.parametrize(
    "names",
    [
        {"externalId": "ada", "email": "ada@new.test"},
        {"externalId": "lovelace", "email": "ada@x.test"},
        {"externalId": "lovelace", "email": "ada@new.test"},
    ],
)
@pytest.mark.parametrize("token", ["second", "first"])
async def test_a_new_name_is_learned_when_zion_is_asked(world: World, names: dict[str, str], token: str) -> None:
    """By whichever token and worker; a worker that still knows the old name changes nothing of that."""
    world.profile = {"id": "u-1", "externalId": "ada", "email": "ada@x.test"}
    before = await world.identify("first")
    await world.use("req_1", before)
    world.profile = {"id": "u-1", **names}
    # What Redis keeps of the first token comes to its end.
    await world.redis.delete(*[name async for name in world.redis.scan_iter("jwt:*")])
    after = await world.identify(token, worker=1)
    assert after == Caller(names["externalId"], names["email"])
    assert await world.identify("first") == before  # remembered, for its time
    await world.use("req_2", await world.identify("first"))
    batch = await world.ledger.claim_batch(0)
    assert batch is not None
    assert [item.names for item in batch.items] == [(after.external_id, after.email)]
    assert [item.requests for item in batch.items] == [2]
    assert [item.external_id for item in batch.items] == ["ada"]


async def test_users_of_whom_zion_says_no_id_are_known_by_the_external_id(world: World) -> None:
    """So that another e-mail is learned all the same."""
    for at, email in enumerate(("ada@x.test", "ada@new.test")):
        world.profile = {"externalId": "ada", "email": email}
        await world.use(f"req_{at}", await world.identify(f"token-{at}"))
    batch = await world.ledger.claim_batch(0)
    assert batch is not None
    assert batch.items == (Item("ada", "ada@new.test", "m", 4, 6, 2),)


@pytest.mark.parametrize("exp", [0, 1_699_999_999.5, 1_700_000_000])
async def test_an_expired_token_is_refused_before_anybody_is_asked(world: World, exp: float) -> None:
    """RFC 7519 §4.1.4: on or after `exp`; neither Redis nor Zion hears of it."""
    await world.ledger.close()
    with pytest.raises(UnauthorizedError) as refused:
        await world.identify("token", claims={"exp": exp})
    assert refused.value.code == "token_expired"


ADA = {"id": "u-1", "externalId": "ada", "email": "ada@x.test"}
KNOWN = Caller("ada", "ada@x.test")


async def aged(world: World, age_s: float = 300.0) -> None:
    """Ada is known to the first worker, and her profile is so old; the second worker knows of her what is in Redis."""
    world.profile = ADA
    assert await world.identify("token") == KNOWN
    assert (world.asked, world.turns) == (1, ["new"])
    world.now_s += age_s


@pytest.mark.parametrize("worker", [0, 1], ids=["from memory", "from redis"])
async def test_an_aged_profile_is_renewed(world: World, worker: int) -> None:
    """Zion is asked again, before never-seen tokens, and the answer counts at once; then it is fresh for everybody."""
    await aged(world)
    world.profile = ADA | {"email": "ada@new.test"}
    for again in (worker, worker, 1 - worker):
        assert await world.identify("token", again) == Caller("ada", "ada@new.test")
    assert (world.asked, world.turns) == (2, ["new", "known"])


@pytest.mark.parametrize("worker", [0, 1], ids=["from memory", "from redis"])
async def test_an_aged_profile_goes_on_while_zion_is_slow(world: World, worker: int) -> None:
    """However many ask, Zion is asked once; its answer is used when it is there."""
    await aged(world, 899.9)
    world.answers.clear()
    assert set(await asyncio.gather(*(world.identify("token", worker) for _ in range(9)))) == {KNOWN}
    assert await world.identify("token", worker) == KNOWN
    assert world.asked == 2
    world.profile = ADA | {"email": "ada@new.test"}
    world.answers.set()
    while await world.identify("token", worker) == KNOWN:
        await asyncio.sleep(0.01)
    assert await world.identify("token", worker) == Caller("ada", "ada@new.test")
    assert world.asked == 2


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_aged_profile_goes_on_to_its_bound_while_zion_is_away(world: World, status: int) -> None:
    """It is tried again every 10 s; after its bound nobody is known any more."""
    await aged(world)
    world.status = status
    for moment in range(60):
        assert await world.identify("token") == KNOWN
        assert await world.identify("token") == KNOWN
        assert world.asked <= 2 + moment
        world.now_s += 10
    with pytest.raises(ZionUnavailableError):
        await world.identify("token")
    with pytest.raises(ZionUnavailableError):
        await world.identify("token", 1)


@pytest.mark.parametrize(("status", "error"), [(401, UnauthorizedError), (403, ForbiddenError), (431, UnauthorizedError)])
async def test_a_token_that_was_taken_back_is_refused(world: World, status: int, error: type[SentinelError]) -> None:
    """By the first request after its profile has aged, and by the other workers, even where they cannot ask Zion then."""
    await aged(world)
    world.status = status
    with pytest.raises(error):
        await world.identify("token")
    world.status = 500
    for worker in (0, 1):
        with pytest.raises(ZionUnavailableError):
            await world.identify("token", worker)


async def test_a_token_that_is_taken_back_while_zion_is_slow(world: World) -> None:
    """It goes on until Zion says so, and no longer."""
    await aged(world)
    world.status = 401
    world.answers.clear()
    assert await world.identify("token") == KNOWN
    world.answers.set()
    with pytest.raises(UnauthorizedError):
        while await world.identify("token") == KNOWN:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("left_s", [100, 300, 301, 500, 899])
async def test_no_profile_outlives_its_token(world: World, left_s: int) -> None:
    """`exp` ends it, fresh or aged, whoever is away."""
    world.profile = ADA
    claims = {"exp": world.now_s + left_s}
    assert await world.identify("token", claims=claims) == KNOWN
    world.status = 500
    world.now_s += left_s - 0.5
    assert await world.identify("token", claims=claims) == KNOWN
    world.now_s += 0.5
    for worker in (0, 1):
        with pytest.raises(UnauthorizedError) as refused:
            await world.identify("token", worker, claims)
        assert refused.value.code == "token_expired"


async def test_a_profile_of_an_older_version(world: World) -> None:
    """What Redis keeps without a time of freshness has aged, and is used to its end."""
    await aged(world, 0.0)
    [name] = [name async for name in world.redis.scan_iter("jwt:*")]
    kept = json.loads(await world.redis.get(name))
    kept["until_s"] = world.now_s + 300
    del kept["fresh_s"]
    await world.redis.set(name, json.dumps(kept))
    world.status = 500
    world.now_s += 299
    assert await world.identify("token", 1) == KNOWN
    world.now_s += 1
    with pytest.raises(ZionUnavailableError):
        await world.identify("token", 1)


async def test_a_token_that_comes_again_goes_first(world: World) -> None:
    """Where Zion could not be asked about it; one that comes for the first time does not."""
    went: list[bool] = []
    profile = world.zion.profile

    async def noted(token: str, kind: Any = "new", *, first: bool = False) -> Any:
        went.append(first)
        return await profile(token, kind, first=first)

    world.zion.profile = noted  # type: ignore[method-assign]
    world.profile, world.status = ADA, 500
    for token in ("one", "two", "one", "one"):
        with pytest.raises(ZionUnavailableError):
            await world.identify(token)
    world.status = 200
    await world.identify("two")
    assert went == [False, False, True, True, True]


@pytest.mark.parametrize("refused", [False, True])
async def test_whom_zion_has_vouched_for_is_known(world: World, *, refused: bool) -> None:
    """A token is a known caller's once Zion has said yes to it, however long ago, until it says no; none other is."""
    world.profile = ADA
    await world.identify("token")
    world.now_s += 10_000
    await world.redis.flushall()
    world.status = 401 if refused else 500
    with pytest.raises(UnauthorizedError if refused else ZionUnavailableError):
        await world.identify("token")
    world.now_s += 1
    world.status = 200
    await world.identify("token")
    for _ in range(2):
        await world.identify("other")
    assert world.turns == ["new", "known", "new" if refused else "known", "new"]


class Checked:
    """What tells signatures, and says of all of them what the test says."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.failure: SentinelError | None = None

    async def check(self, token: str, head: Head) -> None:
        """Raises what it is told to."""
        self.tokens.append(token)
        assert head.alg == "HS256"
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """Nothing is under way."""


@pytest.mark.parametrize("failure", [UnauthorizedError("forged"), ZionUnavailableError("new key", retry_after_s=1)])
async def test_what_zion_has_not_signed_reaches_nobody(world: World, failure: SentinelError) -> None:
    """Neither Redis nor Zion, where signatures are checked; a profile that is known is not checked again."""
    checked = Checked()
    world.workers[0] = Auth(
        world.ledger,
        world.zion,
        checked,
        profile_ttl_s=300,
        stale_s=600,
        refusal_ttl_s=0.0,
        entries_max=100,
        now_s=lambda: world.now_s,
    )
    world.profile = ADA
    assert await world.identify("token") == KNOWN
    checked.failure = failure
    for age_s in (0, 299, 300):
        world.now_s += age_s
        assert await world.identify("token") == KNOWN
    assert len(checked.tokens) == 1
    asked = world.asked
    await world.ledger.close()
    with pytest.raises(type(failure)):
        await world.identify("forged")
    assert world.asked == asked
