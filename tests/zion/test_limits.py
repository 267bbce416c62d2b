"""limits: both of Zion's formats and odd values become numbers; the reply of admit.lua becomes a verdict."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.ops.records import Metric, Remaining
from sentinel.zion.limits import NUMBER_MAX, MetricLimit, read_snapshot, read_verdict

DAY = {"resetPeriod": "DAILY", "periodStart": "2026-11-21T00:00:00.000Z", "periodEnd": "2026-11-22T00:00:00.000Z"}
START_MS, END_MS = 1795219200000, 1795305600000


def body(*entries: Any, envelope: bool = True) -> bytes:
    """An answer of Zion with these limits."""
    content = {"userId": "u", "externalId": "x", "limits": list(entries), "unknown": {}}
    return json.dumps({"success": True, "data": content} if envelope else content).encode()


def per_limit(name: str, **figures: Any) -> dict[str, Any]:
    """An entry of the per-limit format."""
    return {"limitId": "l", "name": name, "displayName": "d", "unit": "tokens", **figures}


@pytest.mark.parametrize("envelope", [True, False])
def test_the_per_limit_format_is_read(envelope: bool) -> None:
    """Each named limit comes with its own period; what has no entry is unlimited and named as missing."""
    snapshot = read_snapshot(
        body(
            per_limit("ai_input_tokens", limit=10_000, used=500, remaining=9500, **DAY),
            per_limit("ai_requests", limit=50, used=1, resetPeriod="NEVER", periodStart=DAY["periodStart"], periodEnd=None),
            per_limit("seats", limit=1, used=1),
            envelope=envelope,
        )
    )
    assert snapshot.input == MetricLimit(10_000, 500, START_MS, END_MS, "DAILY")
    assert snapshot.requests == MetricLimit(50, 1, 0, 0, "NEVER")
    assert snapshot.output == MetricLimit()
    assert snapshot.missing == (Metric.OUTPUT,)


@pytest.mark.parametrize("envelope", [True, False])
def test_the_unified_format_is_read(envelope: bool) -> None:
    """One entry holds three metrics and the period of all."""
    entry = {
        "name": "ai_usage",
        "displayName": "AI",
        "aiInputTokens": {"limit": 100, "used": 7, "remaining": 93},
        "aiOutputTokens": {"limit": None, "used": 3},
        "aiRequests": {"limit": 5, "used": 5, "remaining": 0},
        **DAY,
    }
    snapshot = read_snapshot(body(entry, envelope=envelope))
    assert snapshot.input == MetricLimit(100, 7, START_MS, END_MS, "DAILY")
    assert snapshot.output == MetricLimit(None, 3, START_MS, END_MS, "DAILY")
    assert snapshot.requests == MetricLimit(5, 5, START_MS, END_MS, "DAILY")
    assert snapshot.missing == ()


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"limit": None, "used": 3}, (None, 3)),
        ({"limit": -1, "used": 3}, (None, 3)),
        ({"used": 3}, (None, 3)),
        ({}, (None, 0)),
        ({"limit": 0, "used": 0}, (0, 0)),
        ({"limit": 10.9, "used": 2.1}, (10, 3)),
        ({"limit": "100", "used": "1e1"}, (100, 10)),
        ({"limit": 10, "remaining": 4}, (10, 6)),
        ({"limit": 10, "remaining": 40}, (10, 0)),
        ({"limit": 10, "used": -5}, (10, 0)),
        ({"limit": 10, "used": 25, "remaining": 0}, (10, 25)),
        ({"limit": 10**30, "used": 10**30}, (NUMBER_MAX, NUMBER_MAX)),
        ({"limit": 1e300, "used": 0}, (NUMBER_MAX, 0)),
        ({"limit": 10**400, "used": "1" + "0" * 399}, (NUMBER_MAX, NUMBER_MAX)),
        ({"limit": -(10**400), "used": None}, (None, 0)),
        ({"limit": "1e400", "used": " 7 "}, (NUMBER_MAX, 7)),
    ],
)
def test_odd_figures_are_read_tolerantly(figures: dict[str, Any], expected: tuple[int | None, int]) -> None:
    """A number is read however it is written; what is absent is no limit, and nothing used."""
    limit = read_snapshot(body(per_limit("ai_requests", **figures))).requests
    assert (limit.limit, limit.used) == expected


UNREADABLE: list[Any] = [
    "1,000",
    "many",
    "",
    " ",
    "1_000",
    "0x10",
    "nan",
    "inf",
    "Infinity",
    "١٠",
    "5 tokens",
    True,
    False,
    [],
    [5],
    {},
]


@pytest.mark.parametrize("value", UNREADABLE, ids=repr)
@pytest.mark.parametrize("name", ["limit", "used", "remaining"])
def test_a_figure_that_is_no_number_is_unreadable(name: str, value: Any) -> None:
    """Nobody can tell what it allows, so that the whole answer is refused, in both formats, and is never no limit."""
    figures = {"limit": 10} | ({} if name == "remaining" else {"used": 1}) | {name: value}
    for entry in (per_limit("ai_requests", **figures), {"name": "ai_usage", "aiRequests": figures}):
        with pytest.raises(ValueError, match=name):
            read_snapshot(body(entry))


@pytest.mark.parametrize("value", [5, "5", True, [], "unlimited"], ids=repr)
def test_a_metric_that_is_no_object_is_unreadable(value: Any) -> None:
    """In the unified format a metric holds its figures; null is no metric."""
    with pytest.raises(ValueError, match="aiRequests"):
        read_snapshot(body({"name": "ai_usage", "aiRequests": value}))
    assert Metric.REQUESTS in read_snapshot(body({"name": "ai_usage", "aiRequests": None})).missing


@pytest.mark.parametrize(
    "entry", ["ai_requests", ["ai_requests", 5], None, 5, True, *({"name": v} for v in (5, True, [], {}))], ids=repr
)
def test_a_limit_that_has_no_name_is_unreadable(entry: Any) -> None:
    """Nobody can tell what it limits, so that it is not passed over; an object without any name is of the unified format."""
    with pytest.raises(ValueError, match="without a name"):
        read_snapshot(body(per_limit("ai_requests", limit=1), entry))
    assert read_snapshot(body({"name": None, "aiRequests": {"limit": 3}})).requests.limit == 3


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        (DAY, (START_MS, END_MS, "DAILY")),
        ({**DAY, "periodEnd": "2026-11-21T23:59:59.999Z"}, (START_MS, END_MS, "DAILY")),
        ({**DAY, "periodEnd": "2026-11-21T23:59:59Z"}, (START_MS, END_MS, "DAILY")),
        ({**DAY, "periodStart": "2026-11-21T01:00:00+01:00"}, (START_MS, END_MS, "DAILY")),
        ({**DAY, "periodStart": "2026-11-21"}, (START_MS, END_MS, "DAILY")),
        ({"resetPeriod": "daily"}, (0, 0, "DAILY")),
        ({"resetPeriod": 'x"y'}, (0, 0, "")),
        ({**DAY, "periodEnd": "soon"}, (0, 0, "DAILY")),
        ({**DAY, "periodEnd": DAY["periodStart"]}, (0, 0, "DAILY")),
        ({**DAY, "periodEnd": "9999-12-31T23:59:59+00:00"}, (START_MS, 253402300800000, "DAILY")),
        ({**DAY, "resetPeriod": "NEVER"}, (0, 0, "NEVER")),
        ({"resetPeriod": 5, "periodStart": 7, "periodEnd": {}}, (0, 0, "")),
    ],
)
def test_periods_are_read_tolerantly(period: dict[str, Any], expected: tuple[int, int, str]) -> None:
    """Ends are exclusive however they are written; a period that makes no sense has no end."""
    limit = read_snapshot(body(per_limit("ai_requests", limit=1, used=0, **period))).requests
    assert (limit.start_ms, limit.end_ms, limit.period) == expected


def test_of_two_limits_the_tighter_counts() -> None:
    """A daily and a monthly limit of one metric: the one with less left decides, whatever their order."""
    daily = per_limit("ai_requests", limit=10, used=9, **DAY)
    monthly = per_limit("ai_requests", limit=100, used=10)
    unlimited = per_limit("ai_requests", limit=None, used=10)
    for order in ([daily, monthly, unlimited], [unlimited, monthly, daily]):
        assert read_snapshot(body(*order)).requests.limit == 10


@pytest.mark.parametrize(
    "text", [b"", b"nope", b"[]", b"null", b"{}", b'{"data":{}}', b'{"limits":{}}', b"\xff", b"[" * 100_000]
)
def test_an_answer_without_limits_is_refused(text: bytes) -> None:
    """What is not a list of limits raises ValueError and nothing else."""
    with pytest.raises(ValueError):
        read_snapshot(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "limit", "used", "remaining", "resetPeriod", "periodStart", "periodEnd", "aiRequests"]),
            inner | st.sampled_from(["ai_usage", "ai_requests", "DAILY", "2026-11-21T00:00:00Z"]),
        )
    ),
    max_leaves=12,
)


@given(st.lists(_json, max_size=4))
def test_no_list_of_limits_is_misread(entries: list[Any]) -> None:
    """Whatever stands in the list, it is unreadable, or its figures are within what the ledger can hold."""
    try:
        snapshot = read_snapshot(json.dumps({"limits": entries}).encode())
    except ValueError:
        return
    for limit in (snapshot.input, snapshot.output, snapshot.requests):
        assert limit.limit is None or 0 <= limit.limit <= NUMBER_MAX
        assert 0 <= limit.used <= NUMBER_MAX
        assert limit.end_ms == 0 or limit.start_ms < limit.end_ms


def test_the_reply_of_admit_becomes_a_verdict() -> None:
    """Minus one is None, unlimited has no figures at all, and the rest keeps its place."""
    figures = [100, 90, 5000, -1, -1, 300, 10, 9, -1, 60, 59, 1000]
    verdict = read_verdict(struct.pack("<23q", 0, 7, *figures, 500, 400, 2000, 1, 4, 5, 6, 1795219200000, 5))
    assert (verdict.code, verdict.why, verdict.granted_output) == ("admitted", "ok", 7)
    assert verdict.input == Remaining(100, 90, 5000)
    assert verdict.output == Remaining(None, None, None)
    assert verdict.requests == Remaining(10, 9, None)
    assert verdict.rate == Remaining(60, 59, 1000)
    assert (verdict.refresh, verdict.acked, verdict.clock_ms) == (True, (4, 5, 6), 1795219200000)
    assert verdict.tokens == Remaining(500, 400, 2000)


def test_the_reply_of_admit_says_how_long_a_refusal_stands() -> None:
    """In the place of the granted output, of which a refusal has none."""
    figures = [-1, -1, -1, -1, -1, -1, 10, 0, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 1795219200000, 3]
    denied = read_verdict(struct.pack("<23q", 8, 999, *figures))
    assert (denied.code, denied.why, denied.granted_output, denied.stands_ms) == ("denied", "requests", 0, 999)
    admitted = read_verdict(struct.pack("<23q", 1, 999, *figures))
    assert (admitted.code, admitted.granted_output, admitted.stands_ms) == ("admitted", 999, 0)
