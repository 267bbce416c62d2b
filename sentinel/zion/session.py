"""The HTTP client session for Zion, without those defaults of aiohttp that leak or cut (rule H4, rule H4).

No cookies are kept (they would travel between callers), no redirects or proxies are followed by default, nothing is
decompressed, and nothing is sent twice: each attempt is a call that has to pass the gate. Opening a session cannot fail;
connecting does, and is mapped by the edge that asks.
"""

from typing import Final

import aiohttp

from sentinel.openai.headers import USER_AGENT

# Below the 60 s after which most front doors drop an idle connection: a POST on a dropped one is lost, not retried.
_KEEPALIVE_S: Final = 15
_LINE_BYTES_MAX: Final = 65536


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request once. aiohttp would send a GET again where its connection breaks, which it knows by these two errors."""
    try:
        return await send(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def open_session(*, connect_s: float, idle_s: float, connections_max: int) -> aiohttp.ClientSession:
    """A pooled session: `connect_s` for a connection, `idle_s` of silence at most, `connections_max`."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections_max, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=connect_s, sock_read=idle_s),
        headers={"user-agent": USER_AGENT},
        skip_auto_headers=("accept", "content-type"),
        auto_decompress=False,
        trust_env=False,
        middlewares=(_once,),
        read_bufsize=65536,
        max_line_size=_LINE_BYTES_MAX,
        max_field_size=_LINE_BYTES_MAX,
    )
