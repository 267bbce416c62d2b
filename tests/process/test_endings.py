"""What a provider sends after the event that ends its stream, through real Granian: to the byte, within bounds, and billed."""

import asyncio
import json

import aiohttp
import pytest

from sentinel.devstack.stack import Stack
from tests.process.test_streams import Town, request
from tests.stages.relay.test_endings import CREATED, DELTA, ERROR, said
from tests.support.running import make_user
from tests.support.scripted import DONE, END, STREAM_HEAD, Asked, Scripted, chunk, event, usage

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

FAILED = said("response.failed", 7)
COMPLETED = said("response.completed", 9)


@pytest.fixture(scope="module")
def town(scripted: tuple[Stack, Scripted]) -> Town:
    """The stack whose provider is scripted, without what other files wrote for it."""
    scripted[1].acts.clear()
    return Town(*scripted)


def script(town: Town, segments: list[bytes], *, ends: bool = True) -> None:
    """The act "segments": each of them in a TCP segment of its own, then the end, or an open connection for ever."""

    async def play(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for segment in segments:
            writer.write(chunk(segment))
            await writer.drain()
            await asyncio.sleep(0.03)
        if ends:
            writer.write(END)
        else:
            await asyncio.sleep(60)

    town.provider.acts["segments"] = play


def asking(path: str, token: str) -> dict[str, object]:
    """The arguments of one streamed request for `http.post`."""
    prompt = {"input": "hi", "store": False} if path == "responses" else {"messages": [{"role": "user", "content": "hi"}]}
    body = {"model": "gpt-4o", "stream": True, "act": "segments", **prompt}
    return {"json": body, "headers": {"authorization": f"Bearer {token}"}}


PIECES: dict[str, tuple[str, list[bytes], tuple[int, int]]] = {
    "error, then failed": ("responses", [CREATED, DELTA, ERROR, FAILED], (7, 1)),
    "failed, then error": ("responses", [CREATED, DELTA, FAILED, ERROR], (7, 1)),
    "error, then failed in two segments": ("responses", [CREATED, ERROR + FAILED[:40], FAILED[40:]], (7, 1)),
    "error, then failed byte by byte": (
        "responses",
        [CREATED, ERROR, *(FAILED[at : at + 9] for at in range(0, len(FAILED), 9))],
        (7, 1),
    ),
    "both at once": ("responses", [CREATED + ERROR + FAILED], (7, 1)),
    "completed, then [DONE]": ("responses", [CREATED, COMPLETED, DONE], (9, 1)),
    "completed, then a comment": ("responses", [CREATED, COMPLETED, b": bye\n\n"], (9, 1)),
    "[DONE], then a comment": ("chat/completions", [event("a", finish="stop"), DONE, b": bye\n\n"], (0, 0)),
    "an error, then [DONE]": ("chat/completions", [b'data: {"error":{"message":"no"}}\n\n', DONE], (0, 0)),
}


@pytest.mark.parametrize("name", PIECES)
async def test_the_stream_is_read_to_its_end(town: Town, http: aiohttp.ClientSession, name: str) -> None:
    """What comes in a later segment goes down to the byte; booked is the usage of the last event that has one."""
    user = await make_user(town.stack)
    path, segments, tokens = PIECES[name]
    script(town, segments)
    connections = town.provider.connections
    for _ in range(2):
        async with asyncio.timeout(10), http.post(f"{town.stack.base_url}/{path}", **asking(path, user.token)) as response:  # type: ignore[arg-type]
            assert await response.read() == b"".join(segments)
    requests, *booked = await town.bill(user)
    # A clean end leaves the connection for the next one.
    assert town.provider.connections <= connections + 1
    if tokens != (0, 0):
        assert [requests, *booked] in ([1, *tokens], [2, 2 * tokens[0], 2 * tokens[1]])


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_provider_that_does_not_hang_up_holds_nobody(town: Town, http: aiohttp.ClientSession, path: str) -> None:
    """The client's stream ends soon after the last event, as a success; the connection is closed."""
    user = await make_user(town.stack)
    last = COMPLETED if path == "responses" else event("a", finish="stop") + usage(9, 1) + DONE
    script(town, [last], ends=False)
    connections = town.provider.connections
    async with asyncio.timeout(8), http.post(f"{town.stack.base_url}/{path}", **asking(path, user.token)) as response:  # type: ignore[arg-type]
        assert (await response.read()).endswith(last if path == "responses" else DONE)
        request_id = response.headers["x-request-id"]
        await town.provider.asked[-1].gone.wait()
    assert await town.bill(user) == (1, 9, 1)
    assert _ending(town, request_id) == "success"
    script(town, [last])
    async with http.post(f"{town.stack.base_url}/{path}", **asking(path, user.token)) as response:  # type: ignore[arg-type]
        await response.read()
    # The first may have come over one that was open before.
    assert connections < town.provider.connections + 1 <= connections + 3


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_client_that_closes_at_the_end_frees_all(town: Town, http: aiohttp.ClientSession, path: str) -> None:
    """Whoever closes at the last event ends the provider's call too, and it is a success."""
    user = await make_user(town.stack)
    last = COMPLETED if path == "responses" else event("a", finish="stop") + usage(9, 1) + DONE
    script(town, [last], ends=False)
    async with asyncio.timeout(8):
        response = await http.post(f"{town.stack.base_url}/{path}", **asking(path, user.token))  # type: ignore[arg-type]
        seen = b""
        while not seen.endswith(DONE if path != "responses" else last):
            seen += await response.content.readany()
        response.close()
        await town.provider.asked[-1].gone.wait()
    assert await town.bill(user) == (1, 9, 1)
    assert _ending(town, response.headers["x-request-id"]) == "success"


@pytest.mark.parametrize("closes", [True, False])
async def test_the_next_request_need_not_wait(town: Town, http: aiohttp.ClientSession, closes: bool) -> None:
    """Nothing is held behind [DONE] while the provider keeps its stream open, whether the client closes or not."""
    user = await make_user(town.stack)
    script(town, [event("a", finish="stop") + usage(9, 1) + DONE], ends=False)
    free_first = []
    for _ in range(3):
        async with asyncio.timeout(10):
            response = await http.post(f"{town.stack.base_url}/chat/completions", **asking("chat/completions", user.token))  # type: ignore[arg-type]
            while not (await response.content.readany()).endswith(DONE):
                pass
            if closes:
                response.close()
            await _free(town, http, user.token)
            free_first.append(not town.provider.asked[-1].gone.is_set())
            await response.release()
            await town.provider.asked[-1].gone.wait()
    # On a machine that is busy one may be late, but not all of them.
    assert closes or any(free_first)
    assert await town.bill(user) in [(requests, 9 * requests, requests) for requests in (1, 2, 3)]


async def _free(town: Town, http: aiohttp.ClientSession, token: str) -> None:
    """Wait until nothing of a caller is held."""
    while True:
        async with http.get(f"{town.stack.base_url}/usage", headers={"authorization": f"Bearer {token}"}) as response:
            limits = (await response.json())["limits"].values()
        if not any(limit["held"] for limit in limits):
            return
        await asyncio.sleep(0.005)


async def test_a_choice_that_was_cut_is_told(town: Town, http: aiohttp.ClientSession) -> None:
    """Where one of two choices has ended and the other was cut, the stream ends with an error, not as complete."""
    user = await make_user(town.stack)
    for text, cut in (("b", True), ("", False)):
        segments = [event("a", index=0), event(text, index=1), event("", index=0, finish="stop")]
        script(town, segments if cut else [*segments, event("", index=1, finish="stop")])
        call = request(user, "segments")
        call["json"] = {**call["json"], "n": 2}  # type: ignore[dict-item]
        async with http.post(f"{town.stack.base_url}/chat/completions", **call) as response:  # type: ignore[arg-type]
            body = await response.read()
        assert body.startswith(b"".join(segments))
        assert body.endswith(DONE)
        assert (b"upstream_truncated" in body) is cut


def _ending(town: Town, request_id: str) -> str:
    """How the log says that a request ended."""
    lines = [json.loads(line) for line in town.stack.child("sentinel").output().splitlines() if request_id in line]
    (line,) = [line for line in lines if line["event"] == "request"]
    return str(line["ending"])
