"""Every sample of every dialect, however it is cut: the same bytes come down and the same numbers are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.response import sse
from sentinel.openai.response.body_meter import BodyMeter, PassMeter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect, Produced
from tests.samples.cases import BODIES, CHATS, ROOT, STREAMS, Case, dialect, read
from tests.support.metering import Seen, cut, run, ways

# Two pieces at every place costs the square of the length; longer ones are cut at every place of their last events only.
EVERY_PLACE_BYTES_MAX = 2500


def expected(name: str, case: Case, *, usage_hidden: bool = False) -> Seen:
    """What the table says of a stream."""
    events = sse.events(read(name).removesuffix(case.dropped))
    if usage_hidden:
        events = [case.created_ids if position in case.hidden else event for position, event in enumerate(events)]
    state = (case.terminated, case.finished, case.failed, case.unfinished)
    return Seen(b"".join(events) + case.added, case.usage, case.texts, 0, case.object_id, *state)


def test_every_sample_has_its_case() -> None:
    """No sample lies about without a row, and no row without its sample."""
    names = {str(path.relative_to(ROOT)) for kind in ("sse", "json") for path in ROOT.rglob(f"*.{kind}")}
    assert set(STREAMS) | set(BODIES) == names


@pytest.mark.no_cover
@pytest.mark.parametrize(("name", "usage_hidden"), [*((name, False) for name in STREAMS), *((name, True) for name in CHATS)])
def test_every_split_gives_the_same(name: str, usage_hidden: bool) -> None:
    """Rules S1, U5, U6, U12, P1, P5: whole, byte by byte and at every split, the same bytes and numbers come out."""
    seen = expected(name, STREAMS[name], usage_hidden=usage_hidden)
    stream = read(name)
    start = max(0, len(stream) - EVERY_PLACE_BYTES_MAX)
    for chunks in ways(stream[start:]):
        pieces = [stream[:start], *chunks] if start else chunks
        assert seen == run(StreamMeter(dialect(name), usage_hidden=usage_hidden, names=True), pieces)


@pytest.mark.parametrize("name", ["chat/chat_usage.sse", "chat/tools_usage.sse", "chat/completions_usage.sse"])
def test_the_samples_have_the_shapes_of_usage(name: str) -> None:
    """Rule U1: with include_usage every chunk has a null usage, and one more stands before [DONE], without choices."""
    chunks = [sse.payload(event) for event in sse.events(read(name))]
    assert chunks.pop() == b"[DONE]"
    *others, last = [json.loads(chunk) for chunk in chunks]
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in others)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]


@given(st.sampled_from(sorted(STREAMS)), st.booleans(), st.data())
def test_any_chunks_any_line_ends(name: str, usage_hidden: bool, draw: st.DataObject) -> None:
    """Rule S1: any chunking of a stream with any line ends gives what it gives whole."""
    lines = read(name).splitlines()
    ends = draw.draw(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=len(lines), max_size=len(lines)))
    # An empty line ended by LF would make one line end of a CR before it.
    for at in range(1, len(lines)):
        if ends[at - 1] == b"\r" and not lines[at] and ends[at] == b"\n":
            ends[at] = b"\r\n"
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    cuts = draw.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    hidden = usage_hidden and name in CHATS
    whole = run(StreamMeter(dialect(name), usage_hidden=hidden, names=True), [stream])
    assert whole == run(StreamMeter(dialect(name), usage_hidden=hidden, names=True), cut(stream, cuts))
    case = STREAMS[name]
    assert (case.usage, case.texts, case.object_id) == (whole.usage, whole.texts, whole.object_id)


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_not_metered_passes(name: str) -> None:
    """Rule P3: in an answer that an earlier request has paid for nothing is counted, and not a byte is changed."""
    stream = read(name)
    for chunks in ([stream], [bytes([byte]) for byte in stream]):
        seen = run(StreamMeter(Dialect.NONE), chunks)
        assert (seen.usage, seen.texts, seen.uncounted, seen.object_id, seen.finished) == (None, [], 0, "", True)
        assert seen.downstream == stream.removesuffix(STREAMS[name].dropped) + STREAMS[name].added


@pytest.mark.parametrize("name", STREAMS)
def test_names_are_looked_for_only_where_asked(name: str) -> None:
    """The id of an answer is nobody's business where nothing is stored."""
    assert run(StreamMeter(dialect(name)), [read(name)]) == expected(name, STREAMS[name])._replace(object_id="")


@pytest.mark.parametrize("name", [name for name in STREAMS if STREAMS[name].object_id])
def test_the_name_is_known_before_it_is_told(name: str) -> None:
    """At every split, the id is known when the bytes that tell it are returned to go down."""
    said = STREAMS[name].object_id.encode()
    meter = StreamMeter(dialect(name), names=True)
    told = b""
    for byte in read(name):
        told += meter.feed(bytes([byte]))
        if said in told:
            break
    assert said in told
    assert meter.object_id == STREAMS[name].object_id


@pytest.mark.parametrize("name", BODIES)
def test_body_at_every_split(name: str) -> None:
    """A plain body passes chunk by chunk unchanged; usage, texts, id and failure (rule F4) are read once it is whole."""
    body, case = read(name), BODIES[name]
    state = (False, True, case.failed, case.unfinished)
    for chunks in ways(body):
        seen = run(BodyMeter(dialect(name), names=True), chunks)
        assert seen == Seen(body, case.usage, case.texts, 0, case.object_id, *state)


@pytest.mark.parametrize("name", BODIES)
def test_body_that_is_not_metered(name: str) -> None:
    """Rule P3: of an object that is merely shown again no usage counts; its id and its state are read."""
    seen = run(BodyMeter(Dialect.NONE, names=True), [read(name)])
    assert (seen.usage, seen.texts, seen.uncounted) == (None, [], 0)
    assert (seen.object_id, seen.unfinished) == (BODIES[name].object_id, BODIES[name].unfinished)


@pytest.mark.parametrize("name", [*STREAMS, *BODIES])
def test_another_content_type_only_passes(name: str) -> None:
    """Rules S5, H19: what is neither JSON nor events goes down as the very objects that came in."""
    meter = PassMeter()
    chunks = cut(read(name), [7, 100, 101])
    assert all(meter.feed(chunk) is chunk for chunk in chunks)
    assert (meter.finish(), meter.usage, meter.produced(), meter.finished) == (b"", None, Produced(), True)
