"""Clients that do not behave: connections that say nothing, answers that nobody reads, requests whose provider hangs.

A job: `kind` (`idle`, `unread`, `hanging`), `count`. Prints `ready` once all are there, and holds them until its stdin ends.
Their callers have names of their own (`odd-…`), since what they cost is an estimate.
"""

import asyncio
import socket
import sys
from typing import Any, Final
from urllib.parse import urlsplit

from bench.in_process import STREAMED
from bench.zion import token

# More than both kernels' buffers take, so that the gateway has to wait with the rest.
_WISHES: Final = {"unread": "odd events=40000", "hanging": "odd hang"}


async def misbehave(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job; how many were still connected at its end."""
    where, loop = urlsplit(job["url"]), asyncio.get_running_loop()
    links = []
    for _ in range(job["count"]):
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.setblocking(False)  # noqa: FBT003 - the socket module's own
        await loop.sock_connect(link, (where.hostname, where.port))
        if job["kind"] in _WISHES:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
            head += f"x-title: {_WISHES[job['kind']]}\r\ncontent-length: {len(STREAMED)}\r\n"
            head += f"authorization: Bearer {token('odd-' + job['kind'])}\r\n\r\n"
            await loop.sock_sendall(link, head.encode() + STREAMED)
        links.append(link)
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    for link in links:
        link.close()
    return {"good": len(links), "failed": 0, "failures": {}}
