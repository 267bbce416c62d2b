"""The HTTP client sessions of a worker, without those defaults of aiohttp that leak or cut (reliability.md R3, wire.md H4).

No cookies are kept (they would travel between callers), no redirects or proxies are followed by default, no total time-out cuts
a stream, nothing is decompressed. Opening a session cannot fail; connecting does, and is mapped by the edge that asks.
"""

from types import SimpleNamespace

import aiohttp

from sentinel import __version__

USER_AGENT = f"sentinel/{__version__}"

# Below the 60 s after which most front doors drop an idle connection: a POST on a dropped one is lost, not retried.
_KEEPALIVE_S = 15
_LINE_BYTES_MAX = 65536


def _tell_sent() -> aiohttp.TraceConfig:
    """Calls what a request has for its `trace_request_ctx` when its head is sent."""

    async def sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _event: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(sent)
    return trace


def open_session(*, connect_s: float, idle_s: float | None, connections_max: int) -> aiohttp.ClientSession:
    """A pooled session: `connect_s` for a connection, `idle_s` of silence at most, `connections_max`.

    Where `idle_s` is None or `connections_max` 0, the caller bounds it.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections_max, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=connect_s, sock_read=idle_s),
        headers={"user-agent": USER_AGENT},
        skip_auto_headers=("accept", "content-type"),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[_tell_sent()],
        read_bufsize=65536,
        max_line_size=_LINE_BYTES_MAX,
        max_field_size=_LINE_BYTES_MAX,
    )
