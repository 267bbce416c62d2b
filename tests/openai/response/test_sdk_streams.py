"""OpenAI's own SDK reads what Sentinel adds to a stream: a failure in its middle is raised, with its code and type."""

from collections.abc import Callable

import httpx2
import openai
import pytest
from openai import OpenAI

from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect
from tests.samples.cases import read

HELLO = "Hello"


def served(body: bytes) -> OpenAI:
    """A client whose every call is answered by one stream."""
    answer = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=httpx2.ByteStream(body))
    )
    return OpenAI(api_key="none", base_url="http://gateway/v1", max_retries=0, http_client=httpx2.Client(transport=answer))


def broken(name: str, dialect: Dialect) -> bytes:
    """A sample that breaks off before its last event, told as the relay tells it."""
    meter = StreamMeter(dialect)
    stream = read(name)
    downstream = meter.feed(stream[: stream.rindex(b"\n\n", 0, -2) + 10]) + meter.finish()
    return downstream + meter.failure("The provider fell silent.", "server_error", "upstream_timeout")


def _chat(client: OpenAI) -> None:
    for _ in client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": HELLO}], stream=True):
        pass


def _respond(client: OpenAI) -> None:
    for _ in client.responses.create(model="gpt-4o", input=HELLO, stream=True):
        pass


def _respond_with_events(client: OpenAI) -> None:
    with client.responses.stream(model="gpt-4o", input=HELLO) as stream:
        for _ in stream:
            pass


def _respond_again(client: OpenAI) -> None:
    for _ in client.responses.retrieve("resp_text01", stream=True):
        pass


def _draw(client: OpenAI) -> None:
    for _ in client.images.generate(model="gpt-image-1", prompt=HELLO, stream=True):
        pass


def _run_thread(client: OpenAI) -> None:
    for _ in client.beta.threads.runs.create("thread_01", assistant_id="asst_01", stream=True):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "name", "dialect"),
    [
        (_chat, "chat/truncated.sse", Dialect.CHAT),
        (_respond, "responses/text.sse", Dialect.RESPONSES),
        (_respond_with_events, "responses/text.sse", Dialect.RESPONSES),
        (_respond_again, "responses/text.sse", Dialect.NONE),
        (_draw, "events/image_generation.sse", Dialect.EVENTS),
        (_run_thread, "events/thread_run.sse", Dialect.EVENTS),
    ],
)
def test_a_failure_in_the_middle_is_raised(call: Callable[[OpenAI], None], name: str, dialect: Dialect) -> None:
    """Rules F1, F5: the SDK raises APIError with Sentinel's message, code and type, in every dialect."""
    with served(broken(name, dialect)) as client, pytest.raises(openai.APIError) as caught:
        call(client)
    assert (caught.value.message, caught.value.code, caught.value.type) == (
        "The provider fell silent.",
        "upstream_timeout",
        "server_error",
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "name", "dialect"),
    [
        (_chat, "chat/no_done.sse", Dialect.CHAT),
        (_chat, "chat/vercel_usage.sse", Dialect.CHAT),
        (_respond, "responses/tools.sse", Dialect.RESPONSES),
        (_respond_with_events, "responses/reasoning_summary.sse", Dialect.RESPONSES),
        (_draw, "events/image_generation.sse", Dialect.EVENTS),
        (_run_thread, "events/thread_run.sse", Dialect.EVENTS),
    ],
)
def test_a_whole_stream_is_read_to_its_end(call: Callable[[OpenAI], None], name: str, dialect: Dialect) -> None:
    """Rules U5, F2: the SDK reads the samples with what is hidden and added, and misses nothing."""
    meter = StreamMeter(dialect, usage_hidden=dialect is Dialect.CHAT)
    with served(meter.feed(read(name)) + meter.finish() + meter.ending()) as client:
        call(client)
    assert meter.finished
