"""The trace a request belongs to, in W3C's headers (Trace Context, rule H20).

Cannot fail: a client's context that is not valid counts as absent, and then a new trace begins. Its `tracestate` is dropped
with it, since it says nothing without the trace it belongs to.
"""

import random
import re
from typing import Final

from msgspec import Struct

from sentinel.openai.header_fields import Fields

# What every participant must be able to pass on (Trace Context §3.3.1.5); members beyond it are dropped whole.
STATE_CHARACTERS_MAX: Final = 512

# Version 00 has exactly these fields; a later one may have more behind another dash. ff is no version.
_PARENT: Final = re.compile(
    rb"(?!ff)(?:00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
    rb"|(?!00)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[!-~]{0,200})?)"
)
_STATE: Final = re.compile(rb"[ -~\t]*")
_SAMPLED: Final = 1


class Trace(Struct, frozen=True):
    """Where a request stands in its trace: `parent_id` is the client's span, "" where the trace begins here."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    sampled: bool = False
    state: str = ""

    def sent(self) -> tuple[tuple[str, str], ...]:
        """The headers that hand the trace on, with this request as the parent of what follows."""
        parent = ("traceparent", f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}")
        return (parent, ("tracestate", self.state)) if self.state else (parent,)


def begin(fields: Fields) -> Trace:
    """The client's trace with a span of our own; a new, unsampled one where the client has none that is valid.

    Its ids are from `random`, which is seeded anew in each process: they must be rare, not secret.
    """
    drawn = random.randbytes(24).hex()
    parents = fields.every(b"traceparent")
    found = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is not None:
        trace_id, parent_id, flags = (field.decode("ascii") for field in found.groups() if field is not None)
        if trace_id.strip("0") and parent_id.strip("0"):
            state = _state(fields.every(b"tracestate"))
            return Trace(trace_id, drawn[32:], parent_id, bool(int(flags, 16) & _SAMPLED), state)
    return Trace(drawn[:32], drawn[32:])


def _state(given: list[bytes]) -> str:
    """All members of `tracestate`, over however many lines they came, as far as they fit."""
    joined = b",".join(given)
    if not _STATE.fullmatch(joined):
        return ""
    members: list[str] = []
    size = 0
    for member in filter(None, (part.strip() for part in joined.decode("ascii").split(","))):
        size += len(member) + 1
        if size > STATE_CHARACTERS_MAX + 1:
            break
        members.append(member)
    return ",".join(members)
