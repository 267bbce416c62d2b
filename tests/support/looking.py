"""What the worker does for each exchange that is open: looks after it, over and over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sentinel.downstream.exchange import Exchange


@asynccontextmanager
async def looked_after(exchange: Exchange) -> AsyncIterator[None]:
    """While inside, somebody looks after the exchange all the time."""

    async def look() -> None:
        while True:
            exchange.check_deadlines(asyncio.get_running_loop().time(), 1e9)
            await asyncio.sleep(0.001)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
