"""Answers on their way to one client: plain, as a stream of events, or as bytes of any size, with the faults asked for.

Raises what aiohttp raises when the client is gone (ConnectionError, CancelledError); the row then says what was produced.
"""

import asyncio
import json
import random
import secrets
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack import provider_script
from sentinel.devstack.provider.asked import Asked

STALL_S: Final = 3600.0
BLOCK_BYTES: Final = 65_536
_GZIP: Final = 31  # zlib's window bits for the gzip format
_YIELD_EVENTS: Final = 16


def edge_headers() -> dict[str, str]:
    """What a real provider's edge sends beside the answer."""
    return {**provider_script.EDGE_HEADERS, "x-request-id": f"req_{secrets.token_hex(16)}", "server": "cloudflare"}


def generated(size_bytes: int) -> Iterator[bytes]:
    """`size_bytes` of content that only depends on their number, in blocks; compresses badly."""
    for block, start in enumerate(range(0, size_bytes, BLOCK_BYTES)):
        yield random.Random(f"{size_bytes}:{block}").randbytes(min(BLOCK_BYTES, size_bytes - start))


def event(fields: Mapping[str, Any], name: str = "") -> bytes:
    """One event of a stream, with its name where it has one."""
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json.dumps(fields)}\n\n".encode()


async def reply(
    asked: Asked,
    body: Mapping[str, Any] | bytes | str,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """The whole answer, after the delay that was asked for; half of it under the length of all where it is to be cut."""
    await asked.delay()
    asked.row.status = status
    if isinstance(body, Mapping):
        body = json.dumps(body)
    whole = body.encode() if isinstance(body, str) else body
    sent = {**edge_headers(), "content-type": content_type, **(headers or {})}
    if asked.simulate.get("gzip"):
        whole = zlib.compress(whole, wbits=_GZIP)
        sent["content-encoding"] = "gzip"
    sent.update(asked.simulate.get("headers") or {})
    if "cut_after_events" not in asked.simulate:
        return web.Response(status=status, body=whole, headers=sent)
    half = web.StreamResponse(status=status, headers=sent)
    half.content_length = len(whole)
    await half.prepare(asked.request)
    await half.write(whole[: len(whole) // 2])
    _cut(asked)
    return half


def failed(asked: Asked) -> web.Response:
    """The error status that was asked for."""
    simulate = asked.simulate
    status = int(simulate["status"])
    text = simulate.get("body") or json.dumps(provider_script.status_error(status))
    response = web.Response(status=status, text=text, content_type="text/html" if "body" in simulate else "application/json")
    response.headers.update({**edge_headers(), **(simulate.get("headers") or {})})
    return response


async def send_content(
    asked: Asked, size_bytes: int, *, filename: str, content_type: str = "application/octet-stream", chunked: bool = False
) -> web.StreamResponse:
    """`size_bytes` of generated content, with its length unless `chunked`; memory stays flat."""
    await asked.delay()
    asked.row.status = 200
    response = web.StreamResponse(headers={**edge_headers(), "content-type": content_type})
    response.headers["content-disposition"] = f'attachment; filename="{filename}"'
    response.headers.update(asked.simulate.get("headers") or {})
    if not chunked:
        response.content_length = size_bytes
    await response.prepare(asked.request)
    for count, block in enumerate(generated(size_bytes)):
        if count == asked.simulate.get("stall_after_events"):
            await asyncio.sleep(asked.simulate.get("stall_s", STALL_S))
        if count == asked.simulate.get("cut_after_events"):
            _cut(asked)
            return response
        await response.write(block)
    await response.write_eof()
    asked.row.complete = True
    return response


class EventStream:
    """A stream of events to one client. `send` counts events, stalls and cuts; `write` does not."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._sent = 0
        self._packer = zlib.compressobj(wbits=_GZIP) if asked.simulate.get("gzip") else None
        self.response = web.StreamResponse(headers={**edge_headers(), "content-type": "text/event-stream; charset=utf-8"})
        self.response.headers["cache-control"] = "no-cache"
        if self._packer is not None:
            self.response.headers["content-encoding"] = "gzip"
        self.response.headers.update(asked.simulate.get("headers") or {})

    async def open(self) -> None:
        """Send the headers, after the delay that was asked for."""
        await self._asked.delay()
        self._asked.row.status = 200
        await self.response.prepare(self._asked.request)

    async def send(self, event: bytes) -> bool:
        """Send the next event; False if the connection was to be cut before it."""
        simulate = self._asked.simulate
        if self._sent == simulate.get("stall_after_events"):
            await asyncio.sleep(simulate.get("stall_s", STALL_S))
        if self._sent == simulate.get("cut_after_events"):
            _cut(self._asked)
            return False
        if self._sent % _YIELD_EVENTS == _YIELD_EVENTS - 1:
            await asyncio.sleep(0)  # else a client that left is noticed only at the end
        await self.write(event)
        self._sent += 1
        return True

    async def write(self, event: bytes) -> None:
        """Send bytes at once, also when they are compressed."""
        if self._packer is not None:
            event = self._packer.compress(event) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        await self.response.write(event)

    async def close(self) -> None:
        """The stream is whole."""
        if self._packer is not None:
            await self.response.write(self._packer.flush())
        await self.response.write_eof()
        self._asked.row.complete = True


def _cut(asked: Asked) -> None:
    if asked.request.transport is not None:
        asked.request.transport.close()  # after what was written, unlike abort()
