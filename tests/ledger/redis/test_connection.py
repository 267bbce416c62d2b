"""connection: replies of a scripted transport, at every split, and what is none."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.ledger import open_redis
from sentinel.ledger.redis.address import Address
from sentinel.ledger.redis.connection import Call, Connection
from sentinel.ledger.redis.link import Link


class Heard:
    """The owner of a Connection, who remembers what it is told."""

    def __init__(self) -> None:
        self.missed: list[Call] = []
        self.dropped: list[Call] = []
        self.error: OSError | None = None
        self.on_heard: Callable[[], object] | None = None

    def missing(self, connection: Connection, calls: list[Call]) -> None:
        self.missed += calls

    def writable(self) -> None:
        raise AssertionError("nothing was written")

    def lost(self, connection: Connection, calls: list[Call], error: OSError) -> None:
        self.dropped, self.error = calls, error


class Wire(asyncio.Transport):
    """A transport that remembers what was written, and whether it was aborted."""

    aborted = False

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Without limits."""

    def abort(self) -> None:
        self.aborted = True


def nowhere() -> Address:
    """An address that nobody connects to."""
    return Address(open_redis("redis://127.0.0.1:1", 1.0))


@given(st.lists(st.sampled_from(["one", "again", "several", "tick"]), max_size=30))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_what_is_owed_in_the_same_order(steps: list[str]) -> None:
    """Calls one by one, several, and those sent again behind their scripts, with ticks between: one write for a tick that
    asked something, and every reply is owed to the call that was written at its place.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        link = Link(nowhere(), {"peek": b"load"}, None, lambda _: True)
        connection, wire = Connection(link, 60.0), Wire()
        connection.connection_made(wire)
        link._connection = connection
        expected: list[bytes] = []
        ticks = asked_now = 0
        for at, step in enumerate([*steps, "tick"]):
            calls = [Call("peek", b"<%d.%d>" % (at, n), loop.create_future()) for n in range(3 if step == "several" else 1)]
            packed = [call.packed for call in calls]
            if step == "tick":
                await asyncio.sleep(0)
                ticks, asked_now = ticks + bool(asked_now), 0
                continue
            if step == "one":
                assert link.send(calls[0])
            elif step == "again":
                link.missing(connection, calls)
                packed.insert(0, b"load")
            else:
                connection.send(calls, packed)
            expected += packed
            asked_now += 1
        assert b"".join(wire.written) == b"".join(expected)
        assert len(wire.written) == ticks
        assert [b"load" if call is None else call.packed for call in connection.asked] == expected
        link._closing = True
        connection.connection_lost(None)

    asyncio.run(run())


def asked(count: int) -> tuple[Connection, Heard, Wire, list[Call]]:
    """A connection that owes `count` replies."""
    loop = asyncio.get_running_loop()
    owner, wire = Heard(), Wire()
    connection = Connection(owner, 60.0)
    connection.connection_made(wire)
    calls = [Call("get", b"x", loop.create_future()) for _ in range(count)]
    connection.send(calls, [b"x"] * count)
    return connection, owner, wire, calls


REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"*3\r\n:1\r\n$2\r\nok\r\n*0\r\n", [1, b"ok", []]),
    (b"-ERR no\r\n", "ERR no"),
    (b">2\r\n+invalidate\r\n:1\r\n", ...),
]


def read(calls: list[Call]) -> list[Any]:
    """What the calls were answered; an error by its text."""
    return [str(said) if isinstance(said := call.reply.result(), Exception) else said for call in calls]


@given(st.lists(st.sampled_from(REPLIES), min_size=1, max_size=12), st.data())
@settings(max_examples=150, deadline=None)
def test_replies_find_their_calls_wherever_they_are_split(replies: list[tuple[bytes, Any]], data: st.DataObject) -> None:
    """In any number of pieces, an error concerns its own call, and a push belongs to nobody."""

    async def run() -> None:
        expected = [said for _, said in replies if said is not ...]
        connection, _, wire, calls = asked(len(expected))
        text = b"".join(packed for packed, _ in replies)
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            connection.data_received(text[start:end])
        assert read(calls) == expected
        assert not wire.aborted
        assert not connection.asked
        connection.connection_lost(None)

    asyncio.run(run())


async def test_a_chunk_that_ends_anywhere_is_read_on() -> None:
    """Split at every byte, all kinds of replies come out the same."""
    text = b"".join(packed for packed, _ in REPLIES)
    expected = [said for _, said in REPLIES if said is not ...]
    for at in range(len(text) + 1):
        connection, _, _, calls = asked(len(expected))
        connection.data_received(text[:at])
        connection.data_received(text[at:])
        assert read(calls) == expected
        connection.connection_lost(None)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400\r\n", b"\x00\r\n", b"+OK\r\n:1\r\n+late\r\n", b"$x\r\n"])
async def test_what_is_no_reply_ends_the_connection(garbage: bytes) -> None:
    """Garbage, and what nobody asked for, are not guessed at: the connection goes, later bytes are not read."""
    connection, owner, wire, calls = asked(2)
    connection.data_received(garbage)
    assert wire.aborted
    connection.data_received(b"+a\r\n+b\r\n")
    connection.connection_lost(None)
    assert isinstance(owner.error, ConnectionError)
    answered = 2 if garbage.startswith(b"+OK") else 0
    assert [call.reply.done() for call in calls] == [at < answered for at in range(2)]
    assert owner.dropped == calls[answered:]


async def test_a_reply_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one reply may hold is bounded, over any number of chunks; whole replies may be any number."""
    monkeypatch.setattr("sentinel.ledger.redis.connection._REPLY_BYTES_MAX", 10_000)
    connection, owner, wire, calls = asked(101)
    for _ in range(100):
        connection.data_received(b"$300\r\n" + b"x" * 300 + b"\r\n")
    assert not wire.aborted
    connection.data_received(b"*1000\r\n")
    for _ in range(100):
        connection.data_received(b"$300\r\n" + b"x" * 300 + b"\r\n")
    assert wire.aborted
    connection.connection_lost(None)
    assert owner.dropped == calls[100:]
