"""Counts what runs in this thread: calls and commands to Redis, or instructions of the interpreter. Times play no part in it.

What the bench itself does is left out. Counts depend on the versions of Python and of the libraries, not on the machine.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from sentinel.ledger.redis.pipeline import Pipeline

_TO_REDIS: Final = Pipeline.ask.__code__
_HERE: Final = str(Path(__file__).parent)
_TOOL: Final = 4  # of sys.monitoring's six; 0, 1, 2 and 5 are a debugger's, coverage's, a profiler's and an optimiser's


class Calls:
    """Counts calls while it is entered: of Sentinel's functions, of other Python functions, of builtins, and to Redis.

    A coroutine counts each time it goes on.
    """

    def __init__(self) -> None:
        self.calls = self.library_calls = self.builtin_calls = self.redis_calls = 0

    def __enter__(self) -> "Calls":
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


class Bytecodes:
    """Counts instructions while it is entered, of Sentinel and of libraries; by `sys.monitoring` where there is one."""

    def __init__(self) -> None:
        self.bytecodes = 0

    def __enter__(self) -> "Bytecodes":
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            monitoring.use_tool_id(_TOOL, "bench.guard")
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, self._monitored)
            monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
            monitoring.restart_events()
        else:
            sys.settrace(self._entered)
        return self

    def __exit__(self, *_exception: object) -> None:
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(_TOOL, 0)
            sys.monitoring.free_tool_id(_TOOL)
        else:
            sys.settrace(None)

    def _monitored(self, code: CodeType, _offset: int) -> Any:
        if _is_bench(code):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined, unused-ignore]
        self.bytecodes += 1
        return None

    def _entered(self, frame: FrameType, _event: str, _argument: object) -> Any:
        if _is_bench(frame.f_code):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._traced

    def _traced(self, _frame: FrameType, event: str, _argument: object) -> Any:
        self.bytecodes += event == "opcode"
        return self._traced


def usual(rounds: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], int]:
    """(The counts most rounds have, how many have them); of several the least. Rounds with nothing beside them are the same."""
    times = Counter(rounds)
    most = max(times.values())
    return min(counts for counts in times if times[counts] == most), most


def _is_bench(code: CodeType) -> bool:
    return code.co_filename.startswith(_HERE)
