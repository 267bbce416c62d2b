"""All metrics of Sentinel, in one place; docs/metrics.md lists each (a test compares).

Label values come from closed sets (routes, endings, statuses), never from what a caller sends. With PROMETHEUS_MULTIPROC_DIR
set (as `sentinel serve` does), prometheus-client keeps the figures in files and one page merges the workers.
Cannot fail a request: an increment is a write to memory.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RATIOS: Final = (0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 2, 5)

REQUESTS: Final = Counter("sentinel_requests_total", "Requests answered, by route and status.", ["route", "status"])
ENDINGS: Final = Counter("sentinel_endings_total", "Admitted requests, by route and how they ended.", ["route", "ending"])
IN_FLIGHT: Final = Gauge("sentinel_requests_in_flight", "Requests being worked on.", multiprocess_mode="livesum")
DURATION: Final = Histogram(
    "sentinel_request_seconds", "From the first byte read to the last byte sent.", ["route"], buckets=_SECONDS
)
OVERHEAD: Final = Histogram(
    "sentinel_admission_seconds",
    "From the first byte read to the request to the provider.",
    ["route"],
    buckets=_SECONDS,
)
FIRST_BYTE: Final = Histogram(
    "sentinel_upstream_first_byte_seconds",
    "From the request to the provider to its headers.",
    ["route"],
    buckets=_SECONDS,
)
REFUSALS: Final = Counter("sentinel_refusals_total", "Requests refused by a limit, by the limit.", ["limit"])
AUTH: Final = Counter("sentinel_auth_total", "Tokens looked up, by where they were found.", ["found"])
TOKENS: Final = Counter("sentinel_tokens_total", "Tokens billed.", ["metric"])
BILLS: Final = Counter("sentinel_bills_total", "Settled requests, by where the figures came from.", ["figures"])
ESTIMATE_RATIO: Final = Histogram(
    "sentinel_estimate_ratio", "Estimated input tokens divided by the provider's own count.", buckets=_RATIOS
)
UPSTREAM: Final = Counter("sentinel_upstream_answers_total", "Answers of the provider, by status class.", ["answer"])
STREAM_OVERFLOWS: Final = Counter("sentinel_stream_overflows_total", "Events too long to be read, passed on unread.")
UPSTREAM_RETRIES: Final = Counter("sentinel_upstream_retries_total", "Requests sent to the provider again.", ["reason"])
OBJECTS_UNOWNED: Final = Counter(
    "sentinel_objects_unowned_total", "Objects made at the provider whose owner could not be noted."
)
UNFINISHED: Final = Gauge(
    "sentinel_unfinished_work", "Requests whose work goes on at the provider, looked after here.", multiprocess_mode="livesum"
)
FALLBACKS: Final = Counter("sentinel_fallbacks_total", "Requests handed on to another model, by the reason.", ["reason"])
ANSWER_CACHE: Final = Counter("sentinel_answer_cache_total", "Requests that may be answered again, by hit or miss.", ["result"])
LEDGER_SECONDS: Final = Histogram("sentinel_ledger_seconds", "Round trips to Redis.", ["script"], buckets=_SECONDS)
LEDGER_ERRORS: Final = Counter("sentinel_ledger_errors_total", "Failed calls to Redis.", ["script"])
LEDGER_AWAY: Final = Gauge(
    "sentinel_ledger_away", "Workers whose breaker to Redis is open: they decide without it.", multiprocess_mode="livesum"
)
DEGRADED: Final = Counter(
    "sentinel_degraded_admissions_total", "Requests decided while Redis was away, by mode and result.", ["mode", "result"]
)
ZION: Final = Counter("sentinel_zion_answers_total", "Answers of Zion, by call and result.", ["call", "result"])
REPORTED: Final = Counter("sentinel_reported_increments_total", "Increments Zion acknowledged.")
REPORT_BATCHES: Final = Counter("sentinel_report_batches_total", "Batches sent to Zion, by result.", ["result"])
DEAD_LETTERS: Final = Counter("sentinel_dead_letters_total", "Increments Zion refused for good.")
REPORTS_UNSURE: Final = Counter(
    "sentinel_reports_unsure_total", "Batches sent again whose earlier end is unknown: twice, if Zion ignores idempotency keys."
)
REPORT_SUMS_WAITING: Final = Gauge(
    "sentinel_report_sums_waiting", "Sums not yet in a batch to Zion, in the ledger.", multiprocess_mode="livemostrecent"
)
REPORT_BATCHES_WAITING: Final = Gauge(
    "sentinel_report_batches_waiting",
    "Batches that Zion has not acknowledged, in the ledger.",
    multiprocess_mode="livemostrecent",
)
REPORT_OLDEST: Final = Gauge(
    "sentinel_report_oldest_seconds", "Age of the oldest of these batches.", multiprocess_mode="livemostrecent"
)
ZION_GATE: Final = Counter("sentinel_zion_gate_total", "Calls to Zion that asked the gate, and its answer.", ["kind", "answer"])
ZION_BREAKER: Final = Gauge(
    "sentinel_zion_breaker_open", "Whether reports to Zion are stopped (1).", multiprocess_mode="livemostrecent"
)
SETTLEMENTS_WAITING: Final = Gauge(
    "sentinel_settlements_waiting", "Settlements that Redis has not taken yet.", multiprocess_mode="livesum"
)
JOURNAL_BYTES: Final = Gauge("sentinel_journal_bytes", "Bytes of all journals of this host.", multiprocess_mode="livemax")
JOURNAL_ALARM: Final = Gauge(
    "sentinel_journal_alarm", "1 while the journal is over 80 % of its bound or cannot be written.", multiprocess_mode="livemax"
)
JOURNAL_ERRORS: Final = Counter("sentinel_journal_errors_total", "Writes to the journal that failed.")
REPLAYED: Final = Counter("sentinel_replayed_total", "Requests a journal had to tell the ledger again, by kind.", ["kind"])
