"""The provider's side of a running gateway: the rows of docs/errors.md, other models, answers given again, what is hidden."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.documents import ROOT
from tests.support.liar import ACCOUNT_HEADERS, ANSWERS, HELLO, STREAM, Liar
from tests.support.running import User, booked, make_user, metrics_page

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

CHAT = "/v1/chat/completions"
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "1000",
    "SENTINEL_UPSTREAM_IDLE_TIMEOUT_SECONDS": "0.5",
    "SENTINEL_UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS": "0.7",
    "SENTINEL_UPSTREAM_TOTAL_TIMEOUT_SECONDS": "0.7",
    "SENTINEL_REPORT_INTERVAL_MS": "50",
    "SENTINEL_DRAIN_SECONDS": "1",
    "SENTINEL_FALLBACK_MODELS": "first=second,second=third",
    "SENTINEL_ALLOWED_MODELS": "gpt-4o*,first,second,third",
    "SENTINEL_ANSWER_CACHE_SECONDS": "60",
    # What leads elsewhere where it is trusted.
    "HTTP_PROXY": "http://127.0.0.1:1/",
    "http_proxy": "http://127.0.0.1:1/",
    "ALL_PROXY": "http://127.0.0.1:1/",
}


@dataclass
class Town:
    """A stack whose provider is a liar."""

    stack: Stack
    liar: Liar


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One stack, one worker, one liar."""
    async with (
        Liar() as liar,
        Stack(tmp_path_factory.mktemp("provider"), workers=1, settings=SETTINGS | {"OPENAI_API_URL": liar.url}) as stack,
    ):
        yield Town(stack, liar)


@dataclass
class Said:
    """What the client got; `whole` says that the body was as long as it was said to be."""

    status: int
    headers: Any
    body: bytes
    whole: bool

    @property
    def code(self) -> str:
        """The code of its error, "–" where it tells none."""
        events = [line[6:] for line in self.body.splitlines() if line.startswith(b"data: {")]
        said = json.loads((events or [self.body])[-1]) if self.whole and self.body else {}
        return str((said.get("error") or {}).get("code", "–"))


async def ask(town: Town, http: aiohttp.ClientSession, user: User, act: object, model: str = "gpt-4o", **more: Any) -> Said:
    """One raw chat whose provider does `act`."""
    asked = {"model": model, "messages": [{"role": "user", "content": "hi"}], "act": act} | more
    async with http.post(town.stack.url + CHAT, json=asked, headers={"authorization": f"Bearer {user.token}"}) as response:
        body = b""
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientPayloadError:
            return Said(response.status, response.headers, body, whole=False)
    return Said(response.status, response.headers, body, whole=True)


async def used(town: Town, http: aiohttp.ClientSession, user: User) -> tuple[int, int, int]:
    """(requests, input, output) that the ledger has charged, once nothing of the user is held any more."""
    async with asyncio.timeout(20):
        while True:
            async with http.get(f"{town.stack.base_url}/usage", headers={"authorization": f"Bearer {user.token}"}) as response:
                limits = (await response.json())["limits"].values()
            if not any(limit["held"] for limit in limits):
                requests, given, made = (limit["used"] for limit in limits)
                return requests, given, made
            await asyncio.sleep(0.02)


# ---- the table of docs/errors.md -----------------------------------------------------------------------------------------

