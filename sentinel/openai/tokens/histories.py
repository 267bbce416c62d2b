"""How many tokens of input lie behind an earlier answer or a conversation that a request names, as its last usage said.

Cannot fail. What is remembered is bounded, and dies with its worker; of what nobody remembers a default is taken.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from sentinel.ops.records import Call, Usage

HISTORIES_MAX: Final = 10_000

_CONVERSATION: Final = "conv_"


class Histories:
    """`default` tokens are taken for what is not known."""

    def __init__(self, default: int, histories_max: int = HISTORIES_MAX) -> None:
        self._default = default
        self._histories_max = histories_max
        self._tokens: OrderedDict[str, int] = OrderedDict()

    def tokens(self, named: Iterable[str]) -> int:
        """What a request adds to its own input that names these objects, and whose input is not all in it."""
        known = [self._tokens[name] for name in named if name in self._tokens]
        return max(known) if known else self._default

    def learn(self, call: Call, object_id: str, usage: Usage) -> None:
        """A response was given under this id ("" where nobody knows it): what goes on from there reads its input and output."""
        if not usage.input_tokens:
            return
        conversations = [name for name in call.referenced_ids.objects if name.startswith(_CONVERSATION)]
        for name in (object_id, *conversations) if object_id else conversations:
            self._tokens[name] = usage.input_tokens + usage.output_tokens
            self._tokens.move_to_end(name)
        while len(self._tokens) > self._histories_max:
            self._tokens.popitem(last=False)
