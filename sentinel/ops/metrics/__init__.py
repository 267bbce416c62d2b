"""All metrics of Sentinel, in one place; docs/metrics.md lists each (a test compares).

Label values come from closed sets (routes, endings, statuses), never from what a caller sends. They are counted in memory
(tallies.py). With PROMETHEUS_MULTIPROC_DIR set (as `sentinel serve` does), prometheus-client keeps the figures in files and one
page merges the workers. Cannot fail a request.
"""

from collections.abc import Sequence
from typing import Final

import prometheus_client

from sentinel.ops.metrics.tallies import Count, Counts, Level, Rows, Spread, Spreads, hand_over

__all__ = ["FAMILIES", "Rows", "hand_over"]

# Every metric, as prometheus-client knows it.
FAMILIES: Final[list[prometheus_client.metrics.MetricWrapperBase]] = []


def _count(name: str, documentation: str) -> Count:
    family = prometheus_client.Counter(name, documentation)
    FAMILIES.append(family)
    return Count(family)


def _counts(name: str, documentation: str, labels: Sequence[str]) -> Counts:
    family = prometheus_client.Counter(name, documentation, labels)
    FAMILIES.append(family)
    return Counts(family)


def _level(name: str, documentation: str, multiprocess_mode: str) -> Level:
    family = prometheus_client.Gauge(name, documentation, multiprocess_mode=multiprocess_mode)  # type: ignore[arg-type]
    FAMILIES.append(family)
    return Level(family)


def _spread(name: str, documentation: str, buckets: Sequence[float]) -> Spread:
    family = prometheus_client.Histogram(name, documentation, buckets=buckets)
    FAMILIES.append(family)
    return Spread(family, buckets)


