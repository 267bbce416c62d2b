"""What a stack must have for itself: its directory and its ports. Where somebody else has it, `StackError` says what to do."""

import errno
import fcntl
import os
import random
import socket
import time
from pathlib import Path
from typing import Final

from sentinel.devstack.child import StackError

_LOCK_WAIT_S: Final = 2.0  # a stack whose parent was killed needs a moment to go down
_POLL_S: Final = 0.05
# Below the ports that Linux gives to outgoing connections (32768 and up): what is free here stays free until somebody listens.
_PORTS: Final = range(10_240, 32_768)
_DRAWS: Final = 100


def lock(path: Path) -> int:
    """An open file that holds the lock at `path`, until it and every copy a child got is closed. Waits up to 2 s."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
                continue
            holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise StackError(
                f"A development stack already runs in {path.parent} (process {holder}); "
                f"stop it with Ctrl-C or `kill {holder}`, or start this one in another directory."
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        return file


def free_port() -> int:
    """A port on 127.0.0.1 that is free now, and that no outgoing connection takes before it is listened on."""
    for port in random.sample(_PORTS, _DRAWS):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            return port
    raise StackError(f"None of {_DRAWS} ports between {_PORTS.start} and {_PORTS.stop - 1} is free.")


def require_free(port: int, option: str = "--port") -> None:
    """Return if Sentinel can listen on `port`, which `option` chooses. Without this check a second server could share it
    (SO_REUSEPORT).
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise StackError(
                f"Port {port} needs more rights than this user has; choose one above 1023 with {option}."
            ) from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise StackError(f"Port {port} is in use; stop what listens there, or choose another with {option}.") from error
