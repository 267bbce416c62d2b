"""Which thread of a worker goes first. Fails by doing nothing, where the system has no such rule, or forbids it."""

import contextlib
import os
import threading
from pathlib import Path


def let_this_go_first() -> None:
    """Let no other thread of this process that is there push the calling one aside when it wakes up.

    The server's threads are woken up for every part of an answer, by the loop, and on one core each would take it from the loop
    for that part alone: five switches an event of a stream, where one does when they wait until the loop has done what there is
    to do. On a core of their own they begin at once, as ever.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    with contextlib.suppress(OSError):
        for thread in (int(path.name) for path in Path("/proc/self/task").iterdir()):
            if thread != threading.get_native_id():
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
