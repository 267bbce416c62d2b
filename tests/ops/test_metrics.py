"""What is counted in memory reaches prometheus-client whole, and once."""

import prometheus_client
import pytest

from sentinel.ops.metrics.tallies import Counts, Level, Rows, Spread, hand_over


def test_counts_and_levels_arrive_once() -> None:
    """A count is handed over as it grew, a level as it is, at once where it is set; a second handing-over adds nothing."""
    page = prometheus_client.CollectorRegistry()
    counts = Counts(prometheus_client.Counter("seen", "Seen.", ["kind"], registry=page))
    pairs = Counts(prometheus_client.Counter("met", "Met.", ["kind", "way"], registry=page))
    level = Level(prometheus_client.Gauge("open", "Open.", registry=page))
    counts["a"] += 1
    counts["a"] += 2
    counts["b"] += 0
    pairs["a", "by"] += 1
    level.inc()
    level.inc()
    level.dec()
    assert page.get_sample_value("seen_total", {"kind": "a"}) is None
    for _ in range(2):
        hand_over()
        assert page.get_sample_value("seen_total", {"kind": "a"}) == 3
        assert page.get_sample_value("seen_total", {"kind": "b"}) == 0
        assert page.get_sample_value("met_total", {"kind": "a", "way": "by"}) == 1
        assert page.get_sample_value("open") == 1
    level.set(7)
    assert page.get_sample_value("open") == 7


def test_a_row_arrives_once_with_all_that_it_counts() -> None:
    """What a row counts is handed over with it; one that cannot be counted is met once, and not again."""
    page = prometheus_client.CollectorRegistry()
    counts = Counts(prometheus_client.Counter("sold", "Sold.", ["kind"], registry=page))

    def count(kind: str, amount: int) -> None:
        counts[kind] += amount

    rows = Rows(count)
    rows.add(("a", 1))
    rows.add(("a", 2))
    for _ in range(2):
        hand_over()
        assert page.get_sample_value("sold_total", {"kind": "a"}) == 3
    rows.add(("a", "odd"))
    with pytest.raises(TypeError):
        hand_over()
    hand_over()


@pytest.mark.parametrize("times", [1, 2])
def test_a_spread_shows_what_the_librarys_own_would(times: int) -> None:
    """The buckets, the count and the sum are those of a histogram that was given every value itself."""
    ours, theirs = prometheus_client.CollectorRegistry(), prometheus_client.CollectorRegistry()
    bounds = (0.5, 1, 5)
    spread = Spread(prometheus_client.Histogram("size", "Size.", buckets=bounds, registry=ours), bounds)
    wanted = prometheus_client.Histogram("size", "Size.", buckets=bounds, registry=theirs)
    for _ in range(times):
        for value in (0, 0.5, 0.75, 1, 1.5, 5, 6, 1e9):
            spread.observe(value)
            wanted.observe(value)
        hand_over()
    samples = [
        [
            (sample.name, sample.labels, sample.value)
            for family in page.collect()
            for sample in family.samples
            if "created" not in sample.name
        ]
        for page in (ours, theirs)
    ]
    assert samples[0] == samples[1]
