"""What a browser may read across origins (the Fetch standard, wire.md H16): off unless SENTINEL_CORS_ORIGINS names origins.

Cannot fail: an origin that is not named, or is given twice, gets no header of this module, and its browser then shows nothing.
Cookies are never part of it: a caller is whoever has the token.
"""

import re
from collections.abc import Collection
from typing import Final

from sentinel.protocol.fields import Fields

ANY: Final = "*"
MAX_AGE_S: Final = 7200  # the most that browsers heed

_METHODS: Final = b"GET, HEAD, POST, DELETE"
_NAMES: Final = frozenset(
    {
        "authorization",
        "content-type",
        "accept",
        "user-agent",
        "idempotency-key",
        "x-client-request-id",
        "x-request-id",
        "http-referer",
        "x-title",
        "traceparent",
        "tracestate",
    }
)
_PREFIXED: Final = re.compile(r"(?:openai|x-stainless)-[a-z0-9-]{1,64}")
# Listed one by one, since a pattern has no meaning here, and `*` not for every browser.
EXPOSED: Final = (
    "x-request-id",
    "x-upstream-request-id",
    *(f"x-ratelimit-{figure}{kind}" for kind in ("", "-requests", "-tokens") for figure in ("limit", "remaining", "reset")),
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-sentinel-degraded",
    "x-sentinel-model",
    "x-sentinel-cache",
    "openai-processing-ms",
    "openai-version",
    "openai-model",
)
_EXPOSE: Final = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())
_VARY: Final = (b"vary", b"Origin")
_VARY_PREFLIGHT: Final = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


class Cors:
    """The rule for one set of `origins` (exact, as browsers send them; "*" is any; none switches all of it off)."""

    def __init__(self, origins: Collection[str]) -> None:
        self._any = ANY in origins
        self._origins = frozenset(origin.encode("ascii") for origin in origins)

    def answer(self, fields: Fields) -> tuple[tuple[bytes, bytes], ...]:
        """What every answer to a request with these headers carries, errors and streams included."""
        if not self._origins:
            return ()
        allowed = self._allowed(fields)
        if allowed is None:
            return () if self._any else (_VARY,)
        granted = ((b"access-control-allow-origin", allowed), _EXPOSE)
        return granted if self._any else (*granted, _VARY)

    def preflight(self, fields: Fields) -> list[tuple[bytes, bytes]] | None:
        """What a preflight is granted beside `answer`, None where this is none or its origin is not allowed.

        Of the headers it asks for, those are granted that a client of OpenAI may need.
        """
        asked = fields.every(b"access-control-request-method")
        if not asked or not self._origins or self._allowed(fields) is None:
            return None
        lists = fields.every(b"access-control-request-headers")
        names = (name.strip().lower() for value in lists for name in value.decode("latin-1").split(","))
        granted = ", ".join(name for name in names if name in _NAMES or _PREFIXED.fullmatch(name))
        return [
            (b"access-control-allow-methods", _METHODS),
            *([(b"access-control-allow-headers", granted.encode("ascii"))] if granted else []),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
            *([] if self._any else [_VARY_PREFLIGHT]),
        ]

    def _allowed(self, fields: Fields) -> bytes | None:
        """The value of Access-Control-Allow-Origin."""
        origins = fields.every(b"origin")
        if len(origins) != 1:
            return None
        if self._any:
            return b"*"
        return origins[0] if origins[0] in self._origins else None
