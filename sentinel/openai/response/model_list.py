"""The provider's list of models, without those of others: every byte that stays is the provider's own.

Fails closed: a list that may name a fine-tuned model and cannot be read raises ValueError.
"""

import re
from collections.abc import Collection
from typing import Final

import msgspec
from msgspec import Raw

from sentinel.openai.request import json_edit, object_ids

_DATA: Final = "data"
_elements: Final = msgspec.json.Decoder(list[Raw])
_BETWEEN: Final = re.compile(rb"[ \t\r\n,]*+")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def tuned(body: bytes) -> frozenset[str]:
    """The fine-tuned models that the list `body` names, under the names by which they have owners."""
    if b"ft:" not in body and b"\\" not in body:
        return frozenset()
    try:
        return frozenset(name for element in _read(body)[1] for name in object_ids.tuned_in(object_ids.decoded(bytes(element))))
    except _UNREADABLE as error:
        raise ValueError("this is no list of models") from error


def without(body: bytes, hidden: Collection[str]) -> bytes:
    """The list `body`, which `tuned` has read, without the elements that name one of `hidden`."""
    data, elements = _read(body)
    kept = [data[:1]]
    at = 1
    for element in elements:
        between = _BETWEEN.match(data, at)
        assert between is not None
        start, at = between.end(), between.end() + len(memoryview(element))
        if object_ids.tuned_in(object_ids.decoded(data[start:at])).isdisjoint(hidden):
            kept.append(between[0] if len(kept) > 1 else between[0].replace(b",", b"", 1))
            kept.append(data[start:at])
    return json_edit.with_member(body, _DATA, b"".join([*kept, data[at:]]))


def _read(body: bytes) -> tuple[bytes, list[Raw]]:
    """What stands under `data`, and its elements."""
    data = bytes(json_edit.members(body).get(_DATA, b"[]"))
    return data, _elements.decode(data)
