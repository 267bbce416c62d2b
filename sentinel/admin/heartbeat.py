"""A worker's heartbeat: a small file that says, each second, that its loop runs and how ready it is.

The supervisor reads it, whose admin listener must not wait for a loop that may hang. A heartbeat that cannot be written is
logged once; the worker then counts as silent.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from sentinel.ops.logs import Log

_log: Final = Log("heartbeat")
BEAT_S: Final = 1.0
_STARTING_BEAT_S: Final = 0.05
# A loop that has not run for so long answers nobody.
SILENT_S: Final = 5.0


class Heartbeat:
    """What a worker writes into `directory`: `state` as it is, with what `look` (which may take a while) last found."""

    def __init__(self, directory: Path, look: Callable[[], Awaitable[object]], state: Callable[[], dict[str, Any]]) -> None:
        self._path = _path(directory, os.getpid())
        self._look = look
        self._state = state
        self._failing = False
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._looking()), asyncio.create_task(self._beating())]

    def beat(self) -> None:
        """Write now. Whoever reads sees the whole of the old file or of the new one."""
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode({"at_s": time.monotonic(), **self._state()}))
            new.replace(self._path)
        except OSError as error:
            if not self._failing:
                _log.error("the heartbeat cannot be written", exception=error)
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()

    async def _looking(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a defect; without looks, the state would stay what it was for ever
                _log.error("defect", exception=error)
            await asyncio.sleep(BEAT_S)

    async def _beating(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(BEAT_S if self._state()["status"] != "starting" else _STARTING_BEAT_S)


def read(directory: Path, pid: int) -> dict[str, Any]:
    """What worker `pid` last said, or that it is starting, or silent (and for how long)."""
    try:
        told: dict[str, Any] = msgspec.json.decode(_path(directory, pid).read_bytes())
    except FileNotFoundError:
        return {"pid": pid, "status": "starting"}
    # One clock for all processes of a machine, which nobody sets.
    silent_s = time.monotonic() - float(told.pop("at_s"))
    if silent_s > SILENT_S:
        return {"pid": pid, "status": "silent", "silent_seconds": round(silent_s, 1)}
    return {"pid": pid, **told}


def forget(directory: Path, pid: int) -> None:
    """A worker is dead; the next one may have its number."""
    _path(directory, pid).unlink(missing_ok=True)


def _path(directory: Path, pid: int) -> Path:
    return directory / f"heartbeat_{pid}.json"
