"""The pure parts of the load runner (loadtest/README.md): percentiles, plots, the page, and what it refuses to publish."""

import math
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import page, plots, processes
from loadtest.asking import Asking, sized, whole
from loadtest.figures import Histogram, per
from loadtest.page import NotPublishedError, Target
from loadtest.rig import judged
from loadtest.tables import Table

LATENCIES = st.lists(st.floats(1e-6, 3600), min_size=1, max_size=50)
SERVED = {"requests": 3, "input_tokens": 171, "output_tokens": 360, "broken": 0, "twice": 0}
BOOKED = {"replayed": 0, "plain": {"requests": 3, "input_tokens": 171, "output_tokens": 360}, "odd": {"requests": 9}}


def run(**changed: Any) -> dict[str, Any]:
    """A run with one table, as the runner keeps it."""
    table = Table("connections", "Plain completions", "One caller.", ["connections", "target", "requests/s"])
    table.rows = [[64, "nginx", 20000.0], [64, "Sentinel", 2000.0]]
    table.figures = {"rate nginx": 20000.0, "rate Sentinel": 2000.0, "added_p50_ms": 0.2}
    table.curves = {"nginx": [(1, 5000.0), (64, 20000.0)], "Sentinel": [(1, 400.0), (64, 2000.0)]}
    table.failures = changed.pop("failures", [])
    return {
        "profile": "quick",
        "notes": ["The machine was busy."],
        "machine": {"cpu": "Some AMD", "commit": "0c7db8e"},
        "tables": [asdict(table)],
        "reconciled": judged(SERVED, BOOKED, waits=False),
        **changed,
    }


@given(LATENCIES, st.floats(1, 100))
def test_percentiles_are_near(latencies_s: list[float], percent: float) -> None:
    """A percentile is the latency that so many do not exceed, up to the 5 % of its bucket."""
    exact_ms = sorted(latencies_s)[math.ceil(len(latencies_s) * percent / 100) - 1] * 1000
    assert exact_ms * 0.999 <= Histogram.of(latencies_s).percentile_ms(percent) <= exact_ms * 1.06


@given(LATENCIES)
def test_histograms_add_up(latencies_s: list[float]) -> None:
    """Buckets survive their way through JSON keys, and the bars of a plot hold every latency once."""
    histogram = Histogram.of(latencies_s)
    again = Histogram({int(name): count for name, count in {str(at): n for at, n in histogram.buckets.items()}.items()})
    assert again.percentiles_ms() == histogram.percentiles_ms()
    assert len(again) == len(latencies_s)
    assert sum(share for _, share in histogram.bars()) == pytest.approx(1)


def test_nothing_has_no_figures() -> None:
    """Of no latencies and of no requests every figure is 0."""
    assert set(Histogram().percentiles_ms().values()) == {0.0}
    assert Histogram().bars() == []
    assert per(5.0, 0) == 0.0


def test_an_answer_is_whole_by_its_length_or_its_last_chunk() -> None:
    """The generator takes an answer for whole at no earlier byte than the last."""
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ):
        assert [at for at in range(len(answer) + 1) if whole(bytearray(answer[:at]))] == [len(answer)]


@pytest.mark.parametrize("size", [1024, 16_384, 1_048_576])
def test_bodies_have_their_size(size: int) -> None:
    """A body is as large as its row says, to a tenth."""
    assert abs(len(sized(size)) - size) < size / 10


def test_the_page_has_machine_targets_and_tables() -> None:
    """The page says on what it was measured, what is missed by how much and where to read why, and shows every row and plot."""
    files = page.render(run())
    text = files["performance.md"]
    assert "| cpu | Some AMD |" in text
    assert "**The machine was busy.**" in text
    assert "| plain: rate by that of nginx | ≥ 0.17 | 0.1 | missed by a factor of 1.7 |" in text
    assert "| plain: added p50 at 1 connection | ≤ 0.4 ms | 0.2 ms | reached |" in text
    assert "| streams: open in one worker | ≥ 5 000 |  | not measured in this run |" in text
    assert "(cost.md)" in text
    assert "| 64 | Sentinel | 2 000 |" in text
    assert "(performance/connections.svg)" in text
    assert set(files) == {"performance.md", "performance/connections.svg"}


def beside_peers(**rates: float) -> dict[str, Any]:
    """A run with the table of peers alone: Sentinel, and those whose rates are given."""
    table = Table("peers", "Beside other gateways", "One after the other.", ["connections", "target", "requests/s", "by it"])
    table.rows = [
        [64, name, rates[name], 9000 / rates[name]] if name in rates else [64, name, "not installed here", ""]
        for name in ("LiteLLM", "Portkey")
    ]
    table.figures = {"rate Sentinel": 9000.0, **{f"rate {name}": rate for name, rate in rates.items()}}
    return run(tables=[asdict(table)])


