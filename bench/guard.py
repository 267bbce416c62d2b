"""A guard against regressions that measures no time: what one request costs in calls, instructions and memory, counted.

`python -m bench.guard` sends requests through the journey in this process (`bench.in_process`), counts, and compares with the
committed `bench/guard.json`; exit code 1 where a count has grown by more than the tolerance, 0 otherwise (also where one has
shrunk: then write it down). `--write` writes the counts down. Each shape is counted many times, and what most rounds have in
common counts: a report, a look or the handing over of metrics falls into a few of them, on a busy machine into some more.
Counts depend on the versions of Python and of the libraries, which stand beside them, and not on the machine.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any, Final

import uvloop

from bench import machine
from bench.counting import Bytecodes, Calls, usual
from bench.in_process import AGENT, BODY, STREAMED, InProcess

FILE: Final = Path(__file__).with_name("guard.json")
TOLERANCE: Final = {
    "calls": 0.03,
    "library_calls": 0.10,
    "builtin_calls": 0.03,
    "redis_calls": 0.0,
    "bytecodes": 0.03,
    "peak_bytes": 0.15,
}
# Where a count has grown, all are made anew, so often in all: on a machine that has much else to do, something falls into most
# rounds of a stream.
_AGAIN: Final = 3
_ROUNDS: Final = 41
_ROUNDS_MAX: Final = 400
_AGREED: Final = 5
_SETTLED_S: Final = 0.02  # the bill is written behind the answer
_WARM_UP: Final = 50
_EVENTS: Final = 40
_SHAPES: Final[dict[str, tuple[bytes, bytes, str, int]]] = {
    "plain": (BODY, b"", "bench", 200),
    # No id of an agent's calls is looked up, nor is its body read twice to find any.
    "agent": (AGENT, b"", "bench", 200),
    # An event goes out when the one before has arrived, so that each is a read of its own.
    f"stream_of_{_EVENTS}": (STREAMED, b"events=%d stepped" % _EVENTS, "bench", 200),
    # The requests of this caller are used up, and Redis is asked once a second: most refusals stand.
    "refused": (BODY, b"", "spent", 429),
}
_VERSIONS: Final = ("python", "granian", "uvloop", "msgspec", "aiohttp", "redis", "tiktoken", "prometheus-client")


async def _count(sentinel: InProcess, *shape: Any) -> dict[str, int]:
    """The counts of one request of a shape that has nothing beside it, with all that it leaves behind until it is settled."""
    for _ in range(_WARM_UP):
        await sentinel.chat(*shape)
    counts: dict[str, int] = {}
    for counting in (Calls, Bytecodes):
        rounds: list[tuple[int, ...]] = []
        agreed = 0
        while len(rounds) < _ROUNDS or (agreed < _AGREED and len(rounds) < _ROUNDS_MAX):
            with counting() as counted:
                await sentinel.chat(*shape)
                await asyncio.sleep(_SETTLED_S)
            rounds.append(tuple(vars(counted).values()))
            found, agreed = usual(rounds)
        counts |= zip(vars(counted), found, strict=True)
    return {**counts, "peak_bytes": await _peak(sentinel, *shape)}


async def _peak(sentinel: InProcess, *shape: Any) -> int:
    """How far the memory rises above what was there before: the median, since it depends on what is cleared up meanwhile."""
    peaks: list[int] = []
    tracemalloc.start()
    try:
        for _ in range(_ROUNDS):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            await sentinel.chat(*shape)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            await asyncio.sleep(_SETTLED_S)
    finally:
        tracemalloc.stop()
    return int(statistics.median(peaks))


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


def least(one: dict[str, dict[str, int]], other: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The smaller of both for each count."""
    return {shape: {name: min(count, other[shape][name]) for name, count in counts.items()} for shape, counts in one.items()}


def differing(known: dict[str, str], now: dict[str, str]) -> list[str]:
    """What is counted with now and was not then, each as `name then -> now`."""
    return [f"{name} {known.get(name)} -> {version}" for name, version in now.items() if known.get(name) != version]


def versions() -> dict[str, str]:
    """What counts depend on."""
    described = machine.describe()
    return {name: described[name] for name in _VERSIONS}


def main() -> int:
    """The command; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard")
    parser.add_argument("--write", action="store_true", help="write the counts down as the ones to compare with")
    chosen = parser.parse_args()
    seen: dict[str, Any] = uvloop.run(measure())
    if chosen.write:
        FILE.write_text(json.dumps({"versions": versions(), "counts": seen}, indent=2) + "\n", encoding="utf-8")
        print(f"written to {FILE.name}:\n{json.dumps(seen, indent=2)}")
        return 0
    known = json.loads(FILE.read_text(encoding="utf-8"))
    if changed := differing(known["versions"], versions()):
        print(f"counted with other versions ({', '.join(changed)}), so that differences may be theirs")
    tries = 1
    while (grown := compare(known["counts"], seen)) and tries < _AGAIN:
        seen = least(seen, uvloop.run(measure()))
        tries += 1
    print(json.dumps(seen, indent=2))
    print("\n".join(["grown:", *grown]) if grown else "nothing has grown beyond its tolerance")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
