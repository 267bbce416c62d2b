"""Limits as numbers: what Zion says of a caller (zion.md, both formats) and what the ledger's scripts answer.

Pure. Unknown fields and names are ignored, numbers may be floats or plain text, and a limit that is null, negative or absent is
no limit. Fails closed: an answer with no list of limits, with one that is no object or has no name as it should, or with a
figure that is no number (`"1,000"`, `true`, `{}`), raises ValueError, since nobody can tell what it allows.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sentinel.ops.records import UNLIMITED, Metric, Remaining

# The scripts write numbers as JSON with 14 digits at most; a limit above that is no limit anybody reaches.
NUMBER_MAX: Final = 10**14 - 1

_NAMES: Final = {metric.value: metric for metric in Metric}
_UNIFIED: Final = {"aiInputTokens": Metric.INPUT, "aiOutputTokens": Metric.OUTPUT, "aiRequests": Metric.REQUESTS}
_UNIFIED_NAME: Final = "ai_usage"
# As JSON writes numbers; Python's float() would also take "1_000", "nan" and other scripts' digits.
_NUMBER: Final = re.compile(r"\s*[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,5})?\s*", re.ASCII)
_DAY_MS: Final = 86_400_000
# What admit.lua answers, as a code and why.
_ANSWERS: Final = (
    ("admitted", "ok"),
    ("admitted", "dup"),
    ("settled", "settled"),
    ("snapshot", "unknown"),
    ("snapshot", "stale"),
    ("denied", "rate"),
    ("denied", "tokens"),
    ("denied", "concurrency"),
    ("denied", "requests"),
    ("denied", "input"),
    ("denied", "output"),
    ("denied", "work"),
)

_read_figures: Final = struct.Struct("<23q").unpack

_decode: Final = msgspec.json.Decoder().decode


class MetricLimit(msgspec.Struct, frozen=True):
    """One limit of one caller: amounts in tokens or requests, `limit` None when unlimited, the period in Unix ms.

    `end_ms` is 0 for a period that never ends or whose end Zion does not tell; `period` is Zion's `resetPeriod`, upper case.
    """

    limit: int | None = None
    used: int = 0
    start_ms: int = 0
    end_ms: int = 0
    period: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """What Zion said of one caller; `missing` are the metrics it names nowhere, which count as unlimited here."""

    input: MetricLimit
    output: MetricLimit
    requests: MetricLimit
    missing: tuple[Metric, ...] = ()


class KeptLimits(msgspec.Struct):
    """What lies at `limits:{externalId}`: Zion's own answer, and what the ledger knew before Zion was asked."""

    asked_at_ms: int
    acked: tuple[int, int, int]
    limits: msgspec.Raw


read_kept: Final = msgspec.json.Decoder(KeptLimits).decode
write_kept: Final = msgspec.json.Encoder().encode


class Verdict(msgspec.Struct, frozen=True):
    """What admit.lua said.

    `code` is "admitted" (`why` "ok", or "dup" for a request that was admitted before), "denied" (`why` is the limit that is
    used up: "rate", "tokens", "concurrency", "requests", "input", "output", "work"), "snapshot" (`why` "unknown", "stale": the
    limits must be installed first) or "settled" (the request is over). `granted_output` and `granted_input` may be less than
    was asked. `refresh` asks this caller alone to fetch the limits anew. `stands_ms` is how long all requests of the caller
    will be refused like this one (0: unknown). `acked` (input, output, requests) and `clock_ms` (the ledger's own) belong into
    `Ledger.install` if Zion is asked after this. `rate` and `tokens` are the windows of requests and of tokens.
    """

    code: str
    why: str
    granted_output: int
    input: Remaining
    output: Remaining
    requests: Remaining
    rate: Remaining
    refresh: bool
    acked: tuple[int, int, int]
    clock_ms: int
    tokens: Remaining = UNLIMITED
    stands_ms: int = 0
    granted_input: int = 0


def read_snapshot(body: bytes) -> Snapshot:
    """The limits in an answer of Zion, `data` enveloped or bare. Of two limits of one metric the one with less left counts.

    Raises ValueError where the body is not the JSON of such an answer, or a figure in it is not a number.
    """
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"limits are not JSON: {error}") from error
    entries = _entries(answer)
    if entries is None:
        raise ValueError("an answer without a list of limits")
    found: dict[Metric, MetricLimit] = {}
    for entry in entries:
        for metric, figures in _named(entry):
            limit = _limit(figures, entry)
            if metric not in found or _left(limit) < _left(found[metric]):
                found[metric] = limit
    unlimited = MetricLimit()
    return Snapshot(
        input=found.get(Metric.INPUT, unlimited),
        output=found.get(Metric.OUTPUT, unlimited),
        requests=found.get(Metric.REQUESTS, unlimited),
        missing=tuple(metric for metric in Metric if metric not in found),
    )


