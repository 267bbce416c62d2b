"""The provider: OpenAI or Vercel AI Gateway behind one interface, over aiohttp.

Every failure of the library becomes `UpstreamError` (502; `sent` says whether the provider may have begun to work),
`UpstreamUnavailableError` (503: no connection of this worker is free) or `UpstreamTimeoutError` (504). Nothing is
retried here. A reply that is not read to its end closes its connection, so that no half-read one returns to the pool.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import aiohttp
from yarl import URL

from sentinel.errors import UpstreamError, UpstreamTimeoutError, UpstreamUnavailableError

# The slowest upload that is waited for; a provider that takes less than this does not take the request.
_UPLOAD_BYTES_PER_S: Final = 65_536


class Reply(Protocol):
    """An answer of the provider whose headers are here and whose body is still arriving."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    async def read(self) -> bytes:
        """The next bytes as they arrive, b"" at the end. Raises UpstreamError or UpstreamTimeoutError."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Read and drop what is left, for at most `timeout_s`, so that the connection can be used again."""
        ...

    def close(self) -> None:
        """Give the connection back if the body is complete, else close it. Twice is harmless."""
        ...


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
        body: bytes,
        on_sent: Callable[[], None],
    ) -> Reply:
        """Send one request (`path` raw, below the version path) and wait for the headers of the answer.

        `on_sent` is called when the head of the request is on its way: from then on the provider may work.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class _AiohttpReply:
    """A reply over an aiohttp response."""

    __slots__ = ("_release", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, release: Callable[[], None]) -> None:
        self._response = response
        self._release: Callable[[], None] | None = release
        self.status = response.status
        self.headers = response.raw_headers

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except aiohttp.SocketTimeoutError:
            raise UpstreamTimeoutError("The provider fell silent in the middle of its answer.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError("The provider broke off in the middle of its answer.", retry=False) from error

    async def drain(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while await self.read():
                    pass
        except (TimeoutError, UpstreamError):
            # The client has its whole answer; only the connection is lost.
            self._response.close()

    def close(self) -> None:
        if self._release is None:
            return
        self._release()
        self._release = None
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


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
        body: bytes,
        on_sent: Callable[[], None],
    ) -> Reply:
        if self._connections >= self._connections_max:
            raise UpstreamUnavailableError(
                "All connections to the provider are in use.",
                code="upstream_connections_exhausted",
                retry_after_s=1,
                sent=False,
            )
        self._connections += 1
        url = URL(self._url + path + (f"?{query.decode('latin-1')}" if query else ""), encoded=True)
        try:
            # The library's own time-out for reading begins when the body is written, which a provider could delay for ever.
            async with asyncio.timeout(self._connect_s + self._idle_s + len(body) / _UPLOAD_BYTES_PER_S):
                request = self._session.request(
                    method, url, headers=headers, data=body or None, allow_redirects=False, trace_request_ctx=on_sent
                )
                return self._answered(await request)
        except BaseException as error:
            self._release()
            raise _failure(error) from error

    async def close(self) -> None:
        await self._session.close()

    def _answered(self, response: aiohttp.ClientResponse) -> Reply:
        if not 200 <= response.status <= 599:
            response.close()
            raise UpstreamError("The provider answered with a status that HTTP does not know.", retry=False)
        return _AiohttpReply(response, self._release)

    def _release(self) -> None:
        self._connections -= 1


def _failure(error: BaseException) -> BaseException:
    """What Sentinel calls a failure of the library; what is not one stays what it is."""
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
            return UpstreamError("The provider could not be reached.", code="upstream_unreachable", sent=False)
        case aiohttp.SocketTimeoutError() | TimeoutError():
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
