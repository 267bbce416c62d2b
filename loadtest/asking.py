"""Plain requests over kept connections, each after the answer to the one before it, or by a clock.

A job: `connections`, `seconds` of measured time after `warm_up` seconds, `callers_count` with `callers_prefix`, `body_bytes`,
`expect` (the status that counts as good), `headers` besides the usual ones, `bearer` where it is not the callers' own; `rate`
for requests a second by a clock, whose latency then begins when they were due. With `touch_all` the warm-up lasts until every
caller has asked once. Where `may_be_refused`, 429 and 503 are counted apart, and a connection then asks again at once, or after
`Retry-After` where it `obeys`.
"""

import asyncio
import itertools
import json
import re
import time
from typing import Any, Final
from urllib.parse import urlsplit

from bench.in_process import BODY
from bench.zion import token
from loadtest import processes
from loadtest.figures import Histogram

_ENDS_S: Final = 30.0
_REFUSED: Final = (429, 503)
_RETRY_AFTER: Final = re.compile(rb"\nretry-after: (\d+)", re.IGNORECASE)


class Asking:
    """One job: what to send next, and what came of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        where = urlsplit(job["url"])
        assert where.hostname is not None
        assert where.port is not None
        self.host, self.port = where.hostname, where.port
        self.expect: int = job.get("expect", 200)
        self.rate: float = job.get("rate", 0)
        self.measuring = self.over = False
        self.may_be_refused: bool = job.get("may_be_refused", False)
        self.obeys: bool = job.get("obeys", False)
        self.latencies = Histogram()
        self.refusals = Histogram()
        self.good = self.failed = self.asked = self.connected = 0
        self.failures: dict[str, int] = {}
        names = [f"{job.get('callers_prefix', 'caller')}-{number}" for number in range(job.get("callers_count", 1))]
        self.callers = len(names)
        body = sized(job.get("body_bytes", 0))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\naccept: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in job.get("headers", {}).items())
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\nauthorization: Bearer "
        self._head, self._tail = head.encode(), b"\r\n\r\n" + body
        bearers = [job["bearer"]] if "bearer" in job else [token(name) for name in names]
        self._tokens = itertools.cycle([bearer.encode() for bearer in bearers])

    def request(self) -> bytes:
        """The next request: callers take turns."""
        self.asked += 1
        return b"".join((self._head, next(self._tokens), self._tail))

    def answered(self, status: int, latency_s: float) -> None:
        """An answer came whole."""
        if self.may_be_refused and status in _REFUSED:
            if self.measuring:
                self.refusals.add(latency_s)
        elif status != self.expect:
            self.fail(f"status {status}")
        elif self.measuring:
            self.good += 1
            self.latencies.add(latency_s)

    def fail(self, why: str) -> None:
        """Something else came, or nothing."""
        self.failed += 1
        self.failures[why] = self.failures.get(why, 0) + 1


class _Connection(asyncio.Protocol):
    def __init__(self, asking: Asking, number: int, gap_s: float) -> None:
        self._asking = asking
        self._gap_s = gap_s
        # Spread over one gap, so that they do not all ask at once.
        self._due_s = time.monotonic() + gap_s * (number % 16) / 16
        self._buffer = bytearray()
        self._begun_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's own
        self._asking.connected += 1
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._asking.connected -= 1
        if not self._asking.over:
            self._asking.fail(f"connection lost: {type(error).__name__}")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not whole(self._buffer):
            return
        status = int(self._buffer[9:12])
        self._asking.answered(status, time.monotonic() - self._begun_s)
        told = _RETRY_AFTER.search(self._buffer) if self._asking.obeys and status in _REFUSED else None
        wait_s = int(told[1]) if told and not self._asking.over else 0
        self._buffer.clear()
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._next)
        else:
            self._next()

    def _next(self) -> None:
        if self._asking.over and self._transport is not None:
            self._transport.close()
        elif self._gap_s:
            self._due_s += self._gap_s
            now_s = time.monotonic()  # the loop's own clock is in whole ms
            # What waited for the answer before it was late from when it was due; what only the timer (of whole ms) sends
            # late or early, was not.
            if self._due_s <= now_s:
                self._send(self._due_s)
            else:
                asyncio.get_running_loop().call_later(self._due_s - now_s, self._send)
        else:
            self._send()

    def _send(self, due_s: float = 0.0) -> None:
        if self._transport is not None:
            self._begun_s = due_s or time.monotonic()
            self._transport.write(self._asking.request())


async def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job: rates, percentiles, what failed."""
    asking = Asking(job)
    loop = asyncio.get_running_loop()
    connections: int = job["connections"]
    gap_s = connections / asking.rate if asking.rate else 0.0
    for number in range(connections):
        made = _Connection(asking, number, gap_s)
        await loop.create_connection(lambda made=made: made, asking.host, asking.port)  # type: ignore[misc]
    await asyncio.sleep(job.get("warm_up", 1))
    while job.get("touch_all") and asking.asked < asking.callers + connections and not asking.failed:
        await asyncio.sleep(0.1)
    watched = job.get("watch", {})
    before = {name: processes.cpu_s(pids) for name, pids in watched.items()}
    asking.measuring, begun_s = True, time.perf_counter()
    await asyncio.sleep(job["seconds"])
    asking.measuring, seconds = False, time.perf_counter() - begun_s
    used = {name: processes.cpu_s(pids) - before[name] for name, pids in watched.items()}
    asking.over = True
    # What is under way is waited for: a client that leaves is billed by estimate, which nothing could be compared with.
    until_s = loop.time() + _ENDS_S
    while asking.connected and loop.time() < until_s:
        await asyncio.sleep(0.05)
    if asking.connected:
        asking.fail("no answer in time")
    return {
        "good": asking.good,
        "failed": asking.failed,
        "failures": asking.failures,
        "seconds": seconds,
        "cpu_s": used,
        "histogram": asking.latencies.buckets,
        "refusals": asking.refusals.buckets,
    }


def whole(buffer: bytearray) -> bool:
    """Whether an answer has come whole, by its length or by its last chunk."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = buffer.lower().find(b"content-length:", 0, end)
    if at < 0:
        return buffer.endswith(b"\r\n0\r\n\r\n")
    return len(buffer) >= end + 4 + int(buffer[at + 15 : buffer.index(b"\r", at)])


def sized(body_bytes: int) -> bytes:
    """The usual body, or a chat of about this size."""
    if not body_bytes:
        return BODY
    chat = json.loads(BODY)
    sentence = "The river was wide and slow in the evening. "
    chat["messages"][1]["content"] = (sentence * (body_bytes // len(sentence) + 1))[: max(1, body_bytes - 320)]
    return json.dumps(chat).encode()
