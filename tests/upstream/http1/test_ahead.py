"""http: a connection that is made before it is needed, and never one more than that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sentinel.upstream.http1 import Client, Connection, UnreachableError
from tests.support.wire import Wire, wire
from tests.upstream.http1.test_answer import HELLO
from tests.upstream.http1.test_client import ask, read, until


@asynccontextmanager
async def crowded(peer: Wire) -> AsyncIterator[tuple[Client, list[Connection]]]:
    """A client that makes one ahead, two of whose connections are in use."""
    one = Client(peer.url, connect_s=5, ahead=True)
    try:
        first = await one.connection()
        assert one._ahead is not None
        assert one._ahead._making is None  # who is alone needs no other
        taken = [first, await one.connection()]
        await until(peer, 3)
        async with asyncio.timeout(5):
            while one._ahead._made is None:
                await asyncio.sleep(0.001)
        yield one, taken
    finally:
        await one.close()
        assert not one._open
        await until(peer, 0)
        assert asyncio.all_tasks() == {asyncio.current_task(), *peer.tasks}


async def test_who_is_next_need_not_wait() -> None:
    """Issue 12: beside others the next connection is there at once, works like any other, and one more is made in its place."""
    async with wire([HELLO]) as peer, crowded(peer) as (one, taken):
        assert one.in_use == 2
        third = one.kept()
        assert third is not None
        assert third not in taken
        assert one.in_use == 3
        await until(peer, 4)
        third.ask(b"GET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n", b"")
        assert await read(third) == b"hello"
        # What was used is used again before what was not.
        assert one.kept() is third
        await asyncio.sleep(0.01)
        assert peer.connections == 4


async def test_one_that_was_closed_is_passed_over() -> None:
    """What the other side has closed while it waited, or has said something on, is not given out."""
    async with wire([HELLO]) as peer, crowded(peer) as (one, _):
        assert one._ahead is not None
        waiting = one._ahead._made
        assert waiting is not None
        for writer in peer.open:
            writer.write(b"unasked")
            writer.close()
        assert one.kept() is not waiting
        async with asyncio.timeout(5):
            while waiting in one._open:
                await asyncio.sleep(0.001)
        assert await read(await ask(one)) == b"hello"


async def test_nobody_there_is_no_failure_of_anybody() -> None:
    """Where none can be made ahead, whoever needs one is told so, and nobody else."""
    async with wire([HELLO]) as peer, crowded(peer) as (one, _):
        one._dialer._port = 9
        assert one.kept() is not None
        assert one._ahead is not None
        async with asyncio.timeout(5):
            while one._ahead._making is not None:
                await asyncio.sleep(0.001)
        assert one.kept() is None
        with pytest.raises(UnreachableError):
            await one.connection()


async def test_one_that_nobody_needs_is_given_up() -> None:
    """Its time is that of an idle connection; then it is closed, and no other is made for nothing."""
    async with wire([HELLO]) as peer, crowded(peer) as (one, _):
        assert one._ahead is not None
        one._ahead._give_up()
        await until(peer, 2)
        assert one.kept() is None
        assert peer.connections == 3


async def test_a_client_that_is_closed_makes_none() -> None:
    """Closed while one is being made, it leaves neither a connection nor a task."""
    async with wire([HELLO]) as peer, crowded(peer) as (one, _):
        assert one.kept() is not None
        await one.close()
        await until(peer, 0)
        assert one.kept() is None
