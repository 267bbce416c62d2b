"""What the supervisor knows of its workers: their heartbeats, and what follows for health."""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sentinel.admin import heartbeat
from sentinel.admin.heartbeat import SILENT_S, Heartbeat
from sentinel.admin.listener import live, ready

READY = {"status": "ready", "checks": {"admitting": "ok"}}


async def nothing() -> None:
    """Dependencies that need no look."""


def test_a_worker_says_how_it_is(tmp_path: Path) -> None:
    """Nothing was said: starting; said lately: as it was said; and after `forget` it is a new worker that starts."""
    pid = os.getpid()
    assert heartbeat.read(tmp_path, pid) == {"pid": pid, "status": "starting"}
    Heartbeat(tmp_path, nothing, lambda: dict(READY)).beat()
    assert heartbeat.read(tmp_path, pid) == {"pid": pid, **READY}
    assert heartbeat.read(tmp_path, pid + 1)["status"] == "starting"
    heartbeat.forget(tmp_path, pid)
    heartbeat.forget(tmp_path, pid)
    assert heartbeat.read(tmp_path, pid)["status"] == "starting"


def test_a_worker_that_says_nothing_is_silent(tmp_path: Path) -> None:
    """What was said too long ago counts no more; for how long it was silent is told."""
    pid = os.getpid()
    Heartbeat(tmp_path, nothing, lambda: dict(READY)).beat()
    (file,) = tmp_path.iterdir()
    said = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(said | {"at_s": time.monotonic() - SILENT_S - 2}))
    told = heartbeat.read(tmp_path, pid)
    assert (told["status"], "checks" in told) == ("silent", False)
    assert told["silent_seconds"] >= SILENT_S + 2


async def test_the_heart_beats_while_a_look_takes_long(tmp_path: Path) -> None:
    """A dependency that does not answer, and a look that fails, leave the heartbeat as it is."""
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ValueError("a defect")
        await asyncio.Event().wait()

    states: list[dict[str, Any]] = [{"status": "starting"}, {"status": "starting"}, dict(READY)]
    beating = Heartbeat(tmp_path, look, lambda: states.pop(0) if len(states) > 1 else states[0])
    beating.open()
    async with asyncio.timeout(10):
        while heartbeat.read(tmp_path, os.getpid())["status"] != "ready":
            await asyncio.sleep(0.01)
    beating.close()
    assert looks >= 1


def test_a_heartbeat_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The directory is away: one line, nothing raised; and one more when it goes away again."""
    caplog.set_level(logging.ERROR)
    directory = tmp_path / "away"
    beating = Heartbeat(directory, nothing, lambda: dict(READY))
    for _ in range(3):
        beating.beat()
    assert len(caplog.records) == 1
    directory.mkdir()
    beating.beat()
    (file,) = directory.iterdir()
    file.unlink()
    directory.rmdir()
    beating.beat()
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("states", "alive", "serves"),
    [
        ([], (503, "not live"), (503, "not ready")),
        (["starting", "starting"], (503, "not live"), (503, "not ready")),
        (["ready", "ready"], (200, "live"), (200, "ready")),
        (["ready", "starting"], (200, "live"), (200, "ready")),
        (["ready", "degraded"], (200, "live"), (200, "degraded")),
        (["degraded"], (200, "live"), (200, "degraded")),
        (["ready", "not ready"], (200, "live"), (503, "not ready")),
        (["ready", "silent"], (200, "live"), (503, "not ready")),
        (["not ready"], (200, "live"), (503, "not ready")),
        (["silent", "silent"], (503, "not live"), (503, "not ready")),
        (["silent", "starting"], (503, "not live"), (503, "not ready")),
    ],
)
def test_health_follows_from_the_workers(states: list[str], alive: tuple[int, str], serves: tuple[int, str]) -> None:
    """Live while one loop runs; ready where all that take connections serve; one that is starting takes none."""
    workers = [{"pid": pid, "status": state} for pid, state in enumerate(states)]
    assert (live(workers), ready(workers)) == (alive, serves)