# By row: the act, the rule, and what the client gets (status, code, x-should-retry, billed); None: the provider's own.
ROWS: dict[str, list[tuple[str, int | str, str | None, str | None, str]]] = {
    "cannot be reached": [("unreachable", 502, "upstream_unreachable", "–", "nothing")],
    "answers 400, 409, 422 or another 4xx": [
        ("bad request", 400, None, None, "nothing"),
        ("conflict", 409, None, None, "nothing"),
        ("unprocessable", 422, None, None, "nothing"),
        ("missing", 404, None, None, "nothing"),
    ],
    "answers 404 `model_not_found`": [("model_not_found", 404, None, None, "nothing")],
    "answers 429": [("quota", 429, None, None, "nothing")],
    "answers 401 or 403": [
        ("key quoted", 502, "upstream_error", "false", "nothing"),
        ("forbidden", 502, "upstream_error", "false", "nothing"),
    ],
    "answers 402, or that its account cannot pay": [
        (act, 502, "upstream_error", "false", "nothing")
        for act in ("payment required", "out of quota", "hard limit", "not active")
    ],
    "answers with a redirect": [("redirect", 502, "upstream_error", "false", "nothing")],
    "answers 500": [("broken", 502, "upstream_error", None, "nothing")],
    "answers 503": [("overloaded", 503, "upstream_unavailable", None, "nothing")],
    "answers 502, 504, 529 or another 5xx": [
        ("html", 502, None, None, "nothing"),
        ("busy", 529, None, None, "nothing"),
    ],
    "sends no headers in time": [
        ("silent", 504, "upstream_timeout", "false", "the prompt"),
        ("trickling headers", 504, "upstream_timeout", "false", "the prompt"),
    ],
    "closes before its headers": [("reset", 502, "upstream_error", "false", "the prompt")],
    "sends what is not HTTP": [
        (act, 502, "upstream_error", "false", "the prompt")
        for act in ("garbage", "huge header", "status 99", "status 700", "two lengths", "negative length")
    ],
    "compresses a success in a way nobody can read": [
        ("br", 502, "upstream_error", "false", "the prompt"),
        ("zstd stream", 502, "upstream_error", "false", "the prompt"),
    ],
    "compresses an error so": [(act, 502, "upstream_error", "false", "nothing") for act in ("br 429", "br 400 of no label")],
    "answers 2xx with neither JSON nor events": [
        (act, 502, "upstream_not_json", "false", "nothing")
        for act in ("page", "page in chunks", "empty", "empty stream", "no content", "text", "gzip page")
    ],
    "breaks off before the first byte of a plain answer": [
        (act, 502, "upstream_error", "false", "the prompt") for act in ("no gzip", "head alone", "bad chunk")
    ],
    "falls silent before the first byte of a plain answer": [
        ("silent after its head", 504, "upstream_timeout", "false", "the prompt")
    ],
    # Its last piece is held until the id of what it leaves is noted.
    "breaks off in a plain answer, nothing of which went down": [
        ("short, stored", 502, "upstream_error", "false", "what came")
    ],
    "breaks off in a plain answer": [
        ("short", "a short body", "–", "–", "what came"),
        ("short gzip", "a short body", "–", "–", "what came"),
    ],
    "takes too long with a plain answer": [("trickle", "a short body", "–", "–", "what came")],
    "breaks off in a stream": [("broken stream", "in the stream", "upstream_error", "–", "what came")],
    "falls silent in a stream": [("silent in the middle", "in the stream", "upstream_timeout", "–", "what came")],
    "ends a stream before its first event": [("stream of comments", "in the stream", "upstream_not_json", "–", "nothing")],
    "ends a stream before it is complete": [("half stream", "in the stream", "upstream_truncated", "–", "what came")],
}
OWN = "its own"


def table() -> dict[str, list[str]]:
    """The rows of the table in docs/errors.md: what the provider does, and the cells after it."""
    page = (ROOT / "docs" / "errors.md").read_text().split("## What becomes of the provider's failures")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {line[0]: [cell.strip("`") for cell in line[1:]] for line in lines[2:]}


async def test_the_table_is_what_is_tested() -> None:
    """Rules E5, E6, R4: docs/errors.md has a row for each test below, and each says the same."""
    documented = table()
    assert set(documented) == set(ROWS)
    for row, cases in ROWS.items():
        status, code, _, retry, bill = documented[row]
        for _, *expected in cases:
            own = expected[0] if status != OWN else OWN
            assert [str(own), expected[1] or OWN, expected[2] or OWN, expected[3]] == [status, code, retry, bill], row


@pytest.mark.parametrize(
    ("act", "status", "code", "retry", "bill"),
    [pytest.param(*case, id=f"{row}: {case[0]}") for row, cases in ROWS.items() for case in cases if case[0] != "unreachable"],
)
async def test_what_the_provider_does(
    town: Town, http: aiohttp.ClientSession, act: str, status: int | str, code: str | None, retry: str | None, bill: str
) -> None:
    """Rules E5, E6, R2-R5, F1, F2: each row of docs/errors.md: the answer, the advice, the bill."""
    user = await make_user(town.stack)
    asked = len(town.liar.asked)
    name, _, stored = act.partition(", ")
    said = await ask(town, http, user, name, **({"store": True} if stored else {}))
    provided = ANSWERS.get(name, b"")
    head, _, body = provided.partition(b"\r\n\r\n")
    own = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ": " in line)
    if isinstance(status, int):
        assert (said.status, said.whole) == (status, True)
    else:
        assert (said.status, said.whole) == (200, status == "in the stream")
    if code is None:
        # Byte for byte, with the content type and the advice it came with.
        assert said.body == body
        assert said.headers["content-type"] == own["content-type"]
        assert len(town.liar.asked) == asked + 1
    else:
        assert said.code == code
    if retry is None:
        for name in ("retry-after", "retry-after-ms", "x-should-retry"):
            assert said.headers.get(name) == own.get(name)
    else:
        assert said.headers.get("x-should-retry", "–") == retry
    assert said.headers["x-request-id"].startswith("req_")
    requests, given, made = await used(town, http, user)
    expected = {"nothing": (0, False, False), "the prompt": (1, True, False), "what came": (1, True, True)}[bill]
    assert (requests, given > 0) == expected[:2]
    assert made == 0 or expected[2]


