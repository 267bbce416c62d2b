"""Where the time of a request goes when it is alone: `python -m bench.hops [--requests 2000] [--pause-ms 0]` prints tables.

With `--streams` each request opens a connection of its own and asks for a stream, of which it waits for the first event, and
leaves: the provider is asked over a new connection too, as by streams that are opened beside others.

One connection, one request after the other, everything on. The worker and the server's own thread have the first core; client,
Redis, provider and Zion the others. Two floors are served in the same way: an application that answers at once, and one that
reads the body before (`bench.hops_app`). A hop is the time between two marks, of the machine's monotonic clock; the mean over
the fifth of the requests around the median, so that hops add up. Linux only. StackError where something does not come up.
"""

import argparse
import asyncio
import itertools
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

from bench.in_process import BODY, STREAMED, everything_on, start_stand_in, token_of
from loadtest import nginx, processes
from sentinel.devstack.child import Child
from sentinel.devstack.claims import free_port
from sentinel.devstack.redis_server import RedisServer
from sentinel.ops import settings

Marks = list[tuple[str, int]]
_APPLICATIONS: Final = {"answers at once": "constant", "reads the body": "reading", "Sentinel": "marked"}
_WARM_UP: Final = 300
_START_S: Final = 30.0
_MARKS: Final = re.compile(rb"x-marks: ([^\r]+)")
_SWITCHES: Final = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)", re.MULTILINE)


def switches(pids: list[int]) -> int:
    """How often threads of these processes were put aside, so far."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(found) for thread in threads for found in _SWITCHES.findall(thread.read_text(encoding="ascii")))


class Client:
    """One kept connection, or a new one for each stream."""

    def __init__(self, port: int, *, streams: bool) -> None:
        self._port, self._streams = port, streams
        body = STREAMED if streams else BODY
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        head += "x-title: events=2 gap_ms=60000\r\n" if streams else ""
        head += f"content-length: {len(body)}\r\nauthorization: Bearer {token_of('bench').decode()}\r\n\r\n"
        self._request = head.encode() + body
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self._port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def ask(self, pause_s: float = 0.0) -> Marks:
        """One request, after a pause: its marks."""
        if pause_s:
            time.sleep(pause_s)
        marks = [("asked", time.monotonic_ns())]
        if self._streams:
            self._socket.close()
            self._socket = self._connected()
        self._socket.sendall(self._request)
        answer = b""
        while not answer.endswith((b"}", b"}\n\n\r\n")):
            answer += self._socket.recv(65536)
        ended_ns = time.monotonic_ns()
        found = _MARKS.search(answer)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert found is not None, answer
        for one in found[1].decode().split(","):
            name, _, at_ns = one.rpartition(":")
            marks.append((name, int(at_ns)))
        return [*marks, ("answer there", ended_ns)]

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def usual(requests: list[Marks]) -> list[Marks]:
    """The requests that went the way most of them went."""
    ways: dict[tuple[str, ...], list[Marks]] = defaultdict(list)
    for marks in requests:
        asked = next((at for at, (name, _) in enumerate(marks) if name == "Redis asked"), 0)
        # A reply before that is for the bill of the request before.
        own = [mark for at, mark in enumerate(marks) if at > asked or mark[0] != "Redis answered"]
        ways[tuple(name for name, _ in own)].append(own)
    return max(ways.values(), key=len)


def column(port: int, pids: list[int], requests: int, pause_s: float, *, streams: bool) -> dict[str, float]:
    """What was seen of one application, by row; times are in µs, and means of the fifth of requests around the median."""
    client = Client(port, streams=streams)
    try:
        for _ in range(_WARM_UP):
            client.ask()
        before_s, before = processes.cpu_s(pids), switches(pids)
        seen = usual([client.ask(pause_s) for _ in range(requests)])
        used_s, put_aside = processes.cpu_s(pids) - before_s, switches(pids) - before
    finally:
        client.close()
    seen.sort(key=lambda marks: marks[-1][1] - marks[0][1])
    middle = seen[len(seen) * 2 // 5 : len(seen) * 3 // 5 + 1]
    rows = {}
    for at, ((begin, _), (end, _)) in enumerate(itertools.pairwise(seen[0])):
        rows[f"{begin} → {end}"] = statistics.fmean(marks[at + 1][1] - marks[at][1] for marks in middle) / 1000
    rows["**all**"] = sum(rows.values())
    return {**rows, "processor time": used_s / requests * 1e6, "thread switches": put_aside / requests}


async def measure(requests: int, pause_s: float, *, streams: bool) -> dict[str, dict[str, float]]:
    """A column for each application."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    columns = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        redis = RedisServer(directory / "redis")
        await redis.start()
        stand_ins = [await start_stand_in(one, directory) for one in ("zion", "provider")]
        try:
            for title, application in _APPLICATIONS.items():
                if streams and application != "marked":
                    continue
                port = free_port()
                environ = everything_on(redis.url, stand_ins[0][1], stand_ins[1][1], directory)
                environ |= {"SENTINEL_HOST": "127.0.0.1", "SENTINEL_PORT": str(port), "SENTINEL_ADMIN_PORT": str(free_port())}
                command = [sys.executable, "-m", "bench.hops", "--serve", application]
                served = Child(title, command, log=directory / "log", environ={**os.environ, **environ})
                await served.start(lambda port=port: nginx.listens(port), timeout_s=_START_S)
                processes.pin(served.pid, {cores[0]})
                pids = processes.of_group(served.pid)
                columns[title] = await asyncio.to_thread(column, port, pids, requests, pause_s, streams=streams)
                await served.stop(timeout_s=10)
        finally:
            for child, _ in stand_ins:
                await child.stop(timeout_s=5)
            await redis.stop()
    return columns


def main() -> int:
    """Measure and print; with `--serve`, be what is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.hops", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="before each request, so that it meets nothing of the last")
    parser.add_argument("--serve", choices=_APPLICATIONS.values(), help=argparse.SUPPRESS)
    parser.add_argument("--streams", action="store_true", help="the first event of a stream, each on a connection of its own")
    chosen = parser.parse_args()
    if chosen.serve:
        from sentinel.serve import serve

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        serve(settings.read(), f"bench.hops_app:{chosen.serve}")
        return 0
    for title, rows in asyncio.run(measure(chosen.requests, chosen.pause_ms / 1000, streams=chosen.streams)).items():
        print(f"\n| {title} | µs |\n| --- | --- |")
        print("\n".join(f"| {row} | {value:.4g} |" for row, value in rows.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
