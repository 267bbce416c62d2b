"""What must hold after a run: what is booked, waits or was refused for good is what the provider served. Pure.

To the token for each request whose client got its whole answer. Of one that broke off with its worker, or whose client left,
the output is known only within bounds (docs/limits.md): from what the client saw, or nothing, to what the provider said. One
that its worker had begun, and the provider has no word of, may be charged its prompt.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sentinel.devstack.comparison import METRICS, NOTHING, Amounts, Sums
from tests.chaos.clients import Note

# Until a bill stands in the journal after its answer, on a machine that is busy.
_BILL_S: Final = 0.5
_LOSES: Final = ("defect", "settlement lost: too many wait for redis", "settlements lost at shutdown")
# What asyncio says of a task is a defect too, also where nothing was raised: one that was forgotten, or ended unread.
_SIGNS: Final = ("Traceback", '"logger":"asyncio"', *(f'"event":"{event}"' for event in _LOSES))
Span = tuple[float, float]


@dataclass(frozen=True)
class Bounds:
    """What one user may be charged at least and at most."""

    low: Amounts
    high: Amounts

    def misses(self, charged: Amounts) -> list[str]:
        """What is not within them, as sentences."""
        rows = zip(METRICS, self.low, charged, self.high, strict=True)
        return [
            f"{metric}: {found} where {low} to {high} were served"
            for metric, low, found, high in rows
            if not low <= found <= high
        ]


def served(row: Mapping[str, Any]) -> bool:
    """Whether the provider worked for it, as its journal has it."""
    return bool(row["status"] == 200 or (row["status"] == 0 and row["client_gone"] and row["input_tokens"]))


def bounds(rows: Iterable[Mapping[str, Any]], notes: Sequence[Note], kills: Sequence[Span]) -> dict[str, Bounds]:
    """What each user may be charged, by the provider's journal and by what its clients saw."""
    known = {note.request_id: note for note in notes if note.request_id}
    low: dict[str, list[int]] = {note.user: [0, 0, 0] for note in notes}
    high: dict[str, list[int]] = {note.user: [0, 0, 0] for note in notes}
    nameless = [note for note in notes if not note.request_id]
    # Whose worker had begun them, perhaps; and those who left before they were told a name, whose rows have one.
    unseen = Counter(note.user for note in nameless if _during(note, kills))
    early = Counter(note.user for note in nameless if not _during(note, kills))
    prompt = 0
    for row in rows:
        if not served(row) or row["user"] not in low:
            continue
        user, note = row["user"], known.get(row["request_id"])
        exact = note is not None and note.whole and not _risky(note, kills)
        output = row["output_tokens"]
        seen = note.pieces if note is not None and not _risky(note, kills) else 0
        prompt = max(prompt, row["input_tokens"])
        for sums, produced in ((low, output if exact else min(seen, output)), (high, output)):
            sums[user] = [one + more for one, more in zip(sums[user], (1, row["input_tokens"], produced), strict=True)]
        if note is None and early[user]:
            early[user] -= 1
        elif note is None and unseen[user]:
            unseen[user] -= 1
    for note in known.values():
        if not note.whole and _during(note, kills):
            unseen[note.user] += 1
    for user, count in unseen.items():
        high[user][0] += count
        high[user][1] += count * prompt
    return {user: Bounds(_amounts(low[user]), _amounts(high[user])) for user in low}


def misses(expected: Mapping[str, Bounds], *charges: Sums) -> list[str]:
    """Users who were charged, in all of these sums together, what they may not be."""
    found = []
    for user, bound in expected.items():
        parts = [sums.get(user, NOTHING) for sums in charges]
        found += [f"{user}: {miss}" for miss in bound.misses(_amounts([sum(part) for part in zip(*parts, strict=True)]))]
    return found


def strange_answers(notes: Iterable[Note], errors_page: str, kills: Sequence[Span]) -> list[str]:
    """Answers that docs/errors.md does not have, and those that broke off while nobody was killed."""
    documented = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| `\w+` \| ([^|]*) \|", errors_page, re.MULTILINE)
        for code in [*re.findall(r"`(\w+)`", codes), *([""] if "–" in codes else [])]
    }
    own = {(400, "simulated_error"), (429, "rate_limit_exceeded")}
    in_streams = {(200, ""), (200, "upstream_error"), (200, "upstream_truncated"), (200, "upstream_timeout")}
    found = []
    for note in notes:
        answer = (note.status, note.code)
        if note.broken and not _during(note, kills):
            found.append(f"{note.kind} of {note.user} broke off: {note.broken}")
        elif note.whole and answer not in documented | own | in_streams:
            found.append(f"{note.kind} of {note.user} was told {answer}")
    return found


def strange_lines(log: str) -> list[str]:
    """Lines of Sentinel's log that say that something is lost, or that Sentinel is at fault."""
    return [line for line in log.splitlines() if any(sign in line for sign in _SIGNS)]


def over_the_limit(rows: Iterable[Mapping[str, Any]], limits: Mapping[str, int]) -> list[str]:
    """Users of whom more requests were served than their limit is."""
    count = Counter(row["user"] for row in rows if served(row))
    return [f"{user}: {count[user]} requests were served of {limit}" for user, limit in limits.items() if count[user] > limit]


def held(accounts: Mapping[str, Mapping[str, Sequence[int]]]) -> list[str]:
    """Users who still hold something; an account as `read_account` has it."""
    return [
        f"{user}: {sums[4]} {metric} are still held"
        for user, account in accounts.items()
        for metric, sums in account.items()
        if sums[4]
    ]


def _during(note: Note, kills: Collection[Span]) -> bool:
    """Whether somebody was killed while it was under way."""
    return any(note.began_s <= end and note.ended_s >= begin for begin, end in kills)


def _risky(note: Note, kills: Collection[Span]) -> bool:
    """Whether its worker may have died before its bill stood in the journal."""
    return any(note.began_s <= end and note.ended_s + _BILL_S >= begin for begin, end in kills)


def _amounts(figures: Sequence[int]) -> Amounts:
    requests, given, produced = figures
    return requests, given, produced
