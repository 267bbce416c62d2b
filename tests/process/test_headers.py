"""What clients find in headers, through real Granian: errors by the SDK, limits, browsers of other origins, and traces."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from sentinel.devstack.stack import Stack
from tests.support.raw import once, request
from tests.support.running import HELLO, User, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

CHAT = "/v1/chat/completions"
APP = "https://app.example.test"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "100",
    "SENTINEL_CORS_ORIGINS": f"{APP}, http://localhost:3000, app://obsidian.md, moz-extension://, vscode-webview://, file://",
    "SENTINEL_TRACE_UPSTREAM": "true",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack that browsers may call, and whose provider is told of traces."""
    async with Stack(tmp_path_factory.mktemp("headers"), workers=1, settings=SETTINGS) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(web: Stack) -> User:
    """A user of it."""
    return await make_user(web)


async def post(
    http: aiohttp.ClientSession, stack: Stack, token: str, body: dict[str, Any], **headers: str
) -> tuple[aiohttp.ClientResponse, bytes]:
    """(response, body) of one chat."""
    lines = {"authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    asking = {"model": "gpt-4o", "messages": HELLO} | body
    async with http.post(stack.url + CHAT, json=asking, headers=lines) as response:
        return response, await response.read()


async def logged(stack: Stack, request_id: str) -> dict[str, Any]:
    """The log line of a request that was served."""
    async with asyncio.timeout(10):
        while True:
            for line in stack.child("sentinel").output().splitlines():
                if f'"{request_id}"' in line and '"event":"request"' in line:
                    found: dict[str, Any] = json.loads(line)
                    return found
            await asyncio.sleep(0.05)


async def seen(stack: Stack, request_id: str) -> dict[str, str]:
    """The headers with which a request reached the provider."""
    rows = (await stack.control("provider", "served"))["rows"]
    found: dict[str, str] = next(row["headers"] for row in rows if row["request_id"] == request_id)
    return found


# ---- errors and limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 404, 405, 408, 409, 413, 415, 422, 429, 502, 504])
async def test_the_providers_errors_pass_byte_for_byte(
    stack: Stack, user: User, http: aiohttp.ClientSession, status: int, *, stream: bool
) -> None:
    """Rule E5: status, content type and body of what an edge says, HTML included, also where a stream was asked for."""
    html = f"<html>\r\n<body>\ttoo bad: {status} \u00e9</body></html>\n"
    response, body = await post(
        http,
        stack,
        user.token,
        {"stream": stream, "simulate": {"status": status, "body": html, "headers": {"retry-after": "7"}}},
    )
    assert (response.status, body) == (status, html.encode())
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["x-ratelimit-limit-tokens"] == "1000000"
    response, body = await post(http, stack, user.token, {"stream": stream, "simulate": {"status": status}})
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    async with sdk(stack, user.token) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, stream=stream, extra_body={"simulate": {"status": status, "body": html}}
            )
    assert (caught.value.status_code, caught.value.body) == (status, html.strip())


async def test_both_families_of_limits(web: Stack, visitor: User, http: aiohttp.ClientSession) -> None:
    """Rules I0, I3-I5, I7: on plain answers, streams and 400s; Unix seconds in one family, durations in the other."""
    for body in ({}, {"stream": True}, {"simulate": {"status": 400}}):
        response, _ = await post(http, web, visitor.token, body)
        given = response.headers
        assert (given["x-ratelimit-limit"], given["x-ratelimit-limit-requests"]) == ("100", "100")
        assert given["x-ratelimit-remaining"] == given["x-ratelimit-remaining-requests"]
        assert int(given["x-ratelimit-reset"]) > 1_700_000_000
        assert re.fullmatch(r"\d+ms|(1m)?\d+(\.\d{1,3})?s", given["x-ratelimit-reset-requests"])
        assert int(given["x-ratelimit-remaining-tokens"]) < int(given["x-ratelimit-limit-tokens"]) == 1_000_000
        assert (given["openai-version"], given["openai-processing-ms"]) == ("2020-10-01", "42")
        assert "openai-organization" not in given
        assert len(given.getall("x-ratelimit-limit-requests")) == len(given.getall("x-request-id")) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sdk_shows_our_headers(stack: Stack, user: User, *, stream: bool) -> None:
    """Rules I1, I7: `with_raw_response` has Sentinel's own id, its limits, and the provider's id beside them."""
    async with sdk(stack, user.token) as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO, stream=stream)
        parsed = raw.parse()
        if stream:
            async for _ in parsed:  # type: ignore[union-attr]
                pass
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.request_id == raw.headers["x-request-id"] != raw.headers["x-upstream-request-id"]
    assert raw.headers["x-ratelimit-limit-requests"] == "1000000"


