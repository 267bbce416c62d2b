"""chaos: one schedule of random faults over a whole stack; `python -m tests.chaos` runs others, and longer."""

from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.schedule import LANES, plan

SEED, SECONDS = 44, 18.0

pytestmark = pytest.mark.process


def test_the_schedule_has_what_matters() -> None:
    """The seed of this file has faults in every lane; Redis loses its last moments, and a worker dies, in it."""
    faults = plan(SEED, SECONDS)
    assert {fault.lane for fault in faults} == set(LANES)
    kinds = {fault.kind for fault in faults}
    assert {"loses moments", "one killed", "one frozen", "frozen", "killed", "drops answers"} <= kinds


async def test_what_is_served_is_booked_whatever_goes_wrong(tmp_path: Path) -> None:
    """Booked, waiting and dead letters are what was served, nothing twice; no limit is passed, nothing stays held,
    and what remains can be spent; every answer is documented, and the log has no defect.
    """
    result = await run(tmp_path, SEED, SECONDS)
    assert result.wrong == [], result.said()
    assert sum(note.whole and note.status == 200 for note in result.notes) > 50
