"""auth.identify: who is asking. JWT → this worker's memory → Redis → Zion, with one question per token at a time.

Fails closed: no usable token is `UnauthorizedError`, a known but unpermitted one `ForbiddenError`, and where neither
memory nor Redis knows it while Zion is away, `ZionUnavailableError`. Zion's failures are never remembered; its
refusals are, for seconds. What is no JWT, or has expired, is refused before anybody is asked. The token is not verified here
(Zion does that) but its `exp` is honoured on every hit. Only its SHA-256 is kept.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Final, TypeVar

import msgspec

from sentinel import metrics
from sentinel.edges.ledger import Ledger
from sentinel.edges.zion import Zion
from sentinel.errors import ForbiddenError, LedgerUnavailableError, SentinelError, UnauthorizedError, ZionUnavailableError
from sentinel.logs import Log
from sentinel.protocol import credentials
from sentinel.protocol.fields import Fields
from sentinel.records import Caller

_T = TypeVar("_T")

_log: Final = Log("auth")
_REFUSALS_MAX: Final = 10_000
_TURNED_AWAY_MAX: Final = 10_000


class _Known(msgspec.Struct, frozen=True):
    """A profile and the wall-clock second until which it may be used."""

    caller: Caller
    until_s: float


_read_known: Final = msgspec.json.Decoder(_Known).decode
_write_known: Final = msgspec.json.Encoder().encode


class Auth:
    """Identifies callers. `now_s` is the wall clock, since `exp` is a wall-clock second (RFC 7519 §4.1.4)."""

    def __init__(
        self,
        ledger: Ledger,
        zion: Zion,
        *,
        profile_ttl_s: int,
        refusal_ttl_s: float,
        entries_max: int,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._zion = zion
        self._profile_ttl_s = profile_ttl_s
        self._refusal_ttl_s = refusal_ttl_s
        self._entries_max = entries_max
        self._now_s = now_s
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, Callable[[], SentinelError]]] = OrderedDict()
        # Tokens that Zion could not be asked about. One that comes again goes first: who sends any text as a token seldom sends
        # the same again, and a client does.
        self._turned_away: OrderedDict[bytes, None] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}

    async def identify(self, request_headers: Fields) -> Caller:
        """The owner of the bearer token.

        Raises UnauthorizedError, ForbiddenError or ZionUnavailableError.
        """
        # What is remembered was found to be a token, so that this need not be again; b"" is none.
        caller = self._remembered(sha256(credentials.usual_token(request_headers)).digest())
        return caller or await self._find(credentials.bearer_token(request_headers))

    def _remembered(self, digest: bytes) -> Caller | None:
        known = self._known.get(digest)
        if known is None or known.until_s <= self._now_s():
            return None
        self._known.move_to_end(digest)
        metrics.AUTH.labels("memory").inc()
        return known.caller

    async def _find(self, token: str) -> Caller:
        """Whoever a token belongs to, however it was written."""
        digest = sha256(token.encode()).digest()
        caller = self._remembered(digest)
        if caller is not None:
            return caller
        _, expires_s = credentials.read_jwt(token)
        if expires_s <= self._now_s():
            raise UnauthorizedError("The token has expired.", code="token_expired")
        refusal = self._refused.get(digest)
        if refusal is not None and refusal[0] > self._now_s():
            metrics.AUTH.labels("refused").inc()
            refused = refusal[1]()
            raise refused
        # Shielded: the first asker may leave while others wait for the same answer.
        return (await asyncio.shield(self._ask_once(token, digest, expires_s))).caller

    def _ask_once(self, token: str, digest: bytes, expires_s: float) -> asyncio.Task[_Known]:
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._ask(token, digest, expires_s))
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._asked(digest, done))
        return task

    def _asked(self, digest: bytes, task: asyncio.Task[_Known]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            # Read here so that a failure nobody waits for any more is not reported as unread; askers get their own copy.
            task.exception()

    async def _ask(self, token: str, digest: bytes, expires_s: float) -> _Known:
        """Redis, then Zion; what either says is remembered."""
        now_s = self._now_s()
        known = await self._recall(digest)
        if known is not None and known.until_s > now_s:
            metrics.AUTH.labels("redis").inc()
        else:
            known = await self._ask_zion(token, digest, min(expires_s, now_s + self._profile_ttl_s))
        _note(self._known, digest, known, self._entries_max)
        return known

    async def _ask_zion(self, token: str, digest: bytes, until_s: float) -> _Known:
        metrics.AUTH.labels("zion").inc()
        try:
            user_id, caller = await self._zion.profile(token, first=digest in self._turned_away)
        except ZionUnavailableError:
            _note(self._turned_away, digest, None, _TURNED_AWAY_MAX)
            raise
        except (UnauthorizedError, ForbiddenError) as refusal:
            # A new exception each time: one that is raised again and again would keep every traceback.
            again = partial(type(refusal), refusal.message, code=refusal.code)
            _note(self._refused, digest, (self._now_s() + self._refusal_ttl_s, again), _REFUSALS_MAX)
            raise
        known = _Known(caller, until_s)
        try:
            ttl_s = max(1, int(until_s - self._now_s()))
            await asyncio.gather(
                self._ledger.keep_profile(digest.hex(), _write_known(known), ttl_s), self._ledger.names.learn(user_id, caller)
            )
        except LedgerUnavailableError:
            _log.warning("profile not kept in redis")
        return known

    async def _recall(self, digest: bytes) -> _Known | None:
        """What Redis knows of the token; nothing where Redis is away or holds something else, since Zion can still be asked."""
        try:
            kept = await self._ledger.profile(digest.hex())
            return _read_known(kept) if kept else None
        except LedgerUnavailableError:
            return None
        except msgspec.MsgspecError:
            _log.warning("profile in redis cannot be read")
            return None


def _note(memory: OrderedDict[bytes, _T], digest: bytes, value: _T, entries_max: int) -> None:
    """Remember something of a token; where there is too much, forget what was longest not needed."""
    memory[digest] = value
    while len(memory) > entries_max:
        memory.popitem(last=False)
