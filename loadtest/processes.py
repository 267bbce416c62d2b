"""What processes cost, from /proc (Linux), and on which cores they run. What has ended by now costs nothing more."""

import os
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
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
    """Processor time these have taken so far, in user and system mode. Steps of 10 ms each."""
    ticks = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks * _TICK_S


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
