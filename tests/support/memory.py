"""What memory the processes of a stack take, from /proc."""

import os
from pathlib import Path

from sentinel.devstack.stack import Stack


def rss_bytes(stack: Stack) -> int:
    """The resident memory of the stack's one worker."""
    return _largest(stack)[0]


def worker_pid(stack: Stack) -> int:
    """The process of the stack's one worker."""
    return _largest(stack)[1]


def _largest(stack: Stack) -> tuple[int, int]:
    """The resident bytes and the id of the largest process of Sentinel's group."""
    group = os.getpgid(stack.child("sentinel").pid)
    seen = [(0, 0)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                seen.append((int((process / "statm").read_text().split()[1]), int(process.name)))
        except (ProcessLookupError, FileNotFoundError):
            continue
    pages, pid = max(seen)
    return pages * os.sysconf("SC_PAGE_SIZE"), pid


def begin_peak(pid: int) -> None:
    """Let the kernel forget the most that a process ever had."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most resident memory a process ever had, or since `begin_peak`."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
