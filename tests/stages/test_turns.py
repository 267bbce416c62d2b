"""Who begins while the loop is busy."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.ops.errors import OverLimitError, OverloadedError, SentinelError
from sentinel.stages.turns import Turns

WAIT_S = 0.5
BRIEF = {"brief": 2, "brief_at_once": 20}


@dataclass
class Room:
    """Requests that come to one worker; `now_s` is its clock."""

    now_s: float = 0.0
    a_pass: int = 1
    alone: int = 0
    # (pass of the loop, caller), in the order in which they began.
    begun: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, SentinelError]] = field(default_factory=list)
    told: list[tuple[int, str]] = field(default_factory=list)
    # (passes until it was told, caller) of each refusal.
    waits: list[tuple[int, str]] = field(default_factory=list)
    passes: int = 0

    def __post_init__(self) -> None:
        self.turns = Turns(
            wait_s_max=WAIT_S, shared=self.a_pass, a_pass=self.alone or self.a_pass, **BRIEF, now_s=lambda: self.now_s
        )
        self.tasks: list[asyncio.Task[None]] = []

    def come(self, external_id: str, count: int = 1) -> None:
        """So many requests of a caller come in this pass."""
        self.tasks += [asyncio.create_task(self._ask(external_id)) for _ in range(count)]

    async def _ask(self, external_id: str) -> None:
        try:
            await self.turns.begin(external_id)
        except SentinelError as error:
            self.refused.append((self.passes, error))
        else:
            self.begun.append((self.passes, external_id))

    def refuse(self, external_id: str, count: int = 1) -> None:
        """So many requests of a caller are to be refused in this pass."""
        self.tasks += [asyncio.create_task(self._tell(external_id)) for _ in range(count)]

    async def _tell(self, external_id: str) -> None:
        come_in = self.passes
        await self.turns.brief(external_id)
        self.waits.append((self.passes - come_in, external_id))
        self.told.append((self.passes, external_id))

    async def run(self, passes: int) -> None:
        """Let the loop pass so often."""
        for _ in range(passes):
            self.passes += 1
            await asyncio.sleep(0)

    async def all(self) -> None:
        """Until nobody waits."""
        while not all(task.done() for task in self.tasks):
            await self.run(1)


def began(room: Room) -> list[str]:
    """The callers in the order in which their requests began."""
    return [external_id for _, external_id in room.begun]


async def test_on_an_idle_loop_nobody_waits() -> None:
    """A request that comes alone begins without giving the loop away, however often."""
    turns = Turns(wait_s_max=WAIT_S)
    for _ in range(3):
        beginning = turns.begin("a")
        with pytest.raises(StopIteration):
            beginning.send(None)
        await asyncio.sleep(0)


@pytest.mark.parametrize("a_pass", [1, 3, 16])
async def test_few_begin_in_a_pass(a_pass: int) -> None:
    """However many come at once, no pass of the loop begins more than so many, and none fewer while more of them wait."""
    room = Room(a_pass=a_pass)
    room.come("a", 40)
    await room.all()
    in_passes = list(Counter(number for number, _ in room.begun).values())
    assert sum(in_passes) == 40
    assert set(in_passes[:-1]) <= {a_pass}


@given(st.lists(st.integers(0, 20), max_size=12), st.sampled_from([1, 2, 3, 16]))
async def test_few_that_came_in_earlier_passes_take_less_than_half_of_one(arrivals: list[int], a_pass: int) -> None:
    """No pass begins more at once than so many, and each more than half of that, whatever came before and was not counted."""
    turns = Turns(wait_s_max=WAIT_S, a_pass=a_pass)
    for count in arrivals:
        begun = sum(turns.at_once("a") for _ in range(count))
        assert min(count, a_pass // 2 + 1) <= begun <= a_pass
        await asyncio.sleep(0)


@pytest.mark.parametrize("other", ["begins", "is refused"])
async def test_a_caller_alone_has_longer_passes(other: str) -> None:
    """While one caller asks more requests begin in a pass than after another one did, or was refused."""
    room = Room(a_pass=2, alone=8)
    room.come("a", 80)
    await room.run(6)
    if other == "begins":
        room.come("b")
    else:
        room.refuse("b")
    await room.run(2)
    seen = len(room.begun)
    await room.all()
    in_passes = list(Counter(number for number, external_id in room.begun if external_id == "a").values())
    assert in_passes[0] == 8
    assert in_passes[-3:-1] == [2, 2]
    assert seen < 70


async def test_many_callers_have_as_many_turns_in_a_pass_as_one_alone() -> None:
    """What is bounded beside others are the requests of one caller, not those of all."""
    room = Room(a_pass=2, alone=8)
    for number in range(40):
        room.come(f"caller-{number}")
    room.come("many", 40)
    await room.all()
    in_passes = list(Counter(number for number, _ in room.begun).values())
    assert in_passes[1:4] == [8, 8, 8]
    many = Counter(number for number, external_id in room.begun if external_id == "many")
    assert set(list(many.values())[:5]) <= {1, 2}


@pytest.mark.parametrize("kind", ["begin", "brief"])
async def test_a_line_of_those_who_have_left_holds_nobody_up(kind: str) -> None:
    """However many were ended while they waited, who waits behind them has a turn."""
    room = Room(a_pass=1, alone=4)
    come = room.come if kind == "begin" else room.refuse
    come("b")
    come("a", 60)
    await room.run(1)
    for task in room.tasks[2:-1]:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(room.tasks[-1], room.tasks[0]), 5)
    assert room.tasks[-1].exception() is None


async def test_who_is_alone_again_has_longer_passes_again() -> None:
    """The other one is forgotten after some passes, in which a caller that goes on is not."""
    room = Room(a_pass=2, alone=8)
    room.come("a", 400)
    room.come("b")
    await room.all()
    in_passes = list(Counter(number for number, external_id in room.begun if external_id == "a").values())
    assert in_passes[5] == 2
    assert in_passes[-2] == 8


@pytest.mark.parametrize("a_pass", [2, 16])
async def test_callers_take_turns_within_a_pass(a_pass: int) -> None:
    """Who comes with two requests behind two hundred of another has both begun within the next passes."""
    room = Room(a_pass=a_pass)
    room.come("many", 200)
    await room.run(3)
    come_in = room.passes
    room.come("two", 2)
    await room.all()
    assert [number - come_in <= 4 for number, external_id in room.begun if external_id == "two"] == [True, True]
    assert len(room.begun) == 202


async def test_a_caller_with_many_waits_for_its_own() -> None:
    """Who comes with one request behind two hundred of another begins in the next turn but one."""
    room = Room()
    room.come("many", 200)
    await room.run(3)
    before = len(room.begun)
    room.come("one")
    await room.run(6)
    assert "one" in began(room)[before : before + 4]
    await room.all()
    assert len(room.begun) == 201


async def test_behind_a_request_that_waits_too_long_its_caller_is_refused() -> None:
    """429 with Retry-After, in the same pass, and only for the caller who has more than its share."""
    room = Room()
    room.come("many", 50)
    await room.run(12)
    room.now_s += WAIT_S + 0.01
    room.come("many")
    room.come("one")
    await room.run(2)
    [(_, error)] = room.refused
    assert isinstance(error, OverLimitError)
    assert (error.status, error.code, error.retry_after_s) == (429, "share_exceeded", 1)
    await room.all()
    assert Counter(began(room)) == {"many": 50, "one": 1}


async def test_a_loop_that_stood_still_is_no_queue() -> None:
    """After a stall nobody is refused for what waits since before it."""
    room = Room()
    room.come("a", 5)
    room.come("b")
    await room.run(2)
    room.now_s += 60
    room.come("a")
    room.come("c")
    await room.all()
    assert Counter(began(room)) == {"a": 6, "b": 1, "c": 1}


async def test_what_waits_is_not_refused() -> None:
    """A burst that came at once is served to its end, however long that takes."""
    room = Room()
    room.come("a", 30)
    while not all(task.done() for task in room.tasks):
        room.now_s += WAIT_S
        await room.run(1)
    assert len(room.begun) == 30
    assert not room.refused


async def test_where_all_callers_are_too_many_newcomers_are_refused() -> None:
    """503 where it takes too long until each caller had a turn; one whose line is short is refused too."""
    room = Room()
    for number in range(50):
        room.come(f"caller-{number}")
    await room.run(12)
    room.now_s += WAIT_S + 0.01
    room.come("another")
    await room.run(2)
    [(_, error)] = room.refused
    assert isinstance(error, OverloadedError)
    assert (error.status, error.code, error.retry_after_s) == (503, "overloaded", 1)
    await room.all()
    room.come("another")
    await room.all()
    assert began(room)[-1] == "another"


async def test_short_answers_have_turns() -> None:
    """Of a flood of refusals some are told at once and then few in each pass, and those who begin wait for none of them."""
    room = Room()
    room.refuse("", 60)
    await room.run(2)
    room.come("a")
    await room.run(2)
    assert began(room) == ["a"]
    assert len(room.told) < 40
    await room.all()
    at_once, *later = Counter(number for number, _ in room.told).values()
    assert at_once == 20
    assert set(later[:-1]) == {2}


async def test_after_a_flood_of_short_answers_some_are_told_at_once_again() -> None:
    """What is not asked for in some passes may be given in one, and no pass is asked for when all of it may."""
    room = Room()
    for _ in range(2):
        room.told.clear()
        room.refuse("", 30)
        await room.all()
        assert next(iter(Counter(number for number, _ in room.told).values())) == 20
        await room.run(20)
    assert not room.turns._armed


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_of_more_refusals_than_can_be_told_the_newest_are_told_at_once(others: int) -> None:
    """While more come in each pass than are told, most who are told came now, and the first who came still has its turn."""
    room = Room()
    room.refuse("a", 200)
    for _ in range(40):
        for number in range(others):
            room.refuse(f"other-{number}")
        room.refuse("a", 2)
        await room.run(1)
    waits = [passes for passes, external_id in room.waits[20:] if external_id == "a"]
    assert sorted(waits)[len(waits) // 2] <= 2
    assert max(waits) > 10  # of those who came at first, too, some are told
    await room.all()


async def test_few_short_answers_wait_for_nobody() -> None:
    """A refusal that comes alone is told without giving the loop away, however often."""
    turns = Turns(wait_s_max=WAIT_S)
    for _ in range(3):
        telling = turns.brief("a")
        with pytest.raises(StopIteration):
            telling.send(None)
        await asyncio.sleep(0)


@pytest.mark.parametrize("many", ["", "many"])
async def test_who_is_refused_a_flood_of_times_waits_behind_itself(many: str) -> None:
    """One refusal behind hundreds of another caller, or of nobody known, is told within the next passes."""
    room = Room()
    room.refuse(many, 300)
    await room.run(3)
    room.refuse("one")
    await room.all()
    [waited] = [passes for passes, external_id in room.waits if external_id == "one"]
    assert waited <= 4
    assert len(room.told) == 301


async def test_who_no_longer_waits_takes_nobodys_turn() -> None:
    """A request that is ended while it waits is passed over."""
    room = Room()
    room.come("a", 3)
    await room.run(1)
    room.tasks[1].cancel()
    await room.all()
    assert began(room) == ["a", "a"]


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6), max_size=30))
def test_whoever_waits_has_the_next_turn_but_those_of_the_others(arrivals: list[list[str]]) -> None:
    """Whatever comes when: all begin, a turn in each pass, and while a caller waits no other begins again and again."""

    async def play() -> Room:
        room = Room()
        waiting: Counter[str] = Counter()
        since: dict[str, Counter[str]] = {}
        for coming in [*arrivals, *([[]] * 200)]:
            for external_id in coming:
                room.come(external_id)
                waiting[external_id] += 1
                since.setdefault(external_id, Counter())
            seen = len(room.begun)
            await room.run(1)
            for _, external_id in room.begun[seen:]:
                waiting[external_id] -= 1
                del since[external_id]
                for other in since.values():
                    other[external_id] += 1
                    # Beside its one turn: one that was given before the other came, and one that is taken up a pass later.
                    assert other[external_id] <= 3, (external_id, room.begun)
                if waiting[external_id]:
                    since[external_id] = Counter()
        return room

    room = asyncio.run(play())
    assert Counter(began(room)) == Counter(name for coming in arrivals for name in coming)
    # A turn is taken up in the pass after it was given, where a new request may begin too.
    numbers = [number for number, _ in room.begun]
    assert all(later > number for number, later in zip(numbers, numbers[2:], strict=False))
