"""answer_cache.find, answer_cache.watch: answers that are given again to the caller who got them, where that is set.

Fails as if there were no cache: what Redis does not give is asked of the provider, what it does not take is not kept. An answer
is kept after the client has it, and only where it is whole, plain JSON, of the model that was asked, and small enough.
"""

import asyncio
from typing import Final

import msgspec

from sentinel.ledger import Ledger
from sentinel.openai.request import cache_key
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import NO_TOKENS, NOTHING_PRODUCED, Call, Hold, Origin, Outcome
from sentinel.upstream.provider import Reply, ReplyWrapper, Whole

_log: Final = Log("answer_cache")

# Answers on their way to Redis; above it they are not kept, so that a slow Redis does not fill the memory.
_KEEPING_MAX: Final = 64


class AnswerCache:
    """Keeps answers for `ttl_s` (0: keeps none), of at most `bytes_max` bytes each."""

    def __init__(self, ledger: Ledger, *, ttl_s: int, bytes_max: int) -> None:
        self._ledger = ledger
        self._ttl_s = ttl_s
        self._bytes_max = bytes_max
        # Whether any answer is kept.
        self.keeps: Final = ttl_s > 0
        self._keeping: set[asyncio.Task[None]] = set()

    def name(self, hold: Hold, call: Call) -> str:
        """Under which name an answer to `call` may be found or kept; "" where it may not.

        An output that was cut to what remained of a limit is no answer to the next one who has more.
        """
        if not self.keeps or hold.output_capped or not cache_key.is_repeatable(call):
            return ""
        return cache_key.name(hold.caller, call)

    async def find(self, name: str) -> Reply | None:
        """The answer that is kept under `name`."""
        kept = None
        try:
            kept = await self._ledger.answer(name)
        except LedgerUnavailableError as error:
            _log.debug("answers cannot be looked up", error=error.message)
        metrics.ANSWER_CACHE["miss" if kept is None else "hit"] += 1
        if kept is None:
            return None
        media, body = cache_key.unpack(kept)
        return Whole(((b"content-type", media),), body, Origin(cache="hit"))

    def watch(self, name: str, reply: Reply) -> Reply:
        """`reply`, whose body is kept under `name` once it was read to its end."""
        return _Watched(reply, name, self)

    async def close(self) -> None:
        """Wait for what is on its way to Redis."""
        while self._keeping:
            await asyncio.wait(self._keeping)

    def keep(self, name: str, media: bytes, body: bytes) -> None:
        """Keep an answer, in the background, if it can be given again."""
        if len(self._keeping) < _KEEPING_MAX and cache_key.is_whole(body):
            task = asyncio.create_task(self._keep(name, cache_key.pack(media, body)))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    @property
    def bytes_max(self) -> int:
        """The largest body that is kept."""
        return self._bytes_max

    async def _keep(self, name: str, kept: bytes) -> None:
        try:
            await self._ledger.keep_answer(name, kept, self._ttl_s)
        except LedgerUnavailableError as error:
            _log.debug("an answer is not kept", error=error.message)


def unpriced(outcome: Outcome) -> Outcome:
    """The outcome of an answer that was kept: the request counts, but no token was made for it, however it ended."""
    return msgspec.structs.replace(outcome, usage=NO_TOKENS, produced=NOTHING_PRODUCED)


class _Watched(ReplyWrapper):
    """A reply whose body is gathered while it is read, as long as it may be kept."""

    def __init__(self, reply: Reply, name: str, cache: AnswerCache) -> None:
        super().__init__(reply)
        self.origin = msgspec.structs.replace(reply.origin, cache="miss")
        self._name = name
        self._cache = cache
        self._media = next((value for known, value in reply.headers if known.lower() == b"content-type"), b"")
        is_json = self._media.partition(b";")[0].strip().lower() == b"application/json"
        encoded = any(known.lower() == b"content-encoding" for known, _ in reply.headers)
        fit = reply.status == 200 and is_json and not encoded and b"\n" not in self._media and not reply.origin.model
        self._body: bytearray | None = bytearray() if fit else None

    async def read(self) -> bytes:
        """See Reply."""
        chunk = await self._reply.read()
        if self._body is not None:
            if not chunk:
                self._cache.keep(self._name, self._media, bytes(self._body))
                self._body = None
            elif len(self._body) + len(chunk) > self._cache.bytes_max:
                self._body = None
            else:
                self._body += chunk
        return chunk
