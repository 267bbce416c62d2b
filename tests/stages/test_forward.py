"""forward: retries, fallbacks and the provider's failures in Sentinel's words, over the real edge against a liar."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest

from sentinel.openai.header_fields import Fields
from sentinel.openai.models import Fallbacks
from sentinel.ops.errors import UpstreamError, UpstreamTimeoutError, UpstreamUnavailableError
from sentinel.ops.records import Call, Caller, ChatPrompt, Hold, Origin, Remaining
from sentinel.stages.forward import Forward, RetryBudget
from sentinel.upstream.http1 import Client
from sentinel.upstream.provider import OpenAI, Reply, Timeouts
from tests.support.liar import ANSWERS, HELLO, UNKNOWN_MODEL, Liar
from tests.support.sink import sink
from tests.upstream.test_provider import Parts, read

FREE = Remaining(None, None, None)
PATIENT = Timeouts(10, 10)
# Whether a test goes the usual way, and its first request finds a connection that was kept.
KEPT = {"is": False}
CHAIN = {"first": ("second", "third"), "second": ("third",)}


@pytest.fixture(autouse=True, scope="module", params=[False, True], ids=["general", "usual"])
def _both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test is done twice: the general way first, and then as usual, over a connection that is there."""
    KEPT["is"] = request.param
    yield
    KEPT["is"] = False


@asynccontextmanager
async def forward(
    url: str, *, routes: Mapping[str, Timeouts] | None = None, burst: float = 10.0, connections_max: int = 4
) -> AsyncIterator[Forward]:
    """The stage over an edge to `url`."""
    client = Client(url, connect_s=5)
    provider = OpenAI(client, "sk-key", idle_s=10, connections_max=connections_max)
    try:
        if KEPT["is"] and not url.startswith("http://127.0.0.1:1/"):
            client._free(await client.connection(), None)
        yield Forward(provider, RetryBudget(burst=burst), PATIENT, routes or {}, Fallbacks(CHAIN), usual=KEPT["is"])
    finally:
        await provider.close()


def hold(model: str = "first", *, output_capped: bool = False) -> Hold:
    """A hold for a call of `model`."""
    return Hold("req_1", Caller("c", ""), model, 1, 100, FREE, FREE, FREE, FREE, output_capped=output_capped)


async def ask(one: Forward, act: object, model: str = "first", *, output_capped: bool = False) -> Reply:
    """The answer to a chat whose provider does `act`."""
    body = json.dumps({"model": model, "act": act, "n": 1.50, "seed": 12345678901234567890}).encode()
    call = Call("chat_completions", "POST", "/chat/completions", model=model, body=body, prompt=ChatPrompt([]))
    return await one.open(
        call,
        Fields.of([(b"content-type", b"application/json")]),
        hold(model, output_capped=output_capped),
        lambda: None,
        lambda: None,
    )


# ---- fallbacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "attempts"),
    [
        *(("model_not_found", 1), ("quota", 1), ("broken", 2), ("overloaded", 3), ("busy", 1), ("html", 1)),
        *(("payment required", 1), ("out of quota", 1), ("hard limit", 1), ("not active", 1), ("unreadable 529", 1)),
    ],
)
async def test_an_unavailable_model_is_answered_by_its_fallback(act: str, attempts: int) -> None:
    """Design §5: 404 model_not_found, 429, an account that cannot pay, and 5xx (after the retries) hand the same bytes on, but
    for the model.
    """
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        reply = await ask(one, {"first": act})
        assert reply.origin == Origin(model="second")
        assert await read(reply) == HELLO
        asked = [json.loads(body)["model"] for body in liar.bodies]
        assert asked == ["first"] * attempts + ["second"]
        assert liar.bodies[-1] == liar.bodies[0].replace(b'"model": "first"', b'"model": "second"')
        assert b"content-length: %d\r\n" % len(liar.bodies[-1]) in liar.heads[-1].lower()


async def test_chains_are_followed_and_the_last_answer_is_the_clients() -> None:
    """Design §5: the third model answers for the first; where none does, the last one's own answer passes, byte for byte."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        reply = await ask(one, {"first": "quota", "second": "model_not_found"})
        assert (reply.origin.model, await read(reply)) == ("third", HELLO)
        reply = await ask(one, {"first": "quota", "second": "quota", "third": "model_not_found"})
        assert (reply.status, reply.origin.model, await read(reply)) == (404, "third", UNKNOWN_MODEL)


@pytest.mark.parametrize("act", ["page", "page in chunks", "empty", "text", "gzip page"])
async def test_a_page_is_asked_for_once(act: str) -> None:
    """What no model said costs nothing, is not asked again, of no other model either, and holds no connection."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await ask(one, {"first": act})
            assert (caught.value.status, caught.value.code) == (502, "upstream_not_json")
            assert (caught.value.sent, caught.value.retry) == (False, False)
        assert len(liar.asked) == 2
        assert await read(await ask(one, "well")) == HELLO


async def test_a_cap_of_the_hold_goes_to_the_fallback_too() -> None:
    """Design §5: what was held bounds whatever model answers."""
    async with Liar() as liar, forward(liar.url) as one:
        await read(await ask(one, {"first": "quota"}, output_capped=True))
        assert [json.loads(body)["max_completion_tokens"] for body in liar.bodies] == [100, 100]


