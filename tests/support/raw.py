"""A client that sends exactly the bytes it is given, and reads answers by the rules of RFC 9112, to the byte."""

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

_WAIT_S = 10.0


@dataclass(frozen=True)
class RawAnswer:
    """One answer: names in lower case, in the order they came; the body without its framing."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Every value of one header."""
        return [value for given, value in self.headers if given == name]

    def header(self, name: str) -> str | None:
        """The only value of one header, None where it is absent; fails where it came twice."""
        values = self.values(name)
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an answer in OpenAI's shape; fails for any other."""
        assert self.header("content-type") == "application/json", self
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


class RawConnection:
    """One TCP connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._writer is not None
        self._writer.close()

    async def send(self, content: bytes) -> None:
        """Send these bytes; what a peer that has closed does not take is lost, as on any wire."""
        assert self._writer is not None
        try:
            self._writer.write(content)
            await self._writer.drain()
        except ConnectionError:
            return

    async def answer(self, *, method: str = "POST") -> RawAnswer:
        """The next answer, to a request of `method`. EOFError if the connection ends before it is whole."""
        async with asyncio.timeout(_WAIT_S):
            return await self._answer(method)

    async def closed(self) -> bytes:
        """What comes until the other side closes; TimeoutError where it does not."""
        assert self._reader is not None
        async with asyncio.timeout(_WAIT_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def _answer(self, method: str) -> RawAnswer:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        pairs = [line.split(":", 1) for line in head[1:]]
        headers = tuple((name.lower(), value.strip()) for name, value in pairs)
        return RawAnswer(status, headers, await self._body(method, status, dict(headers)))

    async def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        assert self._reader is not None
        if method == "HEAD" or status < 200 or status in {204, 304}:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
            return body
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return await self._reader.read()


def request(method: str, target: str, *lines: str, body: bytes = b"", host: bool = True, version: str = "1.1") -> bytes:
    """A request as it goes over the wire; a body brings its length."""
    head = [f"{method} {target} HTTP/{version}", *(["Host: sentinel"] if host else []), *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


async def once(port: int, content: bytes, *, method: str = "POST") -> RawAnswer:
    """The answer to these bytes on a connection of their own."""
    async with RawConnection(port) as connection:
        await connection.send(content)
        return await connection.answer(method=method)
