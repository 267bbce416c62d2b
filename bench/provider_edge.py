"""What one call to the provider costs this process: `python -m bench.provider_edge [calls]`, with 1, 16 and 64 at a time.

Prints CPU microseconds for each call, and for each read of 40 streams at a time, of the edge and the event loop alone; the
provider is a process of its own. Beside them the floor: the same bytes over a bare protocol on the same loop. The least of
several rounds. Compare only inside one run on one machine.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

from sentinel.upstream.http1 import Client
from sentinel.upstream.http1.request_head import head, opening
from sentinel.upstream.provider import OpenAI, Timeouts

_HEADERS: Final = (
    b"content-type: application/json\r\nuser-agent: openai/python 3.5\r\nx-stainless-lang: python\r\n"
    b"authorization: Bearer sk-key\r\naccept-encoding: identity\r\nx-request-id: req_0123456789\r\n"
)
_BODY: Final = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 400)
# Paced, so that an event is a read of its own.
_STREAMED: Final = _HEADERS + b"x-title: events=50 gap_ms=10\r\n"
_STREAMS: Final = 40
_PATIENCE: Final = Timeouts(600, 600)
_ROUNDS: Final = 5

# One call, or one stream; gives the number of its reads.
_Ask = Callable[[bytes], Awaitable[int]]


def _ignore() -> None:
    pass


class _Edge:
    """Calls over the edge, as the stages make them."""

    def __init__(self, provider: OpenAI) -> None:
        self._provider = provider

    async def ask(self, headers: bytes) -> int:
        reply = await self._provider.send("POST", "/chat/completions", b"", headers, _BODY, _ignore, _PATIENCE)
        reads = 0
        while await reply.read():
            reads += 1
        await reply.drain(1)
        reply.close()
        return reads


class _Bare(asyncio.Protocol):
    """The least that can be done: bytes out, bytes in, nothing looked at but the end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.waiter is not None:
            self.waiter.set_result(data)
            self.waiter = None


class _Floor:
    """The same over bare protocols."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = parts.hostname, parts.port
        self._begins = opening("POST", f"{parts.path}/chat/completions", f"{parts.hostname}:{parts.port}")
        self._free: list[_Bare] = []

    async def ask(self, headers: bytes) -> int:
        loop = asyncio.get_running_loop()
        bare = self._free.pop() if self._free else (await loop.create_connection(_Bare, *self._to))[1]
        assert bare.transport is not None
        bare.transport.write(head(self._begins, headers, len(_BODY)) + _BODY)
        reads, ended = 0, False
        while not ended:
            bare.waiter = loop.create_future()
            said = await bare.waiter
            reads += 1
            ended = headers is _HEADERS or said.endswith(b"0\r\n\r\n")
        self._free.append(bare)
        return reads


async def _times(ask: _Ask, headers: bytes, times: int) -> int:
    return sum([await ask(headers) for _ in range(times)])


async def _cost(ask: _Ask, headers: bytes, together: int, times: int) -> float:
    """CPU microseconds for each call, or for each read where they are streams."""
    costs = []
    for _ in range(_ROUNDS):
        cpu_s = time.process_time()
        reads = await asyncio.gather(*(_times(ask, headers, times) for _ in range(together)))
        spent_s = time.process_time() - cpu_s
        costs.append(spent_s / (sum(reads) if headers is _STREAMED else together * times) * 1e6)
    return min(costs)


async def main() -> None:
    """Warm up, then measure."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.provider", stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    url = (await child.stdout.readline()).decode().strip()
    provider = OpenAI(Client(url, connect_s=5), "sk-key", idle_s=60, connections_max=1000)
    edge, floor = _Edge(provider).ask, _Floor(url).ask
    try:
        await _times(edge, _HEADERS, 300)
        for together in (1, 16, 64):
            costs = [await _cost(ask, _HEADERS, together, calls // together) for ask in (floor, edge)]
            print(f"{together} at a time: {costs[1]:.0f} µs of CPU a call, {costs[0]:.0f} over a bare protocol")
        costs = [await _cost(ask, _STREAMED, _STREAMS, 1) for ask in (floor, edge)]
        print(f"{_STREAMS} streams: {costs[1]:.1f} µs of CPU a read, {costs[0]:.1f} over a bare protocol")
    finally:
        await provider.close()
        child.kill()
        await child.wait()


if __name__ == "__main__":
    uvloop.run(main())