async def test_a_full_window_says_when_to_come_again(web: Stack, http: aiohttp.ClientSession) -> None:
    """Rules R3, I0: seconds and milliseconds agree with the limiter; a wait of over a minute is no reason to try again."""
    busy = await make_user(web)
    for _ in range(100):
        assert (await once(web.port, request("GET", "/v1/models", f"Authorization: Bearer {busy.token}"))).status == 200
    response, body = await post(http, web, busy.token, {})
    error = json.loads(body)["error"]
    assert (response.status, error["type"], error["code"]) == (429, "rate_limit_exceeded", "rate_limit_exceeded")
    wait_ms, wait_s = int(response.headers["retry-after-ms"]), int(response.headers["retry-after"])
    assert 1 <= wait_ms <= wait_s * 1000 < wait_ms + 1000
    assert response.headers.get("x-should-retry") == ("false" if wait_ms > 60_000 else None)
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wait_ms", "passes"), [("2147483647", True), ("2147483648", False), ("1e12", False)])
async def test_a_wait_that_no_timer_takes_does_not_pass(
    stack: Stack, user: User, http: aiohttp.ClientSession, wait_ms: str, *, stream: bool, passes: bool
) -> None:
    """Rules R3, R5: `retry-after-ms` of the provider goes down unless JavaScript took it for now; the seconds always do."""
    advice = {"retry-after-ms": wait_ms, "retry-after": "2678400"}
    for status in (429, 503):
        response, _ = await post(http, stack, user.token, {"stream": stream, "simulate": {"status": status, "headers": advice}})
        assert (response.status, response.headers["retry-after"]) == (status, "2678400")
        assert response.headers.get("retry-after-ms") == (wait_ms if passes else None)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_base_url_may_end_in_a_slash(stack: Stack, user: User, slash: str) -> None:
    """Rules H17, R6: the SDK's paths are the same with and without it, and no redirect is needed."""
    async with AsyncOpenAI(base_url=stack.base_url + slash, api_key=user.token, max_retries=0) as client:
        raw = await client.models.with_raw_response.list()
    assert (raw.status_code, raw.http_response.history) == (200, [])


async def test_a_path_with_a_slash_at_its_end_is_not_moved(stack: Stack, user: User, http: aiohttp.ClientSession) -> None:
    """Rules H17, R6, E4: it is another path, and there is none; a redirect would make the SDK send its body again."""
    lines = {"authorization": f"Bearer {user.token}"}
    async with http.post(f"{stack.url}{CHAT}/", json={}, headers=lines, allow_redirects=False) as response:
        assert response.status == 404
        assert "location" not in response.headers
        assert (await response.json())["error"]["message"] == f"Invalid URL (POST {CHAT}/)"


# ---- browsers ----------------------------------------------------------------------------------------------------------

PREFLIGHT = (
    "Access-Control-Request-Method: POST",
    (
        "Access-Control-Request-Headers: authorization,baggage,content-type,cookie,dangerously-allow-browser,openai-beta,"
        "openai-organization,sentry-trace,x-forwarded-for,x-of-my-app,x-requested-with,x-stainless-arch,x-stainless-timeout"
    ),
)
GRANTED = (
    "authorization, baggage, content-type, dangerously-allow-browser, openai-beta, openai-organization, sentry-trace, "
    "x-of-my-app, x-requested-with, x-stainless-arch, x-stainless-timeout"
)


async def test_a_browser_may_ask_from_a_named_origin(web: Stack) -> None:
    """Rule H16: a preflight needs no token, has no body, and is granted what the SDK in a browser sends."""
    answer = await once(web.port, request("OPTIONS", CHAT, f"Origin: {APP}", *PREFLIGHT))
    assert (answer.status, answer.body, answer.header("content-length")) == (204, b"", None)
    assert answer.header("access-control-allow-origin") == APP
    assert answer.header("access-control-allow-methods") == "GET, HEAD, POST, DELETE"
    assert answer.header("access-control-allow-headers") == GRANTED
    assert answer.header("access-control-max-age") == "7200"
    assert "Origin" in ", ".join(answer.values("vary"))
    assert str(answer.header("x-request-id")).startswith("req_")


@pytest.mark.parametrize(
    "origin",
    ["app://obsidian.md", "moz-extension://0b8e9f5c-5d51-4a5e-9b4a-0d2c1f1b6c11", "vscode-webview://1u2p3h9", "file://"],
)
async def test_an_app_or_an_extension_may_ask(web: Stack, visitor: User, origin: str) -> None:
    """Rule H16: an origin of another scheme, named whole or by its scheme, is told the same as a page's."""
    answer = await once(web.port, request("OPTIONS", CHAT, f"Origin: {origin}", *PREFLIGHT))
    assert (answer.status, answer.header("access-control-allow-headers")) == (204, GRANTED)
    served = await once(
        web.port,
        request(
            "GET", "/v1/models", f"Origin: {origin}", f"Authorization: Bearer {visitor.token}", "Sentry-Trace: x", "X-Y: z"
        ),
    )
    assert served.status == 200
    assert [one.header("access-control-allow-origin") for one in (answer, served)] == [origin] * 2


