"""Bad input and bad luck: every failure has OpenAI's shape, its own status, and the SDK's own exception."""

import asyncio
import io
import json

import aiohttp
import openai
import pytest

from sentinel.devstack.stack import Stack
from sentinel.openai.refused_routes import REFUSED, Refused
from tests.support.running import HELLO, User, booked, make_user, reconciled, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

CHAT = "/v1/chat/completions"


async def ask(
    http: aiohttp.ClientSession, stack: Stack, token: str | None, body: object, *, path: str = CHAT, method: str = "POST"
) -> tuple[int, dict[str, object], aiohttp.ClientResponse]:
    """(status, error object, response) of one raw request; `body` is JSON unless it is bytes."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token is not None else {})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.request(method, stack.url + path, data=io.BytesIO(content), headers=headers) as response:
        answer = json.loads(await response.read())
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return response.status, answer["error"], response


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (400, openai.BadRequestError, "simulated_error"),
        (404, openai.NotFoundError, "model_not_found"),
        (405, openai.APIStatusError, "simulated_error"),
        (408, openai.APIStatusError, "simulated_error"),
        (409, openai.ConflictError, "simulated_error"),
        (413, openai.APIStatusError, "simulated_error"),
        (415, openai.APIStatusError, "simulated_error"),
        (422, openai.UnprocessableEntityError, "simulated_error"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (500, openai.InternalServerError, "upstream_error"),
        (502, openai.InternalServerError, None),
        (503, openai.InternalServerError, "upstream_unavailable"),
        (504, openai.InternalServerError, None),
        (401, openai.InternalServerError, "upstream_error"),
        (403, openai.InternalServerError, "upstream_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_providers_errors_raise_the_sdks(
    stack: Stack, user: User, status: int, expected: type[openai.APIStatusError], code: str | None, *, stream: bool
) -> None:
    """Rules E2, E5, E6: the SDK's own class, status, code and request id for each; 4xx pass; the provider's 401 and 403 are
    Sentinel's fault, so 502; nothing is billed.
    """
    async with sdk(stack, user.token) as client:
        with pytest.raises(expected) as caught:
            await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, user=user.email, stream=stream, extra_body={"simulate": {"status": status}}
            )
    assert type(caught.value) is expected
    assert (caught.value.status_code, caught.value.code) == ({401: 502, 403: 502, 500: 502}.get(status, status), code)
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")
    assert stack.provider_key[:8] not in str(caught.value.body)
    assert user.email not in await booked(stack)


@pytest.mark.parametrize("status", [500, 503])
async def test_a_passing_failure_of_the_provider_is_tried_again(stack: Stack, user: User, status: int) -> None:
    """Design §5: one 500 or 503 is not the client's to see, and costs nothing."""
    async with sdk(stack, user.token) as client:
        # Other tests may have spent what this worker may try again: a tenth of its requests, these.
        for _ in range(11):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
        answer = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=user.email, extra_body={"simulate": {"status": status, "times": 1}}
        )
    assert answer.choices[0].message.content
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][0] == 12


@pytest.mark.parametrize(
    "token",
    [None, "", "sk-something", "a.b.c", "e30.e30.e30", "x" * 9000, "Zm9v.eyJleHAiOjF9.YmFy"],
    ids=["none", "empty", "other", "garbled", "unknown", "huge", "expired"],
)
async def test_no_usable_token_is_401(stack: Stack, http: aiohttp.ClientSession, token: str | None) -> None:
    """No, other, garbled or expired tokens: 401 before anything else is looked at."""
    status, error, _ = await ask(http, stack, token, b"not json")
    assert (status, error["type"]) == (401, "invalid_request_error")


