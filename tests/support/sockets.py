"""The sockets of other processes, looked at through duplicates of their descriptors (Linux 5.6)."""

import ctypes
import os
import socket
from pathlib import Path
from typing import Final

from sentinel.devstack.stack import Stack

_PIDFD_GETFD: Final = 438


def connected(stack: Stack) -> list[socket.socket]:
    """Duplicates of the TCP connections that Sentinel's processes hold. Raises PermissionError where that is forbidden."""
    group = os.getpgid(stack.child("sentinel").pid)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            if os.getpgid(pid) != group:
                continue
            numbers = [int(one.name) for one in (process / "fd").iterdir() if str(one.readlink()).startswith("socket:")]
        except (ProcessLookupError, FileNotFoundError):
            continue
        handle = os.pidfd_open(pid)
        copies = [_duplicate(handle, number) for number in numbers]
        os.close(handle)
        found += [copy for copy in copies if _is_connection(copy)]
    return found


def _duplicate(handle: int, number: int) -> socket.socket:
    call = ctypes.CDLL(None, use_errno=True).syscall
    copy = call(_PIDFD_GETFD, handle, number, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return socket.socket(fileno=copy)


def _is_connection(copy: socket.socket) -> bool:
    if copy.family in {socket.AF_INET, socket.AF_INET6} and copy.type == socket.SOCK_STREAM:
        try:
            copy.getpeername()
        except OSError:
            copy.close()
            return False
        return True
    copy.close()
    return False


def waiting_bytes(port: int) -> dict[int, tuple[int, int]]:
    """The connections that servers of this machine hold on 127.0.0.1:`port`, by their client's port: the bytes that the kernel
    keeps for the client, and for the server.
    """
    held = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        # Neither the listening socket itself (0A), nor what no process has any more (06, TIME_WAIT).
        if local == f"0100007F:{port:04X}" and state not in {"0A", "06"}:
            down, up = queues.split(":")
            held[int(remote.partition(":")[2], 16)] = (int(down, 16), int(up, 16))
    return held
