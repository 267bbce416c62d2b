"""Redis, and the limits that are held in it. Values only; `sentinel.settings` reads and checks them."""

from typing import Annotated

from sentinel.ops.settings.objects import ObjectSettings
from sentinel.ops.settings.variable import Variable


class LedgerSettings(ObjectSettings, frozen=True, kw_only=True):
    """Redis, and the limits that are held in it."""

    redis_url: Annotated[
        str,
        Variable("REDIS_URL", "The Redis that all workers and hosts share.", secret=True, schemes=("redis", "rediss", "unix")),
    ] = "redis://localhost:6379"
    redis_timeout_s: Annotated[
        float,
        Variable(
            "SENTINEL_REDIS_TIMEOUT_SECONDS",
            "How long a request waits for one call to Redis; connections have a second to be made.",
            "s",
            low=0.01,
            high=60,
        ),
    ] = 0.05
    on_redis_down: Annotated[
        str,
        Variable(
            "SENTINEL_ON_REDIS_DOWN",
            "Whom to admit while Redis is away: known callers from a slice of what they had left, everybody, or nobody.",
            choices=("sliced", "open", "closed"),
        ),
    ] = "sliced"
    slice_ratio: Annotated[
        float,
        Variable(
            "SENTINEL_SLICE_RATIO",
            "Of what remained to a caller, how much all processes together admit while Redis is away.",
            low=0,
            high=1,
        ),
    ] = 0.5
    fleet_processes: Annotated[
        int,
        Variable(
            "SENTINEL_FLEET_PROCESSES",
            "Worker processes of all hosts that share this Redis; 0 is SENTINEL_WORKERS, right for one host.",
            "processes",
            low=0,
            high=100000,
        ),
    ] = 0
    cache_ttl_s: Annotated[
        int,
        Variable("CACHE_TTL_SECONDS", "How long Zion's limits count as fresh before a refresh.", "s", low=1, high=86400),
    ] = 300
    limits_stale_s: Annotated[
        int,
        Variable(
            "SENTINEL_STALE_LIMITS_SECONDS",
            "How old limits may grow while Zion is away; then 503.",
            "s",
            low=1,
            high=604800,
        ),
    ] = 3600
    missing_limit: Annotated[
        str,
        Variable(
            "SENTINEL_MISSING_LIMIT",
            "What a limit that Zion does not name means: no limit, or 403.",
            choices=("allow", "deny"),
        ),
    ] = "allow"
    rate_requests: Annotated[
        int,
        Variable(
            "SENTINEL_RATE_LIMIT_REQUESTS",
            "Requests of one caller in the sliding window; 0 is no limit.",
            "requests",
            low=0,
        ),
    ] = 100
    rate_tokens: Annotated[
        int,
        Variable("SENTINEL_RATE_LIMIT_TOKENS", "Tokens of one caller in the sliding window; 0 is no limit.", "tokens", low=0),
    ] = 0
    rate_window_s: Annotated[
        int,
        Variable("SENTINEL_RATE_LIMIT_WINDOW_SECONDS", "The length of the sliding window.", "s", low=1, high=86400),
    ] = 60
    caller_concurrency_max: Annotated[
        int,
        Variable(
            "SENTINEL_CALLER_CONCURRENCY_MAX", "Requests of one caller under way at a time; 0 is any number.", "requests", low=0
        ),
    ] = 0
    output_tokens_default: Annotated[
        int,
        Variable(
            "SENTINEL_OUTPUT_TOKENS_DEFAULT",
            "Output tokens held for each choice when the client declares no cap; less where less remains.",
            "tokens",
            low=1,
        ),
    ] = 4096
    work_output_tokens_default: Annotated[
        int,
        Variable(
            "SENTINEL_WORK_OUTPUT_TOKENS_DEFAULT",
            "The same for work that goes on after its answer (runs, batches, background responses).",
            "tokens",
            low=1,
        ),
    ] = 16_384
    unseen_input_tokens_default: Annotated[
        int,
        Variable(
            "SENTINEL_UNSEEN_INPUT_TOKENS_DEFAULT",
            "Input tokens held for what a request does not show (work, earlier answers, templates); less where less remains.",
            "tokens",
            low=0,
        ),
    ] = 8192
    caller_work_max: Annotated[
        int,
        Variable(
            "SENTINEL_CALLER_WORK_MAX",
            "Runs, batches and background responses of one caller that may be unfinished at a time; 0 is any number.",
            low=0,
            high=1000,
        ),
    ] = 20
    ledger_partitions: Annotated[
        int,
        Variable(
            "SENTINEL_LEDGER_PARTITIONS",
            "Partitions of the ledger; never change it while usage waits.",
            low=1,
            high=1024,
        ),
    ] = 16
    lease_s: Annotated[
        int,
        Variable("SENTINEL_LEASE_SECONDS", "How long a hold outlives the worker that made it.", "s", low=5, high=86400),
    ] = 60
