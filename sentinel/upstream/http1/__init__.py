"""A small HTTP/1.1 client for one origin: kept connections over plain TCP or verified TLS, and no request that nobody made.

No cookies, redirects, proxies, retries, or decompression (rule H4). UnreachableError where no connection could be made;
the rest is the failure of the Connection that is given out.

A request is sent once. A kept connection that the other side has closed, or on which bytes came that nobody asked for, is not
used; so nothing is lost with it, and the next one is taken or made. Where it closes after the first byte was handed to it,
nobody can know whether the other side has begun to work: that is told as BrokenError, and never sent again.
"""

import asyncio
import ssl
from typing import Final
from urllib.parse import urlsplit

from sentinel.upstream.http1.ahead import Ahead
from sentinel.upstream.http1.answer import Answer
from sentinel.upstream.http1.connection import Connection
from sentinel.upstream.http1.dial import Dialer
from sentinel.upstream.http1.failures import BrokenError, LateError, UnreachableError
from sentinel.upstream.http1.tls import ResumingContext, open_context

__all__ = ["Answer", "BrokenError", "Client", "Connection", "LateError", "UnreachableError"]

# Below the 60 s after which most front doors drop an idle connection: a POST on a dropped one is lost, not retried.
_KEPT_S: Final = 15.0
# Where the other side says how long it keeps one (Node.js: 5 s), this much less.
_MARGIN_S: Final = 1.0
_SWEEP_S: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443}


class Client:
    """Connections to the origin of `url`. `host` is what the Host header says, `base` the path that all targets are below.

    `tls` is the context for https, by default one that trusts what the system trusts. Any number of connections may be open:
    whoever asks bounds those `in_use`: given out or being made for somebody, and not back. `ahead`: where one had to be made
    beside others that are in use, one more is, for whoever is next. Needs a running loop only when it connects.
    """

    def __init__(self, url: str, *, connect_s: float, tls: ssl.SSLContext | None = None, ahead: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("not the URL of an HTTP origin")
        port = parts.port or _PORTS[parts.scheme]
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.host = name if port == _PORTS[parts.scheme] else f"{name}:{port}"
        self.base = parts.path.rstrip("/")
        self._tls = (tls or open_context()) if parts.scheme == "https" else None
        self.in_use = 0
        self._dialer = Dialer(parts.hostname, port, self._tls, connect_s)
        self._ahead = Ahead(self._dial, _KEPT_S) if ahead else None
        self._open: set[Connection] = set()
        # In the order in which they became idle.
        self._idle: dict[Connection, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    async def connection(self) -> Connection:
        """A connection on which nothing was asked yet, or whose last exchange is over: the caller's until it ends it.

        Raises UnreachableError.
        """
        kept = self.kept()
        if kept is not None:
            return kept
        if self._closed:
            raise UnreachableError("this client is closed")
        self.in_use += 1
        try:
            connection = await self._dial()
        except BaseException:
            self.in_use -= 1
            raise
        if self._ahead is not None and self.in_use > 1:
            self._ahead.begin()
        return connection

    def kept(self) -> Connection | None:
        """As `connection`, of those that are there; None where one would have to be made."""
        while self._idle:
            # The one that was used last, so that those which are not needed grow old.
            kept, _ = self._idle.popitem()
            if kept.idle_until_s > kept.loop.time() and not kept.closes() and not kept.stirs(0):
                self.in_use += 1
                return kept
            kept.abort()
        made = self._ahead.take() if self._ahead is not None else None
        self.in_use += made is not None
        return made

    async def close(self) -> None:
        """Close every connection, also those in use; returns when the last one is gone."""
        self._closed = True
        self._dialer.close()
        if self._ahead is not None:
            self._ahead.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._open:
            connection.abort()
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    async def _dial(self) -> Connection:
        connection = await self._dialer.dial(self._make)
        if connection.lost or self._closed:
            connection.abort()
            raise UnreachableError("the connection was closed as soon as it was made")
        self._open.add(connection)
        return connection

    def _make(self) -> Connection:
        return Connection(asyncio.get_running_loop(), self._free, self._forget)

    def _free(self, connection: Connection, keep_s: float | None) -> None:
        """A connection is given back: kept, unless it may not be used again (then `keep_s` is 0)."""
        self.in_use -= 1
        kept_s = _KEPT_S if keep_s is None else min(_KEPT_S, keep_s - _MARGIN_S)
        if self._closed or kept_s <= 0:
            connection.abort()
            return
        if not connection.idle_until_s and isinstance(self._tls, ResumingContext):
            # After its first answer, with which the other side has sent what a session is resumed by.
            self._tls.session = connection.session()
        loop = connection.loop
        connection.idle_until_s = loop.time() + kept_s
        self._idle[connection] = None
        if self._sweeper is None:
            self._sweeper = loop.call_later(_SWEEP_S, self._sweep)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep(self) -> None:
        """Close what has been idle for too long; goes on while there is something to look at."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in [one for one in self._idle if one.idle_until_s <= now_s]:
            del self._idle[connection]
            connection.abort()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep) if self._idle else None
