"""chaos: schedules are what their seed says, and a verdict finds each thing that can be wrong."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sentinel
from tests.chaos import verdict
from tests.chaos.clients import Note
from tests.chaos.schedule import LANES, plan

ADA = "ada@x.test"
PAGE = "| 503 | `server_error` | `ledger_unavailable` | Redis is away | wait |\n| 405 | `invalid` | – | wrong method | |\n"
KILLED = [(10.0, 11.0)]


def row(request_id: str = "req_1", **changes: Any) -> dict[str, Any]:
    """What the provider's journal has of a request."""
    whole = {
        "user": ADA,
        "request_id": request_id,
        "status": 200,
        "client_gone": False,
        "input_tokens": 12,
        "output_tokens": 24,
    }
    return whole | changes


def note(request_id: str = "req_1", **changes: Any) -> Note:
    """What a client has of it."""
    whole = {"status": 200, "whole": True, "ended_s": 2.0, "pieces": 24}
    return Note(ADA, "stream", 1.0, request_id=request_id, **(whole | changes))


@given(seed=st.integers(0, 10**6), seconds=st.floats(1, 300))
def test_a_seed_is_a_schedule(seed: int, seconds: float) -> None:
    """The same each time; in a lane one at a time; workers die far enough apart, and nobody while journals are gone."""
    faults = plan(seed, seconds)
    assert faults == plan(seed, seconds)
    for lane in LANES:
        own = [fault for fault in faults if fault.lane == lane]
        assert all(one.end_s < other.at_s < seconds for one, other in itertools.pairwise(own))
    dead = [fault for fault in faults if fault.lane == "workers" and "killed" in fault.kind]
    assert all(other.at_s - one.end_s > 10 for one, other in itertools.pairwise(dead))
    deadly = [*dead, *(fault for fault in faults if fault.lane == "redis" and fault.kind != "frozen")]
    gone = [fault for fault in faults if fault.lane == "disk"]
    assert not any(one.at_s <= other.end_s and other.at_s <= one.end_s for one in deadly for other in gone)


@pytest.mark.parametrize(
    ("rows", "notes", "low", "high"),
    [
        ([row()], [note()], (1, 12, 24), (1, 12, 24)),
        ([row(status=500)], [note(status=502)], (0, 0, 0), (0, 0, 0)),
        ([row(client_gone=True)], [note(whole=False, pieces=3)], (1, 12, 3), (1, 12, 24)),
        ([row(status=0, client_gone=True, output_tokens=0)], [note("", whole=False, status=0)], (1, 12, 0), (1, 12, 0)),
        ([row()], [note(ended_s=10.5, whole=False, broken="gone")], (1, 12, 0), (2, 24, 24)),
        ([row()], [note(ended_s=9.8)], (1, 12, 0), (1, 12, 24)),
        ([row(), row("req_2")], [note(), note("", ended_s=10.5, whole=False)], (2, 24, 24), (2, 24, 48)),
        ([row()], [note(), note("", ended_s=10.5, whole=False)], (1, 12, 24), (2, 24, 24)),
        ([row()], [note(), note("", ended_s=9.0, whole=False)], (1, 12, 24), (1, 12, 24)),
        ([row()], [note("", whole=False), note("", ended_s=10.5, whole=False)], (1, 12, 0), (2, 24, 24)),
    ],
)
def test_what_a_user_may_be_charged(
    rows: list[Mapping[str, Any]], notes: list[Note], low: tuple[int, int, int], high: tuple[int, int, int]
) -> None:
    """To the token where the client has the whole answer; within bounds where it left, or where its worker died."""
    assert verdict.bounds(rows, notes, KILLED) == {ADA: verdict.Bounds(low, high)}


def test_what_is_wrong_is_said() -> None:
    """Too much, too little, in whichever sums; a limit that was passed; a hold that stays; lines of the log."""
    expected = {ADA: verdict.Bounds((2, 24, 40), (2, 24, 48))}
    assert verdict.misses(expected, {ADA: (1, 12, 24)}, {ADA: (1, 12, 24)}) == []
    assert verdict.misses(expected, {ADA: (3, 24, 24)}, {}) == [
        f"{ADA}: requests: 3 where 2 to 2 were served",
        f"{ADA}: output: 24 where 40 to 48 were served",
    ]
    assert verdict.over_the_limit([row(), row("req_2"), row("req_3", status=429)], {ADA: 2}) == []
    assert verdict.over_the_limit([row(), row("req_2")], {ADA: 1}) == [f"{ADA}: 2 requests were served of 1"]
    assert verdict.held({ADA: {"input": [0, 0, 5, 5, 0], "requests": [0, 0, 1, 1, 1]}}) == [f"{ADA}: 1 requests are still held"]
    lines = ['{"event":"redis is away"}', '{"event":"defect"}', "Traceback (most recent call last):"]
    lines.append('{"level":"error","event":"Task was destroyed but it is pending!","logger":"asyncio"}')
    assert verdict.strange_lines("\n".join(lines)) == lines[1:]


def test_what_is_looked_for_in_the_log_is_said_by_sentinel() -> None:
    """An event that nobody writes any more would be looked for in vain."""
    code = "".join(path.read_text() for path in (Path(sentinel.__file__).parent).rglob("*.py"))
    assert all(f'"{event}"' in code for event in verdict._LOSES)


@pytest.mark.parametrize(
    ("told", "strange"),
    [
        (note(), False),
        (note(status=503, code="ledger_unavailable"), False),
        (note(status=405), False),
        (note(status=503), True),
        (note(status=500, code="internal_error"), True),
        (note(code="upstream_error"), False),
        (note(whole=False, broken="a stream without an end"), True),
        (note(whole=False, broken="a stream without an end", ended_s=10.5), False),
    ],
)
def test_an_answer_is_documented_or_strange(told: Note, strange: bool) -> None:
    """Only what docs/errors.md has, and an end of its own unless somebody was killed."""
    assert bool(verdict.strange_answers([told], PAGE, KILLED)) is strange
