"""Zion: where it is, how it is asked, and how usage is told to it. Values only; `sentinel.settings` reads and checks them."""

from typing import Annotated, Final

import msgspec

from sentinel.ops.settings.public_keys import public_keys
from sentinel.ops.settings.variable import Variable

_HTTP: Final = ("http", "https")


class ZionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Zion: where it is, how it is asked, and how usage is told to it."""

    zion_api_url: Annotated[str, Variable("ZION_API_URL", "Where Zion answers, without a path.", required=True, schemes=_HTTP)]
    zion_api_key: Annotated[
        str, Variable("ZION_API_KEY", "Sentinel's own key for Zion's external endpoints.", secret=True, required=True)
    ]
    zion_jwks_url: Annotated[
        str,
        Variable(
            "ZION_JWKS_URL",
            "Where Zion publishes the keys of its tokens (a JWK set); others are then refused without asking Zion.",
            schemes=_HTTP,
        ),
    ] = ""
    zion_jwt_public_key: Annotated[
        str,
        Variable(
            "ZION_JWT_PUBLIC_KEY",
            "The same by the keys themselves: one or more PEM blocks, line ends may be written as `\\n`.",
            reads=public_keys,
        ),
    ] = ""
    zion_usage_format: Annotated[
        str,
        Variable("ZION_USAGE_FORMAT", "The format of usage reports.", choices=("unified", "per_limit")),
    ] = "unified"
    zion_timeout_s: Annotated[
        float, Variable("ZION_TIMEOUT_SECONDS", "How long one call to Zion may take.", "s", low=0.1, high=300)
    ] = 5.0
    zion_requests_per_s: Annotated[
        int, Variable("SENTINEL_ZION_REQUESTS_PER_SECOND", "Calls to Zion, of the whole fleet.", "requests/s", low=1, high=9999)
    ] = 20
    zion_waiting_max: Annotated[
        int,
        Variable(
            "SENTINEL_ZION_WAITING_MAX",
            "Calls to Zion of each kind that wait for their turn in a worker; above it 503.",
            "calls",
            low=1,
            high=10**5,
        ),
    ] = 64
    zion_failures_max: Annotated[
        int, Variable("SENTINEL_ZION_BREAKER_FAILURES", "Failed reports in a row that stop reports.", low=1, high=10**4)
    ] = 3
    zion_open_s: Annotated[
        float, Variable("SENTINEL_ZION_BREAKER_SECONDS", "How long, until one report tries again.", "s", low=0.05, high=3600)
    ] = 30.0
    report_items_max: Annotated[
        int, Variable("SENTINEL_REPORT_ITEMS_MAX", "Increments in one report to Zion.", "increments", low=1, high=1000)
    ] = 100
    report_interval_ms: Annotated[
        int,
        Variable(
            "SENTINEL_REPORT_INTERVAL_MS",
            "How long usage waits for company before it is reported.",
            "ms",
            low=1,
            high=60000,
        ),
    ] = 500
    report_retry_s: Annotated[
        float,
        Variable(
            "SENTINEL_REPORT_RETRY_SECONDS",
            "After how long a failed report is sent again, ± 10 %.",
            "s",
            low=0.05,
            high=3600,
        ),
    ] = 60.0
