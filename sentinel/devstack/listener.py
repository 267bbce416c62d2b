"""Runs a simulator's application as a process of its own, on 127.0.0.1, until SIGTERM or SIGINT.

Prints `listening on http://127.0.0.1:PORT` as its first line once it takes connections; a port in use ends it with OSError.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Final

from aiohttp import web

_FIELD_BYTES_MAX: Final = 65_536  # a token may have half of that


async def listen(app: web.Application, port: int, *, opened: Callable[[web.AppRunner], None] | None = None) -> None:
    """Serve `app` on `port` (0: a free one). Handlers are cancelled as soon as their peer closes (`handler_cancellation`).

    `opened` gets the runner before the port is announced: what looks at open connections needs it.
    """
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2, max_field_size=_FIELD_BYTES_MAX
    )
    await runner.setup()
    if opened is not None:
        opened(runner)
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
        await site.start()
        sys.stdout.write(f"listening on http://127.0.0.1:{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()
