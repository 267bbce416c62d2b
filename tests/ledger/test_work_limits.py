"""Work whose size is unknown: what is held for it, how much of it a caller may have, and which caps are heeded."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from sentinel.ledger import Ledger
from sentinel.ledger.background_jobs import BackgroundJob
from sentinel.openai import routes, wire
from sentinel.ops.records import Bill, Call, Dialect, Reads
from tests.ledger.test_ledger import CALLER, NOON_MS, UNLIMITED, Clock, admit, clock, held, ledger, limited, new_ledger
from tests.openai.test_wire import CHAT, RESPONSE
from tests.openai.test_wire import read as read_call
from tests.stages.test_admission import gateway
from tests.support.ledgers import verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["clock", "ledger", "redis_server"]

RUN = "/threads/thread_1/runs"
EVAL = "/evals/eval_1/runs"


def work(path: str, fields: dict[str, Any]) -> Call:
    """A call of a route whose work goes on."""
    route = routes.match("POST", f"/v1{path}").route
    call = wire.read_call(route, "POST", path, b"", json.dumps(fields).encode(), b"application/json")
    return msgspec.structs.replace(call, detached=bool(route.polls) and (call.background or route.dialect is Dialect.EVENTS))


# ---- what is held ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "asked", "least", "granted"),
    [(None, 500, 10, 500), (1000, 500, 10, 500), (300, 500, 10, 300), (10, 500, 10, 10), (9, 500, 10, None), (300, 5, 10, 5)],
)
async def test_unseen_input_shrinks_to_what_remains(
    ledger: Ledger, left: int | None, asked: int, least: int, granted: int | None
) -> None:
    """A default for input nobody sees is held as far as it fits; only what is seen can be refused."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED if left is None else limited(input=left), (0, 0, 0))
    verdict = await verdict_of(ledger, CALLER, "req_a_1", asked, 20, 1, "m", input_min=min(least, asked))
    assert verdict.code == ("denied" if granted is None else "admitted")
    if granted is not None:
        assert verdict.granted_input == granted
        assert verdict.input.remaining == (None if left is None else left - granted)
        again = await verdict_of(ledger, CALLER, "req_a_1", asked, 20, 1, "m", input_min=least)
        assert (again.why, again.granted_input) == ("dup", granted)


async def test_the_window_of_tokens_bounds_it_too(redis_server: RedisServer, ledger: Ledger, clock: Clock) -> None:
    """Neither default is more than the window of tokens has left, and what must fit comes first."""
    windowed = new_ledger(redis_server.url, clock, rate_tokens=100)
    await windowed.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    verdict = await verdict_of(windowed, CALLER, "req_a_1", 500, 500, 16, "m", input_min=10)
    assert (verdict.granted_input, verdict.granted_output, verdict.tokens.remaining) == (84, 16, 0)
    await windowed.close()


async def test_unfinished_work_is_bounded(redis_server: RedisServer, ledger: Ledger, clock: Clock) -> None:
    """Of ten at once three are admitted; one that ends makes room; other requests are not touched."""
    bounded = new_ledger(redis_server.url, clock, works_max=3)
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))

    async def begin(name: str) -> Any:
        return await verdict_of(bounded, CALLER, name, 10, 20, 1, "m", input_min=10, work=True)

    verdicts = await asyncio.gather(*(begin(f"req_a_{at}") for at in range(10)))
    admitted = [at for at, verdict in enumerate(verdicts) if verdict.code == "admitted"]
    assert len(admitted) == 3
    assert {verdict.why for verdict in verdicts if verdict.code == "denied"} == {"work"}
    assert (await admit(bounded, "req_a_10")).code == "admitted"
    ended = admitted[0]
    await bounded.settle(held(f"req_a_{ended}", verdicts[ended]), Bill(1, 10, 5))
    assert (await begin("req_a_11")).code == "admitted"
    assert (await begin("req_a_12")).why == "work"
    clock.now_ms = NOON_MS + 60_001
    await bounded.expire_holds(bounded.partition(CALLER.external_id))
    assert (await begin("req_a_13")).code == "admitted"
    await bounded.close()


