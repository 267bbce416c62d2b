"""The event loop's thread is not pushed aside by the others of its worker."""

import os
import sys
import threading
from pathlib import Path

import pytest

from sentinel.worker.threads import let_this_go_first

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a rule of Linux' scheduler")


def test_all_other_threads_wait_for_the_one_that_asks() -> None:
    """Issue 12: every other thread is scheduled as a batch, which takes no core from who runs; the one that asks is not."""
    seen: list[tuple[int, int]] = []
    asked, over = threading.Event(), threading.Event()

    def ask() -> None:
        let_this_go_first()
        seen.extend((os.sched_getscheduler(thread.native_id or 0), os.sched_getscheduler(0)) for thread in (other,))
        asked.set()

    other = threading.Thread(target=over.wait)
    other.start()
    first = threading.Thread(target=ask)
    first.start()
    try:
        assert asked.wait(10)
        assert seen == [(os.SCHED_BATCH, os.SCHED_OTHER)]
    finally:
        over.set()
        for path in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(int(path.name), os.SCHED_OTHER, os.sched_param(0))
        other.join()
        first.join()


def test_it_does_nothing_where_the_system_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that allows no such call, or shows no threads, costs the gain and nothing else."""

    def forbidden(*_arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    let_this_go_first()
    monkeypatch.setattr(Path, "iterdir", forbidden)
    let_this_go_first()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
