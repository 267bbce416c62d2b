"""The relay copies every kind of answer, ends it as its kind ends, and says what happened. Over both seams, no process."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from sentinel.downstream.exchange import Exchange
from sentinel.openai.reasoning_models import Reasoning
from sentinel.openai.response import event_buffer as bounds
from sentinel.openai.response import sse
from sentinel.openai.response.body_meter import BodyMeter, PassMeter
from sentinel.openai.response.meter import Meter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.openai.routes import ROUTES, Match, state_path
from sentinel.openai.tokens.histories import Histories
from sentinel.ops.errors import ClientGoneError, DrainingError, SentinelError, UpstreamError, UpstreamTimeoutError
from sentinel.ops.records import Call, Dialect, Ending, Outcome, Route, Usage
from sentinel.stages.relay import BackgroundDrain, Leaving, Relay
from sentinel.upstream.provider import Reply, ReplyWrapper
from tests.samples import cases
from tests.samples.cases import STREAMS, read
from tests.support.bodies import bodies
from tests.support.looking import looked_after
from tests.support.metering import cut

NONE = BackgroundDrain(answers_max=0, timeout_s=1, bytes_max=1)
EVENTS = b"text/event-stream; charset=utf-8"


class Answer:
    """What a provider sends: chunks, then perhaps a failure instead of the end."""

    def __init__(
        self, kind: bytes | None, chunks: Iterable[bytes], status: int = 200, failure: Exception | None = None
    ) -> None:
        self.status = status
        self.headers = ((b"Content-Type", kind),) if kind is not None else ()
        self.drained = False
        self.waits_s: list[float] = []
        self.closed = False
        self._chunks = list(chunks)
        self._failure = failure

    async def read(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._failure is not None:
            raise self._failure
        return b""

    pipe = ReplyWrapper.pipe

    async def more(self, within_s: float) -> bytes | None:
        self.waits_s.append(within_s)
        return await self.read()

    async def drain(self, timeout_s: float) -> None:
        self.drained = True
        self._chunks.clear()

    def close(self) -> None:
        self.closed = True


class Down:
    """What came down, and what the relay said of it."""

    def __init__(
        self,
        sent: list[Any],
        body: bytes,
        untold: Exception | None,
        outcome: Outcome,
        meter: Meter | None,
        kept: list[tuple[str, bytes]],
        before_bill: bytes,
        noted: list[tuple[dict[str, list[str]], bytes]],
    ) -> None:
        self.headers = dict(sent[0]["headers"]) if sent else {}
        self.body = body
        self.whole = bool(sent) and not sent[-1]["more_body"]
        # What the client is still to be told.
        self.untold = untold
        self.outcome = outcome
        self.meter = meter
        # Each id that was kept, and what had come down by then.
        self.kept = kept
        # Under what work that lasts can be looked at, each time that it was said, and what had come down by then.
        self.noted = noted
        # What had come down when the outcome was known.
        self.before_bill = before_bill


async def copy(
    answer: Reply,
    call: Call,
    background_drain: BackgroundDrain = NONE,
    *,
    parts_taken: int = 10**9,
    before: Callable[[Exchange], None] = lambda _: None,
) -> Down:
    """Relays `answer` to a client that takes so many parts of the body, and then leaves; `before` is done to the exchange."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > parts_taken:
            incoming.put_nowait({"type": "http.disconnect"})
            await asyncio.sleep(0.01)

    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    scope = {"method": "POST", "path": "/x", "query_string": b"", "headers": []}
    exchange = Exchange(scope, incoming.get, send, "req_1")
    await exchange.read_body(bodies(bytes_max=1), "")
    meters: list[Meter] = []
    kept: list[tuple[str, bytes]] = []

    async def keep(names: list[str]) -> None:
        kept.extend((name, b"".join(message["body"] for message in sent[1:])) for name in names)

    noted: list[tuple[dict[str, list[str]], bytes]] = []

    async def note(left: Mapping[str, Sequence[str]]) -> None:
        noted.append(({path: list(ids) for path, ids in left.items()}, b"".join(message["body"] for message in sent[1:])))

    before(exchange)
    async with looked_after(exchange):
        relay = Relay(Leaving("drain", background_drain, Reasoning(()), Histories(0)))
        outcome, rest = await relay.copy(answer, exchange, call, [], meters.append, keep, note if call.detached else None)
        before_bill = b"".join(message["body"] for message in sent[1:])
        untold: Exception | None = None
        try:
            if rest is not None:
                await rest()
        except (SentinelError, ClientGoneError) as error:
            untold = error
    exchange.close()
    # A head goes down with what follows it at once, or not at all.
    assert len(sent) != 1
    assert (untold is None) is bool(sent)
    body = b"".join(message["body"] for message in sent[1:])
    return Down(sent, body, untold, outcome, meters[0] if meters else None, kept, before_bill, noted)