async def test_noted_work_keeps_its_hold(ledger: Ledger, clock: Clock) -> None:
    """Work whose worker died is not charged by an estimate: whoever finds its record settles it."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    partition = ledger.partition(CALLER.external_id)
    verdict = await verdict_of(ledger, CALLER, "req_a_1", 10, 20, 1, "m", input_min=10, work=True)
    noted = BackgroundJob("req_a_1", CALLER.external_id, CALLER.email, "m", 10, "/batches/b", 0, 20)
    await ledger.unfinished.add(noted)
    clock.now_ms = NOON_MS + 60_001
    assert await ledger.expire_holds(partition) == 0
    assert (await ledger.settle(held("req_a_1", verdict), Bill(1, 3, 5))).why == "ok"
    await admit(ledger, "req_a_2")
    clock.now_ms += 60_001
    assert await ledger.expire_holds(partition) == 1


async def test_any_number_where_it_is_not_bounded(ledger: Ledger) -> None:
    """0 bounds nothing."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    for at in range(30):
        assert (await verdict_of(ledger, CALLER, f"req_a_{at}", 1, 1, 1, "m", input_min=1, work=True)).code == "admitted"


@pytest.mark.parametrize(
    ("call", "held_input", "held_output", "capped"),
    [
        (work("/batches", {"input_file_id": "file-1"}), 31, 50, False),
        (work(EVAL, {"data_source": {}}), 31, 50, False),
        (work(RUN, {"assistant_id": "asst_1", "max_completion_tokens": 300}), 31, 300, False),
        (read_call(CHAT | {"max_output_tokens": 7}), 8, 7, False),
        (read_call(RESPONSE | {"prompt": {"id": "pmpt_1"}}, "responses"), 38, 16, False),
        (work("/responses", RESPONSE | {"background": True, "previous_response_id": "resp_1"}), 38, 50, False),
        (work("/responses", RESPONSE | {"background": True, "max_output_tokens": 20}), 38, 20, False),
        (read_call(RESPONSE, "responses"), 8, 16, False),
    ],
)
async def test_what_is_held_for_it(
    redis_server: RedisServer, call: Call, held_input: int, held_output: int, capped: bool
) -> None:
    """Work, and input that lies with the provider, hold their defaults; a cap that is heeded is held instead."""
    async with gateway(redis_server) as running:
        hold = await running.ask(call=call)
        assert (hold.input_tokens, hold.output_tokens, hold.output_capped) == (held_input, held_output, capped)


async def test_twenty_at_once_use_what_is_left(redis_server: RedisServer) -> None:
    """With less left than one default, one work is admitted and holds all of it."""
    batch = work("/batches", {"input_file_id": "file-1"})
    async with gateway(redis_server, limited(output=40)) as running:
        results = await asyncio.gather(*(running.ask(call=batch) for _ in range(20)), return_exceptions=True)
        holds = [one for one in results if not isinstance(one, BaseException)]
        assert [(hold.output_tokens, hold.output_capped) for hold in holds] == [(40, True)]


# ---- which caps are heeded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "declared", "unheeded"),
    [
        ({"max_output_tokens": 9}, 9, True),
        ({"max_output_tokens": 9, "n": 3}, 27, True),
        ({"max_output_tokens": 9, "max_tokens": 5}, 5, False),
        ({"max_output_tokens": 9, "max_completion_tokens": 50}, 50, False),
        ({"max_output_tokens": 9, "max_tokens": 0}, 9, True),
        ({"max_output_tokens": 0}, None, False),
        ({"max_tokens": 5}, 5, False),
    ],
)
def test_only_heeded_caps_shrink_the_hold_of_a_chat(fields: dict[str, Any], declared: int | None, unheeded: bool) -> None:
    """`max_output_tokens` is a cap only where nothing else is, and then the provider must be told."""
    call = read_call(CHAT | fields)
    assert (call.output_tokens_declared, call.cap_unheeded) == (declared, unheeded)