@pytest.mark.parametrize(
    "origin",
    [
        *("https://other.example.test", "null", f"{APP}.evil.test", "app://obsidian.md.evil", "app://", "chrome-extension://a"),
        *("https://moz-extension://a", "moz-extension://a/b", "x-moz-extension://a"),
    ],
)
async def test_an_unknown_origin_is_told_nothing(web: Stack, visitor: User, origin: str) -> None:
    """Rule H16: its preflight is a 405 like any OPTIONS, and its requests are served without a header of CORS."""
    refused = await once(web.port, request("OPTIONS", CHAT, f"Origin: {origin}", *PREFLIGHT))
    assert refused.status == 405
    served = await once(web.port, request("GET", "/v1/models", f"Origin: {origin}", f"Authorization: Bearer {visitor.token}"))
    assert served.status == 200
    for answer in (refused, served):
        assert not [name for name, _ in answer.headers if name.startswith("access-control-")]
        assert answer.header("vary") == "Origin"


@pytest.mark.parametrize(
    ("token", "body", "status"),
    [
        ("", {}, 401),
        ("good", {}, 200),
        ("good", {"stream": True}, 200),
        ("good", {"messages": []}, 400),
        ("good", {"simulate": {"status": 404}}, 404),
        ("good", {"simulate": {"status": 401}}, 502),
    ],
)
async def test_a_browser_may_read_every_answer(
    web: Stack, visitor: User, http: aiohttp.ClientSession, token: str, body: dict[str, Any], status: int
) -> None:
    """Rule H16: plain answers, streams and errors of either side carry the origin and what of them may be read."""
    response, _ = await post(http, web, visitor.token if token else "none", body, origin=APP)
    assert response.status == status
    assert response.headers.getall("access-control-allow-origin") == [APP]
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-ratelimit-remaining-tokens", "retry-after-ms"} <= set(exposed)
    assert response.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers


async def test_health_is_not_for_browsers(web: Stack) -> None:
    """Rule H16: what is not the API grants no preflight."""
    assert (await once(web.port, request("OPTIONS", "/health/live", f"Origin: {APP}", *PREFLIGHT))).status == 405


async def test_without_the_setting_there_is_no_cors(stack: Stack) -> None:
    """Rule H16: OPTIONS is a method no route has, and no answer mentions origins."""
    refused = await once(stack.port, request("OPTIONS", CHAT, f"Origin: {APP}", *PREFLIGHT))
    assert (refused.status, refused.header("vary")) == (405, None)
    assert refused.error["message"].startswith(f"Not allowed to OPTIONS on {CHAT}")
    assert not [name for name, _ in refused.headers if name.startswith("access-control-")]


# ---- traces ------------------------------------------------------------------------------------------------------------


async def test_a_trace_is_continued_to_the_provider(web: Stack, visitor: User, http: aiohttp.ClientSession) -> None:
    """Rules H20, R4: the same trace in the log and upstream, with a span of ours between; the SDK's count beside it."""
    response, _ = await post(
        http, web, visitor.token, {}, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="a=1,b=2", x_stainless_retry_count="2"
    )
    line = await logged(web, response.headers["x-request-id"])
    assert (line["trace_id"], line["parent_id"], line["retry_count"]) == (TRACE, PARENT, 2)
    assert line["span_id"] not in {PARENT, "0" * 16}
    sent = await seen(web, response.headers["x-request-id"])
    assert (sent["traceparent"], sent["tracestate"]) == (f"00-{TRACE}-{line['span_id']}-01", "a=1,b=2")


async def test_a_trace_begins_where_there_is_none(web: Stack, visitor: User, http: aiohttp.ClientSession) -> None:
    """Rule H20: a state without its parent is dropped, and a trace of our own goes on."""
    response, _ = await post(http, web, visitor.token, {}, tracestate="a=1")
    line = await logged(web, response.headers["x-request-id"])
    assert "parent_id" not in line
    assert "retry_count" not in line
    sent = await seen(web, response.headers["x-request-id"])
    assert sent["traceparent"] == f"00-{line['trace_id']}-{line['span_id']}-00"
    assert "tracestate" not in sent


async def test_a_trace_stays_here_by_default(stack: Stack, user: User, http: aiohttp.ClientSession) -> None:
    """Rule H20: a tenant's trace is in the log, and not the provider's to know unless it is said."""
    response, _ = await post(http, stack, user.token, {}, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="a=1")
    assert (await logged(stack, response.headers["x-request-id"]))["trace_id"] == TRACE
    assert not {"traceparent", "tracestate"} & set(await seen(stack, response.headers["x-request-id"]))
