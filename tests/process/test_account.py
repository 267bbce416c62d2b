"""What the provider says about its own account, through real Granian and a scripted provider: hidden, told to the operator, and
never the caller's own limit.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from sentinel.openai.response.account_errors import NEUTRAL, REFUSED_MESSAGE, UNPAID
from tests.process.conftest import SETTINGS
from tests.support.raw import once, request
from tests.support.running import HELLO, User, make_user, metrics_page, sdk
from tests.support.scripted import DONE, END, STREAM_HEAD, Act, Asked, Scripted, chunk, event, plain, usage

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

ORG, PROJECT, TEAM = "org-8k1NKQgoSqBcuRs0LqkUOrOp", "proj_K9f0wq1NSbQ4aTzE", "team_GcNnvGv1HR62xqaolnXc8vQg"
SECRET = "sk-proj-0a1b2c3d"
TEXT = f"about {ORG} and {PROJECT}, says insufficient_quota"


def error(message: str, code: str | None = "rate_limit_exceeded", kind: str = "tokens") -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass
class Town:
    """A stack whose provider says what a test says."""

    stack: Stack
    provider: Scripted

    async def ask(self, http: aiohttp.ClientSession, user: User, act: Act, path: str = "/chat/completions", **more: Any) -> Any:
        """(response, body) of one request whose provider does `act`."""
        self.provider.acts["it"] = act
        body = {"model": "gpt-4o", "messages": HELLO, "input": "hi", "act": "it"} | more
        if not path.startswith("/responses"):
            body["prompt"] = "p"
        headers = {"authorization": f"Bearer {user.token}"}
        async with http.post(self.stack.base_url + path, json=body, headers=headers) as response:
            return response, await response.read()

    async def logged(self, what: str, request_id: str) -> dict[str, Any]:
        """The line of that event and request."""
        async with asyncio.timeout(10):
            while True:
                for line in self.stack.child("sentinel").output().splitlines():
                    if f'"event":"{what}"' in line and f'"{request_id}"' in line:
                        found: dict[str, Any] = json.loads(line)
                        return found
                await asyncio.sleep(0.02)

    async def refusals(self, reason: str, at_least: int = 0) -> int:
        """How many lines of the log tell so, once there are so many; that the metric counts them, a test of its own says."""
        async with asyncio.timeout(10):
            while True:
                told = (
                    self.stack.child("sentinel").output().count(f'"event":"provider refuses the {reason} of this deployment"')
                )
                if told >= at_least:
                    return told
                await asyncio.sleep(0.02)

    async def owes(self, http: aiohttp.ClientSession, user: User) -> list[int]:
        """(requests, input, output) that are charged once nothing is held."""
        async with asyncio.timeout(10):
            while True:
                async with http.get(f"{self.stack.base_url}/usage", headers={"authorization": f"Bearer {user.token}"}) as seen:
                    limits = (await seen.json())["limits"].values()
                if not any(limit["held"] for limit in limits):
                    return [limit["used"] for limit in limits]
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One stack, one worker."""
    async with Scripted() as provider:
        more = {"OPENAI_API_URL": provider.url, "SENTINEL_FALLBACK_MODELS": "first=second,second=third"}
        async with Stack(tmp_path_factory.mktemp("account"), workers=1, settings=SETTINGS | more) as stack:
            yield Town(stack, provider)