@pytest.mark.parametrize("left", [None, 3])
@pytest.mark.parametrize(
    ("path", "held"),
    [
        # The default of this gateway.
        *((f"/images/{name}", 5) for name in ("generations", "edits", "variations")),
        *((f"/audio/{name}", 5) for name in ("speech", "transcriptions", "translations")),
        *((path, 1) for path in ("/moderations", "/content_provenance_checks", "/responses/compact")),
        *((path, 0) for path in ("/responses/input_tokens", "/files", "/videos")),
    ],
)
async def test_images_and_sound_hold_a_default(redis_server: RedisServer, path: str, held: int, left: int | None) -> None:
    """What they cost is unknown, so they hold the default, or what is left of it; and no body is given a cap."""
    route = routes.match("POST", f"/v1{path}").route
    bodies = [(b'{"model":"m","prompt":"a"}', b"application/json")]
    if route.reads in (Reads.ANY, Reads.FORM):
        bodies.append((b"", b"multipart/form-data; boundary=b"))
    for body, kind in bodies:
        call = wire.read_call(route, "POST", path, b"", body, kind)
        async with gateway(redis_server, UNLIMITED if left is None else limited(output=left)) as running:
            hold = await running.ask(call=call)
        assert hold.output_tokens == (held if left is None else min(held, left))
        assert hold.output_capped == (hold.output_tokens < held)
        assert not hold.output_capped or wire.capped(call, hold.output_tokens, "max_tokens").body == body


@pytest.mark.parametrize(
    ("path", "fields", "declared"),
    [
        (RUN, {"assistant_id": "asst_1"}, None),
        (RUN, {"assistant_id": "asst_1", "max_completion_tokens": 300}, 300),
        (RUN, {"assistant_id": "asst_1", "max_completion_tokens": None}, None),
        (RUN, {"assistant_id": "asst_1", "max_completion_tokens": True}, None),
        (RUN, {"assistant_id": "asst_1", "max_completion_tokens": -4}, None),
        (RUN, {"assistant_id": "asst_1", "max_completion_tokens": 10**400}, None),
        ("/threads/runs", {"assistant_id": "asst_1", "max_completion_tokens": 300}, 300),
        ("/batches", {"input_file_id": "file-1", "max_completion_tokens": 1}, None),
        (EVAL, {"data_source": {}, "max_completion_tokens": 1}, None),
    ],
)
def test_only_heeded_caps_shrink_the_hold_of_work(path: str, fields: dict[str, Any], declared: int | None) -> None:
    """A run of a thread heeds its cap; batches and runs of evals have none as a whole."""
    assert work(path, fields).output_tokens_declared == declared


@pytest.mark.parametrize(
    ("path", "fields", "least", "added"),
    [
        (RUN, {"assistant_id": "asst_1"}, 256, {"max_completion_tokens": 700}),
        (RUN, {"assistant_id": "asst_1", "max_completion_tokens": None}, 256, {"max_completion_tokens": 700}),
        ("/threads/runs", {"assistant_id": "asst_1"}, 256, {"max_completion_tokens": 700}),
        ("/responses", RESPONSE | {"background": True}, 16, {"max_output_tokens": 700}),
        ("/batches", {"input_file_id": "file-1"}, 1, {}),
        (EVAL, {"data_source": {}}, 1, {}),
    ],
)
def test_a_hold_that_shrunk_is_told_where_it_is_heeded(
    path: str, fields: dict[str, Any], least: int, added: dict[str, int]
) -> None:
    """The cap goes into the parameter that the route has for it, or nowhere."""
    call = work(path, fields)
    assert wire.output_min(call) == least
    assert json.loads(wire.capped(call, 700, "max_completion_tokens").body) == fields | added
