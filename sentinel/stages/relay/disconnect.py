"""What becomes of an answer whose client leaves before its usage: SENTINEL_ON_DISCONNECT. Cannot fail."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from sentinel.openai.reasoning_models import Reasoning
from sentinel.openai.tokens.histories import Histories
from sentinel.ops.records import Call, Dialect, Ending, Outcome, Usage
from sentinel.stages.relay.after_end import BackgroundDrain

# Dialects whose texts tell their tokens, where they stream.
_SPOKEN: Final = frozenset((Dialect.CHAT, Dialect.RESPONSES))
# The reason in a bill that is not all seen.
_UNSEEN: Final = "unseen"


class Leaving:
    """`mode` is "auto": what was not all seen is read on, the rest is ended; "drain": all is read on; "cancel": all is ended.

    What was not all seen, and is not read on to its usage, is charged what was held for it.
    """

    def __init__(self, mode: str, background_drain: BackgroundDrain, reasoning: Reasoning, histories: Histories) -> None:
        self._mode = mode
        self._reasoning = reasoning
        # Models of which nothing more is to be learned but that they have thought.
        self.known = reasoning.known
        self._histories = histories
        self.background_drain = background_drain

    def reads_on(self, call: Call) -> bool:
        """Whether the answer to `call` is read to its end without its client."""
        if self._mode == "auto":
            return call.dialect is not Dialect.NONE and (
                call.unseen_input or bool(call.referenced_ids.objects) or self._hides_output(call)
            )
        return self._mode == "drain"

    def wait(self, call: Call, interrupt: Callable[[], None]) -> Callable[[], None] | None:
        """Wait on for an answer whose client has left before it came, where that is due: see `BackgroundDrain.wait`."""
        return self.background_drain.wait(interrupt) if self.reads_on(call) else None

    def judge(self, call: Call, outcome: Outcome, *, whole: bool = False) -> Outcome:
        """`outcome`, marked where its client left before the cost was known; `whole` says that no more usage was to come."""
        if outcome.ending is not Ending.CLIENT_CLOSED or whole or not self._hides_output(call):
            return outcome
        return replace(outcome, unseen=_UNSEEN)

    def learn(self, call: Call, object_id: str, usage: Usage | None) -> None:
        """Take note of what the usage of an answer says of its model, and of what goes on from it."""
        if usage is None:
            return
        if usage.reasoning_tokens or call.model not in self._reasoning.known:
            self._reasoning.learn(call.model, usage)
        if call.dialect is Dialect.RESPONSES:
            self._histories.learn(call, object_id, usage)

    def _hides_output(self, call: Call) -> bool:
        """Whether an answer without usage may have cost more output than it shows: one that does not stream shows nothing."""
        if call.dialect is Dialect.NONE or call.output_tokens_declared == 0:
            return False
        shown = call.stream and call.dialect in _SPOKEN
        # A vendor may ask one of the other models instead, and say nothing of it.
        return not shown or call.unseen_output or any(map(self._reasoning.may_think, (call.model, *call.models)))
