"""The increments of a usage report: what is sent to Zion's usage endpoints and how its answers are read (zion.md).

Pure: the same items give the same bytes, since a report that is sent again must be the same report. An answer that does not say
what became of an increment counts as success, because Zion answered 200 for the batch and a second report would count it twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sentinel.ops.records import Metric

Amounts = tuple[int, int, int]

_encode: Final = msgspec.json.Encoder().encode


class Item(msgspec.Struct, frozen=True):
    """Unreported sums of one caller, model and period; what one unified increment holds.

    `reported_as` are the external id and e-mail that Zion knows the caller by, where these were others when it was used.
    """

    external_id: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    requests: int
    reported_as: tuple[str, str] | None = None

    @property
    def names(self) -> tuple[str, str]:
        """The external id and the e-mail to report it under."""
        return self.reported_as or (self.external_id, self.email)

    @property
    def amounts(self) -> Amounts:
        """Input tokens, output tokens, requests."""
        return self.input_tokens, self.output_tokens, self.requests


class Seal(msgspec.Struct, frozen=True, array_like=True):
    """A batch that is about to go to Zion, as Redis has sealed it (claim_batch.lua): a line of the journal, of kind "sealed".

    `at_ms` (Unix) is when it was written, `stamp_ms` the time stamp of the report; `items` is JSON as it was.
    """

    kind: str
    at_ms: int
    batch_id: str
    partition: int
    stamp_ms: int
    usage_format: str
    items: msgspec.Raw


class Refusal(msgspec.Struct, frozen=True):
    """What Zion will never book of one item, and why; `amounts` are input tokens, output tokens, requests."""

    reason: str
    amounts: Amounts


class Increments(msgspec.Struct, frozen=True):
    """A report: the body of each increment, the position of the item it came from, and its share of that item's amounts."""

    singles: tuple[bytes, ...]
    origins: tuple[int, ...]
    shares: tuple[Amounts, ...]

    @property
    def body(self) -> bytes:
        """All of them as the body of one batch."""
        return b'{"increments":[' + b",".join(self.singles) + b"]}"


class _Result(msgspec.Struct):
    success: bool = True
    error: Any = None


class _Results(msgspec.Struct):
    results: list[_Result] = []


class _Answer(_Results):
    data: _Results | None = None


class _Failed(msgspec.Struct):
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Answer).decode
_decode_failed: Final = msgspec.json.Decoder(_Failed).decode


def build(items: Sequence[Item], usage_format: str, sealed_at_ms: int) -> Increments:
    """The report of `items` in Zion's `unified` or `per_limit` format; `sealed_at_ms` is its time stamp (Unix ms).

    Unified, every item has an e-mail: claim_batch.lua seals those without one per limit.
    """
    timestamp = datetime.fromtimestamp(sealed_at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{sealed_at_ms % 1000:03d}Z"
    made = [
        (_encode(body), position, share)
        for position, item in enumerate(items)
        for body, share in (_per_limit(item) if usage_format == "per_limit" else _unified(item, timestamp))
    ]
    return Increments(tuple(one[0] for one in made), tuple(one[1] for one in made), tuple(one[2] for one in made))


def refused(answer: bytes) -> dict[int, str]:
    """Which increments of a batch Zion refused, by position, with its reason; `data` may be enveloped or bare.

    Raises ValueError where the answer is not the contract's."""
    try:
        read = _decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    results = (read.data or read).results
    return {
        position: str(result.error or "refused without a reason")[:200]
        for position, result in enumerate(results)
        if not result.success
    }


def refusals(report: Increments, reasons: Mapping[int, str]) -> dict[int, Refusal]:
    """What the refused increments (by position, with the reason) mean for the items they came from, by the items' positions."""
    found: dict[int, Refusal] = {}
    for at in sorted(reasons):
        if at < len(report.origins):
            known = found.get(report.origins[at], Refusal(reasons[at], (0, 0, 0)))
            amounts = tuple(one + other for one, other in zip(known.amounts, report.shares[at], strict=True))
            found[report.origins[at]] = Refusal(known.reason, (amounts[0], amounts[1], amounts[2]))
    return found


def failure(answer: bytes) -> str | None:
    """The words of Zion's own error shape; None where an answer has another, as that of a proxy or of an unknown path."""
    try:
        error = _decode_failed(answer).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(error, dict) and "code" in error:
        return str(error.get("message") or error["code"])[:200]
    return None


def _unified(item: Item, timestamp: str) -> Iterator[tuple[dict[str, Any], Amounts]]:
    names = ("aiInputTokens", "aiOutputTokens", "aiRequests")
    amounts = {name: amount for name, amount in zip(names, item.amounts, strict=True) if amount}
    model = {"model": item.model} if item.model else {}
    yield {"email": item.names[1], **amounts, **model, "timestamp": timestamp}, item.amounts


def _per_limit(item: Item) -> Iterator[tuple[dict[str, Any], Amounts]]:
    for at, metric in enumerate((Metric.INPUT, Metric.OUTPUT, Metric.REQUESTS)):
        amount = item.amounts[at]
        if amount:
            share = (amount if at == 0 else 0, amount if at == 1 else 0, amount if at == 2 else 0)
            yield {"externalId": item.names[0], "limitName": metric.value, "amount": amount}, share
