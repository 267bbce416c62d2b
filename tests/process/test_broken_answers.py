"""A plain answer that breaks off in its body, through real Granian: an error in OpenAI's shape, or a body that is short."""

import asyncio
import json

import aiohttp
import pytest

from sentinel.devstack.stack import Stack
from tests.process.test_streams import Town
from tests.support.running import User, booked, make_user
from tests.support.scripted import Asked, Scripted

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

BODY = b'{"id":"obj_1","object":"thing","output":[],"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":10}}'
PROMPT = {"messages": [{"role": "user", "content": "hi"}]}
# One of each kind: a core route, one that leaves something only where it is asked to, one without tokens, and one that lasts.
ASKED = {
    "responses": {"model": "gpt-4o", "input": "hi"},
    "chat/completions": {"model": "gpt-4o", **PROMPT, "store": True},
    "conversations": {},
    "threads/runs": {"assistant_id": "", "model": "gpt-4o"},
}
# What tells of work that lasts goes down when the work is noted, which is when all of it is there.
HELD = {"threads/runs"}


@pytest.fixture(scope="module")
def town(scripted: tuple[Stack, Scripted]) -> Town:
    """The stack whose provider is scripted, without what other files wrote for it."""
    scripted[1].acts.clear()
    return Town(*scripted)


def script(town: Town, *pieces: bytes) -> None:
    """The act "cut": a head that promises all of BODY, and only these pieces of it, each in a TCP segment of its own."""

    async def play(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    town.provider.acts["cut"] = play


def asking(path: str, user: User) -> dict[str, object]:
    """The arguments of one request for `http.post`."""
    return {"json": ASKED[path] | {"act": "cut"}, "headers": {"authorization": f"Bearer {user.token}"}}


def logged(town: Town) -> dict[str, int]:
    """The status of each request, as the log has it."""
    lines = [json.loads(line) for line in town.stack.child("sentinel").output().splitlines() if line.startswith("{")]
    return {line["request_id"]: line["status"] for line in lines if line["event"] == "request"}


@pytest.mark.parametrize("path", ASKED)
async def test_nothing_went_down(town: Town, http: aiohttp.ClientSession, path: str) -> None:
    """Cut at any byte of its first piece, the answer is 502 with a request id, and the log says so too."""
    user = await make_user(town.stack)
    ids = []
    for cut_at in range(0, len(BODY), 9):
        script(town, BODY[:cut_at])
        async with http.post(f"{town.stack.base_url}/{path}", **asking(path, user)) as response:  # type: ignore[arg-type]
            error = (await response.json())["error"]
            assert (response.status, error["type"], error["code"]) == (502, "server_error", "upstream_error")
            ids.append(response.headers["x-request-id"])
    async with asyncio.timeout(10):
        while not set(ids) <= (told := logged(town)).keys():
            await asyncio.sleep(0.02)
    assert [told[name] for name in ids] == [502] * len(ids)


@pytest.mark.parametrize("path", ASKED)
async def test_something_went_down(town: Town, http: aiohttp.ClientSession, path: str) -> None:
    """Cut after its first piece, the body is short of its length, which a client can tell, or, where all of it is
    held back, it is 502; it is billed once.
    """
    user = await make_user(town.stack)
    script(town, BODY[:40], BODY[40:60])
    async with http.post(f"{town.stack.base_url}/{path}", **asking(path, user)) as response:  # type: ignore[arg-type]
        if path in HELD:
            assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_error")
        else:
            assert (response.status, response.headers["content-length"]) == (200, str(len(BODY)))
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    async with asyncio.timeout(10):
        while user.email not in (sums := await booked(town.stack)):
            await asyncio.sleep(0.02)
    assert sums[user.email][0] == 1
