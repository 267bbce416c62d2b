"""Settings that hold several values in one text. A text that cannot be read raises ValueError, in words for the operator."""

import re
from fnmatch import fnmatchcase
from typing import Final

ROUTE_TIMEOUT_S_MAX: Final = 86_400.0
# How often one request may be handed on: each model that is asked is one more wait for the client.
FALLBACKS_MAX: Final = 4
PATTERNS_MAX: Final = 1000

_LABEL: Final = re.compile(r"[a-z][a-z0-9_]*")


def parts(text: str) -> list[str]:
    """The parts between commas, without blanks around them and without empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def route_timeouts(text: str) -> dict[str, float]:
    """`images=600,responses=1800`: seconds by route label."""
    found: dict[str, float] = {}
    for label, given in _pairs(text):
        if not _LABEL.fullmatch(label):
            raise ValueError(f"names {label!r}, which is no route label (a-z, 0-9 and _)")
        try:
            seconds = float(given)
        except ValueError:
            raise ValueError(f"gives {label} {given!r}, not a number of seconds") from None
        if not 0.1 <= seconds <= ROUTE_TIMEOUT_S_MAX:
            raise ValueError(f"gives {label} {given} s, outside 0.1 to {ROUTE_TIMEOUT_S_MAX:,.0f} s")
        found[label] = seconds
    return found


def fallback_models(text: str) -> dict[str, str]:
    """`gpt-4o=gpt-4o-mini,…`: for each model the one that is asked where it is unavailable; no chain may be long or a ring."""
    found = dict(_pairs(text))
    for model in found:
        if len(fallback_chain(found, model)) > FALLBACKS_MAX:
            raise ValueError(f"hands {model} on more than {FALLBACKS_MAX} times, or in a ring")
    return found


def fallback_chain(fallbacks: dict[str, str], model: str) -> tuple[str, ...]:
    """The models to ask after `model`, in order; of a ring only so many that it can be told."""
    chain: list[str] = []
    while model in fallbacks and len(chain) <= FALLBACKS_MAX:
        model = fallbacks[model]
        chain.append(model)
    return tuple(chain)


def patterns(text: str) -> tuple[str, ...]:
    """`gpt-4o*,o3-mini`: shell patterns, as fnmatch reads them."""
    found = tuple(parts(text))
    if len(found) > PATTERNS_MAX:
        raise ValueError(f"holds {len(found)} patterns, more than {PATTERNS_MAX}")
    return found


def matches(model: str, allowed: tuple[str, ...]) -> bool:
    """Whether a pattern of `allowed` matches all of `model`, letter by letter."""
    return any(fnmatchcase(model, pattern) for pattern in allowed)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`a=b,c=d` as pairs; the last `=` divides, since a model's name may hold one."""
    pairs = []
    for part in parts(text):
        name, sign, value = (side.strip() for side in part.rpartition("="))
        if not (name and sign and value):
            raise ValueError(f"holds {part!r}, which is not name=value")
        pairs.append((name, value))
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("names something twice")
    return pairs
