"""What is done with a request before it goes on: its route, its headers both ways, its body, its tokens."""

import itertools
import json

import pytest

from bench.in_process import token_of
from sentinel.openai import headers, routes, wire
from sentinel.openai.header_fields import Fields
from sentinel.openai.wire import read_call
from sentinel.ops.records import Caller, ChatPrompt, Hold, Reads, Remaining, Route, TextPrompt
from sentinel.zion import credentials

_SENTENCE = "The river was wide and slow in the evening. "
_SIZES = {"1KiB": 1 << 10, "16KiB": 1 << 14, "128KiB": 1 << 17, "1MiB": 1 << 20}
_PATHS = {
    "chat": ("POST", "/v1/chat/completions"),
    "file": ("GET", "/v1/files/file-abc123"),
    "run": ("GET", "/v1/threads/thread_abc/runs/run_abc/steps"),
    "vector_store_file": ("DELETE", "/v1/vector_stores/vs_abc/files/file-abc"),
}
_REQUEST = [
    (b"host", b"gateway.test"),
    (b"authorization", b"Bearer " + token_of("bench")),
    (b"content-type", b"application/json"),
    (b"content-length", b"469"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"OpenAI/Python 3.52.0"),
    *((b"x-stainless-" + name, b"one") for name in (b"lang", b"os", b"arch", b"runtime", b"async", b"retry-count")),
]
_ANSWER = [
    (b"Date", b"Sat, 01 Jan 2028 00:00:00 GMT"),
    (b"Content-Type", b"application/json"),
    (b"Content-Length", b"879"),
    (b"Connection", b"keep-alive"),
    (b"openai-processing-ms", b"512"),
    (b"openai-version", b"2020-10-01"),
    (b"x-request-id", b"req_0123456789abcdef"),
    (b"set-cookie", b"__cf_bm=0123; path=/"),
    (b"cf-ray", b"8c1f2a3b4c5d6e7f-FRA"),
    *((b"x-ratelimit-" + name, b"10000") for name in (b"limit-requests", b"remaining-requests", b"reset-requests")),
]
_LEFT = Remaining(1_000_000, 999_000, 86_400_123)


def _row(path: str) -> Route:
    return routes.match("POST", path).route


def _filled(path: str, text: str) -> bytes:
    if path.endswith("embeddings"):
        return json.dumps({"model": "text-embedding-3-small", "input": [text]}).encode()
    if path.endswith("responses"):
        return json.dumps({"model": "gpt-4o-mini", "input": [{"role": "user", "content": text}]}).encode()
    if path.endswith("chat/completions"):
        messages = [{"role": "user", "content": text[at : at + 4096]} for at in range(0, len(text), 4096)]
        return json.dumps({"model": "gpt-4o-mini", "messages": messages, "max_tokens": 256}).encode()
    return json.dumps({"model": "gpt-3.5-turbo-instruct", "prompt": text, "input": text}).encode()


@pytest.mark.benchmark(group="routes")
@pytest.mark.parametrize("name", _PATHS)
def measure_match(benchmark, name):
    """The row of the route table for a path."""
    assert benchmark(routes.match, *_PATHS[name]).route.label


@pytest.mark.benchmark(group="headers")
def measure_headers_up(benchmark):
    """Framing, credential, and what goes to the provider."""

    def up():
        fields = Fields.of(_REQUEST)
        headers.check_framing(fields)
        credentials.bearer_token(fields)
        return headers.upstream(fields, "req_0123456789abcdef_1", "sk-bench")

    assert benchmark(up)


@pytest.mark.benchmark(group="headers")
def measure_headers_down(benchmark):
    """What comes from the provider, and the caller's limits."""
    hold = Hold("req_1", Caller("id", "a@b.test"), "gpt-4o-mini", 57, 256, _LEFT, _LEFT, _LEFT, _LEFT)

    def down():
        return [*headers.downstream(_ANSWER), *headers.limits(hold, 1_800_000_000)]

    assert benchmark(down)


@pytest.mark.benchmark(group="read_call")
@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations"]
)
def measure_read_call(benchmark, path, size):
    """A body of each format and size, as a call."""
    body = _filled(path, (_SENTENCE * (_SIZES[size] // len(_SENTENCE) + 1))[: _SIZES[size]])
    call = benchmark(read_call, _row(path), "POST", path.removeprefix("/v1"), b"", body, b"application/json")
    assert call.model
    assert len(body) <= wire.INLINE_BYTES_MAX or size in {"128KiB", "1MiB"}
    assert _row(path).reads is not Reads.NOTHING


@pytest.mark.benchmark(group="tokens")
@pytest.mark.parametrize("size", {"200ch": 200, "2KB": 2_000, "79KB": 79_000}.items(), ids=lambda item: item[0])
def measure_tokens(benchmark, tokenizer, size):
    """The tokens of a prompt that was never seen: its last characters are new each time."""
    text = (_SENTENCE * 2000)[: size[1] - 9]
    numbers = itertools.count()
    count = benchmark(lambda: tokenizer.prompt(TextPrompt([f"{text}{next(numbers):09}"]), "gpt-4o-mini"))
    assert count > 30


@pytest.mark.benchmark(group="tokens")
def measure_tokens_again(benchmark, tokenizer):
    """The same prompt again: its count is remembered."""
    messages = [{"role": "user", "content": _SENTENCE * 45} for _ in range(2)]
    assert benchmark(tokenizer.prompt, ChatPrompt(messages), "gpt-4o-mini") > 30
