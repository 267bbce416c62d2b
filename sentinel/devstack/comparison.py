"""What the provider served against what Zion booked and what still waits: per user and metric, to the token. Pure.

Users are e-mails, or external ids where they have none: the provider's journal has them in the field `user` of a request's
body. What was served to nobody by name cannot be compared and is only counted. Nothing here fails on odd rows: a row without a
figure has none.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

METRICS: Final = ("requests", "input", "output")
_SHORT: Final = {"requests": "aiRequests", "input": "aiInputTokens", "output": "aiOutputTokens"}

Amounts = tuple[int, int, int]
Sums = dict[str, Amounts]
NOTHING: Final[Amounts] = (0, 0, 0)


@dataclass(frozen=True)
class Batch:
    """A sealed batch that still waits: its id, by which Zion's rows of it are known, and its sums by e-mail."""

    id: str
    sums: Sums


@dataclass(frozen=True)
class Waiting:
    """What waits in Redis: unreported sums, sealed batches, dead letters."""

    unreported: Sums = field(default_factory=dict)
    batches: tuple[Batch, ...] = ()
    dead: Sums = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Differences as sentences, one list a kind, and the sums by user they follow from.

    `lost`: served, and neither booked nor waiting. `unexpected`: booked or waiting, and never served. `duplicated`: one request
    that the provider served twice, or one increment that Zion applied twice under one idempotency key.
    """

    served: Sums
    booked: Sums
    waiting: Sums
    lost: tuple[str, ...]
    unexpected: tuple[str, ...]
    duplicated: tuple[str, ...]
    nameless: int

    @property
    def equal(self) -> bool:
        """Whether nothing is lost, unexpected or duplicated."""
        return not (self.lost or self.unexpected or self.duplicated)


def compare(
    served: Iterable[Mapping[str, Any]],
    booked: Iterable[Mapping[str, Any]],
    waiting: Waiting | None = None,
    users: Collection[str] | None = None,
) -> Comparison:
    """Compare the provider's journal, Zion's ledger and what waits; only these `users`, where they are given."""
    rows = [row for row in served if _counts(row)]
    named = [row for row in rows if row["user"]]
    ledger, waiting = list(booked), waiting or Waiting()

    def chosen(sums: Sums) -> Sums:
        return {user: amounts for user, amounts in sorted(sums.items()) if users is None or user in users}

    given = chosen(summed((str(row["user"]), (1, row["input_tokens"], row["output_tokens"])) for row in named))
    taken = chosen(summed((_user(row), _amounts(row)) for row in ledger))
    pending = chosen(_pending(waiting, ledger))
    lost: list[str] = []
    unexpected: list[str] = []
    for user in sorted({*given, *taken, *pending}):
        for at, metric in enumerate(METRICS):
            left = given.get(user, NOTHING)[at] - taken.get(user, NOTHING)[at] - pending.get(user, NOTHING)[at]
            if left:
                (lost if left > 0 else unexpected).append(f"{user}: {abs(left)} {metric}")
    twice = [*_served_twice(named, users), *_applied_twice(ledger, users)]
    return Comparison(given, taken, pending, tuple(lost), tuple(unexpected), tuple(twice), len(rows) - len(named))


def _counts(row: Mapping[str, Any]) -> bool:
    """Whether the provider worked for it: answered, or at work (its prompt counted) when the client left."""
    return bool(row["status"] == 200 or (row["status"] == 0 and row["client_gone"] and row["input_tokens"]))


def _amounts(row: Mapping[str, Any]) -> Amounts:
    requests, given, produced = (int(row.get(_SHORT[metric]) or 0) for metric in METRICS)
    return requests, given, produced


def summed(amounts: Iterable[tuple[str, Amounts]]) -> Sums:
    """Amounts of users, added up."""
    sums: dict[str, Amounts] = defaultdict(lambda: NOTHING)
    for user, (requests, given, produced) in amounts:
        before = sums[user]
        sums[user] = (before[0] + requests, before[1] + given, before[2] + produced)
    return dict(sums)


def _pending(waiting: Waiting, ledger: Iterable[Mapping[str, Any]]) -> Sums:
    """What waits, less what Zion has already applied of a batch whose answer got lost: it waits only to be acknowledged."""
    parts = [*waiting.unreported.items(), *waiting.dead.items()]
    rows = list(ledger)
    for batch in waiting.batches:
        # A batch sent in single increments has keys of its own, which begin with its id.
        applied = summed((_user(row), _amounts(row)) for row in rows if _key(row).startswith(batch.id))
        for user, amounts in batch.sums.items():
            requests, given, produced = (max(0, a - b) for a, b in zip(amounts, applied.get(user, NOTHING), strict=True))
            parts.append((user, (requests, given, produced)))
    return {user: amounts for user, amounts in summed(parts).items() if amounts != NOTHING}


def _user(row: Mapping[str, Any]) -> str:
    return str(row["email"] or row["externalId"])


def _key(row: Mapping[str, Any]) -> str:
    return str(row.get("idempotencyKey") or "")


def _served_twice(rows: Iterable[Mapping[str, Any]], users: Collection[str] | None) -> Iterable[str]:
    """Requests the provider worked on more than once under one id of Sentinel's."""
    counts = Counter((str(row["user"]), row["request_id"]) for row in rows if row["request_id"])
    for (user, request_id), count in sorted(counts.items()):
        if count > 1 and (users is None or user in users):
            yield f"{user}: request {request_id} was served {count} times"


def _applied_twice(rows: Iterable[Mapping[str, Any]], users: Collection[str] | None) -> Iterable[str]:
    """Increments Zion applied more than once under one key: those that had the same place in the same report."""
    counts = Counter((_key(row), row["position"], _user(row)) for row in rows if _key(row))
    for key, user in sorted({(key, user) for (key, _, user), count in counts.items() if count > 1}):
        if users is None or user in users:
            yield f"{user}: key {key} was applied more than once"
