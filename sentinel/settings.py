"""The settings: read once from the environment and `.env` into one frozen Struct.

Fails as a whole: `read` collects every problem, by variable name, and raises one `SettingsError` (the command line exits
with 2). Each field carries its variable, unit and one sentence; docs/settings.md and `.env.example` are tested against them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from dotenv import dotenv_values

from sentinel.variables import Variable, text_of, value_of

HIDDEN: Final = "(hidden)"


class SettingsError(Exception):
    """Wrong or missing settings; `problems` has one sentence for each, beginning with the variable's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_HTTP: Final = ("http", "https")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The effective settings of one deployment."""

    zion_api_url: Annotated[str, Variable("ZION_API_URL", "Where Zion answers, without a path.", required=True, schemes=_HTTP)]
    zion_api_key: Annotated[
        str, Variable("ZION_API_KEY", "Sentinel's own key for Zion's external endpoints.", secret=True, required=True)
    ]
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
    zion_failures_max: Annotated[
        int, Variable("SENTINEL_ZION_BREAKER_FAILURES", "Failed reports in a row that stop reports.", low=1, high=10**4)
    ] = 3
    zion_open_s: Annotated[
        float, Variable("SENTINEL_ZION_BREAKER_SECONDS", "How long, until one report tries again.", "s", low=0.05, high=3600)
    ] = 30.0
    provider: Annotated[
        str,
        Variable(
            "SENTINEL_PROVIDER",
            "Which provider answers; by default openai if OPENAI_API_KEY is set, else vercel.",
            choices=("openai", "vercel"),
        ),
    ] = ""
    openai_api_key: Annotated[
        str, Variable("OPENAI_API_KEY", "The provider's key when the provider is OpenAI.", secret=True)
    ] = ""
    openai_api_url: Annotated[
        str, Variable("OPENAI_API_URL", "Where OpenAI answers, with its version path.", schemes=_HTTP)
    ] = "https://api.openai.com/v1"
    vercel_api_key: Annotated[
        str,
        Variable("VERCEL_AI_GATEWAY_API_KEY", "The provider's key when the provider is Vercel AI Gateway.", secret=True),
    ] = ""
    vercel_api_url: Annotated[
        str, Variable("VERCEL_AI_GATEWAY_URL", "Where Vercel AI Gateway answers, with its version path.", schemes=_HTTP)
    ] = "https://ai-gateway.vercel.sh/v1"
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
    host: Annotated[str, Variable("SENTINEL_HOST", "The address Sentinel listens on.")] = "0.0.0.0"
    port: Annotated[int, Variable("SENTINEL_PORT", "The port Sentinel listens on.", low=1, high=65535)] = 8080
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
    body_timeout_s: Annotated[
        float,
        Variable("SENTINEL_BODY_TIMEOUT_SECONDS", "How long a request body may take to arrive.", "s", low=0.1, high=3600),
    ] = 30.0
    cache_ttl_s: Annotated[
        int,
        Variable("CACHE_TTL_SECONDS", "How long Zion's limits count as fresh before a refresh.", "s", low=1, high=86400),
    ] = 300
    jwt_cache_ttl_s: Annotated[
        int, Variable("JWT_CACHE_TTL_SECONDS", "How long a token's profile is kept at most.", "s", low=1, high=86400)
    ] = 300
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
    upstream_connect_s: Annotated[
        float,
        Variable(
            "SENTINEL_UPSTREAM_CONNECT_TIMEOUT_SECONDS",
            "How long a connection to the provider may take.",
            "s",
            low=0.1,
            high=60,
        ),
    ] = 5.0
    upstream_idle_s: Annotated[
        float,
        Variable(
            "SENTINEL_UPSTREAM_IDLE_TIMEOUT_SECONDS",
            "The longest silence of the provider, before its headers or between two reads.",
            "s",
            low=0.1,
            high=3600,
        ),
    ] = 300.0
    downstream_idle_s: Annotated[
        float,
        Variable(
            "SENTINEL_DOWNSTREAM_IDLE_TIMEOUT_SECONDS",
            "How long a client may go without reading its answer.",
            "s",
            low=1,
            high=3600,
        ),
    ] = 300.0
    upstream_connections_max: Annotated[
        int,
        Variable(
            "SENTINEL_UPSTREAM_CONNECTIONS_MAX",
            "Connections of one worker to the provider; above it 503.",
            "connections",
            low=1,
            high=100000,
        ),
    ] = 5000
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

    @property
    def upstream_url(self) -> str:
        """The provider's base URL, without a slash at its end."""
        return (self.openai_api_url if self.provider == "openai" else self.vercel_api_url).rstrip("/")

    @property
    def upstream_key(self) -> str:
        """The provider's key."""
        return self.openai_api_key if self.provider == "openai" else self.vercel_api_key


def variables() -> list[tuple[str, Variable]]:
    """Every setting as (field name, variable), in the order of the documentation."""
    hints = get_type_hints(Settings, include_extras=True)
    return [(name, _variable(hints[name])) for name in Settings.__struct_fields__]


def read(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """The settings from `environ` (default: this process's) over the file `dotenv`.

    Raises SettingsError with every problem at once.
    """
    outside: dict[str, str] = {}
    if dotenv is not None and dotenv.is_file():
        outside.update({name: value for name, value in dotenv_values(dotenv).items() if value is not None})
    outside.update(os.environ if environ is None else environ)
    problems: list[str] = []
    values: dict[str, Any] = {}
    hints = get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        variable = _variable(hints[field.name])
        text = text_of(variable, outside, problems)
        if text:
            values[field.name] = value_of(variable, get_args(hints[field.name])[0], text, problems)
        elif variable.required:
            problems.append(f"{variable.name} is not set: {variable.help}")
    _complete(values, problems)
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def shown(settings: Settings) -> list[tuple[str, str]]:
    """Every setting as (variable, value) with secrets hidden, for `sentinel config`."""
    rows = []
    for field, variable in variables():
        value = getattr(settings, field)
        rows.append((variable.name, HIDDEN if variable.secret and value else str(value)))
    return rows


def _variable(hint: Any) -> Variable:
    assert get_origin(hint) is Annotated
    variable = get_args(hint)[1]
    assert isinstance(variable, Variable)
    return variable


def _complete(values: dict[str, Any], problems: list[str]) -> None:
    """Fill in what depends on other settings, and check what only holds between two."""
    values.setdefault("provider", "openai" if "openai_api_key" in values else "vercel")
    values.setdefault("workers", os.cpu_count() or 1)
    fresh, stale = (values.get(field, _default(field)) for field in ("cache_ttl_s", "limits_stale_s"))
    if isinstance(fresh, int) and isinstance(stale, int) and stale < fresh:
        problems.append(f"SENTINEL_STALE_LIMITS_SECONDS is {stale}, shorter than CACHE_TTL_SECONDS, {fresh}")
    keys = {"openai": ("openai_api_key", "OPENAI_API_KEY"), "vercel": ("vercel_api_key", "VERCEL_AI_GATEWAY_API_KEY")}
    field, name = keys.get(values["provider"], ("provider", ""))
    if field not in values:
        other = " (or OPENAI_API_KEY)" if values["provider"] == "vercel" else ""
        problems.append(f"{name}{other} is not set: without it no provider can be asked")


def _default(field: str) -> object:
    return next(one.default for one in msgspec.structs.fields(Settings) if one.name == field)