def says(answer: bytes) -> Act:
    """An act that writes these bytes."""

    async def act(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return act


# ---- whose it is: plain answers ------------------------------------------------------------------------------------------

SAID = f"Rate limit reached for gpt-4o in organization {ORG} (Project `{PROJECT}`), key {SECRET}, of {TEAM}: 29870 used. \u00e9"
HIDDEN = SAID
for _name in (ORG, PROJECT, SECRET, TEAM):
    HIDDEN = HIDDEN.replace(_name, NEUTRAL.decode())
BODIES = {
    "json": ("application/json", json.dumps(error(SAID), ensure_ascii=False, indent=2)),
    "json of a charset": ("application/json; charset=utf-8", json.dumps(error(SAID), ensure_ascii=False)),
    "problem": ("application/problem+json", json.dumps({"detail": SAID, "title": "no"}, ensure_ascii=False)),
    "html": ("text/html", f"<html><p>{SAID}</p>\r\n</html>"),
    "text": ("text/plain", SAID),
    "events": ("text/event-stream", f"data: {SAID}\n\n"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [400, 404, 405, 408, 409, 413, 422, 429, 502, 504, 529])
async def test_an_error_does_not_say_whose_account_it_is(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, status: int, body: str
) -> None:
    """At any status, of any type; every other byte stays, the length is right, and the log has the ids alone."""
    media, said = BODIES[body]
    more = "openai-organization: org-x\r\nopenai-project: proj_x\r\nretry-after: 7\r\n"
    response, passed = await town.ask(
        http, user_of_town, says(plain(said.encode(), status=f"{status} Said", kind=media, more=more)), stream=status % 2 == 0
    )
    expected = said.replace(SAID, HIDDEN).encode()
    assert (response.status, passed, response.headers["content-type"]) == (status, expected, media)
    assert response.headers["content-length"] == str(len(expected))
    assert (response.headers["retry-after"], "openai-organization" in response.headers) == ("7", False)
    assert not {"openai-project", "openai-organization"} & {name.lower() for name in response.headers}
    line = await town.logged("provider names its account in an error", response.headers["x-request-id"])
    assert (line["level"], line["status"], line["ids"]) == ("warning", status, [ORG, PROJECT, TEAM])
    assert SECRET not in town.stack.child("sentinel").output()


@pytest.mark.parametrize("label", ["application/json", "text/plain", "application/problem+json"])
@pytest.mark.parametrize("space", ["", "\r\n ", "\ufeff"])
@pytest.mark.parametrize("step", [0, 7])
async def test_an_error_under_a_status_of_success_is_one(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, label: str, space: str, step: int
) -> None:
    """Some gateways say 200 to everything; what begins as an error in JSON is looked into all the same."""
    said = (space + json.dumps(error(SAID), ensure_ascii=False)).encode()
    pieces = [said[at : at + step] for at in range(0, len(said), step)] if step else [said]

    async def act(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(said, kind=label).removesuffix(said))
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.001)

    response, passed = await town.ask(http, user_of_town, act)
    expected = (space + json.dumps(error(HIDDEN), ensure_ascii=False)).encode()
    assert (response.status, passed) == (200, expected)
    line = await town.logged("provider names its account in an error", response.headers["x-request-id"])
    assert (line["status"], line["ids"]) == (200, [ORG, PROJECT, TEAM])


FAILED_OBJECTS = {
    "a response": ("POST", "/responses", {"id": "resp_1", "object": "response", "status": "failed"}, "error"),
    "a response, looked at": (
        "GET",
        "/responses/resp_{}",
        {"id": "resp_{}", "object": "response", "status": "failed"},
        "error",
    ),
    "a job": ("GET", "/fine_tuning/jobs/ftjob-{}", {"id": "ftjob-{}", "object": "fine_tuning.job"}, "error"),
    "a run": ("GET", "/threads/thread_{}/runs/run_{}", {"id": "run_{}", "object": "thread.run"}, "last_error"),
}
OF_A_TOOL = {"type": "mcp_call", "error": {"message": f"tool says {ORG}", "code": "insufficient_quota"}}


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "insufficient_quota"])
@pytest.mark.parametrize("shape", FAILED_OBJECTS)
async def test_an_object_that_failed_does_not_say_whose_account_it_is(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, shape: str, code: str
) -> None:
    """Its error is hidden, told, and never the caller's limit; what a tool said beside it stays."""
    method, path, start, name = FAILED_OBJECTS[shape]
    # Each caller has objects of its own.
    path, start = path.replace("{}", code), start | {"id": start["id"].replace("{}", code)}
    counted = await town.refusals("account")
    said = json.dumps(start | {name: error(SAID, code)["error"], "output": [OF_A_TOOL], "metadata": {"x": TEXT}})
    if method == "POST":
        response, passed = await town.ask(http, user_of_town, says(plain(said.encode())), path)
    else:
        parent = "/".join(path.split("/")[: 3 if "threads" in path else -1])
        made = {"id": path.split("/")[2]} if "threads" in path else start
        await town.ask(http, user_of_town, says(plain(json.dumps(made).encode())), parent.removesuffix(f"/thread_{code}"))
        town.provider.acts[f"/v1{path}"] = says(plain(said.encode()))
        headers = {"authorization": f"Bearer {user_of_town.token}"}
        async with http.get(town.stack.base_url + path, headers=headers) as response:
            passed = await response.read()
    refused = code == "insufficient_quota"
    shown = {"message": REFUSED_MESSAGE, "code": "upstream_error"} if refused else {"message": HIDDEN}
    assert json.loads(passed) == json.loads(said) | {name: error(SAID, code)["error"] | shown}
    assert response.headers["content-length"] == str(len(passed))
    assert await town.refusals("account", counted + refused) == counted + refused


