"""The provider: OpenAI or Vercel AI Gateway behind one interface, over an HTTP/1.1 client of our own.

Every failure of that client becomes `UpstreamError` (502; `sent` says whether the provider may have begun to work),
`UpstreamUnavailableError` (503: no connection of this worker is free) or `UpstreamTimeoutError` (504). Nothing is
retried here. A reply that is not read to its end closes its connection, so that no half-read one returns to the pool.
"""

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Final, Protocol

from msgspec import Struct

from sentinel.openai import wire
from sentinel.ops.errors import UpstreamError, UpstreamTimeoutError, UpstreamUnavailableError
from sentinel.upstream.arriving import opened
from sentinel.upstream.error_answer import Failed, looked_into, tell_disclosed, tell_refused, without_account
from sentinel.upstream.http1 import BrokenError, Client, Connection, LateError, UnreachableError
from sentinel.upstream.http1.request_head import head, opening
from sentinel.upstream.http1.whole_answer import WholeAnswer
from sentinel.upstream.reply import Opened, Plain, PrefetchedReply, Reply, ReplyWrapper, Whole, begin
from sentinel.upstream.sniffing import judged, recognised
from sentinel.upstream.upload import Sending, Timeouts, Upload

__all__ = [
    "PROVIDERS",
    "Asked",
    "Failed",
    "OpenAI",
    "Opened",
    "Plain",
    "PrefetchedReply",
    "Provider",
    "Reply",
    "ReplyWrapper",
    "Timeouts",
    "Upload",
    "Vercel",
    "Whole",
    "begin",
    "judged",
    "looked_into",
    "recognised",
    "tell_disclosed",
    "tell_refused",
    "without_account",
]

# What a request line cannot carry, or what would end a path or a query there: sent as %XX.
_UNFIT_PATH: Final = re.compile(r"[^!\"$->@-~]")
_UNFIT_QUERY: Final = re.compile(r"[^!\"$-~]")
# The slowest that a known body is waited for: a provider that takes less than this does not take the request. It could delay
# the end of a body for ever, so its time begins when the body should be there.
_UPLOAD_BYTES_PER_S: Final = 65_536
# Which request lines are remembered: those of the routes, and of what is asked for again and again, but none of any length.
_OPENINGS_MAX: Final = 256
_OPENING_CHARACTERS_MAX: Final = 128
# What leads out of the base URL once somebody resolves it, however it is spelled.
_ESCAPE: Final = re.compile(r"//|(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)", re.IGNORECASE)


class Asked(Struct, eq=False, gc=False):
    """A request that is on its way. `came` is to be awaited: the answer where that came whole, else None, and then `answered`
    is to be awaited. Whoever does neither calls `drop`.
    """

    came: "asyncio.Future[WholeAnswer | None]"
    connection: Connection
    ends_s: float


