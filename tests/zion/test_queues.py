"""lines: who waits for a call to Zion, by a gate that the test plays."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sentinel.ops.errors import ZionUnavailableError
from sentinel.zion.queues import Line, Pass


class Asked:
    """A gate that answers when it is told to; how many ask it at a time, and under which ids."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self.ids: list[str] = []
        self.at_a_time = self.at_a_time_max = 0

    async def __call__(self, call_id: str) -> Pass:
        """The next answer."""
        self.at_a_time += 1
        self.at_a_time_max = max(self.at_a_time, self.at_a_time_max)
        self.ids.append(call_id)
        why, wait_s = await self.answers.get()
        self.at_a_time -= 1
        return Pass(call_id, why, wait_s)

    async def says(self, why: str, wait_s: float = 0.0) -> None:
        """Answer once, and let everybody hear of it."""
        self.answers.put_nowait((why, wait_s))
        await settle()


async def settle() -> None:
    """Let what can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def gate() -> Asked:
    """A gate that has said nothing yet."""
    return Asked()


def line(gate: Callable[[str], Awaitable[Pass]], waiting_max: int = 8, turn_s: float = 60.0) -> Line:
    """A line before it."""
    return Line(gate, waiting_max=waiting_max, turn_s=turn_s)


def waiter(one: Line, gone: list[str], name: str, *, first: bool = False) -> asyncio.Task[None]:
    """One that waits, and adds its name to those who have gone."""

    async def wait() -> None:
        await one.wait(first=first)
        gone.append(name)

    return asyncio.create_task(wait())


async def test_they_go_one_by_one_and_one_asks_for_all(gate: Asked) -> None:
    """Each grant lets one go, in their order, those that are first before all others; the gate is asked by one at a time."""
    one, gone = line(gate), list[str]()
    tasks = [waiter(one, gone, str(at)) for at in range(3)]
    await settle()
    tasks += [waiter(one, gone, f"first {at}", first=True) for at in range(2)]
    await settle()
    order = ["first 0", "first 1", "0", "1", "2"]
    for count in range(len(order)):
        assert gone == order[:count]
        assert len(gate.ids) == count + 1
        await gate.says("go")
    assert gone == order
    assert gate.at_a_time_max == 1
    assert len(set(gate.ids)) == len(order)
    await asyncio.gather(*tasks)


async def test_who_comes_first_leaves_every_second_place(gate: Asked) -> None:
    """Where the line is shared, neither who comes again nor who comes for the first time keeps the other out."""
    one, gone = Line(gate, waiting_max=8, turn_s=60.0, shared=True), list[str]()
    tasks = [waiter(one, gone, str(at)) for at in range(3)]
    tasks += [waiter(one, gone, f"first {at}", first=True) for at in range(5)]
    await settle()
    for _ in tasks:
        await gate.says("go")
    assert gone == ["first 0", "0", "first 1", "1", "first 2", "2", "first 3", "first 4"]
    await asyncio.gather(*tasks)


async def test_a_place_is_waited_for_under_one_id(gate: Asked) -> None:
    """What the gate refuses is asked again as the same call."""
    gone = list[str]()
    task = waiter(line(gate), gone, "ada")
    await settle()
    for _ in range(3):
        gate.answers.put_nowait(("rate", 0.0))
    gate.answers.put_nowait(("go", 0.0))
    await task
    assert gone == ["ada"]
    assert len(gate.ids) == 4
    assert len(set(gate.ids)) == 1


@pytest.mark.parametrize("first", [True, False])
async def test_a_full_line_turns_away_at_once(gate: Asked, *, first: bool) -> None:
    """Who would be one too many is 503 with Retry-After; the other half of the line still has room."""
    one, gone = line(gate, waiting_max=2), list[str]()
    tasks = [waiter(one, gone, str(at), first=first) for at in range(2)]
    await settle()
    with pytest.raises(ZionUnavailableError) as refused:
        await one.wait(first=first)
    assert refused.value.retry_after_s == 1.0
    tasks.append(waiter(one, gone, "other", first=not first))
    for _ in range(3):
        await gate.says("go")
    await asyncio.gather(*tasks)
    assert len(gone) == 3
    tasks = [waiter(one, gone, "later", first=first)]
    await settle()
    await gate.says("go")
    await asyncio.gather(*tasks)


async def test_who_leaves_gives_the_place_up(gate: Asked) -> None:
    """A client that has gone is passed over, and takes no room; a grant that comes for nobody goes unused."""
    one, gone = line(gate, waiting_max=2), list[str]()
    tasks = [waiter(one, gone, str(at)) for at in range(2)]
    await settle()
    tasks[0].cancel()
    await settle()
    tasks.append(waiter(one, gone, "2"))
    await settle()
    await gate.says("go")
    assert gone == ["1"]
    tasks[2].cancel()
    await settle()
    await gate.says("go")
    assert gone == ["1"]
    assert len(gate.ids) == 2
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nobody_waits_for_ever(gate: Asked) -> None:
    """503 where no turn comes in time; the line is empty then."""
    one = line(gate, waiting_max=1, turn_s=0.01)
    for _ in range(2):
        with pytest.raises(ZionUnavailableError):
            await one.wait(first=False)
    assert len(gate.ids) == 1
    one.close()


async def test_all_are_sent_away_where_zion_wants_no_call(gate: Asked) -> None:
    """With the time that Zion named; who comes later asks anew."""
    one, gone = line(gate), list[str]()
    tasks = [waiter(one, gone, str(at), first=at % 2 == 0) for at in range(4)]
    await settle()
    await gate.says("shut", 7.0)
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, ZionUnavailableError)
        assert ended.retry_after_s == 7.0
    later = waiter(one, gone, "later")
    await settle()
    await gate.says("go")
    await later
    assert gone == ["later"]
