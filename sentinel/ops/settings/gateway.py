"""The process itself: where it listens, what it takes in, what it keeps. Values only, which `sentinel.settings` checks."""

from typing import Annotated

from sentinel.ops.settings.ledger import LedgerSettings
from sentinel.ops.settings.origins import origins
from sentinel.ops.settings.variable import Variable


class GatewaySettings(LedgerSettings, frozen=True, kw_only=True):
    """The process itself: where it listens, what it takes in, what it keeps."""

    host: Annotated[
        str, Variable("SENTINEL_HOST", "The address Sentinel listens on, or a name that has one (IPv4 before IPv6).")
    ] = "0.0.0.0"
    port: Annotated[int, Variable("SENTINEL_PORT", "The port Sentinel listens on.", low=1, high=65535)] = 8080
    admin_host: Annotated[
        str,
        Variable("SENTINEL_ADMIN_HOST", "The address, or a name that has one, of the admin listener: metrics and health."),
    ] = "127.0.0.1"
    admin_port: Annotated[
        int,
        Variable("SENTINEL_ADMIN_PORT", "The port of the admin listener; another one than SENTINEL_PORT.", low=1, high=65535),
    ] = 8081
    public_health: Annotated[
        str,
        Variable(
            "SENTINEL_PUBLIC_HEALTH",
            "Whether the public port answers `/health/live` and `/health/ready` too.",
            choices=("true", "false"),
        ),
    ] = "true"
    public_metrics: Annotated[
        str,
        Variable("SENTINEL_PUBLIC_METRICS", "Whether the public port answers `/metrics` too.", choices=("true", "false")),
    ] = "false"
    workers: Annotated[
        int, Variable("SENTINEL_WORKERS", "Worker processes; by default one a core.", "processes", low=1, high=1024)
    ] = 0
    log_level: Annotated[
        str,
        Variable("SENTINEL_LOG_LEVEL", "The least level that is logged.", choices=("debug", "info", "warning", "error")),
    ] = "info"
    body_bytes_max: Annotated[
        int,
        Variable("SENTINEL_BODY_BYTES_MAX", "The largest request body taken; above it 413.", "bytes", low=1024, high=2**31),
    ] = 32 * 2**20
    bodies_bytes_max: Annotated[
        int,
        Variable(
            "SENTINEL_BODIES_BYTES_MAX",
            "Request bodies that one worker holds at a time, with what is decoded of them; above it 503.",
            "bytes",
            low=1024,
            high=2**40,
        ),
    ] = 512 * 2**20
    caller_bodies_bytes_max: Annotated[
        int,
        Variable(
            "SENTINEL_CALLER_BODIES_BYTES_MAX",
            "Of these, what one caller may take; above it 429. At least three bodies of the largest size.",
            "bytes",
            low=1024,
            high=2**40,
        ),
    ] = 256 * 2**20
    caller_arriving_max: Annotated[
        int,
        Variable(
            "SENTINEL_CALLER_ARRIVING_BODIES_MAX",
            "Bodies of one caller that a worker waits for at a time, streaming ones too; above it 429.",
            "bodies",
            low=1,
            high=1_000_000,
        ),
    ] = 256
    body_timeout_s: Annotated[
        float,
        Variable("SENTINEL_BODY_TIMEOUT_SECONDS", "How long a request body may take to arrive.", "s", low=0.1, high=3600),
    ] = 30.0
    body_bytes_per_s_min: Annotated[
        int,
        Variable(
            "SENTINEL_BODY_BYTES_PER_SECOND_MIN",
            "How slowly a body may arrive after its first 5 s; slower is 408. 0 asks for no rate.",
            "bytes/s",
            low=0,
            high=2**30,
        ),
    ] = 1024
    head_timeout_s: Annotated[
        float,
        Variable(
            "SENTINEL_HEAD_TIMEOUT_SECONDS",
            "How long the head of a request may take, and a connection may idle before one; above a load balancer's own.",
            "s",
            low=1,
            high=60,
        ),
    ] = 60.0
    first_request_timeout_s: Annotated[
        float,
        Variable(
            "SENTINEL_FIRST_REQUEST_TIMEOUT_SECONDS",
            "How long a new connection may take until the head of its first request is there.",
            "s",
            low=1,
            high=60,
        ),
    ] = 10.0
    connections_max: Annotated[
        int,
        Variable(
            "SENTINEL_CONNECTIONS_MAX",
            "Connections of clients that one worker takes, idle ones too; more wait. At most half of the open files allowed.",
            "connections",
            low=16,
            high=1_000_000,
        ),
    ] = 8192
    downstream_idle_s: Annotated[
        float,
        Variable(
            "SENTINEL_DOWNSTREAM_IDLE_TIMEOUT_SECONDS",
            "How long a client may go without reading its answer; soon after, its connection is closed.",
            "s",
            low=1,
            high=3600,
        ),
    ] = 300.0
    turn_wait_s: Annotated[
        float,
        Variable(
            "SENTINEL_TURN_WAIT_SECONDS",
            "How long a request may wait to begin while its worker is busy; what comes behind such a one gets 429 or 503.",
            "s",
            low=0.01,
            high=60,
        ),
    ] = 0.5
    cors_origins: Annotated[
        str,
        Variable(
            "SENTINEL_CORS_ORIGINS",
            "Origins whose pages may call Sentinel (`https://app.example.com,app://obsidian.md,moz-extension://,…`, or `*`).",
            reads=origins,
        ),
    ] = ""
    trace_upstream: Annotated[
        str,
        Variable(
            "SENTINEL_TRACE_UPSTREAM",
            "Whether the provider is told the trace of a request (`traceparent`, `tracestate`).",
            choices=("true", "false"),
        ),
    ] = "false"
    jwt_cache_ttl_s: Annotated[
        int, Variable("JWT_CACHE_TTL_SECONDS", "How long a token's profile counts as fresh.", "s", low=1, high=86400)
    ] = 300
    jwt_stale_s: Annotated[
        int,
        Variable(
            "SENTINEL_STALE_PROFILES_SECONDS",
            "How much longer it is used while Zion is slow or away; then 503.",
            "s",
            low=0,
            high=86400,
        ),
    ] = 600
    jwt_refusal_ttl_s: Annotated[
        float,
        Variable(
            "SENTINEL_JWT_REFUSAL_TTL_SECONDS",
            "How long a worker remembers that Zion refused a token.",
            "s",
            low=0,
            high=60,
        ),
    ] = 5.0
    jwt_cache_entries_max: Annotated[
        int,
        Variable("SENTINEL_JWT_CACHE_ENTRIES_MAX", "Profiles each worker keeps in memory.", "entries", low=1, high=10**7),
    ] = 10_000
    data_dir: Annotated[str, Variable("SENTINEL_DATA_DIR", "Where the workers of this host keep their journals.")] = (
        ".sentinel/data"
    )
    journal_bytes_max: Annotated[
        int,
        Variable("SENTINEL_JOURNAL_BYTES_MAX", "All journals of this host together.", "bytes", low=65536, high=2**40),
    ] = 256 * 2**20
    journal_keep_s: Annotated[
        float,
        Variable("SENTINEL_JOURNAL_KEEP_SECONDS", "How long Redis may lose what it has taken.", "s", low=0, high=86400),
    ] = 120.0
    on_journal_full: Annotated[
        str,
        Variable("SENTINEL_ON_JOURNAL_FULL", "New work without a journal: 503, or go on.", choices=("refuse", "continue")),
    ] = "refuse"
    drain_s: Annotated[
        float,
        Variable("SENTINEL_DRAIN_SECONDS", "How long open requests may go on after SIGTERM.", "s", low=0, high=3600),
    ] = 20.0
