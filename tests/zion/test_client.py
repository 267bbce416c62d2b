"""zion.client over real sockets: every request that Zion sees has had a turn of its own, however connections end."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sentinel.ops.errors import ZionUnavailableError
from sentinel.ops.records import Caller
from sentinel.zion.client import Zion
from sentinel.zion.session import open_session

PROFILE = json.dumps({"id": "u-1", "externalId": "ada", "email": "a@x"}).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(PROFILE), PROFILE)
ADA = ("u-1", Caller("ada", "a@x"))


class Turns:
    """Lets everybody go, and counts them."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bool]] = []

    async def turn(self, kind: str, *, first: bool) -> None:
        """Go."""
        self.taken.append((kind, first))

    async def shut(self, retry_after_s: float) -> None:
        """Nobody is told here."""


class Wire:
    """A Zion that does to each request what the test says, in turn; after that it answers."""

    def __init__(self) -> None:
        self.plays: list[str] = []
        self.requests: list[bytes] = []
        self.turns = Turns()
        self.answer = WHOLE

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head)
                play = self.plays.pop(0) if self.plays else "answer"
                if play == "hang":
                    await asyncio.sleep(3600)
                writer.write(
                    {"answer": self.answer, "half a head": WHOLE[:12], "half a body": WHOLE[:-5], "nonsense": b"?\r\n\r\n"}.get(
                        play, b""
                    )
                )
                await writer.drain()
                if play == "reset":
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if play != "answer":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.fixture
async def wire() -> AsyncIterator[tuple[Wire, Zion]]:
    """Zion on a socket, and its client."""
    one = Wire()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    zion = Zion(open_session(connect_s=0.5, idle_s=0.5, connections_max=4), f"http://127.0.0.1:{port}", "key", 0.5, one.turns)
    yield one, zion
    await zion.close()
    server.close()


Ask = Callable[[Zion], Awaitable[Any]]
ASKS: dict[str, Ask] = {
    "profile": lambda zion: zion.profile("token"),
    "limits": lambda zion: zion.limits("ada"),
    "keys": lambda zion: zion.keys(f"{zion._url}/keys"),
}
# What becomes of a request, and how often it is asked then.
FAULTS = {"close": 2, "reset": 2, "half a head": 2, "half a body": 1, "nonsense": 1, "hang": 1}


@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ASKS)
async def test_each_attempt_has_a_turn(wire: tuple[Wire, Zion], call: str, fault: str, *, kept: bool) -> None:
    """What Zion sees is what the gate let go; one connection that ends without an answer is no failure yet."""
    zion_wire, zion = wire
    if kept:
        await ASKS[call](zion)
    before = len(zion_wire.requests)
    zion_wire.plays = [fault]
    if FAULTS[fault] == 2:
        await ASKS[call](zion)
    else:
        with pytest.raises(ZionUnavailableError):
            await ASKS[call](zion)
    assert len(zion_wire.requests) - before == FAULTS[fault]
    assert len(zion_wire.requests) == len(zion_wire.turns.taken)


@pytest.mark.parametrize("call", ASKS)
async def test_it_is_asked_twice_at_most(wire: tuple[Wire, Zion], call: str) -> None:
    """A Zion that ends every connection is away."""
    zion_wire, zion = wire
    zion_wire.plays = ["close"] * 10
    with pytest.raises(ZionUnavailableError):
        await ASKS[call](zion)
    assert len(zion_wire.requests) == len(zion_wire.turns.taken) == 2
    # Who has waited already does not wait behind others again.
    assert zion_wire.turns.taken[1][1]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_report_is_sent_once(wire: tuple[Wire, Zion], fault: str) -> None:
    """Whether Zion has booked it is unknown then, and its answer says so."""
    zion_wire, zion = wire
    zion_wire.plays = [fault]
    answer = await zion.report(b"", "key-1")
    assert (answer.status, answer.lost) == (0, True)
    assert len(zion_wire.requests) == 1


async def test_a_zion_that_is_not_there_is_asked_once() -> None:
    """No connection can be made: nothing was sent, and nothing more is tried."""
    turns = Turns()
    zion = Zion(open_session(connect_s=0.5, idle_s=0.5, connections_max=4), "http://127.0.0.1:1", "key", 0.5, turns)
    with pytest.raises(ZionUnavailableError):
        await zion.profile("token", "known", first=True)
    assert turns.taken == [("known", True)]
    assert not (await zion.report(b"", "key-1")).lost
    await zion.close()


@pytest.mark.parametrize("status", [b"301 Moved", b"404 Not Found", b"500 Broken"])
async def test_keys_are_what_is_published(wire: tuple[Wire, Zion], status: bytes) -> None:
    """The body as it is, asked for without any key of ours; any other answer gives none."""
    zion_wire, zion = wire
    assert await zion.keys(f"{zion._url}/where/they/are?v=1") == PROFILE
    assert zion_wire.requests[0].startswith(b"GET /where/they/are?v=1 HTTP/1.1\r\n")
    assert b"x-api-key" not in zion_wire.requests[0].lower()
    assert b"authorization" not in zion_wire.requests[0].lower()
    zion_wire.answer = b"HTTP/1.1 %s\r\nlocation: /\r\ncontent-length: 0\r\n\r\n" % status
    with pytest.raises(ZionUnavailableError):
        await zion.keys(f"{zion._url}/where/they/are?v=1")
