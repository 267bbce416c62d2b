"""What processes cost, from /proc (Linux), and on which cores they run. What has ended by now costs nothing more."""

import os
import time
from pathlib import Path
from typing import Final

# CPUCLOCK_SCHED, in a clock's number beside the process: what the scheduler has counted.
_CPU_CLOCK: Final = 2
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def of_group(group: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                found.append(int(process.name))
        except ProcessLookupError:
            continue
    return found


def pin(group: int, cores: set[int]) -> None:
    """Keep every thread of a process group on these cores; those they start later stay there too."""
    for process in of_group(group):
        for thread in Path(f"/proc/{process}/task").glob("*"):
            os.sched_setaffinity(int(thread.name), cores)


def cpu_s(processes: list[int]) -> float:
    """Processor time these have taken so far, in user and system mode, to the nanosecond.

    From the clock of each process (clock_getcpuclockid(3)): /proc has what the kernel saw at its ticks, which is off by a tenth
    for whoever works in short bursts, the more so where these keep time with the ticks, as paced streams do.
    """
    used_s = 0.0
    for process in processes:
        try:
            used_s += time.clock_gettime(~process << 3 | _CPU_CLOCK)
        except OSError:
            continue
    return used_s


def rss_bytes(processes: list[int]) -> int:
    """Resident memory of the largest of these: of a supervisor and its one worker, the worker."""
    sizes = [0]
    for process in processes:
        try:
            sizes.append(int(Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1]) * _PAGE_BYTES)
        except OSError:
            continue
    return max(sizes)


def running() -> int:
    """Threads that run or want to, on the whole machine: more than the run's own say that it is busy with others."""
    return int(Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0])
