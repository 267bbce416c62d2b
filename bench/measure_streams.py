"""Streams: splitting events, and metering each dialect in reads of one event, as a provider sends them."""

import pytest

from sentinel.openai.response import sse
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect
from tests.samples import cases

_SAMPLES = {
    "chat": "chat/chat_usage.sse",
    "chat_crlf": "chat/chat_usage_crlf.sse",
    "chat_tools": "chat/tools_usage.sse",
    "responses": "responses/text.sse",
    "events": "events/transcription.sse",
}
_BODIES = {"chat": "chat/chat.json", "responses": "responses/text.json", "events": "events/embeddings.json"}
_TIMES = 100


def _long(stream: bytes) -> list[bytes]:
    """The events of a sample, those in the middle a hundred times."""
    first, *middle, last, end = sse.events(stream)
    return [first, *middle * _TIMES, last, end]


@pytest.mark.benchmark(group="sse")
@pytest.mark.parametrize("name", _SAMPLES)
def measure_split(benchmark, name):
    """A stream through the splitter, and the data of each event."""
    chunks = _long(cases.read(_SAMPLES[name]))

    def split():
        splitter = sse.Splitter()
        return sum(len(sse.payload(event)) for chunk in chunks for event in sse.events(splitter.feed(chunk)))

    assert benchmark(split) > 0
    benchmark.extra_info["events"] = len(chunks)


@pytest.mark.benchmark(group="sse")
def measure_split_torn(benchmark):
    """The same where every event comes in two halves."""
    chunks = _long(cases.read(_SAMPLES["chat"]))
    halves = [part for chunk in chunks for part in (chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :])]

    def split():
        splitter = sse.Splitter()
        return sum(len(splitter.feed(half)) for half in halves)

    assert benchmark(split) == sum(map(len, chunks))
    benchmark.extra_info["events"] = len(chunks)


@pytest.mark.benchmark(group="meter")
@pytest.mark.parametrize("hidden", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", _SAMPLES)
def measure_meter(benchmark, name, hidden):
    """A stream through its meter."""
    sample = _SAMPLES[name]
    chunks = _long(cases.read(sample))

    def feed():
        meter = StreamMeter(cases.dialect(sample), usage_hidden=hidden)
        for chunk in chunks:
            meter.feed(chunk)
        meter.finish()
        return meter.events

    assert benchmark(feed) > 0
    benchmark.extra_info["events"] = len(chunks)


@pytest.mark.benchmark(group="meter")
@pytest.mark.parametrize("name", _BODIES)
def measure_body(benchmark, name):
    """A plain answer through its meter."""
    body = cases.read(_BODIES[name])

    def feed():
        meter = BodyMeter(Dialect(name))
        meter.feed(body)
        meter.finish()
        return meter.usage

    benchmark(feed)
    assert feed() is not None