def test_the_page_tells_how_many_times_the_rate_of_its_peers_sentinel_has() -> None:
    """The table of peers is on the page, and both of its targets are judged by it."""
    text = page.render(beside_peers(LiteLLM=60.0, Portkey=1000.0))["performance.md"]
    assert "## Beside other gateways" in text
    assert "| 64 | LiteLLM | 60 | 150 |" in text
    assert "| plain: rate by that of LiteLLM | ≥ 100 | 150 | reached |" in text
    assert "| plain: rate by that of Portkey | ≥ 10 | 9 | missed by a factor of 1.1 |" in text


def test_a_peer_that_is_not_installed_is_not_judged() -> None:
    """Its row and its target say that nothing was measured, and the other one's stand."""
    text = page.render(beside_peers(Portkey=500.0))["performance.md"]
    assert "| 64 | LiteLLM | not installed here |  |" in text
    assert "| plain: rate by that of LiteLLM | ≥ 100 |  | not measured in this run |" in text
    assert "| plain: rate by that of Portkey | ≥ 10 | 18 | reached |" in text
    assert "(cost.md)" not in text


def test_the_interpreter_of_production_is_judged_by_itself() -> None:
    """Both have a target of their own, and one that was not there is not judged."""
    table = Table("interpreters", "By interpreter", "The same on both.", ["", "CPython 3.11.7", "CPython 3.11.2"])
    table.rows = [["plain, 64 connections: CPU µs/request", 200.0, 100.0]]
    table.figures = {"cpu machine": 200.0, "cpu production": 100.0}
    text = page.render(run(tables=[asdict(table)]))["performance.md"]
    assert "| plain: CPU a request, interpreter of production | ≤ 104 µs | 100 µs | reached |" in text
    assert "| plain: CPU a request, interpreter of this machine | ≤ 170 µs | 200 µs | missed by a factor of 1.2 |" in text
    del table.figures["cpu production"]
    text = page.render(run(tables=[asdict(table)]))["performance.md"]
    assert "| plain: CPU a request, interpreter of production | ≤ 104 µs |  | not measured in this run |" in text


def test_a_run_with_failures_is_not_published() -> None:
    """A row with answers that were not good makes the whole run unfit, and is named."""
    with pytest.raises(NotPublishedError, match="64 connections, Sentinel: status 503"):
        page.render(run(failures=["64 connections, Sentinel: status 503"]))


@pytest.mark.parametrize(
    "reconciled",
    [
        judged({**SERVED, "requests": 4}, BOOKED, waits=False),
        judged({**SERVED, "twice": 1}, BOOKED, waits=False),
        judged({**SERVED, "broken": 1}, BOOKED, waits=False),
        judged(SERVED, BOOKED, waits=True),
    ],
    ids=["lost", "twice", "broken", "waits"],
)
def test_a_run_that_does_not_reconcile_is_not_published(reconciled: dict[str, Any]) -> None:
    """What was served must be what was booked, once and whole, with nothing waiting."""
    assert not reconciled["equal"]
    with pytest.raises(NotPublishedError, match="served and booked differ"):
        page.render(run(reconciled=reconciled))


def test_targets_say_by_how_much_they_are_missed() -> None:
    """Both kinds of bounds, one that is met, and one that a run did not measure."""
    assert Target("memory", 40, 100, unit="KiB").row()[3] == "missed by a factor of 2.5"
    assert Target("rate", 0.15, 0.05, at_most=False).row()[3] == "missed by a factor of 3.0"
    assert Target("rate", 0.15, 0.15, at_most=False).row()[3] == "reached"
    assert Target("rate", 0.15, None, at_most=False).row()[3] == "not measured in this run"


def test_cells_are_short() -> None:
    """Three digits, all before the point, and nothing that breaks a table."""
    assert [page.shown(cell) for cell in (0.12345, 12.345, 1234.5, 5000, 0, "a|b")] == [
        "0.123",
        "12.3",
        "1 234",
        "5 000",
        "0",
        "a\\|b",
    ]


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20),
    st.booleans(),
    st.text("ab<&>\"'", max_size=9),
)
def test_plots_are_images(points: list[tuple[float, float]], powers: bool, name: str) -> None:
    """Whatever the figures and names are, the plot is XML with all points inside its frame."""
    image = ET.fromstring(plots.lines("A <plot>", "x & y", "z", {name: points}, powers_up=powers))
    circles = [element for element in image if element.tag.endswith("circle")]
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= 720
        assert 0 <= float(circle.attrib["cy"]) <= 380


def test_processor_time_is_exact() -> None:
    """What a process has used is what its own clock says, to the nanosecond; who has ended adds nothing."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    before_s = time.process_time()
    used_s = processes.cpu_s([os.getpid(), ended.pid])
    assert before_s <= used_s <= time.process_time()


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_of_a_crowd_are_no_failures(status: int) -> None:
    """They are counted apart where a job expects them, and are failures elsewhere."""
    for may_be_refused in (True, False):
        asking = Asking({"url": "http://127.0.0.1:1", "may_be_refused": may_be_refused})
        asking.measuring = True
        asking.answered(status, 0.01)
        asking.answered(200, 0.01)
        assert (asking.good, len(asking.refusals), asking.failed) == (1, may_be_refused, not may_be_refused)
