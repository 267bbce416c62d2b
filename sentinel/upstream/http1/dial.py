"""Making connections: names to addresses, and the race between the addresses of one name (RFC 8305).

Fails as UnreachableError, also where its time is over. A resolver that fails or is slow is forgiven while an older
answer of it is known.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sentinel.upstream.http1.connection import Connection
from sentinel.upstream.http1.failures import UnreachableError

_NAMES_KEPT_S: Final = 60.0
# How long one address is tried alone before the next one joins in (RFC 8305 §5).
_STAGGER_S: Final = 0.25
# How long a resolver is waited for where an older answer of it is known.
_RESOLVER_S: Final = 0.5


# As `loop.getaddrinfo`.
Resolver = Callable[..., Awaitable[Sequence[tuple[Any, ...]]]]


class Dialer:
    """Connects to one host and port, over TLS where `tls` is given. `resolver` stands in for the system's."""

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, connect_s: float, resolver: Resolver | None = None
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_s = connect_s
        self._addresses: Sequence[str] = (host,) if _is_address(host) else ()
        self._known_until_s = float("inf") if self._addresses else 0.0
        self._resolver = resolver
        self._lookup: asyncio.Task[Exception | None] | None = None

    async def dial(self, make: Callable[[], Connection]) -> Connection:
        """A new connection by `make`. Raises UnreachableError; whatever happens, all others that were begun are ended."""
        made: list[Connection] = []

        def one_more() -> Connection:
            made.append(make())
            return made[-1]

        won: Connection | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                addresses = await self._resolved()
                won = await (self._race(addresses, one_more) if len(addresses) > 1 else self._try(addresses[0], one_more))
            return won
        except (OSError, UnicodeError) as error:  # also what TLS refuses, and the end of the time
            won = None
            raise UnreachableError(str(error)) from error
        except BaseException:
            won = None
            raise
        finally:
            for connection in made:
                if connection is not won:
                    connection.abort()

    def forget(self) -> None:
        """Ask for the name again before the next connection."""
        self._known_until_s = 0.0

    def close(self) -> None:
        """Ask for no name any more."""
        if self._lookup is not None:
            self._lookup.cancel()

    async def _try(self, address: str, make: Callable[[], Connection]) -> Connection:
        name = self._host if self._tls is not None else None
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(make, address, self._port, ssl=self._tls, server_hostname=name)
        return made

    async def _race(self, addresses: Sequence[str], make: Callable[[], Connection]) -> Connection:
        """The first that is made; each next address joins when the one before has failed, or is slow. Raises like the last."""
        left = list(addresses)
        racing: set[asyncio.Task[tuple[str, Connection | Exception]]] = set()
        failure: Exception = OSError("no address")
        try:
            while left or racing:
                if left:
                    racing.add(asyncio.create_task(self._outcome(left.pop(0), make)))
                wait_s = _STAGGER_S if left else None
                done, racing = await asyncio.wait(racing, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for address, outcome in [task.result() for task in done]:
                    if isinstance(outcome, Connection):
                        # Whoever comes next need not find out again which of them answers.
                        self._addresses = [address, *(one for one in self._addresses if one != address)]
                        return outcome
                    failure = outcome
        finally:
            for task in racing:
                task.cancel()
        raise failure

    async def _outcome(self, address: str, make: Callable[[], Connection]) -> tuple[str, Connection | Exception]:
        try:
            return address, await self._try(address, make)
        except OSError as error:
            return address, error

    async def _resolved(self) -> Sequence[str]:
        """The addresses of the host, kept for a minute. Raises OSError or UnicodeError. One look-up serves all who wait."""
        if asyncio.get_running_loop().time() >= self._known_until_s:
            if self._lookup is None or self._lookup.done():
                self._lookup = asyncio.create_task(self._look_up())
            await asyncio.wait([self._lookup], timeout=_RESOLVER_S if self._addresses else None)
            if not self._addresses:
                failed = None if self._lookup.cancelled() else self._lookup.result()
                raise failed or OSError("a name without an address")
        return self._addresses

    async def _look_up(self) -> Exception | None:
        """What kept the name from being resolved, since a failure belongs to all who wait, and to none of them alone."""
        loop = asyncio.get_running_loop()
        resolver = self._resolver or loop.getaddrinfo
        try:
            found = await resolver(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            return error
        # A scope is a part of the address (`fe80::1%eth0`), as Python gives it.
        self._addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        self._known_until_s = loop.time() + _NAMES_KEPT_S
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
