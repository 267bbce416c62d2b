"""The exchange: bounds before bytes, deadlines, and sections that end when the client leaves."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream import exchange as exchange_module
from sentinel.downstream.body_budget import Body
from sentinel.downstream.exchange import Exchange
from sentinel.ops.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    DrainingError,
    OverLimitError,
    OverloadedError,
    SentinelError,
)
from tests.support.bodies import bodies
from tests.support.looking import looked_after

CHUNKED = (b"transfer-encoding", b"chunked")
DISCONNECT = {"type": "http.disconnect"}


class Line:
    """The byte seam of ASGI: what a server would deliver, and what it was sent."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        for message in messages:
            self.incoming.put_nowait(message)

    def exchange(self, *headers: tuple[bytes, bytes], method: str = "POST", send: Any = None) -> Exchange:
        headers = headers or (CHUNKED,)
        scope = {"method": method, "path": "/x", "raw_path": b"/x", "query_string": b"", "headers": headers}
        return Exchange(scope, self.incoming.get, send or self._send, "req_1")

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


def parts(*chunks: bytes) -> list[dict[str, Any]]:
    """A request body in parts."""
    return [
        {"type": "http.request", "body": chunk, "more_body": position < len(chunks) - 1}
        for position, chunk in enumerate(chunks)
    ]


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
async def test_a_body_in_parts_is_the_body(chunks: list[bytes]) -> None:
    """However a body is cut, it arrives whole."""
    assert await Line(*parts(*chunks)).exchange().read_body(bodies(bytes_max=10_000), "a") == b"".join(chunks)


async def test_a_declared_length_over_the_bound_is_refused_before_a_byte_is_read() -> None:
    """Rule H13: 413 by declared length."""
    line = Line(*parts(b"x"))
    with pytest.raises(BodyTooLargeError):
        await line.exchange((b"content-length", b"1001")).read_body(bodies(bytes_max=1000), "a")
    assert line.incoming.qsize() == 1


async def test_counted_bytes_over_the_bound_are_refused() -> None:
    """Rule H13: 413 by counted bytes; a body of exactly the bound is taken."""
    assert len(await Line(*parts(b"x" * 600, b"x" * 400)).exchange().read_body(bodies(bytes_max=1000), "a")) == 1000
    with pytest.raises(BodyTooLargeError):
        await Line(*parts(b"x" * 600, b"x" * 401)).exchange().read_body(bodies(bytes_max=1000), "a")


async def test_a_slow_body_is_given_up() -> None:
    """Rule H13: a body that does not arrive within its deadline is a 408."""
    exchange = Line({"type": "http.request", "body": b"x", "more_body": True}).exchange()
    async with looked_after(exchange):
        with pytest.raises(BodyTimeoutError):
            await exchange.within(exchange.read_body, bodies(bytes_max=1000, timeout_s=0.01), "a")


async def test_a_body_takes_room_as_it_arrives() -> None:
    """What is promised takes nothing; what is here and finds no room is a 503 with a wait, and room comes back."""
    shared = bodies(1000)
    line = Line()
    promised = line.exchange((b"content-length", b"1000"))
    reading = asyncio.create_task(promised.read_body(shared, "a"))
    await asyncio.sleep(0)
    assert shared.memory.taken == 0
    first = Line(*parts(b"x" * 600)).exchange((b"content-length", b"600"))
    await first.read_body(shared, "b")
    assert shared.memory.taken == 600
    line.incoming.put_nowait({"type": "http.request", "body": b"x" * 401, "more_body": True})
    with pytest.raises(OverloadedError) as caught:
        await reading
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "overloaded", 1)
    assert shared.memory.taken == 600
    first.forget_body()
    assert shared.memory.taken == 0
    second = Line(*parts(b"x" * 401)).exchange((b"content-length", b"401"))
    await second.read_body(shared, "a")
    assert shared.memory.taken == 401
    second.close()
    assert shared.memory.taken == 0


