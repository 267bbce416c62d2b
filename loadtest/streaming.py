"""Many streams at a time, each paced by the provider; how late their events come, and what they cost the gateway.

A job: `streams`, opened `opened_per_s`, of `events` events each `gap_ms`; after all have said something, `seconds` are
measured. Every event tells when it was sent (`bench.provider`), so that its delay is known; both clocks are the
machine's monotonic one.
"""

import asyncio
import re
import time
from typing import Any, Final
from urllib.parse import urlsplit

from bench.in_process import STREAMED
from bench.zion import token
from loadtest import processes
from loadtest.figures import Histogram

_AT: Final = re.compile(rb'"at":(\d+)')
_LATEST_S: Final = 120.0


class _Job:
    def __init__(self, job: dict[str, Any]) -> None:
        where = urlsplit(job["url"])
        assert where.hostname is not None
        assert where.port is not None
        self.host, self.port = where.hostname, where.port
        wish = f"events={job['events']} gap_ms={job['gap_ms']}"
        self.head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
            f"x-title: {wish}\r\ncontent-length: {len(STREAMED)}\r\nauthorization: Bearer {token('streamer')}\r\n\r\n"
        ).encode()
        self.begun = self.ended = self.events = self.failed = 0
        self.failures: dict[str, int] = {}
        self.measuring = False
        self.opened, self.first, self.delays = Histogram(), Histogram(), Histogram()

    def fail(self, why: str) -> None:
        self.failed += 1
        self.failures[why] = self.failures.get(why, 0) + 1


class _Stream(asyncio.Protocol):
    def __init__(self, job: _Job) -> None:
        self._job = job
        self._tail = b""
        self._begun = self._ended = False
        self._asked_ns = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's own
        self._asked_ns = time.monotonic_ns()
        transport.write(self._job.head + STREAMED)  # type: ignore[attr-defined]

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._ended:
            self._job.fail("the stream broke off")

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        job = self._job
        sent = _AT.findall(data)
        if sent:
            delay_s = (now_ns - int(sent[0])) / 1e9
            if not self._begun:
                self._begun = True
                job.begun += 1
                job.first.add(delay_s)
                job.opened.add((now_ns - self._asked_ns) / 1e9)
            if job.measuring:
                job.events += len(sent)
                job.delays.add(delay_s)
        elif not self._begun and data.startswith(b"HTTP/1.1 ") and data[9:12] != b"200":
            job.fail(f"status {data[9:12].decode()}")
        self._tail = (self._tail + data)[-7:]
        if self._tail.endswith(b"\r\n0\r\n\r\n"[-7:]) and self._transport is not None:
            self._ended = True
            job.ended += 1
            self._transport.close()


async def stream(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job: events, their delays, processor time and memory of what is watched."""
    state, loop = _Job(job), asyncio.get_running_loop()
    watched: dict[str, list[int]] = job.get("watch", {})
    memory_before = {name: processes.rss_bytes(pids) for name, pids in watched.items()}
    begun_s = loop.time()
    for number in range(job["streams"]):
        await loop.create_connection(lambda: _Stream(state), state.host, state.port)
        await asyncio.sleep(max(0.0, begun_s + (number + 1) / job.get("opened_per_s", 200) - loop.time()))
    deadline_s = loop.time() + _LATEST_S
    while state.begun < job["streams"] and not state.failed and loop.time() < deadline_s:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    before = {name: processes.cpu_s(pids) for name, pids in watched.items()}
    state.measuring, measured_from_s = True, loop.time()
    await asyncio.sleep(job["seconds"])
    state.measuring, seconds = False, loop.time() - measured_from_s
    used = {name: processes.cpu_s(pids) - before[name] for name, pids in watched.items()}
    early = state.ended
    memory = {name: processes.rss_bytes(pids) - memory_before[name] for name, pids in watched.items()}
    while state.ended + state.failed < job["streams"] and loop.time() < deadline_s:
        await asyncio.sleep(0.05)
    if left := job["streams"] - state.ended - state.failed:
        state.fail(f"{left} streams did not end")
    if early:
        state.fail(f"{early} streams ended before they were measured")
    return {
        "good": state.ended,
        "failed": state.failed,
        "failures": state.failures,
        "events": state.events,
        "seconds": seconds,
        "cpu_s": used,
        "memory_bytes": memory,
        "opened": state.opened.buckets,
        "first": state.first.buckets,
        "histogram": state.delays.buckets,
    }
