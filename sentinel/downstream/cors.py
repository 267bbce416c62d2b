"""What a browser may read across origins (the Fetch standard, rule H16): off unless SENTINEL_CORS_ORIGINS names origins.

Cannot fail: an origin that is not named, or is given twice, gets no header of this module, and its browser then shows nothing.
Cookies are never part of it: a caller is whoever has the token.
"""

import re
from collections.abc import Collection
from itertools import islice
from typing import Final

from sentinel.openai.header_fields import Fields

ANY: Final = "*"
_AUTHORITY: Final = b"://"
MAX_AGE_S: Final = 7200  # the most that browsers heed

_METHODS: Final = b"GET, HEAD, POST, DELETE"
# Far more than any client asks for; what goes beyond is not granted, so that an answer has a bound.
REQUESTED_NAMES_MAX: Final = 64
REQUESTED_NAME_CHARACTERS_MAX: Final = 64
# Letters, digits, - . _ only: `*` is a name as well (RFC 9110 §5.6.2), and granted, it would mean all of them.
_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{REQUESTED_NAME_CHARACTERS_MAX - 1}}}")
# A header alone gives a page no power: there are no cookies, and what goes up is chosen by openai/headers.py. So every name
# is granted but for those of the connection, the framing and the browser itself, by which servers tell where a request ends
# and whose page it is (a browser lets no page set them, so that only somebody else can ask: Fetch §2.2.2, RFC 9110 §7.6.1),
# and for those that what stands in front of Sentinel may believe: who the client is, which path and method is meant.
_REFUSED: Final = frozenset(
    (
        *("connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("accept-charset", "accept-encoding", "cookie", "cookie2", "date", "dnt", "origin", "referer", "set-cookie", "via"),
        *("forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"),
        "x-method-override",
    )
)
_REFUSED_PREFIXES: Final = (
    *("access-control-", "proxy-", "sec-"),
    *("x-forwarded-", "x-http-method", "x-original-", "x-rewrite-"),
)
# What a browser sends for a page of a scheme that is allowed as a whole.
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%:-]{0,255}")
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
    """The rule for one set of `origins`: exact, as browsers send them; a scheme alone (`app://`) is all of its origins; "*" is
    any; none switches all of it off.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._any = ANY in origins
        self._origins = frozenset(origin.encode("ascii") for origin in origins)
        self._schemes = frozenset(origin for origin in self._origins if origin.endswith(_AUTHORITY))

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

        Of the headers it asks for, all are granted that give a page no power which it should not have.
        """
        asked = fields.every(b"access-control-request-method")
        if not asked or not self._origins or self._allowed(fields) is None:
            return None
        lists = fields.every(b"access-control-request-headers")
        names = (name.strip().lower() for value in lists for name in value.decode("latin-1").split(","))
        granted = ", ".join(islice(dict.fromkeys(filter(_is_harmless, names)), REQUESTED_NAMES_MAX))
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
        origin = origins[0]
        if origin in self._origins:
            return origin
        scheme, authority, host = origin.partition(_AUTHORITY)
        return origin if scheme + authority in self._schemes and _HOST.fullmatch(host) else None


def _is_harmless(name: str) -> bool:
    """Whether a page may set the header of this name."""
    return bool(_NAME.fullmatch(name)) and name not in _REFUSED and not name.startswith(_REFUSED_PREFIXES)