async def test_one_caller_takes_no_more_than_its_share() -> None:
    """Beyond its share a caller is a 429 with a wait, while another one finds room."""
    shared = bodies(1000, 500)
    first, second, other = (Line(*parts(b"x" * 300)).exchange((b"content-length", b"300")) for _ in range(3))
    await first.read_body(shared, "a")
    with pytest.raises(OverLimitError) as caught:
        await second.read_body(shared, "a")
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "concurrency_limit_exceeded", 1)
    await other.read_body(shared, "b")
    for exchange in (first, second, other):
        exchange.close()
    assert shared.memory.taken == 0


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), st.integers(0, 500))
async def test_a_body_without_a_length_takes_room_as_it_grows(chunks: list[bytes], room: int) -> None:
    """Rule H13: chunked bodies take what they have, and whatever becomes of one, all of it comes back."""
    shared = bodies(room)
    exchange = Line(*parts(*chunks)).exchange()
    size = len(b"".join(chunks))
    if size <= room:
        await exchange.read_body(shared, "a")
        assert shared.memory.taken == size
    else:
        with pytest.raises(BodyTooLargeError):  # there is never so much
            await exchange.read_body(shared, "a")
        assert shared.memory.taken == 0
    exchange.close()
    exchange.close()
    assert shared.memory.taken == 0


@pytest.mark.parametrize(
    ("arrivals", "late_s"),
    [
        ([], 5),  # nothing but the head
        ([(1, 100)], 6),
        ([(4.9, 300)], 8),  # the rate is asked on the whole
        ([(1, 10**6)], 30),  # what came early is good for the whole time, and no longer
        ([(float(at), 100) for at in range(1, 30)], 30),
        ([(float(at), 50) for at in range(1, 30)], 9.5),
    ],
)
async def test_a_body_keeps_a_rate(arrivals: list[tuple[float, int]], late_s: float) -> None:
    """After 5 s at least so much a second, here 100 bytes, and never longer than all of it may take."""
    now_s = 0.0
    line = Line()
    body = Body(bodies(bytes_per_s_min=100, timeout_s=30), "a", 2**30, now_s)
    reading = asyncio.create_task(body.read([], line.incoming.get, lambda: now_s))
    for at_s, count in arrivals:
        now_s = at_s
        if at_s > late_s:
            break
        assert body.late(at_s) is None
        line.incoming.put_nowait({"type": "http.request", "body": bytes(count), "more_body": True})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert body.late(late_s) is None
    assert isinstance(body.late(late_s + 0.01), BodyTimeoutError)
    reading.cancel()


async def test_without_a_rate_only_the_whole_time_counts() -> None:
    """SENTINEL_BODY_BYTES_PER_SECOND_MIN=0: a body that says nothing for long is waited for."""
    body = Body(bodies(bytes_per_s_min=0, timeout_s=30), "a", 2, 0)
    assert body.late(29.9) is None
    assert isinstance(body.late(30.1), BodyTimeoutError)


async def test_bodies_on_their_way_count_for_their_caller() -> None:
    """A look finds more bodies of a caller on their way than it may have: 429; another caller, and one whose own
    have arrived, go on.
    """
    shared = bodies(arriving=2)
    line = Line(*parts(b"xx"))
    reads = []
    exchanges = [Line().exchange((b"content-length", b"2")) for _ in range(4)] + [line.exchange((b"content-length", b"2"))]
    for exchange, caller in zip(exchanges, "aaaba", strict=True):
        reads.append(asyncio.create_task(exchange.within(exchange.read_body, shared, caller)))
        await asyncio.sleep(0)
        exchange.check_deadlines(asyncio.get_running_loop().time(), 10)
    done, _ = await asyncio.wait(reads, timeout=0.05)
    assert done == {reads[2], reads[4]}
    with pytest.raises(OverLimitError) as caught:
        await reads[2]
    assert (caught.value.status, caught.value.code) == (429, "concurrency_limit_exceeded")
    assert await reads[4] == b"xx"
    assert shared.arriving._by_caller == {"a": 2, "b": 1}
    for exchange in exchanges[:2]:
        exchange.interrupt(DrainingError("now"))
    await asyncio.wait(reads[:2])
    assert "a" not in shared.arriving._by_caller
    for task in (*reads[:2], reads[3]):
        task.cancel()
    await asyncio.wait(reads)
    assert shared.arriving.taken == 0


