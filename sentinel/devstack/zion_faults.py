"""What Zion's simulator counts of its calls, and the ways in which it can be told to fail (zion.md, last section).

Pure; wrong orders raise ValueError.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

CALLS: Final = ("me", "limits", "increment", "batch", "keys")
_SWITCHES: Final = ("latency_ms", "jitter_ms", "no_batch_endpoint", "honour_idempotency", "envelope")
_KINDS: Final = ("status", "hang", "apply_then_drop", "apply_then_hang")
_RULE: Final = (*_KINDS, "call", "user", "times", "retry_after")


class Calls:
    """How often Zion was called, by call, and how often in any one second."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.busiest_second = 0
        self._recent_s: deque[float] = deque()

    def add(self, call: str, now_s: float) -> None:
        """One more."""
        self.counts[call] += 1
        self._recent_s.append(now_s)
        while self._recent_s[0] <= now_s - 1:
            self._recent_s.popleft()
        self.busiest_second = max(self.busiest_second, len(self._recent_s))


@dataclass
class Rule:
    """One fault: for `call` (None: any) and `user` (e-mail or external id; None: any), `times` times (None: until reset).

    Exactly one of `status` (answered with that status), `hang` (never answered), `apply_then_drop` (applied, then the
    connection is dropped without an answer) and `apply_then_hang` (applied, never answered) is set. `retry_after` (seconds)
    goes out as Retry-After with the status.
    """

    status: int = 0
    hang: bool = False
    apply_then_drop: bool = False
    apply_then_hang: bool = False
    call: str | None = None
    user: str | None = None
    times: int | None = None
    retry_after: float | None = None

    def fits(self, call: str, users: frozenset[str]) -> bool:
        """Whether this rule is for a `call` that concerns `users`, and not yet used up."""
        return self.times != 0 and self.call in (None, call) and (self.user is None or self.user in users)


@dataclass
class Faults:
    """The switches and rules in force. `fail_emails`: increments of these e-mails or external ids fail inside a batch."""

    latency_ms: float = 0
    jitter_ms: float = 0
    no_batch_endpoint: bool = False
    honour_idempotency: bool = True
    envelope: bool = True
    fail_emails: frozenset[str] = frozenset()
    rules: list[Rule] = field(default_factory=list)

    def order(self, given: Mapping[str, Any]) -> None:
        """Take over the switches named in `given`, and add the one rule it may describe. ValueError if a name is unknown."""
        unknown = set(given) - {*_SWITCHES, *_RULE, "fail_emails"}
        if unknown or given.get("call") not in (None, *CALLS):
            raise ValueError(f"unknown fault {sorted(unknown) or given.get('call')}")
        kinds = [name for name in _KINDS if given.get(name)]
        if len(kinds) > 1 or (not kinds and any(name in given for name in _RULE)):
            raise ValueError(f"a rule needs exactly one of {', '.join(_KINDS)}")
        for name in _SWITCHES:
            if name in given:
                setattr(self, name, given[name])
        if "fail_emails" in given:
            self.fail_emails = frozenset(given["fail_emails"])
        if kinds:
            self.rules.append(Rule(**{name: given[name] for name in _RULE if name in given}))

    def take(self, call: str, users: frozenset[str]) -> Rule | None:
        """The first rule that fits, counted as used once; None if this call goes well."""
        for rule in self.rules:
            if rule.fits(call, users):
                if rule.times is not None:
                    rule.times -= 1
                return rule
        return None

    def shown(self) -> dict[str, Any]:
        """The state as JSON."""
        return {**asdict(self), "fail_emails": sorted(self.fail_emails)}
