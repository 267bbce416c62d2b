"""docs/performance.md from a run: its tables, its targets, what they are missed by. Pure.

A run with failures is refused: `NotPublishedError` names them. A rate of answers that were partly errors says nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtest import plots

_PLOTS: Final = {
    "connections": ("Plain completions", "connections", "requests/s", True),
    "half_load": ("Latency at half load", "ms", "share of requests", False),
    "streams": ("How late events come, of the most streams", "ms", "share of events", False),
    "bodies": ("Cost by size of the request", "KiB", "CPU µs/request", True),
    "callers": ("Cost by number of callers", "callers", "CPU µs/request", False),
}


_HEAD: Final = (
    "Written by `python -m loadtest.run --profile {profile}` ([how](../loadtest/README.md)); not by hand. Figures move from "
    "machine to machine and with what else runs there: compare only inside this page."
)

_WHY: Final = "Why a target is missed, and where the time of a request and of an event goes: [cost](cost.md)."


class NotPublishedError(Exception):
    """The run must not be published; the text says why, a line each."""


@dataclass(frozen=True)
class Target:
    """What is to be reached, and what was; `value` None where this run did not measure it."""

    name: str
    bound: float
    value: float | None
    at_most: bool = True
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether it was."""
        return self.value is not None and (self.value <= self.bound if self.at_most else self.value >= self.bound)

    def row(self) -> list[str | float]:
        """As a row of the page."""
        wanted = f"{'≤' if self.at_most else '≥'} {shown(self.bound)} {self.unit}".rstrip()
        if self.value is None:
            return [self.name, wanted, "", "not measured in this run"]
        verdict = "reached"
        if not self.reached:
            factor = self.value / self.bound if self.at_most else self.bound / self.value if self.value else float("inf")
            verdict = f"missed by a factor of {factor:.1f}"
        return [self.name, wanted, f"{shown(self.value)} {self.unit}".rstrip(), verdict]


def targets(figures: Mapping[str, Mapping[str, float]], cpu: str = "") -> list[Target]:
    """The targets, from the figures of the tables by name; nginx gains more from a large cache, as AMD's have one."""
    names = ("connections", "streams", "half_load", "callers", "interpreters", "peers")
    plain, streams, half, callers, interpreters, peers = (figures.get(name, {}) for name in names)
    added_first = _less(streams, "first p99 Sentinel", "first p99 provider itself")
    added_asked = _less(streams, "asked p50 Sentinel", "asked p50 provider itself")
    opened = streams.get("streams")
    kib = streams.get("kib Sentinel") if (opened or 0) >= 100 else None
    by_nginx = 0.17 if "AMD" in cpu else 0.10
    return [
        Target("plain: CPU a request, interpreter of production", 104, interpreters.get("cpu production"), unit="µs"),
        Target("plain: CPU a request, interpreter of this machine", 170, interpreters.get("cpu machine"), unit="µs"),
        Target("plain: CPU of Redis a request", 45, interpreters.get("redis machine"), unit="µs"),
        Target("plain: rate by that of nginx", by_nginx, _ratio(plain, "rate Sentinel", "rate nginx"), at_most=False),
        Target("plain: added p50 at 1 connection", 0.4, plain.get("added_p50_ms"), unit="ms"),
        Target("plain: added p99 at half load", 1.0, half.get("added_p99_ms"), unit="ms"),
        Target("plain: CPU with 10 000 callers by that with one", 1.3, _ratio(callers, "cpu of 10000", "cpu of 1")),
        Target("plain: rate by that of LiteLLM", 100, _ratio(peers, "rate Sentinel", "rate LiteLLM"), at_most=False),
        Target("plain: rate by that of Portkey", 10, _ratio(peers, "rate Sentinel", "rate Portkey"), at_most=False),
        Target("streams: CPU an event by that of nginx", 1.8, _ratio(streams, "cpu Sentinel", "cpu nginx")),
        Target("streams: p50 added to the first event, from the request", 0.6, added_asked, unit="ms"),
        Target("streams: p99 added to the first event, from the provider", 1.0, added_first, unit="ms"),
        Target("streams: memory of an open one", 31.0, kib, unit="KiB"),
        Target("streams: open in one worker", 5000, opened if (opened or 0) >= 5000 else None, at_most=False),
        Target("memory of an idle worker", 150.0, interpreters.get("idle machine"), unit="MiB"),
    ]


def render(run: Mapping[str, Any]) -> dict[str, str]:
    """The files of the page by their path below docs/: the page itself and its plots. Raises NotPublishedError."""
    failures = [failure for table in run["tables"] for failure in table["failures"]]
    if not run["reconciled"]["equal"]:
        failures.append(f"served and booked differ: {run['reconciled']}")
    if failures:
        raise NotPublishedError("\n".join(failures))
    reached = targets({table["name"]: table["figures"] for table in run["tables"]}, run["machine"].get("cpu", ""))
    parts = [
        "# Performance",
        _HEAD.format(profile=run["profile"]),
        *(f"**{note}**" for note in run["notes"]),
        "## Machine",
        grid(["", ""], [[name, value] for name, value in run["machine"].items()]),
        "## Targets",
        grid(["target", "to reach", "this run", ""], [target.row() for target in reached]),
        *([_WHY] if any(target.value is not None and not target.reached for target in reached) else []),
    ]
    files = {}
    for table in run["tables"]:
        parts += [f"## {table['title']}", table["note"], grid(table["columns"], table["rows"])]
        if table["name"] in _PLOTS and table["curves"]:
            title, across, up, powers = _PLOTS[table["name"]]
            files[f"performance/{table['name']}.svg"] = plots.lines(title, across, up, table["curves"], powers_up=powers)
            parts.append(f"![{title}](performance/{table['name']}.svg)")
    parts += ["## Served and booked", _reconciled(run["reconciled"])]
    return {"performance.md": "\n\n".join(parts) + "\n", **files}


def grid(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A table in Markdown; numbers to three digits."""
    lines = [list(columns), ["---"] * len(columns), *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: str | float) -> str:
    """A cell: text as it is, a number with three significant digits, and all of them before the point."""
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    if abs(cell) >= 100 or cell == int(cell):
        return f"{round(cell):,}".replace(",", " ")
    return f"{cell:.3g}"


def _reconciled(reconciled: Mapping[str, Any]) -> str:
    rows = [[name.replace("_", " "), sums["served"], sums["booked"]] for name, sums in reconciled["sums"].items()]
    words = "What the provider served through Sentinel, and what Zion has booked; without the callers that misbehave."
    return f"{words}\n\n{grid(['', 'served', 'booked'], rows)}"


def _ratio(figures: Mapping[str, float], one: str, other: str) -> float | None:
    return figures[one] / figures[other] if figures.get(other) and one in figures else None


def _less(figures: Mapping[str, float], one: str, other: str) -> float | None:
    return figures[one] - figures[other] if one in figures and other in figures else None
