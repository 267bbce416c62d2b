"""auth.identify: who is asking. JWT → this worker's memory → Redis → Zion, with one question per token at a time.

Fails closed: no usable token is `UnauthorizedError`, a known but unpermitted one `ForbiddenError`, and where neither memory nor
Redis knows it while Zion is away, `ZionUnavailableError`. Zion's failures are never remembered; its refusals are, for seconds.
A profile that has aged is asked for anew, and goes on to its bound where Zion is slow or away. What is no JWT, or has expired,
is refused before anybody is asked. Zion verifies tokens (where its keys are set, never-seen ones are verified here first), but
`exp` is honoured on every hit. Of a token only its SHA-256 is kept.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec

from sentinel.ledger import Ledger
from sentinel.openai.header_fields import Fields
from sentinel.ops import metrics
from sentinel.ops.errors import ForbiddenError, LedgerUnavailableError, SentinelError, UnauthorizedError, ZionUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Caller
from sentinel.zion import credentials
from sentinel.zion.client import Zion

_T = TypeVar("_T")

_log: Final = Log("auth")
_REFUSALS_MAX: Final = 10_000
_TURNED_AWAY_MAX: Final = 10_000
# How long a request waits until an aged profile is renewed, or refused; and how soon Zion is asked again where it failed.
_PATIENCE_S: Final = 0.25
_RENEW_AGAIN_S: Final = 10.0


class _Known(msgspec.Struct, frozen=True):
    """A profile, and the wall-clock seconds until which it may be used, and until which nobody has to be asked."""

    caller: Caller
    until_s: float
    fresh_s: float = 0.0  # older versions kept none


_read_known: Final = msgspec.json.Decoder(_Known).decode
_write_known: Final = msgspec.json.Encoder().encode


class Signatures(Protocol):
    """Who tells tokens that Zion has not signed (zion.signatures)."""

    async def check(self, token: str, head: credentials.Head) -> None:
        """Raises UnauthorizedError for such a token, ZionUnavailableError where that cannot be told yet."""

    async def close(self) -> None:
        """End what is under way."""


class Auth:
    """Identifies callers. `now_s` is the wall clock, since `exp` is a wall-clock second (RFC 7519 §4.1.4)."""

    def __init__(
        self,
        ledger: Ledger,
        zion: Zion,
        signatures: Signatures | None,
        *,
        profile_ttl_s: int,
        stale_s: int,
        refusal_ttl_s: float,
        entries_max: int,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._zion = zion
        self._signatures = signatures
        self._profile_ttl_s = profile_ttl_s
        self._stale_s = stale_s
        self._refusal_ttl_s = refusal_ttl_s
        self._entries_max = entries_max
        self._now_s = now_s
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, Callable[[], SentinelError]]] = OrderedDict()
        # Tokens that Zion could not be asked about. One that comes again goes first, in every second place: a client sends the
        # same again, and who sends any text as a token seldom does.
        self._turned_away: OrderedDict[bytes, None] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}

    async def identify(self, request_headers: Fields) -> Caller:
        """The owner of the bearer token.

        Raises UnauthorizedError, ForbiddenError or ZionUnavailableError.
        """
        token = credentials.bearer_token(request_headers)
        return (await self._find(token, sha256(token.encode()).digest())).caller

    def known(self, request_headers: Fields) -> Caller | None:
        """Who asks, where this worker knows that without asking anybody; None where `identify` is to find out."""
        said = request_headers.first.get(b"authorization", b"")
        if not said.startswith(b"Bearer ") or b"authorization" in request_headers.repeated:
            return None  # said in a way that is seldom used
        # What is remembered was found to be a token, so that this need not be again.
        digest = sha256(said[7:]).digest()
        known = self._known.get(digest)
        if known is None or known.fresh_s <= self._now_s():
            return None
        self._known.move_to_end(digest)
        metrics.AUTH["memory"] += 1
        return known.caller

    async def _find(self, token: str, digest: bytes) -> _Known:
        """What is known of a token, by this worker or by those who are asked."""
        head, expires_s = credentials.read_jwt(token)
        if expires_s <= self._now_s():
            raise UnauthorizedError("The token has expired.", code="token_expired")
        known = self._known.get(digest)
        if known is None or known.until_s <= self._now_s():
            refusal = self._refused.get(digest)
            if refusal is not None and refusal[0] > self._now_s():
                metrics.AUTH["refused"] += 1
                refused = refusal[1]()
                raise refused
            # Shielded: the first asker may leave while others wait for the same answer.
            known = await asyncio.shield(self._once(digest, partial(self._ask, token, digest, head, expires_s)))
        else:
            self._known.move_to_end(digest)
            metrics.AUTH["memory"] += 1
        if known.fresh_s <= self._now_s():
            known = await self._renewed(token, digest, expires_s, known)
        return known

    async def _renewed(self, token: str, digest: bytes, expires_s: float, aged: _Known) -> _Known:
        """What Zion says by now of a profile that has aged, where it says so soon; else the aged one."""
        task = self._once(digest, partial(self._renew, token, digest, expires_s, aged))
        await asyncio.wait({task}, timeout=_PATIENCE_S)
        if task.done():
            return task.result()
        metrics.AUTH["stale"] += 1
        return aged

    async def close(self) -> None:
        """Ask about nobody any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._signatures is not None:
            await self._signatures.close()

    def _once(self, digest: bytes, work: Callable[[], Coroutine[Any, Any, _Known]]) -> asyncio.Task[_Known]:
        """The question about a token that is under way, or a new one."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(work())
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._asked(digest, done))
        return task

    def _asked(self, digest: bytes, task: asyncio.Task[_Known]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            # Read here so that a failure nobody waits for any more is not reported as unread; askers get their own copy.
            task.exception()

    async def _ask(self, token: str, digest: bytes, head: credentials.Head, expires_s: float) -> _Known:
        """Redis, then Zion; what either says is remembered. Neither hears of what Zion is known not to have signed."""
        if self._signatures is not None:
            await self._signatures.check(token, head)
        known = await self._recall(digest)
        if known is not None and known.until_s > self._now_s():
            metrics.AUTH["redis"] += 1
        else:
            # What Zion has vouched for once is nobody's invention, however long ago that was.
            vouched = digest in self._known
            first = vouched or digest in self._turned_away
            known = await self._ask_zion(token, digest, expires_s, "known" if vouched else "new", first=first)
        _note(self._known, digest, known, self._entries_max)
        return known

    async def _renew(self, token: str, digest: bytes, expires_s: float, aged: _Known) -> _Known:
        """A known profile again: from Redis, where another worker has asked, or from Zion, before never-seen tokens."""
        known = await self._recall(digest)
        if known is None or known.fresh_s <= self._now_s():
            try:
                known = await self._ask_zion(token, digest, expires_s, "known", first=True)
            except ZionUnavailableError:
                known = msgspec.structs.replace(aged, fresh_s=min(aged.until_s, self._now_s() + _RENEW_AGAIN_S))
            except (UnauthorizedError, ForbiddenError):
                await self._forget(digest)
                raise
        _note(self._known, digest, known, self._entries_max)
        return known

    async def _ask_zion(
        self, token: str, digest: bytes, expires_s: float, kind: Literal["known", "new"], *, first: bool
    ) -> _Known:
        metrics.AUTH["zion"] += 1
        now_s = self._now_s()
        try:
            user_id, caller = await self._zion.profile(token, kind, first=first)
        except ZionUnavailableError:
            _note(self._turned_away, digest, None, _TURNED_AWAY_MAX)
            raise
        except (UnauthorizedError, ForbiddenError) as refusal:
            # A new exception each time: one that is raised again and again would keep every traceback.
            again = partial(type(refusal), refusal.message, code=refusal.code)
            self._known.pop(digest, None)
            _note(self._refused, digest, (self._now_s() + self._refusal_ttl_s, again), _REFUSALS_MAX)
            raise
        fresh_s = now_s + self._profile_ttl_s
        known = _Known(caller, min(expires_s, fresh_s + self._stale_s), min(expires_s, fresh_s))
        try:
            ttl_s = max(1, int(known.until_s - self._now_s()))
            await asyncio.gather(
                self._ledger.keep_profile(digest.hex(), _write_known(known), ttl_s), self._ledger.names.learn(user_id, caller)
            )
        except LedgerUnavailableError:
            _log.warning("profile not kept in redis")
        return known

    async def _forget(self, digest: bytes) -> None:
        """Zion has taken a token back: other workers are not to find it in Redis."""
        try:
            await self._ledger.forget_profile(digest.hex())
        except LedgerUnavailableError:
            _log.warning("profile not taken out of redis")

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
