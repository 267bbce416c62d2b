"""Bearer tokens by their length, through the server: 32 KiB are taken, what is longer is told so."""

import json

import openai
import pytest

from sentinel.devstack.stack import Stack
from tests.support.raw import RawConnection, once, request
from tests.support.running import HELLO, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

TOKEN_BYTES_MAX = 32_768


@pytest.mark.parametrize("length", [8_192, 8_196, 16_384, 24_000, TOKEN_BYTES_MAX])
async def test_a_long_token_is_served(stack: Stack, length: int) -> None:
    """Rule Y3: by the SDK, plain and streamed, and again over the same connection, beside other large headers."""
    user = await make_user(stack, token_bytes=length)
    assert length - 2 <= len(user.token) <= length
    async with sdk(stack, user.token) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.choices[0].finish_reason == "stop"
        async for _ in await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True):
            pass
    asking = request("GET", "/v1/models", f"Authorization: Bearer {user.token}", f"X-Large: {'y' * 30_000}")
    async with RawConnection(stack.port) as connection:
        for _ in range(3):
            await connection.send(asking)
            assert (await connection.answer()).status == 200


@pytest.mark.parametrize("length", [TOKEN_BYTES_MAX + 1, 40_000, 65_536, 100_000])
@pytest.mark.parametrize("valid", [True, False])
async def test_a_token_that_is_too_long_is_told(stack: Stack, length: int, *, valid: bool) -> None:
    """Rule Y3: a 401 in OpenAI's shape with the bound, whatever the token says, and Zion is not asked."""
    token = (await make_user(stack, token_bytes=length + 4)).token if valid else "x" * length
    asked = (await stack.control("zion", "ledger"))["calls"]["me"]
    for method, target in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/v1/usage")):
        refused = await once(stack.port, request(method, target, f"Authorization: Bearer {token}"), method=method)
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert f"too long: a key has at most {TOKEN_BYTES_MAX} characters" in str(refused.error["message"])
        assert refused.header("www-authenticate") == "Bearer"
        assert token[:50] not in refused.body.decode()
    async with sdk(stack, token) as client:
        with pytest.raises(openai.AuthenticationError, match="too long"):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (await stack.control("zion", "ledger"))["calls"]["me"] == asked


async def test_a_token_that_is_no_header_any_more(stack: Stack) -> None:
    """Rule H7: where not even the head is taken, the server says 431 and closes."""
    async with RawConnection(stack.port) as connection:
        await connection.send(request("GET", "/v1/models", f"Authorization: Bearer {'x' * 1_000_000}"))
        assert (await connection.answer()).status == 431


async def test_a_token_that_is_too_long_for_zion(stack: Stack) -> None:
    """A Zion whose server takes shorter heads refuses the caller's token, not this gateway: 401, and remembered."""
    user = await make_user(stack, token_bytes=20_000)
    await stack.control("zion", "faults", {"status": 431, "call": "me", "user": user.email, "times": 1})
    refused = await once(stack.port, request("GET", "/v1/models", f"Authorization: Bearer {user.token}"))
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    assert "too long for the governance service" in json.dumps(refused.error)
