"""The connections of clients to this worker, which the server shows to nobody: looked at as open files of this process.

Ends those that keep a place and ask for nothing. Sees nothing but on Linux; what cannot be looked at is left alone.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sentinel.ops import metrics

Peer = tuple[str, int]

# Where more than half of the places are taken, a connection without a request keeps its own for so long.
_PRESSED_S: Final = 2.0
# Each takes a second open file for a moment.
_AT_A_TIME_MAX: Final = 1000
# Of tcp(7)'s TCP_INFO: the state, the milliseconds since data was last sent (or since there is a connection), and how many
# segments with data were sent.
_INFO_BYTES: Final = 160
_ESTABLISHED: Final = 1
_SENT_MS_AGO_AT: Final = 44
_DATA_SEGMENTS_SENT_AT: Final = 156


class Connections:
    """Those to the port of `listener`. A new one may take `first_s` until its first request is read, and `places` are all
    that this worker takes; between requests the server itself has a longer time.
    """

    def __init__(self, listener: socket.socket, *, first_s: float, places: int) -> None:
        self._port: int = listener.getsockname()[1]
        self._first_s = first_s
        self._places = places
        self._taken = 0

    async def end_idle(self, under_way: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Look at all, in a thread, and end those that have waited too long. `under_way` gives the scopes of the requests that
        are; it is asked afterwards, so that one that came meanwhile is among them.
        """
        pressed = self._taken > self._places / 2
        after_s = min(_PRESSED_S, self._first_s) if pressed else self._first_s
        self._taken, quiet = await asyncio.to_thread(_quiet, self._port, after_s, new_only=not pressed)
        metrics.CONNECTIONS.set(self._taken)
        # Granian gives the port as text.
        busy = {(client[0], int(client[1])) for scope in under_way() if (client := scope.get("client"))}
        for connection in quiet:
            with connection:
                _end(connection, busy, "pressed" if pressed else "first request")


def _end(connection: socket.socket, busy: set[Peer], reason: str) -> None:
    try:
        if connection.getpeername()[:2] not in busy:
            connection.shutdown(socket.SHUT_RDWR)
            metrics.CONNECTIONS_ENDED[reason] += 1
    except OSError:
        return  # it has ended already


def _quiet(port: int, after_s: float, *, new_only: bool) -> tuple[int, list[socket.socket]]:
    """How many connections there are, and copies of those to which nothing was sent for `after_s`.

    `new_only`: among those to which nothing was ever sent.
    """
    taken = 0
    quiet: list[socket.socket] = []
    numbers = [int(file.name) for file in Path("/proc/self/fd").iterdir()] if sys.platform == "linux" else []
    for number in numbers:
        if any(number == copy.fileno() for copy in quiet[:1]):
            continue  # the list named itself, and the first copy has its number by now
        # A copy, since the server may close its own meanwhile, and open another file under its number.
        copy = _copy(number)
        if copy is None:
            continue
        silent_s = _silent_s(copy, port, new_only=new_only)
        taken += silent_s is not None
        if silent_s is None or silent_s < after_s or len(quiet) == _AT_A_TIME_MAX:
            copy.close()
        else:
            quiet.append(copy)
    return taken, quiet


def _silent_s(connection: socket.socket, port: int, *, new_only: bool) -> float | None:
    """How long nothing was sent over this connection to `port`: 0 where it does not matter, None where it is none."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if info[0] != _ESTABLISHED or connection.getsockname()[1] != port:
            return None
    except OSError:
        return None
    (sent,) = struct.unpack_from("I", info, _DATA_SEGMENTS_SENT_AT) if len(info) == _INFO_BYTES else (1,)
    if sent and new_only:
        return 0.0
    (sent_ms_ago,) = struct.unpack_from("I", info, _SENT_MS_AGO_AT)
    return float(sent_ms_ago) / 1000


def _copy(number: int) -> socket.socket | None:
    """A copy of an open file, None where it is no socket, or is closed by now."""
    try:
        copy = os.dup(number)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