async def test_the_wrong_scheme_is_401(stack: Stack, http: aiohttp.ClientSession, user: User) -> None:
    """Only Bearer is a way to authenticate; the SDK raises AuthenticationError."""
    headers = {"authorization": f"Basic {user.token}"}
    async with http.get(f"{stack.base_url}/models", headers=headers) as response:
        assert response.status == 401
    async with sdk(stack, "nonsense") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_a_user_who_is_not_permitted_is_403(stack: Stack) -> None:
    """Zion's 403 and a profile without an external id are 403, each with its code."""
    for options, code in (({"permitted": False}, "forbidden"), ({"external": False}, "no_external_id")):
        refused = await make_user(stack, **options)
        async with sdk(stack, refused.token) as client:
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await client.models.list()
        assert caught.value.code == code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b'\xef\xbb\xbf\xef\xbb\xbf{"model":"gpt-4o","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"\\ud83d"}]}',
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"n":1e400}',
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"n":NaN}',
        b'{"model":"gpt-4o","model":"gpt-4","messages":[{"role":"user","content":"x"}]}',
    ],
    ids=range(14),
)
async def test_what_is_not_json_is_400(stack: Stack, user: User, http: aiohttp.ClientSession, body: bytes) -> None:
    """Rules H10, H12: every kind of broken body is a 400, and the worker lives."""
    status, error, _ = await ask(http, stack, user.token, body)
    assert (status, error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 4}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": []}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": -1}, "n"),
    ],
)
async def test_a_wrong_parameter_is_named(
    stack: Stack, user: User, http: aiohttp.ClientSession, change: dict[str, object], param: str
) -> None:
    """A missing or wrong-typed parameter is a 400 that names it."""
    body = {"model": "gpt-4o", "messages": HELLO} | change
    status, error, _ = await ask(http, stack, user.token, {name: value for name, value in body.items() if value is not None})
    assert status == 400
    assert str(error["param"]).startswith(param)


async def test_a_body_over_the_bound_is_413_by_its_declared_length(stack: Stack, user: User) -> None:
    """Rule H13: refused before a byte of it is sent."""
    reader, writer = await _raw(stack, "POST", CHAT, _headers(user) | {"content-length": str(2**25 + 1)})
    assert await _error(reader) == (413, "request_too_large")
    writer.close()


async def test_a_body_over_the_bound_is_413_by_counted_bytes(stack: Stack, user: User) -> None:
    """Rule H13: a chunked body is read no further than its bound; 32 MiB pass it, one byte more does not."""
    reader, writer = await _raw(stack, "POST", CHAT, _headers(user) | {"transfer-encoding": "chunked"})
    answer = asyncio.create_task(_error(reader))
    piece = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    for _ in range(32):
        writer.write(piece)
        await writer.drain()
    assert not answer.done()
    writer.write(b"1\r\nx\r\n")
    assert await asyncio.wait_for(answer, 10) == (413, "request_too_large")
    writer.close()


async def test_a_body_of_exactly_the_bound_is_read(stack: Stack, user: User, http: aiohttp.ClientSession) -> None:
    """32 MiB are not too large: this one is refused for what it says."""
    body = b'{"x":"' + b"x" * (2**25 - 8) + b'"}'
    assert len(body) == 2**25
    status, error, _ = await ask(http, stack, user.token, body)
    assert (status, error["param"]) == (400, "model")


def _headers(user: User) -> dict[str, str]:
    return {"authorization": f"Bearer {user.token}", "content-type": "application/json"}