def read_verdict(reply: bytes) -> Verdict:
    """The reply of admit.lua, by its contract there."""
    answer, granted, il, ir, ie, ol, or_, oe, rl, rr, re, wl, wr, we, vl, vr, ve, refresh, ia, oa, ra, clock_ms, given = (
        _read_figures(reply)
    )
    code, why = _ANSWERS[answer]
    stands_ms = 0
    if code == "denied":
        granted, stands_ms = 0, granted
    return Verdict(
        code,
        why,
        granted,
        # Written out, as in read_remaining: this is done for every request.
        UNLIMITED if il < 0 else Remaining(il, ir, ie if ie >= 0 else None),
        UNLIMITED if ol < 0 else Remaining(ol, or_, oe if oe >= 0 else None),
        UNLIMITED if rl < 0 else Remaining(rl, rr, re if re >= 0 else None),
        UNLIMITED if wl < 0 else Remaining(wl, wr, we if we >= 0 else None),
        refresh == 1,
        (ia, oa, ra),
        clock_ms,
        UNLIMITED if vl < 0 else Remaining(vl, vr, ve if ve >= 0 else None),
        stands_ms,
        given,
    )


def read_remaining(figures: Sequence[int]) -> Remaining:
    """What the scripts say of a limit: limit, remaining, reset ms; -1 is unlimited, or never."""
    limit, remaining, reset_ms = figures
    if limit < 0:
        return UNLIMITED
    return Remaining(limit, remaining, None if reset_ms < 0 else reset_ms)


def _entries(answer: Any) -> list[Any] | None:
    """The list of limits, wherever it lies; None where there is none."""
    if isinstance(answer, dict) and isinstance(answer.get("data"), dict):
        answer = answer["data"]
    entries = answer.get("limits") if isinstance(answer, dict) else None
    return entries if isinstance(entries, list) else None


def _named(entry: Any) -> Iterator[tuple[Metric, Mapping[str, Any]]]:
    """The metrics that one entry of Zion's list speaks of, each with the object that holds its figures."""
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str | None):
        raise ValueError(f"a limit without a name: {entry!r:.40}")  # noqa: TRY004 - as for all that cannot be read
    if name in _NAMES:
        yield _NAMES[name], entry
    elif name == _UNIFIED_NAME or name is None:
        for key, metric in _UNIFIED.items():
            figures = entry.get(key)
            if isinstance(figures, dict):
                yield metric, figures
            elif figures is not None:
                raise ValueError(f"{key} is not an object")


def _limit(figures: Mapping[str, Any], entry: Mapping[str, Any]) -> MetricLimit:
    """Amounts from `figures`, the period from there or from the entry around it."""
    limit = _number(figures, "limit", math.floor)
    if limit is not None and limit < 0:
        limit = None
    used = _number(figures, "used", math.ceil)
    if used is None:
        left = _number(figures, "remaining", math.floor)
        used = 0 if limit is None or left is None else limit - left
    period = figures.get("resetPeriod") or entry.get("resetPeriod")
    period = period.strip().upper() if isinstance(period, str) else ""
    period = period if period.isascii() and period.isalpha() else ""
    if period == "NEVER":
        return MetricLimit(limit, max(used, 0), 0, 0, period)
    start_ms = _unix_ms(figures.get("periodStart") or entry.get("periodStart"))
    end_ms = _exclusive(_unix_ms(figures.get("periodEnd") or entry.get("periodEnd")))
    if end_ms <= start_ms:
        start_ms = end_ms = 0
    return MetricLimit(limit, max(used, 0), start_ms, end_ms, period)


def _left(limit: MetricLimit) -> float:
    return math.inf if limit.limit is None else limit.limit - limit.used


def _number(figures: Mapping[str, Any], name: str, whole: Callable[[float], int]) -> int | None:
    """A JSON number or its text as an int within the bounds of the ledger, rounded by `whole`; None where there is none.

    Raises ValueError for anything else.
    """
    value = figures.get(name)
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Before it is rounded: what is infinite, or an integer too large for a float, is beyond the bounds too.
        return int(whole(max(-NUMBER_MAX, min(NUMBER_MAX, value))))
    raise ValueError(f"{name} is not a number: {value!r:.40}")


def _unix_ms(value: Any) -> int:
    """An ISO 8601 time (UTC where it names no zone) in Unix ms; 0 for anything else."""
    if not isinstance(value, str):
        return 0
    try:
        at = datetime.fromisoformat(value.strip())
        return max(0, round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0


def _exclusive(end_ms: int) -> int:
    """The first instant after a period whose end may be written as its last second or millisecond (23:59:59.999)."""
    for step_ms in (1, 1000):
        if end_ms and (end_ms + step_ms) % _DAY_MS == 0:
            return end_ms + step_ms
    return end_ms
