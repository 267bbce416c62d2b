"""Health: what anybody may ask of the public port costs the dependencies little, however often it is asked."""

import asyncio
from typing import Any

import pytest

from sentinel.admin.health import Health
from sentinel.ops.errors import LedgerUnavailableError


class Part:
    """A ledger, a journal, a standby and a Zion in one; `answers` lets what was asked go on."""

    state, refuses, admits, mode = "ok", False, False, "closed"

    def __init__(self) -> None:
        self.pings = 0
        self.answers = asyncio.Event()
        self.away = False

    async def ping(self) -> None:
        """One more."""
        self.pings += 1
        await self.answers.wait()
        if self.away:
            raise LedgerUnavailableError("away")

    async def accepts_key(self) -> bool:
        """Always."""
        return True


def health(part: Any) -> Health:
    """One over it."""
    return Health(part, part, part, part, lambda: "ok")


@pytest.mark.parametrize(("away", "status"), [(False, 200), (True, 503)])
async def test_many_who_ask_at_once_are_one_look(away: bool, status: int) -> None:
    """A hundred who ask while Redis is asked have the same answer, and one who comes later a new one."""
    part = Part()
    part.away = away
    asked = health(part)
    many = [asyncio.create_task(asked.ready()) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the look is a task of its own
    assert part.pings == 1
    part.answers.set()
    assert [answer[0] for answer in await asyncio.gather(*many)] == [status] * 100
    part.away = not away
    assert (await asked.ready())[0] == {200: 503, 503: 200}[status]
    assert part.pings == 2


async def test_one_who_leaves_ends_the_look_of_no_other() -> None:
    """The first who asked is gone; the others still get their answer."""
    part = Part()
    asked = health(part)
    first, second = (asyncio.create_task(asked.ready()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    part.answers.set()
    assert ((await second)[0], part.pings) == (200, 1)
