"""The ids of objects that an answer names for the first time, known before the bytes that tell them go down.

Never fails: what cannot be read names nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sentinel.openai.response import sse
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.meter import Meter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.openai.response.usage import decode

_IDS_MAX = 256
_ID_CHARACTERS_MAX = 256


class CreatedObjects:
    """What was found of `creates` (the dotted paths of `Route.creates`) so far, by path."""

    __slots__ = ("_leaves", "_named", "by_path")

    def __init__(self, creates: Sequence[str]) -> None:
        self._leaves = creates
        # The last member of a path is the name under which an id stands in the bytes.
        self._named = [b'"%s"' % path.removesuffix(".*").rpartition(".")[2].encode() for path in creates if path != "id"]
        self.by_path: dict[str, list[str]] = {}

    def in_stream(self, meter: StreamMeter, region: bytes) -> list[str]:
        """New ids in the whole events `region`, just passed by `meter`: the object's own, and what its last event names."""
        new: dict[str, list[str]] = {}
        if meter.object_id and "id" not in self.by_path:
            new["id"] = [meter.object_id]
        # Of an event that was too long to be held only a part is in `region`.
        region = meter.long_event or region
        if meter.terminated and any(name in region for name in self._named):
            for event in sse.events(region):
                fields = decode(sse.payload(event)) or {}
                new |= read(fields.get("response", fields), [path for path in self._leaves if path != "id"])
        return self._add(new)

    def in_body(self, meter: BodyMeter) -> list[str]:
        """New ids in a plain body, once it is whole."""
        named = {"id": [meter.object_id]} if meter.object_id and "id" in self._leaves else {}
        if self._named and (fields := meter.fields()) is not None:
            named |= read(fields, self._leaves)
        return self._add(named)

    def _add(self, new: Mapping[str, list[str]]) -> list[str]:
        known = {name for names in self.by_path.values() for name in names}
        for path, names in new.items():
            self.by_path.setdefault(path, []).extend(names)
        return [name for names in new.values() for name in names if name not in known]

    def state_of(self, meter: Meter) -> dict[str, list[str]]:
        """What is known in the end. A stream of several objects says last which is at work: a run, whose thread it made."""
        working = meter.working_id if isinstance(meter, StreamMeter) else ""
        if not working or working == meter.object_id:
            return self.by_path
        return {"thread_id": self.by_path.get("id", []), **self.by_path, "id": [working]}


def read(fields: Any, creates: Sequence[str]) -> dict[str, list[str]]:
    """The ids in decoded JSON, by path; `*` in a path stands for every element of an array."""
    found = {path: list(_walk(fields, path.split(".")))[:_IDS_MAX] for path in creates}
    return {path: names for path, names in found.items() if names}


def _walk(value: Any, path: Sequence[str]) -> Iterator[str]:
    if not path:
        if isinstance(value, str) and 0 < len(value) <= _ID_CHARACTERS_MAX:
            yield value
    elif path[0] == "*":
        for element in value if isinstance(value, list) else ():
            yield from _walk(element, path[1:])
    elif isinstance(value, dict):
        yield from _walk(value.get(path[0]), path[1:])
