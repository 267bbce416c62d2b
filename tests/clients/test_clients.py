"""Real clients, unmodified, get from Sentinel what they get from the provider: only a base URL and a key are theirs to set."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.clients.conftest import Run
from tests.clients.expectations import (
    ALONE,
    BROKEN,
    DIFFERENT,
    REFUSED,
    ROUTES,
    SERVED,
    TEXT,
    comparable,
    error_class,
    usage_seen,
)
from tests.clients.roster import CLIENTS, OURS, SCENARIOS
from tests.clients.running import Client

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

Running = Callable[[Client], Awaitable[Run]]


def each(*scenarios: str) -> pytest.MarkDecorator:
    """Every client with every one of these scenarios that it has."""
    cases = [
        pytest.param(client, name, id=f"{client}-{name}")
        for client in CLIENTS
        for name in SCENARIOS[client.kind]
        if name in scenarios
    ]
    return pytest.mark.parametrize(("client", "scenario"), cases)


def clients(*kinds: str) -> pytest.MarkDecorator:
    """Every client, or those of these kinds."""
    return pytest.mark.parametrize("client", [client for client in CLIENTS if not kinds or client.kind in kinds], ids=str)


@pytest.mark.parametrize("kind", SCENARIOS)
async def test_every_scenario_is_held_to_something(kind: str) -> None:
    """No client runs a scenario that no test here looks at, and none twice."""
    assert set(SCENARIOS[kind]) <= {*SERVED, *REFUSED, *BROKEN, *ROUTES, *ALONE}
    assert len(set(SCENARIOS[kind])) == len(SCENARIOS[kind])


@each(*SERVED)
async def test_an_answer_arrives(run: Running, client: Client, scenario: str) -> None:
    """Rules U2, U5, U6, R5, F2, H17: the whole text, its end, and usage where the client asked for it and only there."""
    told = (await run(client)).ours[scenario].get("told")
    assert told is not None
    assert told["text"] == TEXT
    assert told.get("finish", "stop") == "stop"
    assert bool(told.get("usage")) == usage_seen(client, scenario)
    assert told.get("usage_events", usage_seen(client, scenario)) == usage_seen(client, scenario)


@each(*REFUSED)
async def test_a_refusal_is_the_clients_own_exception(run: Running, client: Client, scenario: str) -> None:
    """Rule E1–E6: status, class, type, code, param and request id, plain and streamed."""
    error, expected = (await run(client)).ours[scenario].get("error"), REFUSED[scenario]
    assert error is not None
    assert error["class"] == error_class(client, expected.status)
    if client.kind == "llm":
        assert f"Error code: {expected.status}" in error["message"]
        return
    assert (error["status"], error["type"], error["code"], error["param"]) == (
        expected.status,
        expected.type,
        expected.code,
        expected.param,
    )
    assert error["request_id"].startswith("req_")


@each(*BROKEN)
async def test_an_answer_that_breaks_off_raises(run: Running, client: Client, scenario: str) -> None:
    """Rule F1–F4, D7: what is not whole never looks whole."""
    error = (await run(client)).ours[scenario].get("error")
    assert error is not None
    assert (error["class"], error["code"], error["type"]) == BROKEN[scenario][client.kind]


@each(*ROUTES)
async def test_a_route_serves(run: Running, client: Client, scenario: str) -> None:
    """Rules H8, H18, H19, P1–P3: the routes beyond chat answer each client as the provider does, without an error."""
    ran = await run(client)
    assert comparable(ran.ours[scenario]) == comparable(ran.theirs[scenario])
    told = json.dumps(ran.ours[scenario]["told"])
    assert ("get_weather" in told) == ("call" in scenario), told


@clients()
async def test_the_client_cannot_tell_the_difference(run: Running, client: Client) -> None:
    """The same program told to ask the provider itself tells the same, but for what DIFFERENT names."""
    ran = await run(client)
    apart: dict[str, Any] = {}
    for name in SCENARIOS[client.kind]:
        if name in OURS:
            continue
        ours, theirs = comparable(ran.ours[name]), comparable(ran.theirs[name])
        if name in DIFFERENT:
            kind = "told" if "told" in ours else "error"
            ours, theirs = ({field: side[kind].get(field) for field in DIFFERENT[name]} for side in (ours, theirs))
        if ours != theirs:
            apart[name] = (ours, theirs)
    assert apart == {}


@each("headers", "headers_stream")
async def test_the_headers_are_the_callers_own(run: Running, client: Client, scenario: str) -> None:
    """Rules I1, I3, I6, I7: the limits are the caller's, not the provider account's, on plain and streamed answers."""
    headers = (await run(client)).ours[scenario]["told"]["headers"]
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-ratelimit-limit-requests"] == "1000000"
    assert headers["x-ratelimit-limit-tokens"] == "1000000"
    assert 0 < int(headers["x-ratelimit-remaining-requests"]) < 10**6
    assert headers["x-ratelimit-reset-requests"]


@clients("openai-python", "openai-node", "ai-sdk", "ai-sdk-openai")
async def test_the_request_id_finds_the_request(run: Running, client: Client) -> None:
    """Rules I1, D5: by the id a client shows, its log line is found; a stream read to its end is a success."""
    ran = await run(client)
    for name in ("chat", "chat_stream", "chat_stream_usage"):
        line = ran.logged(name)
        assert (line["ending"], line["status"], line["stream"]) == ("success", 200, name != "chat")
        assert line["output_tokens"] == 48


@clients()
async def test_only_who_leaves_early_has_left(run: Running, client: Client) -> None:
    """Rules D1, D5: clients hang up after `[DONE]`, and that is no abort; one that leaves before ends the provider's work."""
    ran = await run(client)
    # That one is not read, so whether the client left before its end is a matter of luck.
    unread = ran.ours.get("headers_stream", {}).get("told", {}).get("headers", {}).get("x-request-id")
    left = [line for line in ran.log if line.get("ending") == "client_closed" and line["request_id"] != unread]
    early = "aborted" in SCENARIOS[client.kind]
    assert len(left) == early
    assert [row["client_gone"] for row in ran.seen("aborted")] == [True] * early


@clients()
async def test_a_used_up_limit_is_not_asked_for_again(run: Running, client: Client) -> None:
    """Rule R2: `x-should-retry: false` ends it; the AI SDK knows no such header and was given one retry."""
    refusals = [line for line in (await run(client)).log if line.get("code") == "insufficient_quota"]
    assert len(refusals) == (2 if client.kind.startswith("ai-sdk") else 1)


@clients()
async def test_a_full_window_is_waited_for(run: Running, client: Client) -> None:
    """Rules R1, R3: told when to come again, every client does so by itself, once, and is served."""
    ran = await run(client)
    assert ran.ours["rate"] == {"told": {"texts": [TEXT, TEXT]}}
    steps = [(line["event"], line["status"]) for line in ran.tight_log if line["event"].startswith("request")]
    assert steps == [("request", 200), ("request refused", 429), ("request", 200)]


@each("retried")
async def test_the_providers_word_on_retries_is_kept(run: Running, client: Client, scenario: str) -> None:
    """Rules R4, R5: its 429 and `retry-after-ms` reach the client, and the count of the retry reaches the provider."""
    rows = (await run(client)).seen(scenario)
    assert [row["status"] for row in rows] == [429, 200]
    if not client.kind.startswith("ai-sdk"):
        assert [row["headers"]["x-stainless-retry-count"] for row in rows] == ["0", "1"]