@pytest.mark.parametrize("failure", ["too large", "no room", "interrupted"])
async def test_a_body_that_failed_is_waited_for_no_more(failure: str) -> None:
    """A look between its failure and the end of its exchange takes no place that nobody would give back."""
    shared = bodies(1000, 50 if failure == "no room" else 500, arriving=2)
    line = Line(*parts(b"x" * (2000 if failure == "too large" else 100))) if failure != "interrupted" else Line()
    exchange = line.exchange()
    reading = asyncio.create_task(exchange.within(exchange.read_body, shared, "a"))
    await asyncio.sleep(0)
    if failure == "interrupted":
        exchange.interrupt(DrainingError("now"))
    (failed,) = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(failed, SentinelError)
    exchange.check_deadlines(asyncio.get_running_loop().time(), 10)
    exchange.close()
    assert (shared.arriving.taken, shared.memory.taken) == (0, 0)


async def test_what_streams_by_counts_until_it_is_over() -> None:
    """A caller has so many uploads at a time, each until its last part was given out or its exchange is over."""
    shared = bodies(arriving=2)
    first, second, third = (Line(*parts(b"x", b"y")).exchange() for _ in range(3))
    passing = first.upload(shared, "a", 100)
    second.upload(shared, "a", 100)
    with pytest.raises(OverLimitError) as caught:
        third.upload(shared, "a", 100)
    assert (caught.value.status, caught.value.code) == (429, "concurrency_limit_exceeded")
    third.upload(shared, "b", 100)
    assert [part async for part in passing] == [b"x", b"y"]
    assert (shared.arriving._by_caller.get("a", 0), shared.arriving._by_caller.get("b", 0)) == (1, 1)
    for exchange in (first, second, third):
        exchange.close()
        exchange.close()
    assert shared.arriving.taken == 0


async def test_an_upload_keeps_a_rate() -> None:
    """Parts that come again and again, but say too little, are given up."""
    line = Line()

    async def drip() -> None:
        while True:
            line.incoming.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    # What is asked is far more than comes; the idle time is the grace here.
    passing = line.exchange().upload(bodies(bytes_per_s_min=10**6, timeout_s=0.1), "a", 10**9)
    with pytest.raises(BodyTimeoutError):
        async for part in passing:
            assert part == b"x"
    dripping.cancel()
    assert passing.consumed


async def test_a_client_that_leaves_while_it_sends_is_gone() -> None:
    """A disconnect in the middle of the body ends the reading."""
    with pytest.raises(ClientGoneError):
        await (
            Line({"type": "http.request", "body": b"x", "more_body": True}, DISCONNECT)
            .exchange()
            .read_body(bodies(bytes_max=1000), "a")
        )


async def test_a_guarded_section_ends_when_the_client_leaves() -> None:
    """Rule D1: work for a client that left is cancelled, and known as such."""
    line = Line(*parts(b""))
    exchange = line.exchange()
    await exchange.read_body(bodies(bytes_max=10), "a")
    reached = False
    async with looked_after(exchange):
        with pytest.raises(ClientGoneError), exchange:
            line.incoming.put_nowait(DISCONNECT)
            await asyncio.Event().wait()
            reached = True
    assert not reached
    with pytest.raises(ClientGoneError), exchange:
        reached = True
    assert not reached


async def test_a_section_that_ends_in_time_is_left_alone() -> None:
    """A disconnect between two sections shows at the next one; the first keeps its result."""
    line = Line(*parts(b""))
    exchange = line.exchange()
    await exchange.read_body(bodies(bytes_max=10), "a")
    with exchange:
        value = 1
    line.incoming.put_nowait(DISCONNECT)
    async with looked_after(exchange):
        await asyncio.sleep(0.01)
    assert value == 1
    with pytest.raises(ClientGoneError), exchange:
        value = 2
    exchange.close()


