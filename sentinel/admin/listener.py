"""The admin listener: metrics and health for operators, in a thread of the supervisor, so that no worker can keep it waiting.

HTTP/1.1, one request a connection, without a token: whoever reaches the port may ask. What is no such request, or does not come
in time, is closed without an answer; a page that cannot be made is a 500, and logged.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from sentinel.openai import headers, wire
from sentinel.ops.errors import SentinelError, UnknownPathError
from sentinel.ops.logs import Log

_log: Final = Log("admin")
_HEAD_BYTES_MAX: Final = 16_384
_EXCHANGE_S: Final = 10.0
# Beyond it the oldest is closed, so that who says nothing keeps nobody out.
_CONNECTIONS_MAX: Final = 256
_ROUTES: Final = ("/metrics", "/health/live", "/health/ready")
_JSON: Final = [(b"content-type", b"application/json")]
_SERVING: Final = frozenset({"ready", "degraded"})

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Admin:
    """The listener on `listener`. `workers` says how each living worker is (`heartbeat.read`); `page` makes the page of
    metrics, and is called in a thread.
    """

    def __init__(
        self,
        listener: socket.socket,
        workers: Callable[[], list[dict[str, Any]]],
        page: Callable[[], bytes],
        page_type: bytes,
    ) -> None:
        self._listener = listener
        self._workers = workers
        self._page = page
        self._page_type = page_type
        self._open: dict[asyncio.StreamWriter, None] = {}

    def start(self) -> None:
        """Answer from now on, until this process ends."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="admin", daemon=True).start()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=_HEAD_BYTES_MAX)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > _CONNECTIONS_MAX:
            next(iter(self._open)).transport.abort()
        try:
            async with asyncio.timeout(_EXCHANGE_S):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError):
            # It left, it was too slow, or it spoke no HTTP.
            writer.transport.abort()
        finally:
            self._open.pop(writer, None)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0].decode("ascii")
        method, target, _ = line.split(" ")
        try:
            status, head, body = await self._answer(method, target.partition("?")[0])
        except SentinelError as error:
            status, head, body = error.status, headers.error(error), wire.error_body(error)
        except Exception as error:  # noqa: BLE001 - a defect must not end the listener
            _log.error("defect", exception=error)
            status, head, body = 500, [], b""
        head = [*head, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"), (b"connection", b"close")]
        writer.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())
        writer.write(b"".join(b"%s: %s\r\n" % pair for pair in head) + b"\r\n" + (b"" if method == "HEAD" else body))
        # Said here, since a worker that was made meanwhile has a copy of the socket, and closing ours would end nothing.
        writer.write_eof()
        await writer.drain()

    async def _answer(self, method: str, path: str) -> Answer:
        if path not in _ROUTES:
            raise UnknownPathError(f"There is no such page here; there are {', '.join(_ROUTES)}.")
        if method not in {"GET", "HEAD"}:
            raise wire.wrong_method(method, path, "GET, HEAD")
        if path == "/metrics":
            return 200, [(b"content-type", self._page_type)], await asyncio.to_thread(self._page)
        workers = self._workers()
        status, state = live(workers) if path == "/health/live" else ready(workers)
        return status, _JSON, msgspec.json.encode({"status": state, "workers": workers})


def live(workers: list[dict[str, Any]]) -> tuple[int, str]:
    """200 while the loop of one worker runs."""
    alive = any(worker["status"] not in {"silent", "starting"} for worker in workers)
    return (200, "live") if alive else (503, "not live")


def ready(workers: list[dict[str, Any]]) -> tuple[int, str]:
    """200 where every worker that takes connections serves: the kernel gives each its share of them, whatever state it is in.

    One that is starting takes none yet.
    """
    states = {worker["status"] for worker in workers} - {"starting"}
    if not states or states - _SERVING:
        return 503, "not ready"
    return 200, "degraded" if "degraded" in states else "ready"