@pytest.mark.parametrize("path", ["/audio/speech", "/images/generations", "/moderations", "/responses/input_tokens"])
async def test_an_error_under_a_status_of_success_is_one_on_every_route(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, path: str
) -> None:
    """Also where sound, a picture or nothing that is billed is answered; a refused account is a 502 there."""
    response, passed = await town.ask(http, user_of_town, says(plain(json.dumps(error(SAID)).encode())), path)
    assert (response.status, json.loads(passed)) == (200, error(HIDDEN))
    response, passed = await town.ask(http, user_of_town, says(plain(json.dumps(error(SAID, UNPAID[0])).encode())), path)
    assert (response.status, json.loads(passed)["error"]["message"]) == (502, REFUSED_MESSAGE)


@pytest.mark.parametrize("start", ['{"error":null,', '{"error" : null,', '{"errors":["x"],'])
async def test_an_answer_with_an_empty_error_is_none(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, start: str
) -> None:
    """An answer whose error is null is an answer, and passes byte for byte."""
    counts = '"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    said = f'{start}"choices":[{{"index":0,"message":{{"content":"{TEXT}"}}}}],{counts}'
    response, passed = await town.ask(http, user_of_town, says(plain(said.encode())))
    assert (response.status, passed) == (200, said.encode())


def chunked(said: bytes, size: int, *, head: str = "") -> bytes:
    """A 404 in chunks of this size."""
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    begin = f"HTTP/1.1 404 No\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n{head}\r\n".encode()
    return begin + b"".join(map(chunk, pieces)) + END


