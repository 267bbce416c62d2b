"""The way to Redis: the calls of one tick of the loop leave in one write, over one connection that they all share.

Fails as LedgerUnavailableError, for the caller alone: after `timeout_s` for one that waits, at once where Redis refuses or
breaks off, at once while the breaker is open, and at once where too many are on their way. A cancelled or late caller leaves
its place empty, so replies cannot shift to somebody else (connection.py). What is lost on the way is sent once more, within the
same deadline: what was under way when its connection broke (link.py), and a call that asks for it (`resend`) after half its
time, over a second connection. That is safe because every script is idempotent by an id it is given.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from sentinel.ledger import scripts
from sentinel.ledger.redis.address import Address
from sentinel.ledger.redis.breaker import Breaker
from sentinel.ledger.redis.connection import Call
from sentinel.ledger.redis.link import Link
from sentinel.ledger.redis.resp import pack, pack_plain
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log

_log: Final = Log("ledger")

_PROBE_S: Final = 0.5
# In which other workers find a Redis that was started again, and tell it what it lost: each looks once a second.
_PEERS_S: Final = 2.0
_HALVES: Final = 2
# Stands for the reply of a call that did not leave.
_REFUSED: Final = ConnectionRefusedError("redis is away, or too many calls are on their way")
# How often the loop may have stood still (a collection, a stopped process) before that counts as Redis being late.
_STALLS_MAX: Final = 3
SCRIPTS: Final = (
    "admit",
    "install_limits",
    "settle",
    "settle_all",
    "renew",
    "expire_holds",
    "claim_batch",
    "ack_batch",
    "dead_letter",
    "retry_batch",
    "ack_items",
    "reseal",
    "peek",
    "gate",
    "gate_result",
    "usage",
    "requeue_letter",
    "discard_letter",
    "release_refresh",
    "names",
    "rename",
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
    "mget",
    "ping",
    "scan",
    "set",
    "time",
    "zscan",
)


class Pipeline:
    """Sends commands and scripts; replies are as RESP2 has them, text as bytes. `timeout_s` bounds each call.

    `redis` says where Redis is, and is closed with it.
    """

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s, self._half_s = timeout_s, timeout_s / 2
        self._breaker = Breaker()
        # When Redis was last found to be away, or to be back: monotonic.
        self.changed_s = float("-inf")
        self._probing: asyncio.Task[None] | None = None
        self._broken = False
        texts = {name: scripts.source(name).encode() for name in SCRIPTS}
        digests = {name: hashlib.sha1(text, usedforsecurity=False).hexdigest() for name, text in texts.items()}
        # What a call begins with: a script's digest, or the name of a command.
        self._begin: dict[str, tuple[str, ...]] = {name: ("EVALSHA", digest) for name, digest in digests.items()}
        self._begin |= {name: (name.upper(),) for name in COMMANDS}
        loads = {name: pack("SCRIPT", "LOAD", text) for name, text in texts.items()}
        address = Address(redis)
        # The second one is made when the first leaves a call waiting for half its time.
        self._first, self._second = (Link(address, loads, heard, self._met) for heard in (None, self._heard))
        # Whether anybody tells a Redis that was started again what it lost, and which run that was told last. Until then the
        # present one is `behind`, and admits nobody.
        self.guarded = self.behind = False
        self._run_id = ""
        # The run that was met first here. Another may have lost what it was told: that comes before new reports are sealed.
        self.first_run_id = ""
        self._met_s = 0.0
        # How many connections were made, and whether Redis said to the last one which run it is.
        self.connections = 0
        self.unsaid = False
        # Every call has the same time, so they are due in the order in which they came: one timer serves all.
        self._due: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = {name: metrics.LEDGER_SECONDS[name] for name in (*SCRIPTS, *COMMANDS)}
        for name in self._seconds:
            metrics.LEDGER_ERRORS[name] += 0  # shown before there is one

    @property
    def away(self) -> bool:
        """Whether calls are refused at once, until a probe is answered; or admissions, until Redis was told what it lost."""
        return self._breaker.is_open or self.behind

    def told(self, run_id: str) -> None:
        """This run of Redis has every bill of this worker; it is said again and again. Others are given time to tell theirs."""
        if self.behind and run_id == self._run_id and time.monotonic() - self._met_s > _PEERS_S:
            self.behind = False
            metrics.LEDGER_AWAY.set(self._breaker.is_open)
            _log.info("redis has what it lost")

    async def open(self) -> None:
        """Connect and load the scripts, in the time that takes: the first callers' deadlines are not for that. Never fails."""
        if not await self._first.open() and self._breaker.open():
            self._opened()

    def script(
        self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int], *, resend: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """The reply of one of SCRIPTS. Raises LedgerUnavailableError; whether it ran is then unknown, if it was `sent`."""
        return self._reply(self.ask(name, (len(keys), *keys, *arguments), resend=resend))

    def command(self, name: str, *arguments: str | bytes | int) -> Coroutine[Any, Any, Any]:
        """The reply of one of COMMANDS. Raises LedgerUnavailableError."""
        return self._reply(self.ask(name, arguments))

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await asyncio.gather(self._first.close(), self._second.close())
        if self._timer is not None:
            self._timer.cancel()
        await self._redis.aclose()

    async def _reply(self, call: Call) -> Any:
        try:
            await call.reply
        finally:
            call.packed = b""  # it may still stand in a queue
        return self.answer(call)

    def ask(self, name: str, arguments: tuple[Any, ...], *, resend: bool = False, probe: bool = False) -> Call:
        """One of COMMANDS on its way, or of SCRIPTS (its `arguments` are how many keys it has, the keys, and what else it is
        told), or refused at once; `answer` is to be asked when its `reply` is there. Never fails.
        """
        command = self._begin[name] + arguments
        try:
            packed = pack_plain(command)
        except UnicodeEncodeError:
            packed = pack(*command)
        loop = asyncio.get_running_loop()
        call = Call(name, packed, loop.create_future(), resend, loop.time() + self._half_s, time.perf_counter())
        if (self._breaker.is_open and not probe) or not self._first.send(call):
            call.reply.set_result(_REFUSED)
            return call
        self._due.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.due_s, self._halves_over, loop)
        return call

    def answer(self, call: Call) -> Any:
        """What was answered to a call whose reply is there. Raises LedgerUnavailableError."""
        name, reply = call.name, call.reply.result()
        call.packed = b""
        if isinstance(reply, Exception):
            metrics.LEDGER_ERRORS[name] += 1
            if reply is not _REFUSED:
                self._note(name, reply)
                silent_since_s = call.half_s if call.halves == _HALVES else None
                heard_s = max(self._first.heard_s, self._second.heard_s)
                if _broke(reply) and self._breaker.failed(heard_s, silent_since_s):
                    self._opened()
            sent = call.link is not None
            raise LedgerUnavailableError("Limits cannot be checked right now.", retry_after_s=1, sent=sent) from reply
        if self._broken:
            self._note(name, None)
        self._seconds[name].observe(time.perf_counter() - call.begun_s)
        return reply

    def _halves_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """The deadline has two halves: the calls whose first or second is over."""
        now_s, due = loop.time(), self._due
        while due and (due[0].reply.done() or due[0].due_s <= now_s):
            call = due.popleft()
            if not call.reply.done():
                self._half_over(call, now_s)
        self._timer = loop.call_at(due[0].due_s, self._halves_over, loop) if due else None

    def _half_over(self, call: Call, now_s: float) -> None:
        if now_s - call.due_s > self._half_s / 2 and call.stalls < _STALLS_MAX:
            call.stalls += 1  # the loop stood still: the answer may lie in the socket, unread
        elif call.halves:
            call.halves = _HALVES
            call.reply.set_result(TimeoutError(f"no answer within {self._timeout_s} s"))
            return
        else:
            call.halves, call.half_s = 1, now_s
            if call.resend and call.link is not None:
                call.places += (self._second if call.link is self._first else self._first).send(call)
        call.due_s = now_s + self._half_s
        self._due.append(call)

    def _heard(self) -> None:
        """Something was answered over the second connection."""
        if self._first.load and self._first.heard_s < asyncio.get_running_loop().time() - self._half_s:
            # Redis is there, and the first connection silent: further calls need not wait for half their time.
            self._first, self._second = self._second, self._first
            self._first.on_heard, self._second.on_heard = None, self._heard

    def _met(self, run_id: str) -> bool:
        """A connection is made, to this run of Redis ("": it does not say). Whether it may admit."""
        self.connections += 1
        self.unsaid = not run_id
        if self.guarded and self._run_id and run_id not in {"", self._run_id}:
            self.behind = True
            self._met_s = time.monotonic()
            metrics.LEDGER_AWAY.set(1)
            _log.warning("redis was started again: it admits nobody until it was told what it lost")
        self._run_id = run_id or self._run_id
        self.first_run_id = self.first_run_id or run_id
        return not self.behind

    def _opened(self) -> None:
        """The breaker has opened: say so, and ask in the background until Redis answers within the deadline again."""
        self.changed_s = time.monotonic()
        metrics.LEDGER_AWAY.set(1)
        _log.error("redis is away: requests are decided without it")
        self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while True:
            try:
                await self._reply(self.ask("ping", (), resend=True, probe=True))
            except LedgerUnavailableError:
                await asyncio.sleep(_PROBE_S)
            else:
                break
        self._breaker.close()
        self.changed_s = time.monotonic()
        metrics.LEDGER_AWAY.set(self.behind)
        _log.info("redis is back")

    def _note(self, script: str, error: Exception | None) -> None:
        """Log when Redis goes away and when it is back, not every call in between."""
        if self._broken != (error is not None):
            self._broken = error is not None
            if error is None:
                _log.info("redis answers again", script=script)
            else:
                _log.warning("redis does not answer", script=script, error=str(error))


def _broke(reply: Exception) -> bool:
    """Whether a call failed on its way; a refusal by Redis is an answer, unless it refuses everything."""
    return isinstance(reply, OSError) or str(reply).startswith(("LOADING", "NOAUTH"))
