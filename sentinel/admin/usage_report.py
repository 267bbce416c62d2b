"""What `sentinel usage` prints, and what it changes: the ledger's books as a table for people or as JSON (docs/usage.md).

Fails with LedgerUnavailableError where Redis is away, and NotFoundError where there is no such caller or dead letter. Every
list is bounded, and says so where there is more.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from sentinel.admin.usage_page import iso, seconds, shown
from sentinel.ledger import open_redis, redis_time
from sentinel.ledger.ledger_admin import Account, DeadLetter, LedgerAdmin, Sum, Waiting
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.openai.durations import go_duration
from sentinel.ops.settings import Settings

# A person waits for it, and a busy Redis may take its time; requests have a deadline of their own.
_TIMEOUT_S: Final = 10.0
_T = TypeVar("_T")


class NotFoundError(Exception):
    """There is no such caller or dead letter; the message says so in one sentence."""


class _List(msgspec.Struct):
    """The first `rows_max` of what there is; `more` counts the rest, and `amounts` (requests, input, output) are of all."""

    rows: list[Any]
    more: int = 0
    amounts: tuple[int, int, int] = (0, 0, 0)


class _Report(msgspec.Struct):
    now_ms: int
    callers: _List
    sums: _List
    batches: _List
    letters: _List


def report(settings: Settings, caller: str | None, *, rows_max: int, as_json: bool) -> str:
    """The books of all callers, or of the one with this external id. Raises NotFoundError, LedgerUnavailableError."""
    found = asyncio.run(_report(settings, caller, rows_max))
    if caller is not None and not any((found.callers.rows, found.sums.rows, found.batches.rows, found.letters.rows)):
        raise NotFoundError(f"No caller with the external id {_printable(caller)} was active within two days.")
    return _json(found, settings) if as_json else _text(found)


def change(settings: Settings, verb: str, letter_id: str) -> str:
    """`requeue` or `drop` a dead letter; a sentence about it. Raises NotFoundError, LedgerUnavailableError."""
    letter = asyncio.run(_change(settings, verb, letter_id))
    if letter is None:
        raise NotFoundError(f"There is no dead letter {_printable(letter_id)} (any more).")
    what = (
        f"{letter.sum.requests} requests, {letter.sum.input_tokens} input and {letter.sum.output_tokens} output tokens "
        f"of {_printable(letter.sum.external_id)}"
    )
    return f"Requeued for the next report: {what}." if verb == "requeue" else f"Dropped, never to be reported: {what}."


def _books(settings: Settings) -> LedgerAdmin:
    return LedgerAdmin(
        Pipeline(open_redis(settings.redis_url, _TIMEOUT_S), _TIMEOUT_S),
        partitions=settings.ledger_partitions,
        window=(settings.rate_requests or -1, settings.rate_window_s * 1000),
        now_ms=redis_time,
    )


async def _change(settings: Settings, verb: str, letter_id: str) -> DeadLetter | None:
    admin_ledger = _books(settings)
    try:
        letter = await admin_ledger.dead_letter(letter_id)
        if letter is None or not await (
            admin_ledger.requeue_letter(letter) if verb == "requeue" else admin_ledger.discard_letter(letter)
        ):
            return None
        return letter
    finally:
        await admin_ledger.close()


async def _report(settings: Settings, caller: str | None, rows_max: int) -> _Report:
    admin_ledger = _books(settings)
    try:
        return _Report(
            now_ms=await admin_ledger.clock_ms(),
            callers=await _collect(admin_ledger.accounts() if caller is None else _one(admin_ledger, caller), None, rows_max),
            sums=await _collect(admin_ledger.sums(), caller, rows_max),
            batches=await _collect(admin_ledger.waiting(), caller, rows_max),
            letters=await _collect(admin_ledger.dead_letters(), caller, rows_max),
        )
    finally:
        await admin_ledger.close()


async def _one(admin_ledger: LedgerAdmin, caller: str) -> AsyncIterator[Account]:
    account = await admin_ledger.account(caller)
    if account.fetched_ms:
        yield account


async def _collect(listing: AsyncIterator[_T], caller: str | None, rows_max: int) -> _List:
    """What concerns `caller` (None: all), once each though a listing may tell it twice."""
    found: dict[tuple[str, ...], _T] = {}
    told = _List([])
    async for row in listing:
        parts = _parts(row)
        if caller is not None and caller not in {part.external_id for part in parts}:
            continue
        if (name := _name(row)) not in found and len(found) == rows_max:
            told.more += 1
        else:
            found[name] = row
        requests, given, produced = told.amounts
        told.amounts = (
            requests + sum(part.requests for part in parts),
            given + sum(part.input_tokens for part in parts),
            produced + sum(part.output_tokens for part in parts),
        )
    told.rows = [found[name] for name in sorted(found)]
    return told


def _parts(row: object) -> Sequence[Sum]:
    if isinstance(row, Waiting):
        return row.sums
    return (row.sum,) if isinstance(row, DeadLetter) else (row,) if isinstance(row, Sum) else ()


def _name(row: object) -> tuple[str, ...]:
    if isinstance(row, Sum):
        return row.external_id, row.email, row.model, str(row.start_ms)
    if isinstance(row, Account):
        return (row.external_id,)
    assert isinstance(row, Waiting | DeadLetter)
    # The oldest first.
    at_ms = row.sealed_at_ms if isinstance(row, Waiting) else row.buried_at_ms
    return f"{at_ms:020d}", row.id


def _json(found: _Report, settings: Settings) -> str:
    lists = {"callers": found.callers, "unreported": found.sums, "batches": found.batches, "dead_letters": found.letters}
    body = {
        "at": iso(found.now_ms),
        "callers": [shown(account, settings.rate_window_s) for account in found.callers.rows],
        "unreported": [_sum(row) for row in found.sums.rows],
        "batches": [
            {
                "id": row.id,
                "items": len(row.sums),
                "attempts": row.attempts,
                "age_seconds": seconds(max(0, found.now_ms - row.sealed_at_ms)),
                "next_attempt_seconds": seconds(max(0, row.next_at_ms - found.now_ms)),
                "sums": [_sum(part) for part in row.sums],
            }
            for row in found.batches.rows
        ],
        "dead_letters": [
            {
                "id": row.id,
                "reason": row.reason,
                "age_seconds": seconds(max(0, found.now_ms - row.buried_at_ms)),
                **_sum(row.sum),
            }
            for row in found.letters.rows
        ],
        "not_shown": {name: told.more for name, told in lists.items()},
    }
    return msgspec.json.encode(body).decode()


def _sum(row: Sum) -> dict[str, Any]:
    return {
        "external_id": row.external_id,
        "email": row.email,
        "model": row.model,
        "period_start": iso(row.start_ms),
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
    }


def _text(found: _Report) -> str:
    now_ms = found.now_ms
    callers = [row for account in found.callers.rows for row in _rows(account, now_ms)]
    sums = [(*_who(row), iso(row.start_ms)[:10], *_amounts(row)) for row in found.sums.rows]
    batches = [
        (row.id, len(row.sums), _age(now_ms - row.sealed_at_ms), row.attempts, _age(max(0, row.next_at_ms - now_ms)))
        for row in found.batches.rows
    ]
    letters = [
        (row.id, *_who(row.sum), *_amounts(row.sum), _age(now_ms - row.buried_at_ms), row.reason) for row in found.letters.rows
    ]
    amounts = ("REQUESTS", "INPUT", "OUTPUT")
    figures = ("LIMIT", "USED", "HELD", "LEFT", "UNREPORTED", "PERIOD", "ENDS", "LIMITS' AGE")
    parts = [
        _section("Callers", found.callers, ("CALLER", "METRIC", *figures), callers),
        _section("Unreported sums", found.sums, ("CALLER", "MODEL", "SINCE", *amounts), sums),
        _section("Waiting batches", found.batches, ("BATCH", "ITEMS", "AGE", "ATTEMPTS", "NEXT IN"), batches),
        _section("Dead letters", found.letters, ("ID", "CALLER", "MODEL", *amounts, "AGE", "REASON"), letters),
    ]
    return "\n\n".join(parts)


def _rows(account: Account, now_ms: int) -> list[tuple[object, ...]]:
    """A row for each metric of a caller, who is named in the first."""
    rows: list[tuple[object, ...]] = []
    for metric, figures in shown(account, 0)["limits"].items():
        who, age = ("", "") if rows else (account.external_id, _age(now_ms - account.fetched_ms))
        limit, left = _or(figures["limit"], "unlimited"), _or(figures["remaining"], "-")
        amounts = (limit, figures["used"], figures["held"], left, figures["unreported"])
        rows.append((who, metric, *amounts, figures["period"] or "-", figures["reset_at"] or "never", age))
    return rows


def _section(title: str, told: _List, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A heading, the rows under their columns (numbers to the right), and how many more there are."""
    if not rows:
        return f"{title}: none"
    columns = list(zip(head, *([_printable(str(cell)) for cell in row] for row in rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(isinstance(row[at], int) for row in rows) for at in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in zip(*columns, strict=True)
    ]
    total = f": {len(told.rows) + told.more}"
    if any(told.amounts):
        total += f" ({told.amounts[0]} requests, {told.amounts[1]} input and {told.amounts[2]} output tokens)"
    more = [f"and {told.more} more: name a caller, or raise --rows"] if told.more else []
    return "\n".join([f"{title}{total}", *(line.rstrip() for line in lines), *more])


def _who(row: Sum) -> tuple[str, str]:
    return row.external_id, row.model or "-"


def _amounts(row: Sum) -> tuple[int, int, int]:
    return row.requests, row.input_tokens, row.output_tokens


def _or(value: int | None, word: str) -> int | str:
    return word if value is None else value


def _age(duration_ms: int) -> str:
    """Whole seconds are enough for a person."""
    return go_duration(duration_ms // 1000 * 1000)


def _printable(text: str) -> str:
    """Ids and reasons come from outside: nothing in them may steer the terminal."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