@pytest.mark.parametrize(
    "answer",
    [
        chunked(json.dumps(error(SAID)).encode(), 1),
        chunked(json.dumps(error(SAID)).encode(), 7),
        chunked(gzip.compress(json.dumps(error(SAID)).encode()), 10, head="content-encoding: gzip\r\n"),
        plain(
            gzip.compress(json.dumps(error(SAID)).encode()),
            status="404 No",
            kind="text/plain",
            more="content-encoding: gzip\r\n",
        ),
        b"HTTP/1.1 404 No\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + json.dumps(error(SAID)).encode(),
    ],
    ids=["by bytes", "by pieces", "gzip in chunks", "gzip text", "to the end"],
)
async def test_an_error_is_hidden_however_it_arrives(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, answer: bytes
) -> None:
    """In chunks, compressed, or until the connection ends."""

    async def act(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if b"connection: close" in answer:
            writer.close()

    response, passed = await town.ask(http, user_of_town, act)
    assert (response.status, passed) == (404, json.dumps(error(HIDDEN)).encode())
    assert response.headers["content-length"] == str(len(passed))
    assert "content-encoding" not in response.headers


async def test_a_long_error_is_hidden_to_its_end(town: Town, http: aiohttp.ClientSession, user_of_town: User) -> None:
    """What is too long to be looked at as a whole is searched while it passes, and comes whole."""
    said = ("<p>" + "x" * 5000 + SAID + "</p>\n") * 40
    response, passed = await town.ask(http, user_of_town, says(plain(said.encode(), status="404 No", kind="text/html")))
    assert (response.status, passed) == (404, said.replace(SAID, HIDDEN).encode())


async def test_an_error_that_is_not_whole_is_hidden_and_not_whole(town: Town, user_of_town: User) -> None:
    """Rule X13: what came of it comes down without the account, and does not look like all of it."""
    said = json.dumps(error(SAID)).encode()[:-20]

    async def act(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(said + b"-" * 50, status="404 No")[:-50])
        await writer.drain()
        writer.close()

    town.provider.acts["it"] = act
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "act": "it"}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", town.stack.port)
    writer.write(
        request(
            "POST",
            "/v1/chat/completions",
            f"Authorization: Bearer {user_of_town.token}",
            "Content-Type: application/json",
            body=body,
        )
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404")
    whole = json.dumps(SAID)[1:-1].encode()
    assert said.replace(whole, json.dumps(HIDDEN)[1:-1].encode()) in answer
    assert not answer.endswith(END)


async def test_an_error_to_head_has_the_length_of_the_error_to_get(town: Town, user_of_town: User) -> None:
    """Rule H16: the provider is asked by GET, and the head is that of what goes down."""
    town.provider.acts["/v1/models/none"] = says(plain(json.dumps(error(SAID)).encode(), status="404 No"))
    head, got = [
        await once(
            town.stack.port, request(method, "/v1/models/none", f"Authorization: Bearer {user_of_town.token}"), method=method
        )
        for method in ("HEAD", "GET")
    ]
    assert (head.status, head.body, got.body) == (404, b"", json.dumps(error(HIDDEN)).encode())
    assert head.header("content-length") == got.header("content-length") == str(len(got.body))


async def test_other_routes_hide_it_too(town: Town, http: aiohttp.ClientSession, user_of_town: User) -> None:
    """A route that is only passed through, and an upload that streams by."""
    answer = says(plain(json.dumps(error(SAID)).encode(), status="400 No"))
    expected = json.dumps(error(HIDDEN)).encode()
    headers = {"authorization": f"Bearer {user_of_town.token}"}
    for path in ("/embeddings", "/responses", "/completions", "/moderations", "/images/generations", "/vector_stores"):
        assert (await town.ask(http, user_of_town, answer, path))[1] == expected, path
    town.provider.acts["/v1/models"] = answer
    async with http.get(town.stack.base_url + "/models", headers=headers) as response:
        assert await response.read() == expected


@pytest.mark.parametrize("status", [200, 201])
async def test_an_answer_that_mentions_an_id_is_not_touched(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, status: int
) -> None:
    """What a model says, and what an object is called, are the very bytes, plain and streamed."""
    message = {"role": "assistant", "content": TEXT, "project": PROJECT}
    figures = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    said = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": figures, "error": None})
    _, passed = await town.ask(http, user_of_town, says(plain(said.encode(), status=f"{status} OK")))
    assert passed == said.encode()
    stream = event(TEXT) + event(' "error": {"' + TEXT) + event("", finish="stop") + DONE
    _, passed = await town.ask(http, user_of_town, says(STREAM_HEAD + chunk(stream) + END), stream=True)
    assert passed == stream


# ---- whose it is: streams ------------------------------------------------------------------------------------------------


def typed(kind: str, data: dict[str, Any]) -> bytes:
    """An event of /responses."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


FAILED = {"id": "resp_1", "status": "failed", "output": [{"type": "message", "content": [{"text": TEXT}]}]}
STREAMS = {
    "chat": ("/chat/completions", event(TEXT), b"data: " + json.dumps(error(SAID)).encode() + b"\n\n", b""),
    "chat, then done": ("/chat/completions", event(TEXT), b"data: " + json.dumps(error(SAID)).encode() + b"\n\n", DONE),
    "completions": ("/completions", event(TEXT), b"event: error\ndata: " + json.dumps(error(SAID)).encode() + b"\n\n", b""),
    "responses, error": (
        "/responses",
        typed("response.output_text.delta", {"delta": TEXT}),
        typed("error", {"code": "rate_limit_exceeded", "message": SAID, "param": None}),
        b"",
    ),
    "responses, failed": (
        "/responses",
        typed("response.output_text.delta", {"delta": TEXT}),
        typed("response.failed", {"response": error(SAID) | FAILED}),
        b"",
    ),
    "responses, both": (
        "/responses",
        typed("response.output_text.delta", {"delta": TEXT}),
        typed("error", {"code": "rate_limit_exceeded", "message": SAID, "param": None})
        + typed("response.failed", {"response": error(SAID) | FAILED}),
        b"",
    ),
    "images": (
        "/images/generations",
        typed("image_generation.partial_image", {"b64_json": "AAAA"}),
        typed("error", error(SAID)),
        b"",
    ),
}


@pytest.mark.parametrize("step", [0, 1, 13])
@pytest.mark.parametrize("shape", STREAMS)
async def test_an_error_in_a_stream_does_not_say_whose_account_it_is(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, shape: str, step: int
) -> None:
    """Alone, after text that mentions it, and however the bytes are cut; the rest is the provider's own."""
    path, text, failure, rest = STREAMS[shape]
    for before in (b"", text):
        said = before + failure + rest
        pieces = [said[at : at + step] for at in range(0, len(said), step)] if step else [said]

        async def act(_asked: Asked, writer: asyncio.StreamWriter, pieces: list[bytes] = pieces) -> None:
            writer.write(STREAM_HEAD)
            for number, piece in enumerate(pieces):
                writer.write(chunk(piece))
                if number % 50 == 0:
                    await asyncio.sleep(0.001)
            writer.write(END)

        response, passed = await town.ask(http, user_of_town, act, path, stream=True)
        whole = json.dumps(SAID)[1:-1].encode()
        assert response.status == 200
        assert passed.startswith(before + failure.replace(whole, json.dumps(HIDDEN)[1:-1].encode()) + rest)
        line = await town.logged("provider names its account in an error", response.headers["x-request-id"])
        assert set(line["ids"]) == {ORG, PROJECT, TEAM}
    assert SECRET not in town.stack.child("sentinel").output()


# ---- that it cannot pay --------------------------------------------------------------------------------------------------

VERCEL = {"error": {"message": "Insufficient funds. Please add credits to your account.", "type": "insufficient_funds"}}
UNSERVED = [
    *(pytest.param(429, error("quota", code, "insufficient_quota"), id=f"429 {code}") for code in UNPAID),
    pytest.param(
        400, error("Billing hard limit has been reached", "billing_hard_limit_reached", "invalid_request_error"), id="400"
    ),
    pytest.param(403, error("Not active", "billing_not_active", "billing_not_active"), id="403"),
    pytest.param(401, error("Deactivated", "account_deactivated"), id="401"),
    pytest.param(404, error("quota", None, "insufficient_quota"), id="404, by type"),
    pytest.param(529, error("quota", "insufficient_quota"), id="529"),
    pytest.param(402, VERCEL, id="402 of Vercel"),
    pytest.param(402, error("Payment required", None), id="402 with other words"),
    pytest.param(402, "<html>Pay</html>", id="402 in HTML"),
    pytest.param(402, "", id="402 without a body"),
    pytest.param(200, error("quota", "insufficient_quota"), id="200"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "said"), UNSERVED)
async def test_a_refused_account_is_not_the_callers_limit(
    town: Town, http: aiohttp.ClientSession, status: int, said: Any, *, stream: bool
) -> None:
    """A 502 of the provider's, which nobody tries again; free, told loudly, and counted."""
    user = await make_user(town.stack)
    body = said if isinstance(said, str) else json.dumps(said)
    reason = "key" if status == 401 else "account"
    counted = await town.refusals(reason)
    asked = len(town.provider.asked)
    act = says(plain(body.encode(), status=f"{status} No", more="retry-after: 20\r\n"))
    response, passed = await town.ask(http, user, act, stream=stream)
    found = json.loads(passed)["error"]
    assert (response.status, found["type"], found["code"], found["param"]) == (502, "server_error", "upstream_error", None)
    assert found["message"] == (REFUSED_MESSAGE if reason == "account" else "The provider refused this gateway's credentials.")
    assert (response.headers["x-should-retry"], "retry-after" in response.headers) == ("false", False)
    async with sdk(town.stack, user.token, retries=3) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream, extra_body={"act": "it"})  # type: ignore[call-overload]
    assert len(town.provider.asked) == asked + 2
    line = await town.logged(f"provider refuses the {reason} of this deployment", response.headers["x-request-id"])
    assert (line["level"], line["status"]) == ("error", status)
    assert await town.refusals(reason, counted + 2) == counted + 2
    assert await town.owes(http, user) == [0, 0, 0]


