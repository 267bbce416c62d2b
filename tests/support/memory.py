"""What memory the processes of a stack take, from /proc."""

import os
from pathlib import Path

from sentinel.devstack.stack import Stack


def rss_bytes(stack: Stack) -> int:
    """The resident memory of the stack's one worker: the largest process of Sentinel's group."""
    group = os.getpgid(stack.child("sentinel").pid)
    pages = [0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                pages.append(int((process / "statm").read_text().split()[1]))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return max(pages) * os.sysconf("SC_PAGE_SIZE")
