"""A Redis that comes back with less than it had: its folder, as it was a moment before.

Files are copied while Redis writes them, as a crash would leave them: an append-only file is whole up to its last command.
"""

import asyncio
import shutil
from pathlib import Path

from sentinel.devstack.stack import Stack


async def copy(stack: Stack) -> Path:
    """What a crash now would leave of the stack's Redis; give it to `bring_back` once."""
    older = stack.directory / "older"
    await asyncio.to_thread(shutil.rmtree, older, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, stack.directory / "redis", older, ignore=shutil.ignore_patterns("*.sock"))
    return older


async def bring_back(stack: Stack, older: Path) -> None:
    """Start the stack's Redis, which was killed, with what it had when `older` was copied."""
    folder = stack.directory / "redis"
    await asyncio.to_thread(shutil.rmtree, folder)
    await asyncio.to_thread(older.rename, folder)
    await stack.start("redis")