async def _error(reader: asyncio.StreamReader) -> tuple[int, str]:
    """(status, error code) of one raw answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = json.loads(await reader.readexactly(length))
    return int(head.split()[1]), body["error"]["code"]


async def _raw(
    stack: Stack, method: str, path: str, headers: dict[str, str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection with one request head sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    lines = [f"{method} {path} HTTP/1.1", "host: sentinel", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/foo", "/v1/chat/completions/", "/v1/models/../x", "//v1/models", "/metrics/x"]
)
async def test_an_unknown_path_is_404(stack: Stack, user: User, http: aiohttp.ClientSession, path: str) -> None:
    """Rules E4, H17: no aliases, no redirects."""
    reader, writer = await _raw(stack, "GET", path, {"authorization": f"Bearer {user.token}", "connection": "close"})
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404"), answer
    error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert error["message"] == f"Invalid URL (GET {path})"


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.path)
async def test_a_refused_path_says_why(stack: Stack, user: User, http: aiohttp.ClientSession, refused: Refused) -> None:
    """403 with the reason, whatever the method, with a token and without; the provider is not asked."""
    path = "/v1" + refused.path.replace("{checkpoint}", "ft:x").replace("/*", "/some/thing")
    before = len((await stack.control("provider", "served"))["rows"])
    for method in ("GET", "POST", "DELETE", "PUT"):
        for headers in ({"authorization": f"Bearer {user.token}"}, {}):
            async with http.request(method, stack.url + path, json={}, headers=headers) as response:
                error = (await response.json())["error"]
            assert (response.status, error["type"], error["code"]) == (403, "invalid_request_error", "route_not_available")
            assert error["message"] == f"{method} {path} is not available through this gateway: {refused.reason}."
    assert len((await stack.control("provider", "served"))["rows"]) == before


async def test_an_sdk_tells_why_a_path_is_refused(stack: Stack, user: User) -> None:
    """What hands out keys raises PermissionDeniedError at once, with the reason in its message."""
    async with sdk(stack, user.token) as client:
        with pytest.raises(openai.PermissionDeniedError, match="leads past this gateway, where nothing is metered"):
            await client.realtime.client_secrets.create(session={"type": "realtime", "model": "gpt-realtime"})
        with pytest.raises(openai.PermissionDeniedError, match="leads past this gateway, where nothing is metered"):
            await client.beta.chatkit.sessions.create(user="u", workflow={"id": "wf_1"})
        with pytest.raises(openai.PermissionDeniedError, match="a model that is not theirs"):
            await client.fine_tuning.checkpoints.permissions.create("ft:x", project_ids=["proj_1"])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/completions", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models/gpt-4o", "DELETE, GET, HEAD"),
        ("POST", "/health/live", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405(
    stack: Stack, user: User, http: aiohttp.ClientSession, method: str, path: str, allowed: str
) -> None:
    """Rule E4: 405 with Allow."""
    status, error, response = await ask(http, stack, user.token, b"", path=path, method=method)
    assert (status, response.headers["allow"]) == (405, allowed)
    assert str(error["message"]).startswith(f"Not allowed to {method} on {path}")


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"requests": {"limit": 5, "used": 5}}, "ai_requests"),
        ({"input": {"limit": 1000, "used": 999}}, "ai_input_tokens"),
        ({"output": {"limit": 1000, "used": 1000}}, "ai_output_tokens"),
    ],
)
async def test_a_used_up_limit_is_429_and_named(stack: Stack, limits: dict[str, object], name: str) -> None:
    """Rule R2: the limit is named, and no client should try again."""
    spent = await make_user(stack, **limits)
    async with sdk(stack, spent.token, retries=2) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert name in str(caught.value)
    assert caught.value.code == "insufficient_quota"
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == "false"
    assert int(headers["retry-after"]) >= 1
    assert "x-ratelimit-limit-requests" in headers
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_a_declared_cap_over_what_remains_is_429(stack: Stack) -> None:
    """A declared output cap is held whole; a call without one takes what is left."""
    poor = await make_user(stack, output=100)
    async with sdk(stack, poor.token) as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=101)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_completion_tokens=51, n=2)
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=50)
    assert answer.choices[0].message.content


async def test_a_stream_the_provider_cuts_raises(stack: Stack, user: User) -> None:
    """Rules F1, F2: a truncated stream is an error in the stream, and what was produced is billed."""
    async with sdk(stack, user.token) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=user.email, stream=True, extra_body={"simulate": {"cut_after_events": 5}}
        )
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.type == "server_error"
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][2] > 0


async def test_a_plain_answer_the_provider_cuts_is_not_whole(stack: Stack, user: User) -> None:
    """Rules F3, X13: a body that breaks off never looks complete."""
    async with sdk(stack, user.token) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, user=user.email, extra_body={"simulate": {"cut_after_events": 1}}
            )


async def test_a_stream_that_begins_with_an_error_passes(stack: Stack, user: User) -> None:
    """Rule F4: passed on as it is; the request is billed, no tokens."""
    async with sdk(stack, user.token) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=user.email, stream=True, extra_body={"simulate": {"error_first_event": True}}
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
    given, taken = await reconciled(stack, [user])
    assert given == taken == {user.email: (1, 0, 0)}


async def test_a_stream_without_usage_is_estimated(stack: Stack, user: User) -> None:
    """Rule U11: no usage is not zero usage."""
    async with sdk(stack, user.token) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=user.email, stream=True, extra_body={"simulate": {"no_usage": True}}
        )
        async for _ in stream:
            pass
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][2] > 0
