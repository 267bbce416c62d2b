"""The increments of a usage report: what is sent to Zion's batch endpoint and how its answer is read (zion.md).

Pure: the same items give the same bytes, since a report that is sent again must be the same report. An answer that does not say
what became of an increment counts as success, because Zion answered 200 for the batch and a second report would count it twice.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sentinel.records import Metric

_encode: Final = msgspec.json.Encoder().encode


class Item(msgspec.Struct, frozen=True):
    """Unreported sums of one caller, model and period; what one unified increment holds."""

    external_id: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    requests: int


class Increments(msgspec.Struct, frozen=True):
    """A report: its body, and for each increment in it the position of the item it came from."""

    body: bytes
    origins: tuple[int, ...]


class _Result(msgspec.Struct):
    success: bool = True
    error: Any = None


class _Results(msgspec.Struct):
    results: list[_Result] = []


class _Answer(_Results):
    data: _Results | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


def build(items: Sequence[Item], usage_format: str, sealed_at_ms: int) -> Increments:
    """The report of `items` in Zion's `unified` or `per_limit` format; `sealed_at_ms` is its time stamp (Unix ms)."""
    timestamp = datetime.fromtimestamp(sealed_at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{sealed_at_ms % 1000:03d}Z"
    bodies: list[dict[str, Any]] = []
    origins: list[int] = []
    for position, item in enumerate(items):
        made = _per_limit(item) if usage_format == "per_limit" else _unified(item, timestamp)
        bodies += made
        origins += [position] * len(made)
    return Increments(_encode({"increments": bodies}), tuple(origins))


def refused(report: Increments, answer: bytes) -> dict[int, str]:
    """Which items Zion refused, by position, with its reason; `data` may be enveloped or bare.

    Raises ValueError where the answer is not the contract's."""
    try:
        read = _decode(answer)
        results = (read.data or read).results
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return {
        origin: str(result.error or "refused without a reason")[:200]
        for origin, result in zip(report.origins, results, strict=False)
        if not result.success
    }


def _unified(item: Item, timestamp: str) -> list[dict[str, Any]]:
    amounts = {"aiInputTokens": item.input_tokens, "aiOutputTokens": item.output_tokens, "aiRequests": item.requests}
    sent: dict[str, Any] = {"email": item.email, **{name: amount for name, amount in amounts.items() if amount}}
    if item.model:
        sent["model"] = item.model
    return [{**sent, "timestamp": timestamp}]


def _per_limit(item: Item) -> list[dict[str, Any]]:
    amounts = {Metric.INPUT: item.input_tokens, Metric.OUTPUT: item.output_tokens, Metric.REQUESTS: item.requests}
    return [
        {"externalId": item.external_id, "limitName": metric.value, "amount": amount}
        for metric, amount in amounts.items()
        if amount
    ]
