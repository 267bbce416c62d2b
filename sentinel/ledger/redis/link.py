"""A way to Redis that is made when it is needed, and made again when it breaks: first at once, then after growing pauses.

Never raises: where there is no connection, calls get the OSError that says why, at once while the pause lasts. What was under
way when a connection broke is sent once more over the next, and what had not left waits for it. That is safe because every
call is idempotent, most by an id that they carry.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import hiredis
from redis.exceptions import RedisError

from sentinel.ledger.redis.address import Address
from sentinel.ledger.redis.connection import NEVER_S, WRITE_BYTES_MAX, Call, Connection
from sentinel.ledger.redis.resp import pack

_PAUSE_S: Final = 0.05
# Not longer than the breaker's pause between two probes, so that each of them tries.
_PAUSE_MAX_S: Final = 0.5
# Calls on their way at once, those that nobody waits for any more among them. More only wait longer, and fill the memory.
CALLS_MAX: Final = 16_384
ADMIT: Final = "admit"


class Link:
    """One connection at a time. `loads` are the SCRIPT LOAD commands by script, packed; `on_heard` is called when an answer has
    come, where it is set; `met` is told which run of Redis a new connection leads to, and says whether admissions may go there.
    """

    def __init__(
        self,
        address: Address,
        loads: Mapping[str, bytes],
        on_heard: Callable[[], object] | None,
        met: Callable[[str], bool],
    ) -> None:
        self._address = address
        self._loads = loads
        self.on_heard = on_heard
        self._met = met
        self._waiting: deque[Call] = deque()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closing = False
        self._failures = 0
        self._failed = OSError("never connected")
        self._again_at_s = 0.0
        self._changed = asyncio.Event()
        self._heard_s = NEVER_S

    @property
    def heard_s(self) -> float:
        """When something was last answered, in s of the loop."""
        connection = self._connection
        return self._heard_s if connection is None else max(self._heard_s, connection.heard_s)

    @property
    def load(self) -> int:
        """How many calls stand here, waiting to be sent or to be answered, or dropped."""
        return len(self._waiting) + (0 if self._connection is None else len(self._connection.asked))

    def send(self, call: Call) -> bool:
        """Send `call` at the end of this tick, together with every other that the tick brings; False where too many stand here.

        uvloop would write each to the socket at once: a system call for each of us, and one for Redis.
        """
        connection = self._connection
        if connection is None or connection.full:
            return self._wait(call)
        asked, packed = connection.asked, connection.packed
        if len(asked) >= CALLS_MAX:
            return False
        if not packed:
            connection.later(connection.write)
        asked.append(call)
        packed.append(call.packed)
        call.link = self
        return True

    def _wait(self, call: Call) -> bool:
        """Send it when there is a connection, and its socket takes more."""
        if self.load >= CALLS_MAX:
            return False
        if self._connection is None and not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(call)
        return True

    async def open(self) -> bool:
        """Connect now; whether there is a connection."""
        if self._connection is None:
            self._begin()
        while self._connecting is not None:
            await asyncio.wait([self._connecting])
        return self._connection is not None

    async def close(self) -> None:
        """Wait until what is under way is answered, or too long silent, and hang up; later calls are refused."""
        self._closing, self.on_heard = True, self._changed.set
        while self._connecting is not None or self.load:
            self._changed.clear()
            await self._changed.wait()
        if self._connection is not None:
            self._connection.fail(ConnectionAbortedError("the ledger is closed"))
        while self._connection is not None:
            self._changed.clear()
            await self._changed.wait()

    def missing(self, connection: Connection, calls: list[Call]) -> None:
        """Connection: Redis was restarted or flushed its scripts. Load and send those calls, and only those, again."""
        for call in calls:
            call.loaded = True
        loads = [self._loads[name] for name in sorted({call.name for call in calls})]
        connection.send([*[None] * len(loads), *calls], [*loads, *(call.packed for call in calls)])

    def writable(self) -> None:
        """Connection: the socket takes more."""
        self._flush()

    def lost(self, connection: Connection, calls: list[Call], error: OSError) -> None:
        """Connection: it is gone."""
        again = []
        for call in calls:
            if call.again or self._closing or call.reply.done():
                _drop(call, error)
            else:
                call.again = True
                again.append(call)
        self._waiting.extendleft(reversed(again))
        if connection is self._connection:
            if connection.heard_s > NEVER_S:
                self._heard_s, self._failures = connection.heard_s, 0
            self._connection = None
            self._fall_back(error)
        self._changed.set()

    def _flush(self) -> None:
        if self._connection is not None:
            self._drain(self._connection)
        elif self._connecting is None and self._waiting:
            if self._closing or asyncio.get_running_loop().time() < self._again_at_s:
                self._refuse()
            else:
                self._begin()

    def _drain(self, connection: Connection) -> None:
        """Send what waited, as much with each tick as one write may be."""
        size = 0
        while self._waiting and not connection.full:
            if size >= WRITE_BYTES_MAX:
                connection.later(self._flush)
                return
            call = self._waiting.popleft()
            if not call.reply.done():
                connection.send([call], [call.packed])
                call.link = self
                size += len(call.packed)

    def _begin(self) -> None:
        if not self._closing:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        connection = Connection(self, self._address.setup_s)
        try:
            async with asyncio.timeout(self._address.setup_s):
                await self._address.connect(lambda: connection)
                await self._greet(connection)
        except (OSError, TypeError, ValueError, RedisError) as error:
            failure = error if isinstance(error, OSError) else ConnectionError(str(error))
            connection.fail(failure)
            self._connecting = None
            self._fall_back(failure)
        else:
            self._connecting = None
            # Its greeting apart: a connection that breaks right after that must not be made again without a pause.
            self._heard_s, connection.heard_s = connection.heard_s, NEVER_S
            self._connection = connection
            self._flush()
        self._changed.set()

    async def _greet(self, connection: Connection) -> None:
        """Say who asks, and load the scripts: the first callers' deadlines are not for that. Raises OSError."""
        greeting = self._address.greeting()
        calls = _own([*greeting, *self._loads.values(), pack("INFO", "server")])
        connection.send(calls, [call.packed for call in calls])
        for call in calls:
            await call.reply
        for call in calls[: len(greeting)]:
            if isinstance(refusal := call.reply.result(), hiredis.ReplyError):
                raise ConnectionError(f"Redis refuses the connection: {refusal}")
        if connection.error is not None:
            raise connection.error
        facts = calls[-1].reply.result()
        if not self._met(run_of(facts) if isinstance(facts, bytes) else ""):
            # What was under way when the connection broke is sent again, but no admission to a Redis that has lost bills.
            held = [call for call in self._waiting if call.name == ADMIT]
            others = [call for call in self._waiting if call.name != ADMIT]
            self._waiting.clear()
            self._waiting.extend(others)
            for call in held:
                _drop(call, ConnectionError("Redis was started again"))

    def _fall_back(self, error: OSError) -> None:
        """There is no connection: after the first failure the next is tried at once, for who waits or will come."""
        self._failed = error
        self._failures += 1
        if self._failures == 1 and not self._closing:
            self._begin()
            return
        pause_s = min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** min(self._failures - 2, 10)) * random.uniform(0.5, 1)
        self._again_at_s = asyncio.get_running_loop().time() + pause_s
        self._refuse()

    def _refuse(self) -> None:
        while self._waiting:
            _drop(self._waiting.popleft(), self._failed)
        self._changed.set()


def run_of(facts: bytes) -> str:
    """Which run of which server answers, out of what it says of itself."""
    return next((fact.partition(b":")[2].decode() for fact in facts.splitlines() if fact.startswith(b"run_id:")), "")


def _own(commands: Sequence[bytes]) -> list[Call]:
    """Calls of the link's own, which are not sent again."""
    loop = asyncio.get_running_loop()
    calls = [Call("", packed, loop.create_future()) for packed in commands]
    for call in calls:
        call.again, call.loaded = True, True
    return calls


def _drop(call: Call, error: OSError) -> None:
    """A call is lost on one way; if it was sent over no other, `error` is what became of it."""
    call.places -= 1
    if not call.places and not call.reply.done():
        call.reply.set_result(error)
