"""The way to Redis: calls made in one tick of the loop travel in one pipeline, in a task that no caller can cancel.

Fails as LedgerUnavailableError, for the caller alone: after `timeout_s` for one that waits, and at once where Redis refuses or
breaks off. A cancelled or late caller leaves its place empty, so replies cannot shift to somebody else. A connection
that broke is tried once more with the same calls, which is safe because every script is idempotent by an id it is given.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from sentinel import lua, metrics
from sentinel.errors import LedgerUnavailableError
from sentinel.logs import Log

_log: Final = Log("ledger")

# More pipelines under way only make smaller ones; while all are, calls gather for the next.
_PIPELINES_MAX: Final = 4
_CALLS_MAX: Final = 512
SCRIPTS: Final = ("admit", "snapshot", "settle", "beat", "sweep", "take", "done", "bury", "fail")
COMMANDS: Final = ("get", "set", "hdel", "ping")


class _Call:
    __slots__ = ("command", "reply", "script")

    def __init__(self, script: str, command: tuple[str | bytes, ...], reply: asyncio.Future[Any]) -> None:
        self.script = script
        self.command = command
        self.reply = reply


class Pipeline:
    """Sends commands and scripts. `timeout_s` bounds each call; the pipeline itself lives until the socket's own time-out."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._waiting: deque[_Call] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._broken = False
        self._texts = {name: lua.source(name) for name in SCRIPTS}
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._texts.items()
        }
        self._seconds = {name: metrics.LEDGER_SECONDS.labels(name) for name in (*SCRIPTS, *COMMANDS)}
        self._errors = {name: metrics.LEDGER_ERRORS.labels(name) for name in (*SCRIPTS, *COMMANDS)}

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """The reply of one of SCRIPTS. Raises LedgerUnavailableError; whether it ran is then unknown."""
        return await self._call(name, ("EVALSHA", self._digests[name], str(len(keys)), *map(_bytes, (*keys, *arguments))))

    async def command(self, name: str, *arguments: str | bytes | int) -> Any:
        """The reply of one of COMMANDS. Raises LedgerUnavailableError."""
        return await self._call(name, (name.upper(), *map(_bytes, arguments)))

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        while self._running:
            await asyncio.wait(self._running)
        await self._redis.aclose()

    async def _call(self, name: str, command: tuple[str | bytes, ...]) -> Any:
        begun_s = time.perf_counter()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(name, command, future))
        self._wake()
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await future
        except TimeoutError:
            reply = TimeoutError(f"no answer within {self._timeout_s} s")
        if isinstance(reply, Exception):
            self._errors[name].inc()
            self._note(name, reply)
            raise LedgerUnavailableError("Limits cannot be checked right now.", retry_after_s=1) from reply
        self._note(name, None)
        self._seconds[name].observe(time.perf_counter() - begun_s)
        return reply

    def _note(self, script: str, error: Exception | None) -> None:
        """Log when Redis goes away and when it is back, not every call in between."""
        if self._broken != (error is not None):
            self._broken = error is not None
            if error is None:
                _log.info("redis answers again", script=script)
            else:
                _log.warning("redis does not answer", script=script, error=str(error))

    def _wake(self) -> None:
        """Send at the end of this tick, so that every call it makes goes along."""
        if not self._scheduled and len(self._running) < _PIPELINES_MAX:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        calls: list[_Call] = []
        while self._waiting and len(calls) < _CALLS_MAX:
            call = self._waiting.popleft()
            if not call.reply.done():
                calls.append(call)
        if calls:
            task = asyncio.create_task(self._execute(calls))
            self._running.add(task)
            task.add_done_callback(self._sent)
        if self._waiting:
            self._wake()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting:
            self._wake()

    async def _execute(self, calls: list[_Call]) -> None:
        replies = await self._exchange([call.command for call in calls])
        lost = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lost:
            # Redis was restarted or flushed its scripts: those calls did not run. Load and send them, and only them, again.
            names = {calls[at].script for at in lost}
            loads: list[tuple[str | bytes, ...]] = [("SCRIPT LOAD", self._texts[name]) for name in sorted(names)]
            again = await self._exchange(loads + [calls[at].command for at in lost])
            for at, reply in zip(lost, again[len(loads) :], strict=True):
                replies[at] = reply
        for call, reply in zip(calls, replies, strict=True):
            if not call.reply.done():
                # A value even where it is an error: nobody may be left to read an exception.
                call.reply.set_result(reply)

    async def _exchange(self, commands: list[tuple[str | bytes, ...]]) -> list[Any]:
        """One reply for each command; where the connection failed, the failure for each."""
        try:
            try:
                return await self._execute_once(commands)
            except RedisConnectionError:
                return await self._execute_once(commands)
        except (RedisError, OSError) as error:
            return [error] * len(commands)

    async def _execute_once(self, commands: list[tuple[str | bytes, ...]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))


def _bytes(value: str | bytes | int) -> bytes:
    """What goes on the wire. A lone surrogate must not break the pipeline that others travel in."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