def call(kind: Dialect, **fields: Any) -> Call:
    """A call in one dialect."""
    return Call(route="x", method="POST", path="/x", dialect=kind, **fields)


@pytest.mark.parametrize("name", [name for name in STREAMS if STREAMS[name].finished and not STREAMS[name].added])
async def test_whole_streams_come_down_as_they_are(name: str) -> None:
    """Rules S1, P1, P5, F2: a whole stream comes down to the byte; only a chat without its [DONE] gets one."""
    stream = read(name)
    answer = Answer(EVENTS, cut(stream, [11, 300, 301, 900]))
    down = await copy(answer, call(cases.dialect(name)))
    owed = sse.DONE if name == "chat/no_done.sse" else b""
    assert (down.body, down.whole) == (stream + owed, True)
    assert (answer.drained, answer.closed) == (down.meter.terminated, True)
    assert down.outcome.ending is (Ending.UPSTREAM_ERROR if STREAMS[name].failed else Ending.SUCCESS)
    assert down.outcome.usage == STREAMS[name].usage


@pytest.mark.parametrize("kind", Dialect)
@pytest.mark.parametrize(
    ("failure", "ending"),
    [
        (UpstreamError("It broke.", code="upstream_error"), Ending.TRUNCATED),
        (UpstreamTimeoutError("It fell silent.", code="upstream_timeout"), Ending.UPSTREAM_TIMEOUT),
    ],
)
async def test_a_broken_stream_is_told_in_its_dialect(kind: Dialect, failure: UpstreamError, ending: Ending) -> None:
    """Rules F1, F5, D7: the failure stands behind the last whole event; [DONE] follows it in a chat alone."""
    event = b'data: {"id":"a1","choices":[]}\n\n'
    down = await copy(Answer(EVENTS, [event, b"data: ha"], failure=failure), call(kind))
    assert down.body.startswith(event)
    told = sse.events(down.body.removeprefix(event))
    assert (b'"error":{' in told[0], failure.message.encode() in told[0]) == (True, True)
    assert told[1:] == ([sse.DONE] if kind is Dialect.CHAT else [])
    assert (down.whole, down.outcome.ending) == (True, ending)


@pytest.mark.parametrize("name", [name for name in STREAMS if not STREAMS[name].finished and not STREAMS[name].failed])
async def test_a_clean_end_too_early_is_told(name: str) -> None:
    """Rule F2: a stream that needs an end and stops without it ends with an error, which says so."""
    down = await copy(Answer(EVENTS, [read(name)]), call(cases.dialect(name)))
    assert b"upstream_truncated" in down.body
    assert down.outcome.ending is Ending.TRUNCATED
    assert down.outcome.produced.texts == STREAMS[name].texts