NEIGHBOURS = [
    (429, error("Rate limit reached", "rate_limit_exceeded", "requests")),
    (429, error("You exceeded your current quota: insufficient_quota", "rate_limit_exceeded", "tokens")),
    (400, error("insufficient_quota", "invalid_value", "invalid_request_error")),
    (404, error("billing_not_active", "model_not_found", "invalid_request_error")),
    (429, {"message": "insufficient_quota"}),
    (409, "insufficient_quota"),
]


@pytest.mark.parametrize(("status", "said"), NEIGHBOURS)
async def test_what_only_mentions_it_is_the_callers(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, status: int, said: Any
) -> None:
    """Rule E5: a rate limit, or a text that has the word, passes byte for byte."""
    body = json.dumps(said).encode()
    response, passed = await town.ask(http, user_of_town, says(plain(body, status=f"{status} No")))
    assert (response.status, passed) == (status, body)


@pytest.mark.parametrize(
    ("status", "said"), [(402, VERCEL), (429, error("q", "insufficient_quota")), (403, error("n", "billing_not_active"))]
)
async def test_a_fallback_answers_for_a_refused_account(
    town: Town, http: aiohttp.ClientSession, status: int, said: dict[str, Any]
) -> None:
    """The next model is asked, with the same loud line; a refused key is refused for every model."""
    user = await make_user(town.stack)
    well = plain(
        json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}).encode()
    )

    async def act(asked: Asked, writer: asyncio.StreamWriter) -> None:
        refuses = json.loads(asked.body)["model"] != "third"
        writer.write(plain(json.dumps(said).encode(), status=f"{status} No") if refuses else well)

    counted = await town.refusals("account")
    response, _ = await town.ask(http, user, act, model="first")
    assert (response.status, response.headers["x-sentinel-model"]) == (200, "third")
    assert await town.refusals("account", counted + 2) == counted + 2
    line = await town.logged("model unavailable", response.headers["x-request-id"])
    assert (line["reason"], line["fallback"]) == ("account", "second")
    response, passed = await town.ask(http, user, says(plain(json.dumps(said).encode(), status=f"{status} No")), model="second")
    assert (response.status, json.loads(passed)["error"]["message"]) == (502, REFUSED_MESSAGE)
    assert await town.owes(http, user) == [1, 7, 3]


