"""A Redis on a socket that answers as a test tells it, command by command, and remembers what it was sent.

`running` closes it with its pipeline; what it cannot write any more is dropped.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import hiredis

from sentinel.ledger import open_redis
from sentinel.ledger.redis.pipeline import Pipeline

Command = list[bytes]
Answer = Callable[["Fake", Command], Awaitable[bytes | None] | bytes | None]


class Fake:
    """A Redis of one script: `answer` gets each command and says the bytes of its reply; None says nothing."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.url = f"unix://{path}"
        self.commands: list[list[Command]] = []
        self.chunks: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen: on the path, or with `tls` on a port of 127.0.0.1."""
        if tls is None:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
            self.url = f"rediss://localhost:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Hang up and listen no more."""
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: list[Command] = []
        self.commands.append(commands)
        self.writers.append(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                got = []
                while (command := parser.gets()) is not False:
                    if command == [b"INFO", b"server"]:
                        writer.write(b"$0\r\n\r\n")
                    else:
                        got.append(command)
                self.chunks.append(len(got))
                commands += got
                for command in got:
                    if command[:2] == [b"SCRIPT", b"LOAD"]:
                        writer.write(b"+loaded\r\n")
                        continue
                    said = self._answer(self, command)
                    reply = await said if isinstance(said, Awaitable) else said
                    if reply is not None:
                        writer.write(reply)
        except ConnectionError:
            pass
        finally:
            writer.close()


def echo(_fake: Fake, command: Command) -> bytes:
    """GET x is answered with x."""
    return b"$%d\r\n%s\r\n" % (len(command[-1]), command[-1])


@asynccontextmanager
async def running(path: Path, answer: Answer, timeout_s: float = 2.0, query: str = "") -> AsyncIterator[tuple[Fake, Pipeline]]:
    """A Fake, and a pipeline to it."""
    fake = Fake(path / "fake.sock", answer)
    await fake.start()
    pipeline = Pipeline(open_redis(fake.url + query, 1.0), timeout_s)
    try:
        yield fake, pipeline
    finally:
        fake.stop()
        await pipeline.close()