@pytest.mark.parametrize("stream", [True, False], ids=["stream asked for", "none asked for"])
@pytest.mark.parametrize(
    ("kind", "dialect", "named", "meter"),
    [
        (EVENTS, Dialect.EVENTS, False, StreamMeter),
        (b"Text/Event-Stream", Dialect.CHAT, False, StreamMeter),
        (EVENTS, Dialect.NONE, False, StreamMeter),
        (b"application/json", Dialect.CHAT, False, BodyMeter),
        (b"application/json; charset=utf-8", Dialect.EVENTS, False, BodyMeter),
        (b"application/problem+json", Dialect.RESPONSES, False, BodyMeter),
        (None, Dialect.CHAT, False, BodyMeter),
        (b"audio/mpeg", Dialect.EVENTS, False, PassMeter),
        (b"text/plain", Dialect.CHAT, False, PassMeter),
        (b"application/jsonl", Dialect.NONE, True, PassMeter),
        (b"application/json", Dialect.NONE, False, PassMeter),
        (b"application/json", Dialect.NONE, True, BodyMeter),
    ],
)
async def test_the_content_type_decides(
    kind: bytes | None, dialect: Dialect, named: bool, meter: type[Meter], stream: bool
) -> None:
    """Rule S5: the answer's content type chooses how it is read, whatever the request asked for."""
    down = await copy(Answer(kind, [b'data: {"id":"a1"}\n\n']), call(dialect, creates=("id",) if named else (), stream=stream))
    assert type(down.meter) is meter
    assert down.headers.get(b"x-accel-buffering") == (b"no" if meter is StreamMeter else None)


@pytest.mark.parametrize("kind", [EVENTS, b"application/json", b"text/html"])
async def test_errors_pass_unread(kind: bytes) -> None:
    """Rule E5: an error status passes to the byte, also as events: nothing is added, hidden or billed."""
    body = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    down = await copy(Answer(kind, [body], status=429), call(Dialect.CHAT, usage_hidden=True))
    assert (down.body, down.whole, down.outcome.ending) == (body, True, Ending.REFUSED)
    assert (down.outcome.usage, down.outcome.started) == (None, False)


@pytest.mark.parametrize(
    ("kind", "dialect", "name"),
    [
        (EVENTS, Dialect.RESPONSES, "responses/text.sse"),
        (b"application/json", Dialect.RESPONSES, "responses/text.json"),
        (EVENTS, Dialect.CHAT, "chat/chat.sse"),
        (b"application/json", Dialect.CHAT, "chat/chat.json"),
    ],
)
async def test_an_objects_id_is_kept_before_the_client_has_it(kind: bytes, dialect: Dialect, name: str) -> None:
    """Issue: objects need owners: whatever the chunks are, an id has gone to `keep` before the bytes that tell it go down."""
    body = read(name)
    for chunks in ([body], [bytes([byte]) for byte in body]):
        down = await copy(Answer(kind, chunks), call(dialect, creates=("id",)))
        ((object_id, before),) = down.kept
        assert object_id in body.decode()
        # Of a body in one piece nothing, of events none, and never the last byte.
        assert before != body
        assert b"\n\n" not in before if kind is EVENTS else len(before) < len(body)
        assert (down.body, dict(down.outcome.created_ids)) == (body, {"id": [object_id]})
        other = await copy(Answer(kind, chunks), call(dialect))
        assert (other.kept, other.body) == ([], body)


async def test_ids_within_an_answer_are_found() -> None:
    """Containers and files that an answer names beside itself are kept too, of a body and of the last event of a stream."""
    item = b'{"type":"code_interpreter_call","container_id":"cntr_1"}'
    whole = b'{"id":"resp_1","object":"response","status":"completed","output":[%s,{"type":"message"},%s]}' % (item, item)
    stream = b'data: {"type":"response.completed","response":%s}\n\n' % whole
    for kind, body in ((b"application/json", whole), (EVENTS, stream)):
        down = await copy(Answer(kind, [body]), call(Dialect.RESPONSES, creates=("id", "output.*.container_id")))
        assert [name for name, _ in down.kept][:2] == ["resp_1", "cntr_1"]
        assert dict(down.outcome.created_ids) == {"id": ["resp_1"], "output.*.container_id": ["cntr_1", "cntr_1"]}
        assert not down.outcome.unfinished


