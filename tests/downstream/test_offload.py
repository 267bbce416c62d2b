"""downstream.offload: long work, one at a time, of one caller after the other; or one of each caller at a time."""

import asyncio
import sys
import threading
from types import FrameType

import pytest

from sentinel.downstream.offload import Offload, OneOfEach


class Works:
    """Work that goes on until it is let go; the callers in the order in which theirs began."""

    def __init__(self, aside: Offload | OneOfEach | None = None) -> None:
        self.aside = aside or Offload()
        self.began: list[str] = []
        self.at_a_time = self.most = 0
        self.go = threading.Event()

    def begin(self, caller: str) -> "asyncio.Task[str]":
        """Ask for a work of `caller`."""
        return asyncio.create_task(self.aside.do(caller, self._work, caller))

    def _work(self, caller: str) -> str:
        self.at_a_time += 1
        self.most = max(self.most, self.at_a_time)
        self.began.append(caller)
        assert self.go.wait(10)
        self.at_a_time -= 1
        if caller == "fails":
            raise ValueError(caller)
        return caller


async def test_one_at_a_time_and_callers_in_turn() -> None:
    """However many ask: one thread works, and who has much to do waits for its own."""
    works = Works()
    asked = [works.begin(name) for name in ("many", "many", "many", "many", "one", "two")]
    await asyncio.sleep(0)
    works.go.set()
    assert await asyncio.gather(*asked) == ["many"] * 4 + ["one", "two"]
    assert works.most == 1
    assert works.began == ["many", "many", "one", "two", "many", "many"]


async def test_what_fails_holds_nobody_up() -> None:
    """Its asker gets the error, and the next begins."""
    works = Works()
    works.go.set()
    fails, other = works.begin("fails"), works.begin("other")
    with pytest.raises(ValueError, match="fails"):
        await fails
    assert await other == "other"


async def test_who_leaves_holds_nobody_up() -> None:
    """Who is told to stop while it waits, or while its work is done: the others go on, one at a time."""
    works = Works()
    asked = [works.begin(name) for name in ("first", "left", "last")]
    while not works.began:
        await asyncio.sleep(0.001)
    asked[0].cancel()
    asked[1].cancel()
    await asyncio.sleep(0)
    assert works.began == ["first"]
    works.go.set()
    assert await asked[2] == "last"
    assert works.most == 1
    assert await works.begin("again") == "again"


async def test_the_loop_gets_the_interpreter_sooner_meanwhile() -> None:
    """Threads are switched more often while such work is done, and as before afterwards, also where the work failed."""
    usual, works = sys.getswitchinterval(), Works()
    asked = works.begin("fails")
    await asyncio.sleep(0)
    assert sys.getswitchinterval() < usual
    works.go.set()
    with pytest.raises(ValueError, match="fails"):
        await asked
    await asyncio.sleep(0)
    assert sys.getswitchinterval() == usual


async def test_one_of_each_at_a_time() -> None:
    """Works of one caller come one after the other, those of others go on beside them; nobody is remembered."""
    works = Works(OneOfEach())
    asked = [works.begin(name) for name in ("many", "many", "many", "one", "two")]
    while len(works.began) < 3:
        await asyncio.sleep(0.001)
    assert sorted(works.began) == ["many", "one", "two"]
    works.go.set()
    assert await asyncio.gather(*asked) == ["many"] * 3 + ["one", "two"]
    assert works.began.count("many") == 3
    assert works.most == 3
    assert works.aside._asides == {}  # type: ignore[union-attr]


async def test_who_leaves_keeps_its_own_place_until_its_work_has_ended() -> None:
    """A caller that asks and leaves, over and over, has one thread; what fails holds nobody up."""
    works = Works(OneOfEach())
    asked = []
    for _ in range(5):
        asked.append(works.begin("fails"))
        await asyncio.sleep(0.002)
        asked[-1].cancel()
    waits = works.begin("fails")
    await asyncio.wait(asked)
    assert works.began == ["fails"]
    works.go.set()
    with pytest.raises(ValueError, match="fails"):
        await waits
    assert works.began == ["fails"] * 2


async def test_each_end_wakes_one_who_waits() -> None:
    """However many works of one caller wait, they come in their order, and the end of one is told to the next alone."""
    aside, count, steps = OneOfEach(), 200, 0

    def step(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event == "call" and frame.f_code is OneOfEach.do.__code__

    done: list[int] = []
    sys.setprofile(step)
    try:
        await asyncio.gather(*(aside.do("many", done.append, number) for number in range(count)))
    finally:
        sys.setprofile(None)
    assert done == list(range(count))
    assert steps <= 3 * count  # it begins, has its turn, and its work is done
