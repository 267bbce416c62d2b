"""Where Redis is and who asks it, as redis-py has read it from REDIS_URL, so that both ways to Redis mean the same place.

`connect` fails as OSError (TLS that is not verified among it), or TypeError, ValueError or RedisError for a URL that cannot be
meant: all of them say that there is no connection.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis, SSLConnection

from sentinel.ledger.redis.resp import pack

_SETUP_S: Final = 1.0


class Address:
    """One Redis. `setup_s` bounds the making of a connection, and then its silence while something is asked."""

    def __init__(self, redis: Redis) -> None:
        pool = redis.connection_pool
        given: dict[str, Any] = pool.connection_kwargs
        self.setup_s: float = given.get("socket_connect_timeout") or _SETUP_S
        self._path: str | None = given.get("path")
        self._host: str = given.get("host", "localhost")
        self._port: int = given.get("port", 6379)
        self._credentials: tuple[str, ...] = tuple(filter(None, (given.get("username"), given.get("password"))))
        self._database: int = given.get("db") or 0
        self._tls: dict[str, Any] | None = None
        if issubclass(pool.connection_class, SSLConnection):
            self._tls = {name: value for name, value in given.items() if name.startswith("ssl_")}
        self._context: ssl.SSLContext | None = None

    def greeting(self) -> list[bytes]:
        """What makes a new connection ours, packed: each must be answered without an error.

        No HELLO: RESP2 is what every server and every proxy before one speaks, a script's reply is the same in both, and on it
        nothing comes that was not asked for.
        """
        commands: list[tuple[str | int, ...]] = []
        if self._credentials:
            commands.append(("AUTH", *self._credentials))
        if self._database:
            commands.append(("SELECT", self._database))
        return [pack(*command) for command in commands]

    async def connect(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Connect a new protocol, in any time. TCP sends at once, and notices after a while that the other end is gone."""
        loop = asyncio.get_running_loop()
        if self._path is not None:
            await loop.create_unix_connection(make, self._path)
            return
        transport, _ = await loop.create_connection(make, self._host, self._port, ssl=self._tls_context())
        link: socket.socket = transport.get_extra_info("socket")
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _tls_context(self) -> ssl.SSLContext | None:
        """Verified, certificate and name, unless the URL says otherwise (redis-py's `ssl_` options)."""
        if self._tls is not None and self._context is None:
            self._context = SSLConnection(**self._tls).ssl_context.get()
        return self._context