class Provider(Protocol):
    """Whoever answers in the end."""

    name: ClassVar[str]
    chat_cap: ClassVar[str]
    key: str

    def ask(self, method: str, path: str, query: bytes, lines: bytes, body: bytes, patience: Timeouts) -> Asked | None:
        """The usual case of `send`: the request leaves at once, over a connection that was kept. None where there is none."""
        ...

    async def answered(self, asked: Asked) -> Opened:
        """The reply to what was asked, whose answer did not come whole, or not at all: as from `send`."""
        ...

    def drop(self, asked: Asked) -> None:
        """Nobody waits for it any more."""
        ...

    async def send(
        self,
        method: str,
        path: str,
        query: bytes,
        lines: bytes,
        body: bytes | Upload,
        on_sent: Callable[[], None],
        patience: Timeouts,
    ) -> Opened:
        """Send one request (`path` raw, below the version path; `lines` its headers) and wait for the headers of the answer.

        `on_sent` is called when the head of the request is on its way: from then on the provider may work. An upload is
        passed on as it comes; an answer that comes before its end is returned at once, and takes its connection along. What
        the upload raises is raised here as it is.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class _HttpProvider:
    """What both providers share: the wire is the same, only names, places and a few headers differ."""

    name: ClassVar[str]
    # The parameter by which a chat's output is capped.
    chat_cap: ClassVar[str]

    def __init__(self, client: Client, key: str, *, idle_s: float, connections_max: int) -> None:
        self.key = key
        self._client = client
        self._idle_s = idle_s
        self._connections_max = connections_max
        self._known_opening = lru_cache(maxsize=_OPENINGS_MAX)(self._opening)

    def ask(self, method: str, path: str, query: bytes, lines: bytes, body: bytes, patience: Timeouts) -> Asked | None:
        if self._client.in_use >= self._connections_max or method == "HEAD":
            return None
        known = len(path) + len(query) <= _OPENING_CHARACTERS_MAX
        begins = self._known_opening(method, path, query) if known else self._opening(method, path, query)
        said = head(begins, lines, len(body))
        connection = self._client.kept()
        if connection is None:
            return None
        sent_s = connection.loop.time() + len(body) / _UPLOAD_BYTES_PER_S
        came = connection.ask_plainly(said, body, sent_s + patience.first_byte_s)
        return Asked(came, connection, sent_s + patience.total_s)

    async def answered(self, asked: Asked) -> Opened:
        connection = asked.connection
        try:
            return opened(connection, await connection.answered(), None, self._idle_s, asked.ends_s)
        except BaseException as error:
            self.drop(asked)
            if isinstance(error, UnreachableError | BrokenError | LateError):
                raise _told(error) from error
            raise

    def drop(self, asked: Asked) -> None:
        came = asked.came
        came.cancel()
        # An answer that came whole has ended its exchange, and another may be on that connection by now.
        if came.cancelled() or came.result() is None:
            asked.connection.end(sent=False)

    async def send(
        self,
        method: str,
        path: str,
        query: bytes,
        lines: bytes,
        body: bytes | Upload,
        on_sent: Callable[[], None],
        patience: Timeouts,
    ) -> Opened:
        if self._client.in_use >= self._connections_max:
            raise UpstreamUnavailableError(
                "All connections to the provider are in use.",
                code="upstream_connections_exhausted",
                retry_after_s=1,
                sent=False,
            )
        length = len(body) if isinstance(body, bytes) else body.length
        said = head(self._opening(method, path, query), lines, length)
        connection: Connection | None = None
        sending: Sending | None = None
        try:
            connection = await self._client.connection()
            bodiless = method == "HEAD"
            if isinstance(body, bytes):
                sent_s = connection.loop.time() + len(body) / _UPLOAD_BYTES_PER_S
                ends_s = sent_s + patience.total_s
                connection.ask(said, body, bodiless=bodiless, until_s=sent_s + patience.first_byte_s)
                on_sent()
                answer = await connection.answered()
            else:
                connection.ask(said, b"", bodiless=bodiless)
                on_sent()
                sending = Sending(body, connection, patience, self._idle_s)
                answer = await connection.answered()
                sending.answered()
                ends_s = sending.ends_s
            return opened(connection, answer, sending, self._idle_s, ends_s)
        except BaseException as error:
            if sending is not None:
                sending.stop()
            if connection is not None:
                connection.end(sent=False)
            if isinstance(error, UnreachableError | BrokenError | LateError):
                raise _told(error) from error
            raise

    async def close(self) -> None:
        await self._client.close()

    def _opening(self, method: str, path: str, query: bytes) -> bytes:
        """How the request begins: below the base URL, whatever stands in `path` and `query` (rule H8).

        Raises UnknownPathError where the path would lead out of it, BadRequestError where the method is none.
        """
        if not path.startswith("/") or _ESCAPE.search(path):
            raise wire.unknown_path(method, path)
        target = _fit(path, _UNFIT_PATH) + (f"?{_fit(query.decode('latin-1'), _UNFIT_QUERY)}" if query else "")
        return opening(method, self._client.base + target, self._client.host)


def _fit(text: str, unfit: re.Pattern[str]) -> str:
    """`text` (latin-1) as a request line can carry it; what is fit stays as it is."""
    return unfit.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _told(failure: UnreachableError | BrokenError | LateError) -> UpstreamError:
    """What Sentinel calls a failure of the client, before the answer began."""
    match failure:
        case UnreachableError():
            return UpstreamError("The provider could not be reached.", code="upstream_unreachable", sent=False)
        case LateError():
            return UpstreamTimeoutError("The provider did not answer in time.")
        case _:
            return UpstreamError("The provider broke off before it answered.", retry=False)


class OpenAI(_HttpProvider):
    """OpenAI itself."""

    name = "openai"
    # `max_tokens` is deprecated there, and refused by reasoning models.
    chat_cap = "max_completion_tokens"


class Vercel(_HttpProvider):
    """Vercel AI Gateway, one door to the models of many vendors."""

    name = "vercel"
    # What the models of all vendors behind it understand.
    chat_cap = "max_tokens"


PROVIDERS = {provider.name: provider for provider in (OpenAI, Vercel)}
