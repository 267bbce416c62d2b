"""What a caller is told who is over a limit, and which of these refusals stand: admit.lua says what only time can end.

Pure: the clock is the caller's. Errs on the side of who asks: what stands ends early, never late, and whoever is not found here
is decided by the ledger. docs/limits.md tells how far it can be wrong.
"""

from typing import Final

from msgspec import Struct

from sentinel.errors import OverLimitError
from sentinel.protocol import headers
from sentinel.records import Hold, Remaining

# Of a refusal about a kilobyte is kept.
CALLERS_MAX: Final = 10_000
_NS_A_MS: Final = 1_000_000
# How a limit is called, in what a caller is told and in metrics; the others by their own name.
_NAMES: Final = {"requests": "ai_requests", "input": "ai_input_tokens", "output": "ai_output_tokens"}


class Denial(Struct, frozen=True):
    """A refusal that stands until `until_ns`: `why`, as in Verdict, and the figures of a hold that was not made.

    They are of `asked_ns`, before the ledger was asked; all `*_ns` come from one monotonic clock.
    """

    why: str
    hold: Hold
    asked_ns: int
    until_ns: int

    def hold_at(self, now_ns: int) -> Hold:
        """The figures with their times counted down to `now_ns`."""
        hold, passed_ms = self.hold, (now_ns - self.asked_ns) // _NS_A_MS
        return Hold(
            hold.request_id,
            hold.caller,
            hold.model,
            hold.input_tokens,
            hold.output_tokens,
            _later(hold.requests, passed_ms),
            _later(hold.tokens_input, passed_ms),
            _later(hold.tokens_output, passed_ms),
            _later(hold.rate, passed_ms),
            rate_tokens=_later(hold.rate_tokens, passed_ms),
        )


class Standing:
    """The last refusals that stand, or stood, of `callers_max` callers.

    What makes up an error is kept, never an error: one that is raised again and again would keep every traceback.
    """

    def __init__(self, callers_max: int = CALLERS_MAX) -> None:
        self._callers_max = callers_max
        self._denials: dict[str, Denial] = {}
        # The last one of a caller; whether it is over is for who asks to see. No function, since every request asks.
        self.find = self._denials.get

    def keep(self, why: str, hold: Hold, stands_ms: int, asked_ns: int) -> None:
        """Remember one; it takes the place of the caller's last, or of that which was kept longest ago."""
        external_id = hold.caller.external_id
        self.forget(external_id)  # so that the newest is last
        self._denials[external_id] = Denial(why, hold, asked_ns, asked_ns + stands_ms * _NS_A_MS)
        if len(self._denials) > self._callers_max:
            del self._denials[next(iter(self._denials))]

    def forget(self, external_id: str) -> None:
        """Let the ledger decide again."""
        self._denials.pop(external_id, None)


def limit_name(why: str) -> str:
    """The name of the limit that `why` of a Verdict speaks of, out of a closed set."""
    return _NAMES.get(why, why)


def refusal(why: str, hold: Hold, now_s: int) -> OverLimitError:
    """429 with the limit named. Waiting for a window helps; for a quota no client should retry (wire.md R2).

    `hold` has the figures, and `now_s` is the Unix time, for the headers.
    """
    shown = tuple(headers.limits(hold, now_s))
    if why == "concurrency":
        text = "Too many requests of this account are under way at a time. Please try again when one of them has ended."
        return OverLimitError(text, code="concurrency_limit_exceeded", retry_after_s=1, headers=shown)
    if why == "work":
        text = "Too much work of this account goes on at a time. Please try again when some of it has ended, or was cancelled."
        return OverLimitError(text, code="unfinished_work_limit_exceeded", retry_after_s=10, headers=shown)
    if why == "rate":
        return _over("Rate limit reached for requests", "rate_limit_exceeded", hold.rate, shown, retry=None)
    if why == "tokens":
        window = hold.rate_tokens
        # A request larger than the whole window never fits, however long one waits.
        never = window.limit is not None and hold.input_tokens >= window.limit
        return _over("Rate limit reached for tokens", "rate_limit_exceeded", window, shown, retry=False if never else None)
    limit = {"requests": hold.requests, "input": hold.tokens_input, "output": hold.tokens_output}[why]
    return _over(f"Your limit {limit_name(why)} is used up", "insufficient_quota", limit, shown, retry=False)


def _later(limit: Remaining, passed_ms: int) -> Remaining:
    if limit.reset_ms is None:
        return limit
    return Remaining(limit.limit, limit.remaining, max(0, limit.reset_ms - passed_ms))


def _over(
    text: str, code: str, limit: Remaining, shown: tuple[tuple[bytes, bytes], ...], *, retry: bool | None
) -> OverLimitError:
    wait_s, when = None, ""
    if limit.reset_ms is not None:
        wait_ms = max(limit.reset_ms, 1)
        wait_s, when = wait_ms / 1000, f" Please try again in {headers.go_duration(wait_ms)}."
    error = OverLimitError(
        f"{text}: limit {limit.limit}, remaining {limit.remaining}.{when}",
        code=code,
        retry=retry,
        retry_after_s=wait_s,
        headers=shown,
    )
    error.type = code
    return error