@pytest.mark.parametrize("code", ["insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"])
@pytest.mark.parametrize("shape", STREAMS)
async def test_a_refused_account_in_a_stream_is_not_the_callers_limit(
    town: Town, http: aiohttp.ClientSession, user_of_town: User, shape: str, code: str
) -> None:
    """The event keeps its shape, with Sentinel's code, type and message; it is told and counted as well."""
    path, text, failure, rest = STREAMS[shape]
    said = failure.replace(b'"rate_limit_exceeded"', b'"%b"' % code.encode()).replace(b'"tokens"', b'"insufficient_quota"')
    counted = await town.refusals("account")
    response, passed = await town.ask(
        http, user_of_town, says(STREAM_HEAD + chunk(text + said + rest) + END), path, stream=True
    )
    told = failure.replace(b'"rate_limit_exceeded"', b'"upstream_error"').replace(b'"tokens"', b'"server_error"')
    told = told.replace(json.dumps(SAID).encode(), json.dumps(REFUSED_MESSAGE).encode())
    assert passed.startswith(text + told + rest)
    assert b"insufficient_quota" not in passed.replace(TEXT.encode(), b"")
    await town.logged("provider refuses the account of this deployment", response.headers["x-request-id"])
    assert await town.refusals("account", counted + 1) == counted + 1


async def test_refusals_are_counted(town: Town, http: aiohttp.ClientSession, user_of_town: User) -> None:
    """The metric counts what the log tells, by its reason."""
    for status, reason in ((401, "key"), (402, "account"), (402, "account")):
        told = await town.refusals(reason)
        await town.ask(http, user_of_town, says(plain(b"{}", status=f"{status} No")))
        assert await town.refusals(reason, told + 1) == told + 1
    page = await metrics_page(town.stack)
    for reason in ("key", "account"):
        assert f'sentinel_upstream_refusals_total{{reason="{reason}"}} {await town.refusals(reason)}.0\n' in page


async def test_a_stream_of_words_is_the_same_bytes(town: Town, http: aiohttp.ClientSession, user_of_town: User) -> None:
    """Events about errors are no errors."""
    stream = event("an error: {'error': 'org-abc'}") + event("error", finish="stop") + usage(3, 2) + DONE
    _, passed = await town.ask(
        http, user_of_town, says(STREAM_HEAD + chunk(stream) + END), stream=True, stream_options={"include_usage": True}
    )
    assert passed == stream


@pytest_asyncio.fixture(loop_scope="session")
async def user_of_town(town: Town) -> User:
    """A user with a million of everything."""
    return await make_user(town.stack)
