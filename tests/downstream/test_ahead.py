"""A client that leaves while others are waited for: it is noticed before the body is asked for, and no byte of that is lost."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream.exchange import Exchange
from sentinel.downstream.offload import Offload
from sentinel.ops.errors import ClientGoneError
from sentinel.stages.turns import Turns
from tests.downstream.test_exchange import DISCONNECT, Line, parts
from tests.support.bodies import bodies
from tests.support.looking import looked_after

SMALL = b"x" * 9


def length(count: int) -> tuple[bytes, bytes]:
    """The header of a body of so many bytes."""
    return b"content-length", b"%d" % count


async def ended(line: Line, exchange: Exchange) -> bool:
    """Whether a wait before the body was asked for is ended when the client leaves."""
    waiting = asyncio.create_task(exchange.within(asyncio.Event().wait))
    async with looked_after(exchange):
        await asyncio.sleep(0.01)
        line.incoming.put_nowait(DISCONNECT)
        await asyncio.wait([waiting], timeout=0.05)
    ends = waiting.done() and isinstance(waiting.exception(), ClientGoneError)
    waiting.cancel()
    await asyncio.wait([waiting])
    exchange.close()
    return ends


@pytest.mark.parametrize(
    ("messages", "headers", "notices"),
    [
        (parts(b""), [length(0)], True),
        (parts(b""), [(b"accept", b"*/*")], True),
        (parts(SMALL), [length(9)], True),
        (parts(SMALL, b""), [length(9)], True),
        # What else is to come stays with the server, and counts for nothing there.
        (parts(SMALL[:4], SMALL[4:]), [length(9)], False),
        (parts(SMALL), [(b"transfer-encoding", b"chunked")], False),
        (parts(b"x" * 10_000), [length(10_000)], False),
        # Who waits for a 100 is not told to send before somebody knows who it is.
        (parts(SMALL), [length(9), (b"expect", b"100-continue")], False),
    ],
)
async def test_who_leaves_is_not_waited_for(
    messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]], *, notices: bool
) -> None:
    """A wait for Zion, or for a turn, ends when the client leaves, where its body is small."""
    line = Line(*messages)
    exchange = line.exchange(*headers)
    assert await ended(line, exchange) is notices
    if messages[0]["body"] and headers[0][0] != b"content-length":
        assert line.incoming.qsize() == len(messages) + 1


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=4), st.booleans(), st.sampled_from(["body", "upload", "linger"]))
async def test_what_was_received_ahead_is_the_request(chunks: list[bytes], said: bool, way: str) -> None:
    """Whatever was received while somebody was waited for, whoever reads the request then has all of it, once."""
    whole = b"".join(chunks)
    messages = parts(*chunks, b"") if said else parts(*(chunks or [b""]))
    line = Line(*messages)
    exchange = line.exchange(length(len(whole)))
    async with looked_after(exchange):
        await exchange.within(asyncio.sleep, 0.003)
        if way == "body":
            assert await exchange.read_body(bodies(bytes_max=1000), "a") == whole
        elif way == "upload":
            assert b"".join([part async for part in exchange.upload(bodies(bytes_max=1000), "a", 1000)]) == whole
        else:
            await exchange.start(401, [])
            await exchange.finish(b"no")
            async with asyncio.timeout(5):
                await exchange.linger()
        await asyncio.sleep(0.002)
        # And it is heard afterwards that the client leaves.
        if way != "linger":
            line.incoming.put_nowait(DISCONNECT)
            async with asyncio.timeout(5):
                with pytest.raises(ClientGoneError):
                    await exchange.within(asyncio.Event().wait)
    exchange.close()


async def test_a_turn_of_who_left_is_somebody_elses() -> None:
    """A request whose client leaves while it waits for its turn begins no more, and holds nobody up."""
    turns = Turns(wait_s_max=5, a_pass=1)
    line = Line(*parts(SMALL))
    exchange = line.exchange(length(9))
    before = asyncio.create_task(turns.begin("a"))
    gone = asyncio.create_task(exchange.within(turns.begin, "a"))
    stays = asyncio.create_task(turns.begin("a"))
    await asyncio.sleep(0)
    assert (before.done(), gone.done(), stays.done()) == (True, False, False)
    exchange.leave()
    await asyncio.wait_for(stays, 5)
    with pytest.raises(ClientGoneError):
        await gone


async def test_long_work_of_who_left_is_not_begun() -> None:
    """What waits beside the loop for who has left is not done; what has begun is, and the next begins behind it."""
    aside, began, goes_on = Offload(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    done: list[str] = []

    def work(name: str) -> None:
        done.append(name)
        loop.call_soon_threadsafe(began.set)
        if name == "first":
            asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result()

    first, second = (Line(*parts(SMALL)).exchange(length(9)) for _ in range(2))
    tasks = [asyncio.create_task(one.within(aside.do, "a", work, name)) for one, name in ((first, "first"), (second, "second"))]
    await began.wait()
    third = asyncio.create_task(aside.do("a", work, "third"))
    await asyncio.sleep(0)
    first.leave()
    second.leave()
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [ClientGoneError] * 2
    assert done == ["first"]
    goes_on.set()
    await asyncio.wait_for(third, 5)
    assert done == ["first", "third"]


async def test_a_part_that_comes_as_it_is_asked_for_is_given_once() -> None:
    """The first part is received ahead, and is there in the pass of the loop in which the upload asks for it."""
    loop = asyncio.get_running_loop()
    asked: list[asyncio.Future[Any]] = []

    def receive() -> "asyncio.Future[Any]":
        asked.append(loop.create_future())
        return asked[-1]

    async def send(_message: Any) -> None:
        raise AssertionError("nothing is answered")

    scope = {"method": "POST", "path": "/x", "raw_path": b"/x", "query_string": b"", "headers": [length(12)]}
    exchange = Exchange(scope, receive, send, "req_1")
    begins = loop.create_future()

    async def read() -> list[bytes]:
        await begins
        return [part async for part in exchange.upload(bodies(), "a", 100)]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    exchange.check_deadlines(loop.time(), 60)
    begins.set_result(None)
    for number, message in enumerate(parts(b"AAAA", b"BBBB", b"CCCC")):
        while len(asked) <= number:
            await asyncio.sleep(0)
        asked[number].set_result(message)
    async with asyncio.timeout(5):
        assert await reading == [b"AAAA", b"BBBB", b"CCCC"]
    exchange.close()