async def test_an_interruption_carries_its_reason() -> None:
    """A worker that drains ends open sections with DrainingError; the first reason wins."""
    line = Line(*parts(b""))
    exchange = line.exchange()
    await exchange.read_body(bodies(bytes_max=10), "a")
    asyncio.get_running_loop().call_soon(exchange.interrupt, DrainingError("now"))
    asyncio.get_running_loop().call_soon(exchange.interrupt, ClientGoneError())
    with pytest.raises(DrainingError), exchange:
        await asyncio.Event().wait()
    exchange.close()


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Somebody else's cancel is not mistaken for a client that left."""
    line = Line(*parts(b""))
    exchange = line.exchange()
    await exchange.read_body(bodies(bytes_max=10), "a")

    async def section() -> None:
        with exchange:
            await asyncio.Event().wait()

    task = asyncio.create_task(section())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    exchange.close()


@pytest.mark.parametrize("way", ["a part", "the last", "all"])
async def test_a_client_that_takes_no_more_is_noticed(way: str) -> None:
    """Rule D6: a part that nobody takes shows, be it one of many or the end; a part that was taken does not."""
    room = asyncio.Event()
    line = Line()

    async def send(message: Any) -> None:
        line.sent.append(message)
        await room.wait()

    exchange = line.exchange(send=send)
    ways = {"a part": exchange.send, "the last": exchange.finish, "all": lambda body: exchange.answer(200, [], body)}
    writing = asyncio.create_task(ways[way](b"x"))
    await asyncio.sleep(0)
    now_s = asyncio.get_running_loop().time()
    assert not exchange.check_deadlines(now_s, 10)
    assert exchange.check_deadlines(now_s + 11, 10)
    room.set()
    await writing
    assert not exchange.check_deadlines(now_s + 11, 10)


async def test_what_is_pushed_goes_down_in_order() -> None:
    """Rule D6: a part is handed over at once, outside of any task; the end waits until what the client has no room for is
    taken.
    """
    room = asyncio.Event()
    line = Line()

    async def send(message: Any) -> None:
        line.sent.append(message)
        if message["body"] == b"wide":
            await room.wait()

    exchange = line.exchange(send=send)
    taken: list[bool] = []
    asyncio.get_running_loop().call_soon(lambda: taken.extend(exchange.push(part) for part in (b"a", b"b", b"wide")))
    await asyncio.sleep(0)
    assert taken == [True, True, False]
    ending = asyncio.create_task(exchange.finish(b"end"))
    await asyncio.sleep(0.001)
    assert [message["body"] for message in line.sent] == [b"a", b"b", b"wide"]
    room.set()
    await ending
    assert [message["body"] for message in line.sent] == [b"a", b"b", b"wide", b"end"]
    assert exchange.bytes_down == 9


async def test_what_a_server_raises_is_raised_to_who_waits() -> None:
    """A server that cannot send says so to whoever awaits it, be it at once or later."""

    async def send(message: Any) -> None:
        if message["body"] == b"later":
            await asyncio.sleep(0)
        raise OSError

    exchange = Line().exchange(send=send)
    with pytest.raises(OSError):
        exchange.push(b"at once")
    assert not exchange.push(b"later")
    with pytest.raises(OSError):
        await exchange.pushed()


async def test_an_answer_is_counted() -> None:
    """Status and bytes of what went down are known afterwards."""
    line = Line(*parts(b""))
    exchange = line.exchange()
    assert not exchange.started
    await exchange.start(200, [(b"a", b"b")])
    await exchange.send(b"one")
    await exchange.finish(b"two!")
    assert (exchange.started, exchange.status, exchange.bytes_down) == (True, 200, 7)
    assert [message.get("more_body") for message in line.sent] == [None, True, False]


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_an_answer_in_one_is_one_in_parts(method: str) -> None:
    """Status, headers, body and what is known afterwards are the same, whichever way a whole answer goes down."""
    lines, seen = (Line(*parts(b"")), Line(*parts(b""))), []
    for line in lines:
        exchange = line.exchange(method=method)
        exchange.always = ((b"vary", b"Origin"),)
        if line is lines[0]:
            await exchange.answer(429, [(b"a", b"b")], b"whole")
        else:
            await exchange.start(429, [(b"a", b"b")])
            await exchange.finish(b"whole")
        seen.append((line.sent, exchange.status, exchange.started, exchange.ended, exchange.bytes_down))
    assert seen[0] == seen[1]