def _spreads(name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> Spreads:
    family = prometheus_client.Histogram(name, documentation, labels, buckets=buckets)
    FAMILIES.append(family)
    return Spreads(family, buckets)


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RATIOS: Final = (0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 2, 5)

REQUESTS: Final = _counts("sentinel_requests_total", "Requests answered, by route and status.", ["route", "status"])
ENDINGS: Final = _counts("sentinel_endings_total", "Admitted requests, by route and how they ended.", ["route", "ending"])
IN_FLIGHT: Final = _level("sentinel_requests_in_flight", "Requests being worked on.", multiprocess_mode="livesum")
CONNECTIONS: Final = _level("sentinel_connections", "Connections of clients that are open.", multiprocess_mode="livesum")
CONNECTIONS_ENDED: Final = _counts(
    "sentinel_connections_ended_total", "Connections ended because no request came over them, by the reason.", ["reason"]
)
DURATION: Final = _spreads(
    "sentinel_request_seconds", "From the first byte read to the last byte sent.", ["route"], buckets=_SECONDS
)
OVERHEAD: Final = _spreads(
    "sentinel_admission_seconds",
    "From the first byte read to the request to the provider.",
    ["route"],
    buckets=_SECONDS,
)
FIRST_BYTE: Final = _spreads(
    "sentinel_upstream_first_byte_seconds",
    "From the request to the provider to its headers.",
    ["route"],
    buckets=_SECONDS,
)
WAITING: Final = _level("sentinel_turns_waiting", "Requests that wait for their turn to begin.", multiprocess_mode="livesum")
TURN: Final = _spread("sentinel_turn_seconds", "Waits for a turn to begin; who need not wait is not in it.", buckets=_SECONDS)
REFUSALS: Final = _counts("sentinel_refusals_total", "Requests refused by a limit, by the limit.", ["limit"])
AUTH: Final = _counts("sentinel_auth_total", "Tokens looked up, by where they were found.", ["found"])
TOKENS: Final = _counts("sentinel_tokens_total", "Tokens billed.", ["metric"])
BILLS: Final = _counts("sentinel_bills_total", "Settled requests, by where the figures came from.", ["figures"])
ESTIMATE_RATIO: Final = _spread(
    "sentinel_estimate_ratio", "Estimated input tokens divided by the provider's own count.", buckets=_RATIOS
)
UPSTREAM: Final = _counts("sentinel_upstream_answers_total", "Answers of the provider, by status class.", ["answer"])
UPSTREAM_REFUSALS: Final = _counts(
    "sentinel_upstream_refusals_total",
    "Answers by which the provider refused this deployment: its key, or its account.",
    ["reason"],
)
STREAM_OVERFLOWS: Final = _count(
    "sentinel_stream_overflows_total", "Events too long to be held, passed on before they were whole."
)
UPSTREAM_RETRIES: Final = _counts("sentinel_upstream_retries_total", "Requests sent to the provider again.", ["reason"])
OBJECTS_UNOWNED: Final = _count(
    "sentinel_objects_unowned_total", "Objects made at the provider whose owner could not be noted."
)
UNFINISHED: Final = _level(
    "sentinel_unfinished_work", "Requests whose work goes on at the provider, looked after here.", multiprocess_mode="livesum"
)
FALLBACKS: Final = _counts("sentinel_fallbacks_total", "Requests handed on to another model, by the reason.", ["reason"])
ANSWER_CACHE: Final = _counts("sentinel_answer_cache_total", "Requests that may be answered again, by hit or miss.", ["result"])
LEDGER_SECONDS: Final = _spreads("sentinel_ledger_seconds", "Round trips to Redis.", ["script"], buckets=_SECONDS)
LEDGER_ERRORS: Final = _counts("sentinel_ledger_errors_total", "Failed calls to Redis.", ["script"])
LEDGER_AWAY: Final = _level(
    "sentinel_ledger_away", "Workers whose breaker to Redis is open: they decide without it.", multiprocess_mode="livesum"
)
DEGRADED: Final = _counts(
    "sentinel_degraded_admissions_total", "Requests decided while Redis was away, by mode and result.", ["mode", "result"]
)
ZION: Final = _counts("sentinel_zion_answers_total", "Answers of Zion, by call and result.", ["call", "result"])
REPORTED: Final = _count("sentinel_reported_increments_total", "Increments Zion acknowledged.")
REPORT_BATCHES: Final = _counts("sentinel_report_batches_total", "Batches sent to Zion, by result.", ["result"])
DEAD_LETTERS: Final = _count("sentinel_dead_letters_total", "Increments Zion refused for good.")
REPORTS_UNSURE: Final = _count(
    "sentinel_reports_unsure_total", "Batches sent again whose earlier end is unknown: twice, if Zion ignores idempotency keys."
)
REPORT_SUMS_WAITING: Final = _level(
    "sentinel_report_sums_waiting", "Sums not yet in a batch to Zion, in the ledger.", multiprocess_mode="livemostrecent"
)
REPORT_BATCHES_WAITING: Final = _level(
    "sentinel_report_batches_waiting",
    "Batches that Zion has not acknowledged, in the ledger.",
    multiprocess_mode="livemostrecent",
)
REPORT_OLDEST: Final = _level(
    "sentinel_report_oldest_seconds", "Age of the oldest of these batches.", multiprocess_mode="livemostrecent"
)
ZION_GATE: Final = _counts("sentinel_zion_gate_total", "Calls to Zion that asked the gate, and its answer.", ["kind", "answer"])
ZION_BREAKER: Final = _level(
    "sentinel_zion_breaker_open", "Whether reports to Zion are stopped (1).", multiprocess_mode="livemostrecent"
)
SETTLEMENTS_WAITING: Final = _level(
    "sentinel_settlements_waiting", "Settlements that Redis has not taken yet.", multiprocess_mode="livesum"
)
JOURNAL_BYTES: Final = _level("sentinel_journal_bytes", "Bytes of all journals of this host.", multiprocess_mode="livemax")
JOURNAL_ALARM: Final = _level(
    "sentinel_journal_alarm", "1 while the journal is over 80 % of its bound or cannot be written.", multiprocess_mode="livemax"
)
JOURNAL_ERRORS: Final = _count("sentinel_journal_errors_total", "Writes to the journal that failed.")
REPLAYED: Final = _counts("sentinel_replayed_total", "Requests a journal had to tell the ledger again, by kind.", ["kind"])
