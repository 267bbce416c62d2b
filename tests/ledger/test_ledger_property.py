"""ledger, by chance: random histories of the scripts against an oracle in plain Python, with the clock injected.

What must hold after every step: each verdict is the oracle's; base + settled + held never passes a limit; no real window has
more than its rate; usage is the truth wherever it is, and none is reported twice or lost, also of callers who are renamed while
it waits, and nothing is sealed under a name that Zion does not know.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from sentinel.ledger import Batch, open_redis
from sentinel.ledger.ledger_admin import DeadLetter
from sentinel.ops.records import Bill, Caller, Hold
from sentinel.zion.limits import MetricLimit, Snapshot, Verdict
from tests.support.accounts import read_account
from tests.support.ledgers import open_ledger, settle_together, verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

DAY_MS = 86_400_000
BEGIN_MS = 1_795_305_600_000 - 60_000  # a minute before midnight
RATE, WINDOW_MS, LEASE_MS, FRESH_MS, STALE_MS = 5, 10_000, 20_000, 3_600_000, 2 * DAY_MS
LIMITS = {"input": 3000, "output": 2000, "requests": 30}
METRICS = ("input", "output", "requests")
CALLERS = {"daily": Caller("daily", "d@x"), "ever": Caller("ever", "e@x")}
TAG = "{s00}"
BOOT = "00000000000000aa"


@dataclass
class Account:
    """What the oracle knows of one caller."""

    admitted_ms: list[int] = field(default_factory=list)
    settled: Counter[str] = field(default_factory=Counter)  # in this period
    day: int = 0
    fetched_ms: int = 0
    base: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METRICS, 0))
    refreshed_ms: int = 0


@dataclass
class Held:
    """One request under way."""

    hold: Hold
    deadline_ms: int
    output_so_far: int = 0

    @property
    def amounts(self) -> dict[str, int]:
        return {"input": self.hold.input_tokens, "output": self.hold.output_tokens, "requests": 1}


class Histories(RuleBasedStateMachine):
    """One partition with two callers: one whose limits begin anew each day, one whose never do."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now_ms = BEGIN_MS
        self.redis = open_redis(url, 5.0)
        self.ledger = open_ledger(
            url,
            lease_ms=LEASE_MS,
            rate_requests=RATE,
            rate_window_ms=WINDOW_MS,
            fresh_ms=FRESH_MS,
            stale_ms=STALE_MS,
            now_ms=lambda: self.now_ms,
        )
        self.run(self.redis.flushall())
        self.accounts = {name: Account() for name in CALLERS}
        self.live: dict[str, Held] = {}
        self.expired: dict[str, tuple[Hold, Bill, int]] = {}
        self.over: dict[str, Hold] = {}
        self.sequence = 0
        # (caller, day, metric) -> amount: what was truly used, what Zion has of us, and what others used there.
        self.truth: Counter[tuple[str, int, str]] = Counter()
        self.zion: Counter[tuple[str, int, str]] = Counter()
        self.others: Counter[tuple[str, int, str]] = Counter()
        self.applied: set[str] = set()
        self.batches: dict[str, Batch] = {}
        self.refused: dict[str, dict[int, str]] = {}  # what Zion said of the batches in `applied`
        self.present = dict(CALLERS)
        self.seen = {name: [caller] for name, caller in CALLERS.items()}  # names that some worker may still remember
        self.requeued = 0
        self.verdicts: dict[str, Verdict] = {}
        self.answers: list[tuple[str, Verdict, Snapshot, int, dict[str, int]]] = []
        self.alone = True  # nobody else uses the limits, and no truth is more than what was held
        self.doubled = False  # an answer counted a report that was not acknowledged yet: it counts twice until the next

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @property
    def today(self) -> int:
        return self.now_ms // DAY_MS

    def account(self, name: str) -> Account:
        """The account, begun anew if its day is over."""
        account = self.accounts[name]
        if name == "daily" and account.fetched_ms and account.day != self.today:
            account.settled.clear()
            account.base = dict.fromkeys(METRICS, 0)
            account.day = self.today
        return account

    def left(self, name: str, metric: str) -> int:
        """What the oracle says remains."""
        account = self.account(name)
        held = sum(live.amounts[metric] for live in self.live.values() if live.hold.caller.external_id == name)
        return max(0, LIMITS[metric] - account.base[metric] - account.settled[metric] - held)

    def charge(self, name: str, bill: Bill, day: int, sign: int = 1) -> None:
        """Book `bill` as the truth of `day`, in Zion's terms and in the ledger's."""
        account = self.account(name)
        for metric, amount in zip(METRICS, (bill.input_tokens, bill.output_tokens, bill.requests), strict=True):
            self.truth[name, day, metric] += sign * amount
            if name == "ever" or not account.fetched_ms or day >= account.day:
                account.settled[metric] += sign * amount

    @initialize(alone=st.booleans())
    def limits_are_known(self, alone: bool) -> None:
        """Every history begins with limits; later answers bring others."""
        self.alone = alone
        for name, caller in CALLERS.items():
            self.run(self.ledger.names.learn(f"u-{name}", caller))
            self.verdicts[name] = self.run(verdict_of(self.ledger, caller, f"req_{BOOT}_0", 0, 0, 0))
            assert self.verdicts[name].why == "unknown"
            self.ask_zion(name)
            self.install(0)

    @rule(step_ms=st.one_of(st.integers(0, 4_000), st.sampled_from([LEASE_MS, 60_000, 3_700_000, DAY_MS, 3 * DAY_MS])))
    def time_passes(self, step_ms: int) -> None:
        """Time goes by: mostly little, sometimes past a lease, a midnight, or the bound of stale limits."""
        self.now_ms += step_ms

    @rule(
        name=st.sampled_from(sorted(CALLERS)),
        tokens=st.integers(0, 900),
        asked=st.integers(0, 900),
        least=st.integers(0, 900),
        known=st.integers(0, 9),
    )
    def admit(self, name: str, tokens: int, asked: int, least: int, known: int) -> None:
        """A new request: the verdict and everything in it is the oracle's."""
        self.sequence += 1
        request_id = f"req_{BOOT}_{self.sequence:x}"
        account = self.account(name)
        caller = self.seen[name][known % len(self.seen[name])]
        verdict = self.run(verdict_of(self.ledger, caller, request_id, tokens, asked, least, "m"))
        self.verdicts[name] = verdict
        granted = min(asked, self.left(name, "output"))
        width_ms = WINDOW_MS // 10
        counted = sum(at // width_ms >= self.now_ms // width_ms - 10 for at in account.admitted_ms)
        stale = self.now_ms - account.fetched_ms > STALE_MS
        if verdict.refresh or stale:
            # One caller in ten seconds is asked to fetch the limits, whether they age or are too old to go on.
            assert verdict.refresh == (self.now_ms - account.refreshed_ms >= 10_000)
        if verdict.refresh:
            account.refreshed_ms = self.now_ms
        if stale:
            assert (verdict.code, verdict.why) == ("snapshot", "stale")
            return
        expected = next(
            why
            for why, refused in (
                ("rate", counted >= RATE),
                ("requests", self.left(name, "requests") < 1),
                ("input", self.left(name, "input") < tokens),
                ("output", granted < min(asked, least)),
                ("ok", True),
            )
            if refused
        )
        assert verdict.why == expected
        if expected == "ok":
            assert (verdict.code, verdict.granted_output) == ("admitted", granted)
            hold = Hold(request_id, caller, "m", tokens, granted, verdict.requests, verdict.input, verdict.output, verdict.rate)
            self.live[request_id] = Held(hold, self.now_ms + LEASE_MS)
            account.admitted_ms = [*account.admitted_ms[-4 * RATE :], self.now_ms]
            assert sum(self.now_ms - WINDOW_MS < at for at in account.admitted_ms) <= RATE
        for metric in METRICS:
            assert getattr(verdict, metric).remaining == self.left(name, metric)

    @precondition(lambda self: self.live)
    @rule(choice=st.randoms(use_true_random=False))
    def admit_again(self, choice: Any) -> None:
        """The same request is sent once more: the same grant, and nothing held."""
        request_id = choice.choice(sorted(self.live))
        hold = self.live[request_id].hold
        verdict = self.run(verdict_of(self.ledger, hold.caller, request_id, 1, 1, 1, "m"))
        assert (verdict.code, verdict.why, verdict.granted_output) == ("admitted", "dup", hold.output_tokens)

    @precondition(lambda self: self.live)
    @rule(choice=st.randoms(use_true_random=False), over=st.booleans())
    def settle(self, choice: Any, over: bool) -> None:
        """A request ends within its hold, or now and then beyond it."""
        request_id = choice.choice(sorted(self.live))
        hold = self.live.pop(request_id).hold
        beyond = 50 if over and not self.alone and choice.random() < 0.2 else 0
        bill = Bill(choice.randint(0, 1), choice.randint(0, hold.input_tokens), choice.randint(0, hold.output_tokens) + beyond)
        assert self.run(self.ledger.settle(hold, bill)).why == "ok"
        self.charge(hold.caller.external_id, bill, self.today)
        self.over[request_id] = hold

    @precondition(lambda self: self.live)
    @rule(choice=st.randoms(use_true_random=False), count=st.integers(1, 4))
    def settle_together(self, choice: Any, count: int) -> None:
        """Requests end in one tick, some that are over already beside them: those are left, all others are settled."""
        chosen = choice.sample(sorted(self.live), min(count, len(self.live)))
        over = list(self.over.values())[-1:]
        ended = [(hold, Bill(1, 999, 999)) for hold in over]
        for request_id in chosen:
            hold = self.live.pop(request_id).hold
            bill = Bill(1, choice.randint(0, hold.input_tokens), choice.randint(0, hold.output_tokens))
            ended.append((hold, bill))
            self.charge(hold.caller.external_id, bill, self.today)
            self.over[request_id] = hold
        assert self.run(settle_together(self.ledger, ended)) == set(range(len(over)))

    @precondition(lambda self: self.over)
    @rule(choice=st.randoms(use_true_random=False), blind=st.booleans(), late=st.booleans())
    def settle_again(self, choice: Any, blind: bool, late: bool) -> None:
        """A settlement that comes twice, with whatever figures, changes nothing, also when its tombstone is long gone."""
        hold = self.over[choice.choice(list(self.over)[-50:])]
        if late:
            self.run(self.redis.delete(f"d:{TAG}:{hold.request_id}"))
        assert self.run(self.ledger.settle(hold, Bill(1, 999, 999), blind=blind)).why == "dup"

    @precondition(lambda self: self.live)
    @rule(choice=st.randoms(use_true_random=False))
    def beat(self, choice: Any) -> None:
        """A stream says that it lives."""
        held = self.live[choice.choice(sorted(self.live))]
        held.output_so_far = choice.randint(0, held.hold.output_tokens)
        assert self.run(self.ledger.renew(held.hold, held.output_so_far))
        held.deadline_ms = self.now_ms + LEASE_MS

    @rule()
    def sweep(self) -> None:
        """Holds past their lease, and no others, are charged by estimate."""
        expired = {request_id: held for request_id, held in self.live.items() if held.deadline_ms <= self.now_ms}
        assert self.run(self.ledger.expire_holds(0)) == len(expired)
        for request_id, held in expired.items():
            bill = Bill(1, held.hold.input_tokens, held.output_so_far)
            self.charge(held.hold.caller.external_id, bill, self.today)
            self.expired[request_id] = (held.hold, bill, self.today)
            del self.live[request_id]

    @precondition(lambda self: self.expired)
    @rule(choice=st.randoms(use_true_random=False))
    def late_truth(self, choice: Any) -> None:
        """A worker that was taken for dead tells the truth: it replaces the estimate, on the day that was charged."""
        request_id = choice.choice(sorted(self.expired))
        hold, estimate, day = self.expired.pop(request_id)
        output_max = estimate.output_tokens if self.alone else hold.output_tokens
        bill = Bill(1, choice.randint(0, hold.input_tokens), choice.randint(0, output_max))
        assert self.run(self.ledger.settle(hold, bill)).why == "corrected"
        self.charge(hold.caller.external_id, estimate, day, -1)
        self.charge(hold.caller.external_id, bill, day)
        self.over[request_id] = hold

    @rule(size=st.integers(1, 3), ending=st.sampled_from(["done", "lost", "fail", "applied", "bury"]))
    def report(self, size: int, ending: str) -> None:
        """One report: it gets through, is lost on the way there or back, or has an item that Zion refuses for good."""
        batch = self.run(self.ledger.claim_batch(0, items_max=size, claim_ms=5_000))
        if batch is None:
            return
        if batch.id not in self.batches:
            assert [reason for reason in self.judged(batch).values() if reason] == []
        known = self.batches.setdefault(batch.id, batch)
        assert (known.items, known.sealed_at_ms, known.usage_format) == (batch.items, batch.sealed_at_ms, batch.usage_format)
        for item in batch.items:
            assert min(item.input_tokens, item.output_tokens, item.requests) >= 0
            assert max(item.input_tokens, item.output_tokens, item.requests) > 0
        if ending == "lost":
            return
        if ending == "fail":
            assert self.run(self.ledger.retry_batch(batch, 3_000))
            return
        if batch.id not in self.applied:
            unknown = {position: reason for position, reason in self.judged(batch).items() if reason}
            self.refused[batch.id] = {0: "refused", **unknown} if ending == "bury" else unknown
        refused = self.refused[batch.id]
        self.apply(batch, refused)
        if ending == "applied":
            return
        if refused:
            assert self.run(self.ledger.dead_letter(batch, refused))
            assert not self.run(self.ledger.dead_letter(batch, refused))
        else:
            assert self.run(self.ledger.ack_batch(batch))
            assert not self.run(self.ledger.ack_batch(batch))

    def judged(self, batch: Batch) -> dict[int, str]:
        """What Zion says of each item, by the one of its names that the format says."""
        found = {}
        for position, item in enumerate(batch.items):
            present = self.present[item.external_id]
            known = (present.external_id, present.email)
            at = 0 if batch.usage_format == "per_limit" else 1
            found[position] = "" if item.names[at] == known[at] and item.names[at] else "User not found"
        return found

    @rule(name=st.sampled_from(sorted(CALLERS)), email=st.integers(0, 3), moved=st.booleans())
    def rename(self, name: str, email: int, moved: bool) -> None:
        """Zion gives a caller another e-mail, or none, or another external id, and is asked; workers remember the old names."""
        self.present[name] = Caller(f"{name}-anew" if moved else name, f"{name}-{email}@x" if email else "")
        self.run(self.ledger.names.learn(f"u-{name}", self.present[name]))
        if not moved and self.present[name] not in self.seen[name]:
            self.seen[name].append(self.present[name])

    @rule(choice=st.randoms(use_true_random=False))
    def requeue(self, choice: Any) -> None:
        """An operator sends a dead letter again: it is to be reported like any other usage."""
        letters = self.run(_all(self.ledger.admin_ledger.dead_letters()))
        if letters:
            letter = choice.choice(sorted(letters, key=lambda letter: letter.id))
            assert self.run(self.ledger.admin_ledger.requeue_letter(letter))
            assert not self.run(self.ledger.admin_ledger.requeue_letter(letter))
            used = (letter.sum.input_tokens, letter.sum.output_tokens, letter.sum.requests)
            for metric, amount in zip(METRICS, used, strict=True):
                self.truth[letter.sum.external_id, letter.sum.start_ms // DAY_MS, metric] += amount
            self.requeued += 1

    def apply(self, batch: Batch, refused: dict[int, str]) -> None:
        """Zion honours the idempotency key, and books by the report's time stamp."""
        if batch.id in self.applied:
            return
        self.applied.add(batch.id)
        for position, item in enumerate(batch.items):
            day = batch.sealed_at_ms // DAY_MS
            for metric, amount in zip(METRICS, (item.input_tokens, item.output_tokens, item.requests), strict=True):
                if position in refused:
                    self.truth[item.external_id, day, metric] -= amount  # known to be missing there, by its dead letter
                else:
                    self.zion[item.external_id, day, metric] += amount

    @precondition(lambda self: not self.alone)
    @rule(name=st.sampled_from(sorted(CALLERS)), metric=st.sampled_from(METRICS), amount=st.integers(1, 20))
    def somebody_else_uses(self, name: str, metric: str, amount: int) -> None:
        """Usage that does not pass through here, known only from Zion's next answer."""
        self.others[name, self.today, metric] += amount

    @rule(name=st.sampled_from(sorted(CALLERS)))
    def ask_zion(self, name: str) -> None:
        """Zion reads its figures now; the answer may arrive much later."""
        if len(self.answers) > 3:
            return
        begin_ms = self.today * DAY_MS
        days = [self.today] if name == "daily" else range(BEGIN_MS // DAY_MS, self.today + 1)
        used = {
            metric: sum(self.zion[name, day, metric] + self.others[name, day, metric] for day in days) for metric in METRICS
        }
        others = {metric: sum(self.others[name, day, metric] for day in days) for metric in METRICS}
        period = (begin_ms, begin_ms + DAY_MS, "DAILY") if name == "daily" else (0, 0, "NEVER")
        snapshot = Snapshot(*(MetricLimit(LIMITS[metric], used[metric], *period) for metric in METRICS))
        self.answers.append((name, self.verdicts[name], snapshot, self.today, others))

    @precondition(lambda self: self.answers)
    @rule(position=st.integers(0, 3))
    def install(self, position: int) -> None:
        """An answer of Zion arrives: it never makes the used part less than others' usage and our own."""
        name, verdict, snapshot, day, others = self.answers.pop(position % len(self.answers))
        account = self.account(name)
        newer = verdict.clock_ms >= account.fetched_ms
        assert self.run(self.ledger.install_limits(name, snapshot, verdict.acked, verdict.clock_ms)) == newer
        if not newer:
            return
        account.fetched_ms = verdict.clock_ms
        account.refreshed_ms = 0
        account.day = self.today
        for metric in METRICS:
            base, settled = self.stored(name)[metric][1:3]
            assert settled == account.settled[metric]
            assert base >= (others[metric] if name == "ever" or day == self.today else 0)
            account.base[metric] = base
            self.doubled |= base > others[metric]

    def stored(self, name: str) -> dict[str, list[int]]:
        """The account in Redis as it is."""
        return read_account(self.run(self.redis.get(f"q:{TAG}:{name}")))

    @invariant()
    def limits_hold(self) -> None:
        """What is truly used and what is held never pass a limit, nor does the ledger's own base + settled + held."""
        for name in CALLERS if self.alone and self.verdicts else ():
            account = self.account(name)
            held = [live.amounts for live in self.live.values() if live.hold.caller.external_id == name]
            for metric, (limit, base, settled, _, stored, *_rest) in self.stored(name).items():
                assert limit == LIMITS[metric]
                assert stored == sum(amounts[metric] for amounts in held)
                assert account.settled[metric] + stored <= limit
                assert self.doubled or base + settled + stored <= limit

    @invariant()
    def usage_is_conserved(self) -> None:
        """For each caller and metric: reported + sealed + waiting is the truth; for daily limits it is so for each day."""
        found: Counter[tuple[str, int, str]] = Counter(self.zion)
        for key, value in self.run(self.redis.hgetall(f"a:{TAG}")).items():
            name, _, _, since_ms = json.loads(key)
            for metric, amount in zip(METRICS, value.split(b"|"), strict=True):
                found[name, since_ms // DAY_MS, metric] += int(amount)
        for key, value in self.run(self.redis.hgetall(f"b:{TAG}")).items():
            if b":" not in key and key.decode() not in self.applied:
                for name, _, _, since_ms, *amounts in json.loads(value):
                    for metric, amount in zip(METRICS, amounts[:3], strict=True):
                        found[name, since_ms // DAY_MS, metric] += amount
        for metric in METRICS:
            assert _total(found, "ever", metric) == _total(self.truth, "ever", metric)
        daily = {key: amount for key, amount in found.items() if key[0] == "daily" and amount}
        assert daily == {key: amount for key, amount in self.truth.items() if key[0] == "daily" and amount}

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.run(self.ledger.close())
        self.runner.close()


async def _all(listing: AsyncIterator[DeadLetter]) -> list[DeadLetter]:
    return [letter async for letter in listing]


def _total(amounts: Counter[tuple[str, int, str]], name: str, metric: str) -> int:
    return sum(amount for key, amount in amounts.items() if key[0] == name and key[2] == metric)


def test_every_history_keeps_the_books(redis_server: RedisServer) -> None:
    """Whatever the order of admissions, ends, deaths, reports and answers: limits hold and no usage is lost or doubled."""
    lives: list[Histories] = []

    def begin() -> Histories:
        lives.append(Histories(redis_server.url))
        return lives[-1]

    run_state_machine_as_test(
        begin,
        settings=settings(max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)),
    )
    # Its invariants were held by each step; that there was something to lose or to double is held here.
    assert any(life.truth for life in lives)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_long_life_keeps_the_books(redis_server: RedisServer, seed: int, alone: bool) -> None:
    """The same over weeks of busy days, which short histories do not reach."""
    life = Histories(redis_server.url)
    try:
        life.limits_are_known(alone)
        _live(life, random.Random(seed), steps=1500)
        assert life.zion, "nothing was ever reported"
        assert life.requeued, "nothing was ever requeued"
    finally:
        life.teardown()


def _live(life: Histories, chance: random.Random, steps: int) -> None:
    """Busy callers, a report now and then, an answer of Zion every few minutes, and time that sometimes leaps."""
    names = sorted(CALLERS)
    endings = ["done", "done", "done", "lost", "fail", "applied", "bury"]
    acts: list[tuple[int, Callable[[], object], Callable[[], object]]] = [
        (40, lambda: True, lambda: life.admit(chance.choice(names), *(chance.randint(0, most) for most in (200, 300, 100, 9)))),
        (3, lambda: life.live, lambda: life.admit_again(chance)),
        (20, lambda: life.live, lambda: life.settle(chance, chance.random() < 0.3)),
        (3, lambda: life.over, lambda: life.settle_again(chance, chance.random() < 0.5, chance.random() < 0.5)),
        (4, lambda: life.live, lambda: life.beat(chance)),
        (3, lambda: True, life.sweep),
        (4, lambda: life.expired, lambda: life.late_truth(chance)),
        (14, lambda: True, lambda: life.report(chance.randint(1, 3), chance.choice(endings))),
        (2, lambda: True, lambda: life.rename(chance.choice(names), chance.randint(0, 3), chance.random() < 0.2)),
        (3, lambda: True, lambda: life.requeue(chance)),
        (5, lambda: True, lambda: life.ask_zion(chance.choice(names))),
        (5, lambda: life.answers, lambda: life.install(chance.randint(0, 3))),
        (2, lambda: not life.alone, lambda: life.somebody_else_uses(chance.choice(names), chance.choice(METRICS), 5)),
        (1, lambda: True, lambda: life.time_passes(chance.choice([LEASE_MS, LEASE_MS, 600_000, FRESH_MS]))),
        (1, lambda: True, lambda: life.time_passes(DAY_MS - life.now_ms % DAY_MS + chance.randint(-3_000, 1_000))),
    ]
    weights = [weight for weight, *_ in acts]
    for step in range(steps):
        life.time_passes(chance.choice([0, 1, chance.randint(0, 1_500), chance.randint(0, 4_000)]))
        _, possible, act = chance.choices(acts, weights)[0]
        if possible():
            act()
        life.limits_hold()
        if step % 5 == 0:
            life.usage_is_conserved()
    life.usage_is_conserved()
