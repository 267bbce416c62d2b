"""The slice of a caller's limits that one process may admit while the ledger is away: floor(rho × last remaining ÷ processes).

Pure, and on the safe side: what is admitted here is counted whole until its bill is known, and what was admitted lately still
counts when the ledger has spoken again, since its bills may not have arrived there. Cannot fail.
"""

from collections import deque
from typing import Final

import msgspec

from sentinel.ops.records import UNLIMITED, Remaining

# By then the bills of what was admitted here have reached the ledger; until then a new verdict does not know of them.
_BILLED_MS: Final = 60_000
# admit.lua counts the oldest of ten sub-buckets in full: a request leaves its window at most a tenth after its time.
_BUCKETS: Final = 10


def share(remaining: int | None, ratio: float, processes: int) -> int | None:
    """What one of `processes` may admit of `remaining`, all of them together at most `ratio` of it; None: unlimited."""
    if remaining is None:
        return None
    numerator, denominator = ratio.as_integer_ratio()
    return max(remaining, 0) * numerator // (denominator * processes)


class _Amount(msgspec.Struct):
    """One limit: what remained at the last verdict, and what was taken here since. Times in ms of the caller's clock."""

    limit: int | None = None
    remaining: int | None = None
    reset_at_ms: int | None = None
    taken: int = 0

    def learn(self, told: Remaining, now_ms: int) -> None:
        self.limit, self.remaining = told.limit, told.remaining
        self.reset_at_ms = None if told.reset_ms is None else now_ms + told.reset_ms

    def roll(self, now_ms: int) -> None:
        """A period that is over gives the whole limit again, once: when the next one ends is not known."""
        if self.reset_at_ms is not None and now_ms >= self.reset_at_ms:
            self.remaining, self.reset_at_ms, self.taken = self.limit, None, 0

    def left(self, ratio: float, processes: int) -> int | None:
        part = share(self.remaining, ratio, processes)
        return None if part is None else max(0, part - self.taken)

    def used_up(self, wanted: int) -> bool:
        """Whether the limit itself, not only the slice of it, has no room for `wanted`."""
        return self.remaining is not None and self.remaining - self.taken < wanted

    def shown(self, ratio: float, processes: int, now_ms: int) -> Remaining:
        left = self.left(ratio, processes)
        return Remaining(self.limit, left, None if self.reset_at_ms is None else max(0, self.reset_at_ms - now_ms))


class Grant(msgspec.Struct, frozen=True):
    """`why` is "ok", or the limit that is used up ("rate", "requests", "input", "output"), or "spent": the slice of one is.

    The four Remaining are of the slice, as it is after this.
    """

    why: str
    output_tokens: int
    input: Remaining
    output: Remaining
    requests: Remaining
    rate: Remaining


class DegradedQuota:
    """One caller in one process. What is set as `told` replaces all figures from before.

    All `now_ms` come from one monotonic clock; `window_ms` is the sliding window's length.
    """

    def __init__(self, ratio: float, processes: int, window_ms: int) -> None:
        self._ratio = ratio
        self._processes = processes
        self._window_ms = window_ms + window_ms // _BUCKETS + 1
        self._input = _Amount()
        self._output = _Amount()
        self._requests = _Amount()
        self._rate = UNLIMITED
        self._learned_at_ms = 0
        self._taken_at_ms: int | None = None
        self._window: deque[int] = deque()  # when what is in the sliding window was taken here
        # What the ledger has said last, of input, output, requests and the window, and when. Only noted: it speaks with every
        # request, and hardly ever does anybody take from here between two of them.
        self.told: tuple[Remaining, Remaining, Remaining, Remaining, int] | None = None

    def _hear(self) -> None:
        """Take in what the ledger has said last, if it is new."""
        if self.told is None:
            return
        *figures, self._rate, now_ms = self.told
        self.told = None
        amounts = (self._input, self._output, self._requests)
        if self._taken_at_ms is not None and self._taken_at_ms + _BILLED_MS < now_ms:
            self._taken_at_ms = None
            for amount in amounts:
                amount.taken = 0
        for amount, told in zip(amounts, figures, strict=True):
            amount.learn(told, now_ms)
        self._learned_at_ms = now_ms

    def take(self, input_tokens: int, output_tokens: int, output_min: int, now_ms: int) -> Grant:
        """Take one request, `input_tokens` and up to `output_tokens` (at least `output_min`), all or nothing, as admit.lua."""
        self._hear()
        amounts = (self._input, self._output, self._requests)
        for amount in amounts:
            amount.roll(now_ms)
        while self._window and self._window[0] <= now_ms - self._window_ms:
            self._window.popleft()
        room = self._output.left(self._ratio, self._processes)
        granted = output_tokens if room is None else min(output_tokens, room)
        why = self._refusal(input_tokens, granted, min(output_tokens, output_min), now_ms)
        if why == "ok":
            self._requests.taken += 1
            self._input.taken += input_tokens
            self._output.taken += granted
            self._taken_at_ms = now_ms
            if self._rate.limit is not None:
                self._window.append(now_ms)
        given, produced, requests = (amount.shown(self._ratio, self._processes, now_ms) for amount in amounts)
        return Grant(why, granted if why == "ok" else 0, given, produced, requests, self._rate_shown(now_ms))

    def give_back(self, input_tokens: int, output_tokens: int, requests: int) -> None:
        """What a bill came out below its grant (negative: above); what the sliding window has counted stays counted."""
        self._hear()
        given = ((self._input, input_tokens), (self._output, output_tokens), (self._requests, requests))
        for amount, number in given:
            amount.taken = max(0, amount.taken - number)

    def _refusal(self, input_tokens: int, granted: int, output_least: int, now_ms: int) -> str:
        """The first limit that stands in the way, in the order of admit.lua; "ok" where none does."""
        if self._rate_left(now_ms) == 0:
            return "spent" if self._rate_whole(now_ms) > len(self._window) else "rate"
        for name, amount, wanted in (("requests", self._requests, 1), ("input", self._input, input_tokens)):
            left = amount.left(self._ratio, self._processes)
            if left is not None and left < wanted:
                return name if amount.used_up(wanted) else "spent"
        if granted < output_least:
            return "output" if self._output.used_up(output_least) else "spent"
        return "ok"

    def _rate_fresh_at_ms(self) -> int:
        """When everything that the last verdict counted has left the window."""
        return self._learned_at_ms + self._window_ms

    def _rate_whole(self, now_ms: int) -> int:
        """What the window had room for at the last verdict; all of it once it has passed since."""
        return (self._rate.limit if now_ms >= self._rate_fresh_at_ms() else self._rate.remaining) or 0

    def _rate_left(self, now_ms: int) -> int | None:
        if self._rate.limit is None:
            return None
        return max(0, (share(self._rate_whole(now_ms), self._ratio, self._processes) or 0) - len(self._window))

    def _rate_shown(self, now_ms: int) -> Remaining:
        if self._rate.limit is None:
            return self._rate
        fresh_in_ms = self._rate_fresh_at_ms() - now_ms
        oldest_in_ms = self._window[0] + self._window_ms - now_ms if self._window else 0
        return Remaining(self._rate.limit, self._rate_left(now_ms), max(fresh_in_ms, oldest_in_ms, 0))