async def test_work_that_goes_on_is_said() -> None:
    """Rule P3: the outcome of an answer that is not done names the object and says that its usage is to come."""
    batch = b'{"id":"batch_1","object":"batch","status":"validating","usage":null}'
    down = await copy(Answer(b"application/json", [batch]), call(Dialect.EVENTS, creates=("id",)))
    assert (down.outcome.unfinished, dict(down.outcome.created_ids)) == (True, {"id": ["batch_1"]})
    run = read("events/thread_created_and_run.sse").replace(b"completed", b"requires_action")
    down = await copy(Answer(EVENTS, [run]), call(Dialect.EVENTS, creates=("thread_id", "id")))
    assert {path: ids[0] for path, ids in down.outcome.created_ids.items()} == {"id": "run_01", "thread_id": "thread_02"}


QUEUED = b'{"id":"x_1","object":"x","status":"queued","usage":null}'
# As far as the work is seen to go on.
_MADE, _RUNS, _ = read("events/thread_created_and_run.sse").split(b"event: thread.run.")[0:3]
STREAMED = {
    "/responses": read("responses/background_queued.sse"),
    "/threads/runs": _MADE + b"event: thread.run." + _RUNS,
    "/threads/{thread}/runs": b"event: thread.run." + _RUNS,
}
LASTING = [
    *((route, b"application/json", QUEUED.replace(b"x_1", b'x_1","thread_id":"thread_1')) for route in ROUTES if route.polls),
    *((route, EVENTS, STREAMED[route.template]) for route in ROUTES if route.polls and route.template in STREAMED),
]
LOOKED_AT = {"thread": "thread_1", "eval": "eval_1"}


@pytest.mark.parametrize(("route", "kind", "body"), LASTING, ids=lambda value: getattr(value, "template", ""))
async def test_work_that_lasts_is_noted_before_the_client_can_know_of_it(route: Route, kind: bytes, body: bytes) -> None:
    """Rule P3: whatever the chunks are, where it can be looked at was noted before a byte of its id went down: of a plain
    answer before any byte at all.
    """
    names = tuple((name, LOOKED_AT[name]) for name in LOOKED_AT if f"{{{name}}}" in route.template)
    lasting = call(route.dialect, creates=route.creates, detached=True)
    for chunks in ([body], [bytes([byte]) for byte in body]):
        down = await copy(Answer(kind, chunks), lasting)
        assert down.body.startswith(body)
        paths = {before: state_path(Match(route, referenced_ids=names), left) for left, before in down.noted}
        before, path = next((before, path) for before, path in paths.items() if path)
        work_id = path.rpartition("/")[2].encode()
        assert work_id in body
        assert work_id not in before
        assert kind is EVENTS or before == b""
        # What is said at last is where it was noted first.
        assert path == state_path(Match(route, referenced_ids=names), down.outcome.created_ids)


async def test_work_is_noted_before_an_event_that_is_too_long_to_be_held() -> None:
    """Rules S7, P3: a response that repeats long instructions has its name at the beginning of its first event."""
    event = b'data: {"type":"response.created","response":{"id":"resp_1","status":"queued","instructions":"%s"}}\n\n'
    long = event % (b"x" * (4 * sse.TAIL_BYTES_MAX))
    chunks = [long[start : start + 65_536] for start in range(0, len(long), 65_536)]
    down = await copy(Answer(EVENTS, chunks), call(Dialect.RESPONSES, creates=("id",), detached=True))
    left, before = down.noted[0]
    assert (left, before) == ({"id": ["resp_1"]}, b"")


