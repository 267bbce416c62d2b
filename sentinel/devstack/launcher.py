"""Becomes another program that is told to stop (SIGTERM) as soon as the process that started it is gone, even by kill -9.

Run as a file, `python -I -S launcher.py PARENT_PID PROGRAM [ARGUMENT …]`: it loads nothing but the standard library, and needs
no hook between fork and exec. The order survives exec; where it does not exist (not Linux) only an orderly stop ends the
program.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def launch(parent: int, command: list[str]) -> None:
    """Replace this process by `command`, unless `parent` is gone already. OSError if the program cannot be run."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the process that asked for this one is gone")
    os.execvp(command[0], command)  # noqa: S606 - the command comes from the stack, no shell is involved


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
