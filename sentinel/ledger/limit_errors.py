"""What a caller is told who is over a limit; which of these refusals stand (admit.lua says what only time can end); and the
attempts that were refused before the ledger could count them.

Pure: the clock is the caller's. Errs on the side of who asks: what stands ends early, never late, and whoever is not found here
is decided by the ledger. docs/limits.md tells how far it can be wrong.
"""

from typing import Final

from msgspec import Struct

from sentinel.openai import headers
from sentinel.openai.durations import go_duration
from sentinel.ops.errors import OverLimitError
from sentinel.ops.records import Caller, Hold, Remaining

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


class DenialCache:
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


class Attempt(Struct):
    """So many attempts of a caller, of the window that ends at `until_ns`."""

    count: int
    until_ns: int


class Attempts:
    """The attempts of callers that were refused before the ledger was asked, and that it has not counted since.

    They count against the same window of requests: `requests` (0: there is no such window) in `window_ms`, here from the first
    of them on. Of `callers_max` callers at a time.
    """

    def __init__(self, requests: int, window_ms: int, callers_max: int = CALLERS_MAX) -> None:
        self._requests = requests
        self._window_ns = window_ms * _NS_A_MS
        self._callers_max = callers_max
        # Whoever has some: no function, since every request asks.
        self.known: dict[str, Attempt] = {}

    def add(self, caller: Caller, now_ns: int) -> tuple[Hold, int] | None:
        """One more. Where the window is full of them: the figures of a refusal, and for how many ms it stands."""
        if not self._requests:
            return None
        self.give(caller.external_id, Attempt(1, now_ns + self._window_ns), now_ns)
        attempt = self.known[caller.external_id]
        if attempt.count < self._requests:
            return None
        left_ms = (attempt.until_ns - now_ns) // _NS_A_MS
        return Hold("", caller, "", 0, 0, rate=Remaining(self._requests, 0, left_ms)), left_ms

    def take(self, external_id: str, now_ns: int) -> Attempt:
        """All of a caller's that are of this window, to be counted elsewhere."""
        attempt = self.known.pop(external_id, None)
        return attempt if attempt is not None and now_ns < attempt.until_ns else Attempt(0, now_ns)

    def give(self, external_id: str, attempt: Attempt, now_ns: int) -> None:
        """Add attempts, new ones or some that were taken and not counted."""
        earlier = self.take(external_id, now_ns)
        if earlier.count:
            attempt = Attempt(earlier.count + attempt.count, min(earlier.until_ns, attempt.until_ns))
        if attempt.count:
            self.known[external_id] = attempt
            if len(self.known) > self._callers_max:
                del self.known[next(iter(self.known))]


def limit_name(why: str) -> str:
    """The name of the limit that `why` of a Verdict speaks of, out of a closed set."""
    return _NAMES.get(why, why)


def refusal(why: str, hold: Hold, now_s: int) -> OverLimitError:
    """429 with the limit named. Waiting for a window helps; for a quota no client should retry (rule R2).

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
        wait_s, when = wait_ms / 1000, f" Please try again in {go_duration(wait_ms)}."
    error = OverLimitError(
        f"{text}: limit {limit.limit}, remaining {limit.remaining}.{when}",
        code=code,
        retry=retry,
        retry_after_s=wait_s,
        headers=shown,
    )
    error.type = code
    return error
