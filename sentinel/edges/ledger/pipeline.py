"""The way to Redis: calls made in one tick of the loop travel in one pipeline, in a task that no caller can cancel.

Fails as LedgerUnavailableError, for the caller alone: after `timeout_s` for one that waits, at once where Redis refuses or
breaks off, and at once while the breaker is open. A cancelled or late caller leaves its place empty, so replies cannot shift
to somebody else. What is lost on the way is sent once more, within the same deadline: a pipeline whose connection broke, and
a call that asks for it (`resend`) after half its time. That is safe because every script is idempotent by an id it is given.
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
from redis.exceptions import TimeoutError as RedisTimeoutError

from sentinel import lua, metrics
from sentinel.edges.ledger.breaker import Breaker
from sentinel.errors import LedgerUnavailableError
from sentinel.logs import Log

_log: Final = Log("ledger")

# More pipelines under way only make smaller ones; while all are, calls gather for the next.
_PIPELINES_MAX: Final = 4
_CALLS_MAX: Final = 512
_PROBE_S: Final = 0.5
# How often the loop may have stood still (a collection, a stopped process) before that counts as Redis being late.
_STALLS_MAX: Final = 3
SCRIPTS: Final = (
    "admit",
    "snapshot",
    "settle",
    "beat",
    "sweep",
    "take",
    "done",
    "bury",
    "fail",
    "part",
    "peek",
    "gate",
    "tell",
    "usage",
    "requeue",
    "drop",
)
COMMANDS: Final = (
    "del",
    "get",
    "getex",
    "hdel",
    "hget",
    "hmget",
    "hscan",
    "hset",
    "info",
    "ping",
    "scan",
    "set",
    "time",
    "zscan",
)


class _Call:
    """One call on its way. `due_s` is when the next half of its time is over (`halves` are), `sent` that it has left."""

    __slots__ = ("command", "due_s", "half_s", "halves", "name", "reply", "resend", "sent", "stalls", "timer")

    def __init__(self, name: str, command: tuple[str | bytes, ...], reply: asyncio.Future[Any], *, resend: bool) -> None:
        self.name = name
        self.command = command
        self.reply = reply
        self.resend = resend
        self.sent = False
        self.halves = self.stalls = 0
        self.due_s = self.half_s = 0.0
        self.timer: asyncio.TimerHandle | None = None


class Pipeline:
    """Sends commands and scripts. `timeout_s` bounds each call; the pipeline itself lives until the socket's own time-out."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._breaker = Breaker()
        self._probing: asyncio.Task[None] | None = None
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

    @property
    def away(self) -> bool:
        """Whether calls are refused at once, until a probe is answered."""
        return self._breaker.is_open

    async def open(self) -> None:
        """Connect and load the scripts, in the time that takes: the first callers' deadlines are not for that. Never fails."""
        loads: list[tuple[str | bytes, ...]] = [("SCRIPT LOAD", text) for text in self._texts.values()]
        warmed = await asyncio.gather(self._exchange(loads), *(self._exchange([("PING",)]) for _ in range(_PIPELINES_MAX - 1)))
        if any(_broke(reply) for replies in warmed for reply in replies) and self._breaker.open():
            self._opened()

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[str | int], *, resend: bool = False) -> Any:
        """The reply of one of SCRIPTS. Raises LedgerUnavailableError; whether it ran is then unknown, if it was `sent`."""
        command: tuple[str | bytes, ...] = ("EVALSHA", self._digests[name], str(len(keys)), *map(_bytes, (*keys, *arguments)))
        return await self._call(name, command, resend=resend)

    async def command(self, name: str, *arguments: str | bytes | int) -> Any:
        """The reply of one of COMMANDS. Raises LedgerUnavailableError."""
        return await self._call(name, (name.upper(), *map(_bytes, arguments)))

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        while self._running:
            await asyncio.wait(self._running)
        await self._redis.aclose()

    async def _call(self, name: str, command: tuple[str | bytes, ...], *, resend: bool = False, probe: bool = False) -> Any:
        if self._breaker.is_open and not probe:
            self._errors[name].inc()
            raise LedgerUnavailableError("Limits cannot be checked right now.", retry_after_s=1, sent=False)
        begun_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        call = _Call(name, command, loop.create_future(), resend=resend)
        self._waiting.append(call)
        self._wake()
        self._arm(loop, call)
        try:
            reply = await call.reply
        finally:
            assert call.timer is not None
            call.timer.cancel()
        if isinstance(reply, Exception):
            self._errors[name].inc()
            self._note(name, reply)
            silent_since_s = call.half_s if isinstance(reply, TimeoutError) else None
            if _broke(reply) and self._breaker.failed(silent_since_s):
                self._opened()
            raise LedgerUnavailableError("Limits cannot be checked right now.", retry_after_s=1, sent=call.sent) from reply
        self._note(name, None)
        self._seconds[name].observe(time.perf_counter() - begun_s)
        return reply

    def _arm(self, loop: asyncio.AbstractEventLoop, call: _Call) -> None:
        """The deadline in two halves, by one timer: cheaper than a time-out of its own for each call."""
        half_s = self._timeout_s / 2
        call.due_s = loop.time() + half_s
        call.timer = loop.call_later(half_s, self._half_over, loop, call)

    def _half_over(self, loop: asyncio.AbstractEventLoop, call: _Call) -> None:
        if call.reply.done():
            return
        if loop.time() - call.due_s > self._timeout_s / 4 and call.stalls < _STALLS_MAX:
            call.stalls += 1  # the loop stood still: the answer may lie in the socket, unread
        elif call.halves == 1:
            call.reply.set_result(TimeoutError(f"no answer within {self._timeout_s} s"))
            return
        else:
            call.halves, call.half_s = 1, loop.time()
            if call.resend and call.sent:
                self._waiting.append(call)  # over another connection; whichever answer comes first counts
                self._wake()
        self._arm(loop, call)

    def _opened(self) -> None:
        """The breaker has opened: say so, and ask in the background until Redis answers within the deadline again."""
        metrics.LEDGER_AWAY.set(1)
        _log.error("redis is away: requests are decided without it")
        self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while True:
            try:
                await self._call("ping", ("PING",), probe=True)
            except LedgerUnavailableError:
                await asyncio.sleep(_PROBE_S)
            else:
                break
        self._breaker.close()
        metrics.LEDGER_AWAY.set(0)
        _log.info("redis is back")

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
                call.sent = True
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
            names = {calls[at].name for at in lost}
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
                replies = await self._execute_once(commands)
            except RedisConnectionError:
                replies = await self._execute_once(commands)
        except (RedisError, OSError) as error:
            return [error] * len(commands)
        self._breaker.answered(asyncio.get_running_loop().time())
        return replies

    async def _execute_once(self, commands: list[tuple[str | bytes, ...]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))


def _broke(reply: object) -> bool:
    """Whether a call failed on its way; a refusal by Redis is an answer."""
    return isinstance(reply, RedisConnectionError | RedisTimeoutError | OSError)


def _bytes(value: str | bytes | int) -> bytes:
    """What goes on the wire. A lone surrogate must not break the pipeline that others travel in."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
