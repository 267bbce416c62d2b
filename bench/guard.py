"""A guard against regressions that measures no time: what one request costs in function calls and in memory, counted.

`python -m bench.guard` sends requests through the journey in this process (`bench.in_process`), counts, and compares with the
committed `bench/guard.json`; exit code 1 where a count has grown by more than the tolerance, 0 otherwise (also where one has
shrunk: then write it down). `--write` writes the counts down. Of many rounds one with little beside it counts (the lowest
tenth ends there), so that reports, looks and the handing over of metrics do not show. Counts depend on the versions of Python
and of the libraries, which stand beside them, and not on the machine.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import tracemalloc
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvloop

from bench import machine
from bench.in_process import AGENT, BODY, STREAMED, InProcess
from sentinel.edges.ledger.pipeline import Pipeline

FILE: Final = Path(__file__).with_name("guard.json")
TOLERANCE: Final = {"calls": 0.05, "library_calls": 0.10, "builtin_calls": 0.05, "redis_calls": 0.0, "peak_bytes": 0.15}
_ROUNDS: Final = 41
_WARM_UP: Final = 50
_EVENTS: Final = 40
_SHAPES: Final[dict[str, tuple[bytes, bytes, str, int]]] = {
    "plain": (BODY, b"", "bench", 200),
    # No id of an agent's calls is looked up, nor is its body read twice to find any.
    "agent": (AGENT, b"", "bench", 200),
    # Paced, so that each event is a read of its own: what is counted is the cost of an event.
    f"stream_of_{_EVENTS}": (STREAMED, b"events=%d gap_ms=2" % _EVENTS, "bench", 200),
    # The requests of this caller are used up, and Redis is asked once a second: the median is a refusal that stands.
    "refused": (BODY, b"", "spent", 429),
}
_TO_REDIS: Final = Pipeline._send.__code__
_VERSIONS: Final = ("python", "granian", "uvloop", "msgspec", "aiohttp", "redis", "tiktoken", "prometheus-client")


class Counting:
    """Counts calls while it is entered: of Sentinel's functions, of other Python functions, of builtins, and to Redis.

    A coroutine counts each time it goes on. What this bench itself does is left out.
    """

    def __init__(self) -> None:
        self.calls = self.library_calls = self.builtin_calls = self.redis_calls = 0

    def __enter__(self) -> "Counting":
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_exception: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("bench."):
            return
        ours = module.startswith("sentinel.")
        if event == "call":
            if ours:
                self.calls += 1
                self.redis_calls += frame.f_code is _TO_REDIS
            else:
                self.library_calls += 1
        elif event == "c_call":
            self.builtin_calls += 1


async def _count(sentinel: InProcess, *shape: Any) -> dict[str, int]:
    """The counts of one request of a shape that has little beside it, with all that it leaves behind until it is settled."""
    rounds: list[Counting] = []
    peaks: list[int] = []
    for _ in range(_WARM_UP):
        await sentinel.chat(*shape)
    for _ in range(_ROUNDS):
        with Counting() as counting:
            await sentinel.chat(*shape)
            await asyncio.sleep(0.02)  # the bill is written behind the answer
        rounds.append(counting)
    tracemalloc.start()
    try:
        for _ in range(_ROUNDS):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            await sentinel.chat(*shape)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            await asyncio.sleep(0.02)
    finally:
        tracemalloc.stop()
    counts = {name: sorted(getattr(one, name) for one in rounds)[_ROUNDS // 10] for name in vars(rounds[0])}
    return {**counts, "peak_bytes": int(statistics.median(peaks))}


async def measure() -> dict[str, dict[str, int]]:
    """The counts of every shape of request."""
    with tempfile.TemporaryDirectory() as directory:
        sentinel = InProcess(Path(directory))
        await sentinel.open()
        try:
            return {name: await _count(sentinel, *shape) for name, shape in _SHAPES.items()}
        finally:
            await sentinel.close()


def compare(known: dict[str, dict[str, int]], seen: dict[str, dict[str, int]]) -> list[str]:
    """What has grown beyond its tolerance, one sentence each; a shape or count that was not known before has not."""
    grown = []
    for shape, counts in seen.items():
        for name, count in counts.items():
            before = known.get(shape, {}).get(name, count)
            if count > before * (1 + TOLERANCE[name]):
                grown.append(f"{shape}: {name} {before} -> {count} (+{100 * (count / before - 1):.0f} %)")
    return grown


def main() -> int:
    """The command; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard")
    parser.add_argument("--write", action="store_true", help="write the counts down as the ones to compare with")
    chosen = parser.parse_args()
    described = machine.describe()
    versions = {name: described[name] for name in _VERSIONS}
    seen: dict[str, Any] = uvloop.run(measure())
    if chosen.write:
        FILE.write_text(json.dumps({"versions": versions, "counts": seen}, indent=2) + "\n", encoding="utf-8")
        print(f"written to {FILE.name}:\n{json.dumps(seen, indent=2)}")
        return 0
    known = json.loads(FILE.read_text(encoding="utf-8"))
    changed = [
        f"{name} {known['versions'].get(name)} -> {now}" for name, now in versions.items() if known["versions"].get(name) != now
    ]
    if changed:
        print(f"counted with other versions ({', '.join(changed)}), so that differences may be theirs")
    grown = compare(known["counts"], seen)
    print(json.dumps(seen, indent=2))
    print("\n".join(["grown:", *grown]) if grown else "nothing has grown beyond its tolerance")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
