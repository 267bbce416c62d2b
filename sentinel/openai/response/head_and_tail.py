"""What the two ends of a long answer, or of one long event, tell where its middle was not kept. Cannot fail.

Providers write the name and the state of an object at its beginning, and its usage at one of its ends. A quote inside a JSON
string is escaped, so that no text can pretend to be a member; and what follows a member closes as much as is open around it,
so that none of another depth is taken for it (rule U9).
"""

import json
import re
from typing import Any, Final

from sentinel.openai.response import sse
from sentinel.openai.response.abridged_json import START_BYTES_MAX, Abridged
from sentinel.openai.response.dialects import Grammar
from sentinel.openai.response.json_completion import mended, whole_members
from sentinel.openai.response.usage import decode

# Of an event: far more than the words of an answer fill.
_BYTES_MAX: Final = sse.TAIL_BYTES_MAX
_USAGE: Final = re.compile(rb'"(?:per_model_)?usage"')
# What tells whether there is text in an event, or holds all of it.
_TOLD: Final = re.compile(rb'"(?:choices|type)"')
# The name may also stand among the metadata behind it.
_USAGES_TRIED_MAX: Final = 8


class LongEvent:
    """An event that goes down before it is whole, remembered in little memory. `grammar` is that of its stream."""

    __slots__ = ("_grammar", "_long", "add")

    def __init__(self, grammar: Grammar, start: bytes) -> None:
        self._grammar = grammar
        self._long = Abridged(_BYTES_MAX)
        self.add = self._long.add
        self.add(start)

    def object_id(self, start: bytes) -> str:
        """The id of its object, as far as `start`, its beginning, tells it."""
        known = self._members(start[:START_BYTES_MAX])
        return self._grammar.read(sse.payload(_event(known))).object_id

    def said(self, *, cut: bool) -> tuple[bytes, int]:
        """An event that is short and says the same, and how many bytes may be text that is not in it; `cut`: it has no end.

        b"" where nothing is known of it.
        """
        event = self._long.whole
        if event is not None:
            return (b"data: " + mended(sse.payload(event)) + b"\n\n" if cut else event), 0
        known = self._members(self._long.start)
        if "error" in (begun := decode(mended(sse.payload(self._long.start))) or {}):
            known["error"] = begun["error"]
        if not cut:
            known |= self._end(known)
        return _event(known), self._long.words_bytes if self._grammar.may_speak(known) else 0

    def _members(self, start: bytes) -> dict[str, Any]:
        return _start(sse.payload(start), 2 if self._grammar.holder else 1)

    def _end(self, known: dict[str, Any]) -> dict[str, Any]:
        """Its last members, and those that are `known` of the object that it carries."""
        end, holder = sse.payload(b"data: " + self._long.end), self._grammar.holder
        if not holder:
            return _last(end, b"{") or _last(end, b"{", _TOLD)
        first, last = known.get(holder), _last(end, b'{"%s":{' % holder.encode())
        if not last:
            return _last(end, b"{", _TOLD)
        return last | {holder: first | last[holder]} if isinstance(first, dict) else last


def of_body(long: Abridged) -> bytes:
    """The members that are known of a plain body, as JSON."""
    return sse.payload(_event(_start(long.start, 1) | _last(long.end, b"{")))


def _event(fields: dict[str, Any]) -> bytes:
    """An event that says `fields`."""
    try:
        return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n" if fields else b""
    except RecursionError:
        return b""


def _start(text: bytes, depth: int) -> dict[str, Any]:
    return decode(whole_members(text, depth)) or {}


def _last(text: bytes, opening: bytes, names: re.Pattern[bytes] = _USAGE) -> dict[str, Any]:
    """From its usage (or one of `names`) on: the first of what could be that one, since others may lie in what follows it."""
    for at in [named.start() for named in names.finditer(text)][-_USAGES_TRIED_MAX:]:
        if (fields := decode(opening + text[at:])) is not None:
            return fields
    return {}
