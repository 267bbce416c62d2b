"""What each step of a request costs: `python -m bench.steps [--requests 6000] [--at-once 16]` prints a table.

Plain requests go through the journey in this process (`bench.in_process`, so without the server). Every millisecond of CPU
time the stack is looked at, and what runs is counted for the step of Sentinel's innermost module; a step's cost is its
share of the time all requests took. Unlike a profiler this slows nothing down. Linux and macOS.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

import uvloop

from bench.in_process import InProcess

# By the beginning of a module's name; the first that fits. What no module of Sentinel runs is the loop's.
_STEPS: Final = (
    ("sentinel.app", "path table, answer"),
    ("sentinel.worker", "path table, answer"),
    ("sentinel.downstream.exchange", "client: body in, answer out"),
    ("sentinel.downstream.cancel_scope", "client: body in, answer out"),
    ("sentinel.openai.headers", "headers, both ways"),
    ("sentinel.openai.header_fields", "headers, both ways"),
    ("sentinel.stages.auth", "authentication"),
    ("sentinel.stages.ownership", "owners of objects"),
    ("sentinel.openai.tokens.tokenizer", "token count"),
    ("sentinel.openai.tokens.prompts", "token count"),
    ("sentinel.stages.admission", "admission"),
    ("sentinel.stages.forward", "provider: ask and read"),
    ("sentinel.upstream.http1", "provider: ask and read"),
    ("sentinel.upstream.provider", "provider: ask and read"),
    ("sentinel.stages.relay", "relay and metering"),
    ("sentinel.openai.response.body_meter", "relay and metering"),
    ("sentinel.openai.response.usage", "relay and metering"),
    ("sentinel.openai.response.dialects", "relay and metering"),
    ("sentinel.stages.settlement", "settlement"),
    ("sentinel.stages.leases", "settlement"),
    ("sentinel.journal", "journal"),
    ("sentinel.ledger", "Redis: two scripts"),
    ("sentinel.zion.limits", "Redis: two scripts"),
    ("sentinel.ledger.payer", "Redis: two scripts"),
    ("sentinel.ops.metrics", "metrics"),
    ("prometheus_client", "metrics"),
    ("sentinel.stages.reporting", "reports to Zion"),
    ("sentinel.zion.client", "reports to Zion"),
    ("sentinel.stages.intake", "reading the request"),
    ("sentinel.protocol", "reading the request"),
    ("sentinel.journey", "journey"),
    ("bench", "this bench, in the place of the server"),
    ("sentinel", "others"),
)
_LOOP: Final = "event loop and sockets"
_INTERVAL_S: Final = 0.001
_WARM_UP: Final = 500


def step_of(frame: FrameType | None) -> str:
    """The step of the innermost frame that belongs to one."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        for beginning, step in _STEPS:
            if module.startswith(beginning):
                return step
        frame = frame.f_back
    return _LOOP


async def measure(requests: int, at_once: int) -> tuple[float, Counter[str]]:
    """(µs of processor time a request, samples of each step)."""
    seen: Counter[str] = Counter()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with tempfile.TemporaryDirectory() as directory:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[1:])
        sentinel = InProcess(Path(directory))
        await sentinel.open()
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:1])

        async def ask(times: int) -> None:
            for _ in range(times):
                await sentinel.chat()

        await ask(_WARM_UP)
        signal.signal(signal.SIGPROF, lambda _, frame: seen.update([step_of(frame)]))
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL_S, _INTERVAL_S)
        begun_s = time.process_time()
        await asyncio.gather(*(ask(requests // at_once) for _ in range(at_once)))
        used_s = time.process_time() - begun_s
        signal.setitimer(signal.ITIMER_PROF, 0)
        await sentinel.close()
    return used_s / (requests // at_once * at_once) * 1e6, seen


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--at-once", type=int, default=16)
    chosen = parser.parse_args()
    cost_us, seen = uvloop.run(measure(chosen.requests, chosen.at_once))
    rows = [(step, count / seen.total() * cost_us) for step, count in seen.most_common()]
    sys.stdout.write("| step | µs |\n| --- | --- |\n")
    sys.stdout.writelines(f"| {step} | {step_us:.0f} |\n" for step, step_us in [*rows, ("**all**", cost_us)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