async def test_a_plain_answer_of_work_waits_within_bounds() -> None:
    """What is longer than what is kept of an answer goes down before its end is known, as any other does."""
    piece = b" " * (1 << 20)
    chunks = [b'{"id":"batch_1",', *[piece] * (bounds.BYTES_MAX // len(piece)), b'"status":"queued","usage":null}']
    down = await copy(Answer(b"application/json", chunks), call(Dialect.EVENTS, creates=("id",), detached=True))
    assert down.body == b"".join(chunks)
    assert all(before.startswith(chunks[0]) for _, before in down.noted)


async def test_work_that_has_ended_at_once_is_not_noted() -> None:
    """What an answer shows as done, or as failed, has no cost that is to come."""
    for kind, body in (
        (b"application/json", QUEUED.replace(b"queued", b"completed")),
        (EVENTS, read("responses/error_first.sse")),
        (b"application/json", read("chat/error.json")),
    ):
        down = await copy(Answer(kind, [body]), call(Dialect.RESPONSES, creates=("id",), detached=True))
        assert down.noted == []


async def test_other_content_breaks_off_short() -> None:
    """Rule F3: a failure behind which no event can stand leaves the body without its end, so that the client can tell."""
    answer = Answer(b"audio/mpeg", [b"\xff\xf3"], failure=UpstreamError("It broke.", code="upstream_error"))
    down = await copy(answer, call(Dialect.NONE))
    assert (down.body, down.whole, down.outcome.ending) == (b"\xff\xf3", False, Ending.TRUNCATED)


FAILURES: dict[str, tuple[Exception, Ending]] = {
    "broken": (UpstreamError("It broke.", code="upstream_error"), Ending.TRUNCATED),
    "silent": (UpstreamTimeoutError("It fell silent.", code="upstream_timeout"), Ending.UPSTREAM_TIMEOUT),
}
NAMING = list(dict.fromkeys((route.dialect, route.creates) for route in ROUTES if route.creates))
LASTING_NAMING = list(dict.fromkeys((route.dialect, route.creates) for route in ROUTES if route.polls))


@pytest.mark.parametrize("why", FAILURES)
@pytest.mark.parametrize(
    ("dialect", "creates", "detached"), [(*naming, False) for naming in NAMING] + [(*naming, True) for naming in LASTING_NAMING]
)
async def test_a_plain_answer_that_names_objects_breaks_off_honestly(
    dialect: Dialect, creates: tuple[str, ...], detached: bool, why: str
) -> None:
    """Cut at every byte, of every such route: an error that can still be told, or a body that is short, and either
    way the cost of what came; never a head alone, which the server would answer with a 500 of its own. Of work that lasts
    nothing goes down before it is whole, so that it is always an error.
    """
    body = b'{"id":"x_1","usage":{"prompt_tokens":7,"completion_tokens":3}}'
    failure, ending = FAILURES[why]
    for cut_at in range(len(body)):
        for pieces in ([body[:cut_at]], [body[: cut_at // 2], body[cut_at // 2 : cut_at]]):
            chunks = [piece for piece in pieces if piece]
            down = await copy(
                Answer(b"application/json", chunks, failure=failure), call(dialect, creates=creates, detached=detached)
            )
            nothing = detached or len(chunks) < 2
            assert (down.body, down.whole) == (b"" if nothing else chunks[0], False)
            assert down.untold is (failure if nothing else None)
            assert down.outcome.status == (failure.status if nothing else 200)  # type: ignore[attr-defined]
            assert (down.outcome.ending, down.outcome.started, down.kept) == (ending, True, [])


@pytest.mark.parametrize("kind", [EVENTS, b"application/json", b"audio/mpeg"])
@pytest.mark.parametrize("creates", [(), ("id",)])
@pytest.mark.parametrize("reason", [DrainingError("Restarting."), ClientGoneError()])
async def test_what_ends_an_exchange_before_its_answer_is_told(
    kind: bytes, creates: tuple[str, ...], reason: Exception
) -> None:
    """A drain, or a client that leaves, between the provider's head and the first byte: nothing goes down."""
    down = await copy(
        Answer(kind, [b"{}"]), call(Dialect.CHAT, creates=creates), before=lambda exchange: exchange.interrupt(reason)
    )
    assert (down.untold, down.body) == (reason, b"")
    assert down.outcome.ending is (Ending.INTERNAL if isinstance(reason, DrainingError) else Ending.CLIENT_CLOSED)


async def test_the_usage_of_a_failed_response_is_its_bill() -> None:
    """Rules P1, F4: a response that failed is an error, and what the provider counted for it is known."""
    down = await copy(Answer(EVENTS, [read("responses/failed_with_usage.sse")]), call(Dialect.RESPONSES))
    assert (down.outcome.ending, down.outcome.usage, down.outcome.produced.texts) == (Ending.UPSTREAM_ERROR, Usage(33, 4), [])


CHUNKS = [event + b"\n\n" for event in read("chat/chat_usage.sse").split(b"\n\n")[:-1]]


async def test_an_answer_is_read_on_without_its_client() -> None:
    """Design §5: with `drain` the provider's own usage is the bill of a client that left; without, what was produced."""
    usage = STREAMS["chat/chat_usage.sse"].usage
    for answers_max, expected in ((1, usage), (0, None)):
        background_drain = BackgroundDrain(answers_max=answers_max, timeout_s=5, bytes_max=10**6)
        answer = Answer(EVENTS, CHUNKS)
        down = await copy(answer, call(Dialect.CHAT), background_drain, parts_taken=2)
        assert (down.outcome.ending, down.outcome.usage) == (Ending.CLIENT_CLOSED, expected)
        assert down.body == b"".join(CHUNKS[:2])
        assert answer.closed


async def test_reading_on_has_bounds() -> None:
    """At most so much is read, so long, and nothing once the worker closes; what was produced until then is known."""
    small = BackgroundDrain(answers_max=1, timeout_s=5, bytes_max=1)
    down = await copy(Answer(EVENTS, CHUNKS), call(Dialect.CHAT), small, parts_taken=1)
    assert (down.outcome.usage, len(down.outcome.produced.texts)) == (None, 1)

    class Endless(Answer):
        async def read(self) -> bytes:
            return CHUNKS.pop(0) if self._chunks.pop() else await asyncio.sleep(60, b"")

    closing = BackgroundDrain(answers_max=1, timeout_s=60, bytes_max=10**6)
    asyncio.get_running_loop().call_later(0.1, closing.close)
    async with asyncio.timeout(5):
        down = await copy(Endless(EVENTS, [b"", b"1", b"1"]), call(Dialect.CHAT), closing, parts_taken=1)
    assert down.outcome.ending is Ending.CLIENT_CLOSED
    closed = await copy(Answer(EVENTS, CHUNKS), call(Dialect.CHAT), closing, parts_taken=1)
    assert closed.outcome.usage is None


CREATED = b'data: {"type":"response.created","response":{"id":"resp_1","status":"queued"}}\n\n'
RUN = b'{"id":"run_1","object":"thread.run","status":"queued","usage":null}'


@pytest.mark.parametrize(
    ("kind", "chunks", "dialect", "expected", "unread"),
    [
        (b"text/event-stream", [CREATED[:30], CREATED[30:], b"more"], Dialect.RESPONSES, "resp_1", 1),
        (b"application/json", [RUN[:20], RUN[20:]], Dialect.EVENTS, "run_1", 0),
        *((b"application/json", [RUN[:at]], Dialect.EVENTS, "", 0) for at in (2, 5, 8, 12)),
        (b"audio/wav", [b"0000"], Dialect.EVENTS, "", 0),
    ],
)
async def test_an_abandoned_answer_is_read_as_far_as_it_names_its_work(
    kind: bytes, chunks: list[bytes], dialect: Dialect, expected: str, unread: int
) -> None:
    """P3: work that lasts is followed under its name, which is read though its client has left; nothing beyond it is."""
    kept: list[str] = []

    async def keep(names: list[str]) -> None:
        kept.extend(names)

    answer = Answer(kind, chunks, failure=UpstreamError("broke off"))
    call = Call("x", "POST", "/x", dialect=dialect, creates=("id",), detached=True)
    outcome = await Relay(Leaving("cancel", NONE, Reasoning(()), Histories(0))).abandon(answer, call, keep)
    assert outcome.created_ids == ({"id": [expected]} if expected else {})
    assert outcome.unfinished is bool(expected)
    assert outcome.ending is Ending.CLIENT_CLOSED
    assert kept == ([expected] if expected else [])
    assert answer.closed
    assert len(answer._chunks) == unread
