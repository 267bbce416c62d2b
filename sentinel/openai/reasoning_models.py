"""Which models think where nobody sees it, so that an answer without its usage does not tell what it has cost.

By name, and by what the usages of a model have said. A model of which neither is known may think. Cannot fail; what is
remembered is bounded, and dies with its worker.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Final

from sentinel.ops.records import Usage

MODELS_MAX: Final = 1000

# Families of which no member thinks: their first answer need not be seen to know it.
_NEVER: Final = re.compile(r"gpt-(4|3\.5)|chatgpt-4o|davinci|babbage|text-")
_TUNED: Final = "ft:"


class Reasoning:
    """`patterns` are shell patterns of models that think, without their vendor. `known` are those whose usage was seen, by
    whether it had tokens of thought.
    """

    def __init__(self, patterns: Sequence[str], models_max: int = MODELS_MAX) -> None:
        self.known: dict[str, bool] = {}
        self._models_max = models_max
        self._named = re.compile("|".join(map(translate, patterns)) if patterns else r"\Z.")

    def learn(self, model: str, usage: Usage) -> None:
        """Take note of a usage of `model`; what it once thought it may think again."""
        thinks = self.known.pop(model, False) or usage.reasoning_tokens > 0
        self.known[model] = thinks
        if len(self.known) > self._models_max:
            del self.known[next(iter(self.known))]

    def may_think(self, model: str) -> bool:
        """Whether an answer of `model` may have cost more than it shows."""
        name = model.lower().rpartition("/")[2].removeprefix(_TUNED)
        if self._named.match(name) is not None:
            return True
        seen = self.known.get(model)
        return _NEVER.match(name) is None if seen is None else seen