async def test_a_head_is_answered_without_a_body() -> None:
    """Rule H16: HEAD has the headers of GET, its length included, and no byte of its body."""
    line = Line(*parts(b""))
    exchange = line.exchange(method="HEAD")
    await exchange.start(200, [(b"content-length", b"7")])
    await exchange.send(b"one")
    await exchange.finish(b"two!")
    assert (b"content-length", b"7") in line.sent[0]["headers"]
    assert [message["body"] for message in line.sent[1:]] == [b""]
    assert exchange.bytes_down == 0


async def test_what_is_always_said_is_in_every_answer() -> None:
    """Rule H16: what the exchange was given for every answer follows the answer's own headers."""
    line = Line(*parts(b""))
    exchange = line.exchange()
    exchange.always = ((b"vary", b"Origin"),)
    await exchange.start(500, [(b"a", b"b")])
    assert line.sent[0]["headers"] == [(b"a", b"b"), (b"vary", b"Origin"), (b"server", b"sentinel")]


async def test_an_early_answer_lets_the_client_finish() -> None:
    """Rule X5: what is still on its way is read to its end, so that the connection stays whole and in step."""
    line = Line(*parts(b"x" * 10, b"y" * 10), *parts(b"the next request"))
    exchange = line.exchange((b"content-length", b"20"))
    await exchange.start(413, [])
    await exchange.finish(b"no")
    await exchange.linger()
    assert line.incoming.qsize() == 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (408, [(b"content-length", b"20")]),
        (413, [(b"content-length", b"20"), (b"expect", b"100-continue")]),
        (404, [(b"content-length", b"0")]),
        (404, [(b"host", b"a")]),
    ],
)
async def test_nobody_lingers_for_nothing(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Rules H13, H14: a slow client, one that waits for a 100, and one without a body are not read any more."""
    line = Line(*parts(b"x"))
    exchange = line.exchange(*headers)
    await exchange.start(status, [])
    await exchange.finish(b"no")
    await exchange.linger()
    assert line.incoming.qsize() == 1


@pytest.mark.parametrize("bound", ["_LINGER_IDLE_S", "_LINGER_S"])
async def test_lingering_is_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule X5: a body nobody wants is read however large it is, but neither after a long pause nor for ever."""
    monkeypatch.setattr(exchange_module, bound, 0.05)
    line = Line()
    for _ in range(70):
        line.incoming.put_nowait({"type": "http.request", "body": b"x" * 2**20, "more_body": True})
    exchange = line.exchange((b"transfer-encoding", b"chunked"))

    async def drip() -> None:
        while bound == "_LINGER_S":
            await asyncio.sleep(0.001)
            line.incoming.put_nowait({"type": "http.request", "body": b"x", "more_body": True})

    dripping = asyncio.create_task(drip())
    await exchange.start(413, [])
    async with asyncio.timeout(2), looked_after(exchange):
        await exchange.linger()
    dripping.cancel()
    assert line.incoming.qsize() <= 1


async def test_a_drain_ends_the_lingering() -> None:
    """Rule X9: a worker that drains waits for no body that nobody wants."""
    exchange = Line().exchange((b"transfer-encoding", b"chunked"))
    await exchange.start(413, [])
    lingering = asyncio.create_task(exchange.linger())
    await asyncio.sleep(0)
    assert not lingering.done()
    exchange.interrupt(DrainingError("now"))
    done, _ = await asyncio.wait([lingering, asyncio.create_task(exchange.linger())], timeout=2)
    assert len(done) == 2


async def test_the_trace_is_one_over_the_request() -> None:
    """Rule H20: whoever asks for the trace of an exchange gets the same."""
    exchange = Line().exchange()
    assert exchange.trace is exchange.trace
