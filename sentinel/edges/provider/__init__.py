"""The provider: OpenAI or Vercel AI Gateway behind one interface, over aiohttp.

Every failure of the library becomes `UpstreamError` (502; `sent` says whether the provider may have begun to work),
`UpstreamUnavailableError` (503: no connection of this worker is free) or `UpstreamTimeoutError` (504). Nothing is
retried here. A reply that is not read to its end closes its connection, so that no half-read one returns to the pool.
"""

import asyncio
import re
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import aiohttp
from yarl import URL

from sentinel.edges.provider.reply import Begun, Reply, Through, opened
from sentinel.edges.provider.upload import Patience, Sending, Upload
from sentinel.errors import ClientGoneError, SentinelError, UpstreamError, UpstreamTimeoutError, UpstreamUnavailableError
from sentinel.protocol import wire

__all__ = ["PROVIDERS", "Begun", "OpenAI", "Patience", "Provider", "Reply", "Through", "Upload", "Vercel"]

# What a request line cannot carry, or what would end a path or a query there: sent as %XX.
_UNFIT_PATH: Final = re.compile(r"[^!\"$->@-~]")
_UNFIT_QUERY: Final = re.compile(r"[^!\"$-~]")
# What leads out of the base URL once somebody resolves it, however it is spelled.
_ESCAPE: Final = re.compile(r"//|(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)", re.IGNORECASE)


class Provider(Protocol):
    """Whoever answers in the end."""

    name: ClassVar[str]
    chat_cap: ClassVar[str]
    key: str

    async def send(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: list[tuple[str, str]],
        body: bytes | Upload,
        on_sent: Callable[[], None],
        patience: Patience,
    ) -> Reply:
        """Send one request (`path` raw, below the version path) and wait for the headers of the answer.

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

    def __init__(
        self, session: aiohttp.ClientSession, url: str, key: str, *, connect_s: float, idle_s: float, connections_max: int
    ) -> None:
        self.key = key
        self._session = session
        self._url = url
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._connections_max = connections_max
        self._connections = 0

    async def send(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: list[tuple[str, str]],
        body: bytes | Upload,
        on_sent: Callable[[], None],
        patience: Patience,
    ) -> Reply:
        if self._connections >= self._connections_max:
            raise UpstreamUnavailableError(
                "All connections to the provider are in use.",
                code="upstream_connections_exhausted",
                retry_after_s=1,
                sent=False,
            )
        self._connections += 1
        sending: Sending | None = None
        try:
            async with asyncio.timeout(self._connect_s) as deadline:
                sending = Sending(body, on_sent, deadline, patience, self._idle_s)
                if not isinstance(body, bytes) and body.length is not None:
                    headers = [*headers, ("content-length", str(body.length))]
                request = self._session.request(
                    method,
                    self._target(method, path, query),
                    headers=headers,
                    data=sending.content,
                    allow_redirects=False,
                    trace_request_ctx=sending.head_sent,
                )
                return self._opened(await request, sending)
        except BaseException as error:
            self._release()
            raise _failure(error, sending) from error
        finally:
            if sending is not None:
                sending.stop_waiting()

    async def close(self) -> None:
        await self._session.close()

    def _target(self, method: str, path: str, query: bytes) -> URL:
        """Where a request goes: below the base URL, whatever stands in `path` and `query` (wire.md H8).

        Raises UnknownPathError where the path would lead out of it.
        """
        if not path.startswith("/") or _ESCAPE.search(path):
            raise wire.unknown_path(method, path)
        url = self._url + _fit(path, _UNFIT_PATH) + (f"?{_fit(query.decode('latin-1'), _UNFIT_QUERY)}" if query else "")
        return URL(url, encoded=True)

    def _opened(self, response: aiohttp.ClientResponse, sending: Sending) -> Reply:
        if not 200 <= response.status <= 599:
            response.close()
            raise UpstreamError("The provider answered with a status that HTTP does not know.", retry=False)
        sending.stop_waiting()
        return opened(response, sending, self._release, self._idle_s)

    def _release(self) -> None:
        self._connections -= 1


def _fit(text: str, unfit: re.Pattern[str]) -> str:
    """`text` (latin-1) as a request line can carry it; what is fit stays as it is."""
    return unfit.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _failure(error: BaseException, sending: Sending | None) -> BaseException:
    """What Sentinel calls a failure of the library; what is not one stays what it is."""
    if sending is not None and sending.failure is not None and isinstance(error, Exception):
        return sending.failure
    match error:
        case SentinelError() | ClientGoneError():
            return error
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
            return UpstreamError("The provider could not be reached.", code="upstream_unreachable", sent=False)
        case TimeoutError() if sending is None or not sending.sent:
            return UpstreamError("The provider could not be reached.", code="upstream_unreachable", sent=False)
        case TimeoutError():
            return UpstreamTimeoutError("The provider did not answer in time.")
        case aiohttp.ClientError() | OSError() | ValueError():
            return UpstreamError("The provider broke off before it answered.", retry=False)
        case _:
            return error


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