async def test_a_provider_that_cannot_be_reached(town: Town, http: aiohttp.ClientSession) -> None:
    """Rules E6, R4: 502, free, and nobody is told not to try again."""
    settings = SETTINGS | {"OPENAI_API_URL": "http://127.0.0.1:1/v1"}
    async with Stack(town.stack.directory / "unreachable", workers=1, settings=settings) as stack:
        alone = Town(stack, town.liar)
        user = await make_user(stack)
        said = await ask(alone, http, user, "well")
        assert (said.status, said.code, said.headers.get("x-should-retry")) == (502, "upstream_unreachable", None)
        assert await used(alone, http, user) == (0, 0, 0)


# ---- what stays hidden, and who is asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["account", "refused account"])
async def test_nothing_of_the_providers_account_is_seen(town: Town, http: aiohttp.ClientSession, act: str) -> None:
    """Rules I6, H1, H3: no header that describes the shared account, its edge or another hop reaches a client."""
    said = await ask(town, http, await make_user(town.stack), act)
    assert said.body == HELLO
    assert "leak" not in str(said.headers)
    sent = {name.lower() for name in said.headers}
    assert not sent & (set(ACCOUNT_HEADERS) - {"x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "server"})


HOSTILE = {
    "authorization": None,
    "api-key": "evil",
    "x-api-key": "evil",
    "openai-organization": "org-evil",
    "openai-project": "proj_evil",
    "cookie": "evil=1",
    "forwarded": "for=evil;host=evil.test",
    "x-forwarded-for": "evil",
    "x-forwarded-host": "evil.test",
    "x-forwarded-proto": "evil",
    "x-real-ip": "evil",
    "x-original-url": "/evil",
    "x-rewrite-url": "/evil",
    "x-http-method-override": "EVIL",
    "proxy-authorization": "evil",
    "te": "evil",
    "connection": "authorization, x-evil",
    "x-evil": "evil",
    "x-sentinel-evil": "evil",
    "traceparent": "evil",
}


async def test_a_client_never_chooses_host_key_or_account(town: Town, user_of_town: User) -> None:
    """Rules H1, H2, X11: whatever headers a client sends, the provider sees its own host and this deployment's key."""
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
    lines = [f"POST {CHAT} HTTP/1.1", "host: evil.test", f"content-length: {len(body)}", "content-type: application/json"]
    lines += [f"{name}: {value or f'Bearer {user_of_town.token}'}" for name, value in HOSTILE.items()]
    answer = await _raw(town, "\r\n".join([*lines, "", ""]).encode() + body)
    assert answer.startswith(b"HTTP/1.1 200")
    head = town.liar.heads[-1]
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    sent = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
    assert sent[b"host"] == town.liar.url.split("/")[2].encode()
    assert sent[b"authorization"] == f"Bearer {town.stack.provider_key}".lower().encode()
    assert sent[b"accept-encoding"] == b"identity"
    assert b"evil" not in head
    assert user_of_town.token.encode() not in head


@pytest.mark.parametrize(
    "target",
    [
        *("http://evil.test/v1/models", "//evil.test/v1/models", "/v1//evil.test/models", "/v1/models/../../evil"),
        *("/v1/models/%2e%2e/%2E%2e/evil", "/v1/models/..%2f..%2fevil", "/v1/models/x%2f%2e%2e%2fevil", "/v1/models/.."),
        *("/v1/models/..\\..\\evil", "/v1/models/%5c..%5cevil", "/v1/../evil", "/%2e%2e/evil", "/v1/models/./evil"),
        *("/v1@evil.test/models", "/v1/models//evil", "evil.test/v1/models"),
    ],
)
async def test_no_target_leads_elsewhere(town: Town, user_of_town: User, target: str) -> None:
    """Rule H8: a target of another form or that climbs is refused, or asks for a model of that name and nothing else."""
    asked = len(town.liar.heads)
    head = (
        f"GET {target} HTTP/1.1\r\nhost: evil.test\r\nauthorization: Bearer {user_of_town.token}\r\nconnection: close\r\n\r\n"
    )
    answer = await _raw(town, head.encode())
    assert answer.split(b" ", 2)[1] in {b"404", b"400", b"200"}
    for line in (one.split(b"\r\n", 1)[0] for one in town.liar.heads[asked:]):
        assert line in {b"GET /v1/models HTTP/1.1", b"GET " + target.encode() + b" HTTP/1.1"}
        assert b".." not in line
        assert b"//" not in line
        assert line.startswith(b"GET /v1/models")


@pytest_asyncio.fixture(loop_scope="session")
async def user_of_town(town: Town) -> User:
    """A user with a million of everything."""
    return await make_user(town.stack)


async def _raw(town: Town, request: bytes) -> bytes:
    """The answer to a request as it stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", town.stack.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


# ---- compressed answers, models, answers given again -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "body"), [("gzip", HELLO), ("deflate", HELLO), ("bare deflate", HELLO), ("gzip stream", STREAM)]
)
async def test_compressed_answers_are_read_and_billed(town: Town, http: aiohttp.ClientSession, act: str, body: bytes) -> None:
    """Rule H5: what came compressed goes down plain, and its usage is the bill."""
    user = await make_user(town.stack)
    said = await ask(town, http, user, act, stream=act.endswith("stream"), stream_options={"include_usage": True})
    assert (said.status, said.body, said.headers.get("content-encoding")) == (200, body, None)
    assert await used(town, http, user) == (1, 7, 3)


async def test_a_stream_outlives_every_bound_but_silence(town: Town, http: aiohttp.ClientSession) -> None:
    """Rule O1: a moving stream goes on past the first-byte, idle and total time-outs of plain answers."""
    user = await make_user(town.stack)
    said = await ask(town, http, user, "trickling stream", stream=True, stream_options={"include_usage": True})
    assert said.body.endswith(STREAM)
    assert await used(town, http, user) == (1, 7, 3)


async def test_a_fallback_answers_and_is_billed(town: Town, http: aiohttp.ClientSession) -> None:
    """Design §5: the answer names the model that gave it, the bill is that model's, once, and a metric counts it."""
    user = await make_user(town.stack)
    said = await ask(town, http, user, {"first": "model_not_found", "second": "quota"}, "first")
    assert (said.status, said.body, said.headers["x-sentinel-model"]) == (200, HELLO, "third")
    said = await ask(town, http, user, {"first": "stream"}, "first", stream=True)
    assert "x-sentinel-model" not in said.headers
    assert await used(town, http, user) == (2, 14, 6)
    async with asyncio.timeout(20):
        while (sums := (await booked(town.stack)).get(user.email)) != (2, 14, 6):
            await asyncio.sleep(0.05)
    assert sums == (2, 14, 6)
    increments = (await town.stack.control("zion", "ledger"))["users"][user.email]
    assert increments["aiRequests"] == 2
    page = await metrics_page(town.stack)
    assert 'sentinel_fallbacks_total{reason="model_not_found"} 1.0' in page
    log = town.stack.child("sentinel").output()
    assert '"event":"model unavailable"' in log
    assert '"model":"third","fallback":true' in log


async def test_where_no_fallback_is_left_the_last_answer_passes(town: Town, http: aiohttp.ClientSession) -> None:
    """Rule E5: the error is the provider's own, byte for byte, and free."""
    user = await make_user(town.stack)
    said = await ask(town, http, user, "model_not_found", "second")
    assert (said.status, said.headers["x-sentinel-model"]) == (404, "third")
    assert said.body == ANSWERS["model_not_found"].split(b"\r\n\r\n", 1)[1]
    assert await used(town, http, user) == (0, 0, 0)


async def test_a_model_that_is_not_allowed_is_403(town: Town, http: aiohttp.ClientSession) -> None:
    """Design §5: refused before anything is held or asked."""
    user = await make_user(town.stack)
    asked = len(town.liar.asked)
    said = await ask(town, http, user, "well", "o3-mini")
    assert said.status == 403
    error = json.loads(said.body)["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "model_not_allowed", "model")
    assert len(town.liar.asked) == asked
    assert await used(town, http, user) == (0, 0, 0)


async def test_an_answer_is_given_again_to_its_caller(town: Town, http: aiohttp.ClientSession) -> None:
    """Design §5: the same bytes at temperature 0 are answered once by the provider; a hit is a request without tokens."""
    user, other = await make_user(town.stack), await make_user(town.stack)
    asked = len(town.liar.asked)
    first = await ask(town, http, user, "well", temperature=0)
    assert first.headers["x-sentinel-cache"] == "miss"
    async with asyncio.timeout(10):
        while (again := await ask(town, http, user, "well", temperature=0)).headers["x-sentinel-cache"] != "hit":
            await asyncio.sleep(0.02)
    assert (again.status, again.body, again.headers["content-type"]) == (200, HELLO, "application/json")
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert int(again.headers["x-ratelimit-remaining-requests"]) < int(first.headers["x-ratelimit-remaining-requests"])
    misses = len(town.liar.asked) - asked
    requests, given, made = await used(town, http, user)
    assert (given, made) == (7 * misses, 3 * misses)
    assert requests > misses
    assert (await ask(town, http, other, "well", temperature=0)).headers["x-sentinel-cache"] == "miss"
    assert "x-sentinel-cache" not in (await ask(town, http, user, "well", temperature=0.5)).headers
    assert 'sentinel_answer_cache_total{result="hit"} ' in await metrics_page(town.stack)