@pytest.mark.parametrize("act", ["payment required", "out of quota", "hard limit", "not active"])
async def test_a_refused_account_is_a_failure_of_the_providers(act: str) -> None:
    """Where no other model is left: 502, free, not to be tried again, and without the provider's advice."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        with pytest.raises(UpstreamError) as caught:
            await ask(one, act, "alone")
        assert (caught.value.status, caught.value.sent, caught.value.retry) == (502, False, False)
        assert (caught.value.headers, caught.value.retry_after_s, len(liar.asked)) == ((), None, 1)
        assert await read(await ask(one, "well", "alone")) == HELLO


@pytest.mark.parametrize("act", ["missing", "bad request", "conflict", "unprocessable", "well"])
async def test_other_answers_are_the_clients(act: str) -> None:
    """Rule E5: a 404 of another kind was looked into, and is still the same bytes."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        reply = await ask(one, act)
        assert reply.origin == Origin()
        assert await read(reply) == ANSWERS[act].split(b"\r\n\r\n", 1)[1]
        assert len(liar.asked) == 1
        await read(await ask(one, "well"))
        assert liar.connections == 1


@pytest.mark.parametrize("act", ["key quoted", "forbidden", "redirect"])
async def test_what_is_hidden_is_not_asked_of_another_model(act: str) -> None:
    """Rule R6, design §5: a refused key and a redirect are this deployment's fault, for every model, and cost nothing."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        with pytest.raises(UpstreamError) as caught:
            await ask(one, act)
        assert (caught.value.status, caught.value.sent, caught.value.retry) == (502, False, False)
        assert len(liar.asked) == 1


async def test_a_large_error_is_passed_on_whole() -> None:
    """Rule E5: of a 404 no more than 64 KiB are looked at, and all of it reaches the client."""
    async with Liar() as liar, forward(liar.url) as one:
        assert await read(await ask(one, "large 404")) == b"<html>" + b"x" * 300_000


async def test_an_error_that_breaks_off_breaks_off_for_the_client_too() -> None:
    """Rule X13: a 404 that is shorter than it says is given as far as it came, and never looks whole."""
    async with Liar() as liar, forward(liar.url) as one:
        reply = await ask(one, {"first": "short 404"})
        assert reply.origin == Origin()
        assert await reply.read() == UNKNOWN_MODEL[:-10]
        with pytest.raises(UpstreamError):
            await reply.read()
        reply.close()


@pytest.mark.parametrize(("act", "owed"), [("head alone", True), ("bad 400", False)])
async def test_a_body_that_fails_at_its_first_byte_is_told_as_a_failure(act: str, owed: bool) -> None:
    """Rules E6, R4: nothing has gone down yet, so it is a 502; what refused served nothing and is owed nothing."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        with pytest.raises(UpstreamError) as caught:
            await ask(one, act, "alone")
        assert (caught.value.status, caught.value.sent, caught.value.retry) == (502, owed, False)
        assert await read(await ask(one, "well", "alone")) == HELLO


# ---- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("act", "attempts", "status"), [("broken", 2, 502), ("overloaded", 3, 503)])
async def test_retries_end_and_say_what_the_provider_said(act: str, attempts: int, status: int) -> None:
    """Rule R5: Sentinel's 502 and 503 carry the provider's own advice on when to come back, and no other."""
    async with Liar() as liar, forward(liar.url, connections_max=1) as one:
        with pytest.raises(UpstreamError) as caught:
            await ask(one, act, "alone")
        assert (caught.value.status, caught.value.sent, caught.value.retry_after_s) == (status, False, None)
        advice = {"broken": {b"retry-after-ms": b"1500"}, "overloaded": {b"retry-after": b"7", b"x-should-retry": b"true"}}
        assert dict(caught.value.headers) == advice[act]
        assert len(liar.asked) == attempts


async def test_an_overload_without_advice_is_a_second() -> None:
    """Rule E6: a 503 always says when to come back."""
    async with Liar() as liar, forward(liar.url, burst=0) as one:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await ask(one, "overloaded, no advice", "alone")
        assert caught.value.retry_after_s == 1


async def test_the_budget_bounds_retries() -> None:
    """A provider that fails every request is asked a tenth more, not three times as much."""
    async with Liar() as liar, forward(liar.url, burst=1.0) as one:
        for _ in range(3):
            with pytest.raises(UpstreamError):
                await ask(one, "broken", "alone")
        assert len(liar.asked) == 4


async def test_an_upload_that_was_begun_is_not_sent_again() -> None:
    """Rules H18, R1: what was taken from the client is gone; what was not may be tried again."""
    refusal = ANSWERS["overloaded"]
    async with sink(early=1, refusal=refusal) as taker, forward(taker.url) as one:
        call = Call("files", "POST", "/files")
        with pytest.raises(UpstreamUnavailableError):
            await one.open(call, Fields.of([]), hold(""), lambda: None, lambda: None, Parts([b"x" * 100] * 50, None))
        assert taker.requests == 1
    async with forward("http://127.0.0.1:1/v1") as one:
        body = Parts([b"x"], 1)
        with pytest.raises(UpstreamError) as caught:
            await one.open(call, Fields.of([]), hold(""), lambda: None, lambda: None, body)
        assert (caught.value.code, body.consumed) == ("upstream_unreachable", False)


async def test_a_route_has_its_own_patience() -> None:
    """Rule O1: a route with a time-out of its own keeps to it, the others to theirs."""
    async with Liar() as liar, forward(liar.url, routes={"chat_completions": Timeouts(0.1, 0.1)}) as one:
        with pytest.raises(UpstreamTimeoutError) as caught:
            await ask(one, "silent")
        assert (caught.value.status, caught.value.retry) == (504, False)
