"""A provider that costs next to nothing: `python -m bench.provider` prints its URL and serves until it is told to stop.

A request is answered with one fixed completion. Its header `x-title`, which Sentinel passes on, may ask for something else:
`events=200 gap_ms=50` (a stream of that many events, one every so often, each with the time it was sent at in ns as `at`),
`events=200 stepped` (the next one at each `GET /step`, which is not answered) or `hang` (no answer at all). What hangs is not
counted as served, nor is what has the word `odd` beside its wish, or no `x-request-id`: it did not come through Sentinel.

`GET /served` tells what was served, as JSON: `requests` and tokens that have been served whole, `broken` streams (whose client
left), and how many request ids came `twice`.
"""

import asyncio
import json
import time
from typing import Final

from bench.http1 import Connection, chunk, header, plain, serve

INPUT_TOKENS: Final = 57
OUTPUT_TOKENS: Final = 120

_TEXT: Final = "The river was wide and slow in the evening. " * 12
COMPLETION: Final = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1715367049,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
    },
    separators=(",", ":"),
).encode()
ANSWER: Final = plain(COMPLETION)
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_OPENING: Final = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1715367049,"model":"gpt-4o-mini",'


class Served:
    """What was served so far."""

    def __init__(self) -> None:
        self.requests = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.broken = 0
        self.twice = 0
        self._ids: set[bytes] = set()
        self._stepped: list[_Stream] = []

    def began(self, request_id: bytes) -> None:
        """A request came, under Sentinel's id."""
        if request_id in self._ids:
            self.twice += 1
        self._ids.add(request_id)

    def wait(self, stream: "_Stream") -> None:
        """Its next event goes out with the next step."""
        self._stepped.append(stream)

    def step(self) -> None:
        """One event of every stream that waits for one."""
        waiting, self._stepped = self._stepped, []
        for stream in waiting:
            stream.step()

    def ended(self, output_tokens: int) -> None:
        """It was answered whole."""
        self.requests += 1
        self.input_tokens += INPUT_TOKENS
        self.output_tokens += output_tokens

    def shown(self) -> bytes:
        """All of it, as JSON."""
        return json.dumps({name: value for name, value in vars(self).items() if not name.startswith("_")}).encode()


class Provider(Connection):
    """One connection to it."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served

    def asked(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /served"):
            self.write(plain(self._served.shown()))
            return
        if head.startswith(b"GET /step"):
            self._served.step()
            return
        wish = header(head, b"x-title:")
        if b"hang" in wish:
            return
        request_id = header(head, b"x-request-id:")
        served = self._served if request_id and b"odd" not in wish else Served()
        served.began(request_id)
        if b"events=" in wish:
            wishes = dict(word.split(b"=", 1) for word in wish.split() if b"=" in word)
            stepping = self._served if b"stepped" in wish else None
            _Stream(self, served, int(wishes[b"events"]), float(wishes.get(b"gap_ms", b"0")) / 1000, stepping)
        else:
            self.write(ANSWER)
            served.ended(OUTPUT_TOKENS)


class _Stream:
    """One stream: its events go out by the clock, however late the last one was, or by steps, unless nobody reads them."""

    def __init__(self, connection: Provider, served: Served, events: int, gap_s: float, stepping: Served | None) -> None:
        self._connection = connection
        self._served = served
        self._events = events
        self._gap_s = gap_s
        self._stepping = stepping
        self._loop = asyncio.get_running_loop()
        self._begun_s = self._loop.time()
        self._sent = 0
        connection.write(_STREAM_HEAD)
        self._held = False
        connection.on_resume = self._go_on
        self.step()

    def step(self) -> None:
        while self._connection.transport is not None:
            if self._connection.paused:
                self._held = True
                return
            if self._sent == self._events:
                self._end()
                return
            self._connection.write(chunk(event(time.monotonic_ns())))
            self._sent += 1
            if self._stepping is not None:
                self._stepping.wait(self)
                return
            if self._gap_s:
                self._loop.call_at(self._begun_s + self._sent * self._gap_s, self.step)
                return
        self._served.broken += 1

    def _go_on(self) -> None:
        if self._held:
            self._held = False
            self.step()

    def _end(self) -> None:
        self._connection.on_resume = None
        self._connection.write(chunk(ending(self._events)) + b"0\r\n\r\n")
        self._served.ended(self._events)


def event(at_ns: int) -> bytes:
    """One event with a word in it, sent at `at_ns` of the monotonic clock."""
    return _OPENING + b'"choices":[{"index":0,"delta":{"content":" river"},"finish_reason":null}],"at":%d}\n\n' % at_ns


def ending(events: int) -> bytes:
    """The last events of a stream: its finish, its usage, `[DONE]`."""
    usage = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (INPUT_TOKENS, events, INPUT_TOKENS + events)
    return (
        _OPENING
        + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        + _OPENING
        + b'"choices":[],"usage":%s}\n\ndata: [DONE]\n\n' % usage
    )


def main() -> None:
    """Serve until told to stop."""
    served = Served()
    serve(lambda: Provider(served), "/v1")


if __name__ == "__main__":
    main()
