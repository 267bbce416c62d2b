"""The paths of the provider's public API that are refused on purpose, each with its reason. docs/compatibility.md shows them.

Fails closed: a path that is in no table is unknown, and forwarded no more than these are. What is refused here is refused in
every mode, with every method, and to everybody: nothing that could be asked there can be metered, or kept apart by caller.
"""

import re
from typing import Final

from msgspec import Struct


class Refused(Struct, frozen=True):
    """`path` as in the route table; `/*` at its end is the path itself and all below it. `reason` completes a sentence."""

    path: str
    reason: str


_ADMINISTRATION: Final = "it administers the provider's account, which all callers share"
_SOCKET: Final = "it hands out a key or a connection that leads past this gateway, where nothing is metered"
_ALONE: Final = "what it starts works on by itself, and its usage is told to nobody who could be billed"
_OF_ALL: Final = "it is about the objects of every caller"

REFUSED: Final = (
    Refused("/organization/*", _ADMINISTRATION),
    Refused("/projects/*", _ADMINISTRATION),
    Refused(
        "/fine_tuning/checkpoints/{checkpoint}/permissions/*",
        "it gives others of the provider's account a model that is not theirs",
    ),
    Refused("/vaults/*", "it keeps credentials of the provider's account, which all callers share"),
    Refused("/realtime/*", _SOCKET),
    Refused("/live/*", _SOCKET),
    Refused("/chatkit/sessions/*", _SOCKET),
    Refused("/chatkit/*", _OF_ALL),
    Refused("/agents/*", _ALONE),
    Refused("/webhook_endpoints/*", "it tells another server about the objects of every caller"),
    Refused("/webhook_event_types", "it describes webhooks, which are not available here"),
    Refused("/safety/*", _OF_ALL),
    # Vercel AI Gateway's own.
    Refused("/credits", "it tells what the provider's account has left; /v1/usage tells what you have"),
    Refused("/generation", _OF_ALL),
    Refused("/report", _OF_ALL),
    Refused("/messages/*", "it speaks another format, whose tokens are not counted here"),
)

# What could be read as another path has no reason, and is unknown like any other.
_SEGMENT: Final = r"[A-Za-z0-9_:~-][A-Za-z0-9_.:~-]{0,255}"


def _pattern(path: str) -> str:
    fixed = re.sub(r"\{[a-z]+\}", _SEGMENT, path.removesuffix("/*"))
    return f"{fixed}(?:/{_SEGMENT})*" if path.endswith("/*") else fixed


_PATTERNS: Final = [(re.compile("/v1" + _pattern(refused.path)), refused.reason) for refused in REFUSED]


def reason(path: str) -> str:
    """Why `path` (raw, with `/v1`) is refused, "" where it is not."""
    return next((why for pattern, why in _PATTERNS if pattern.fullmatch(path)), "")
