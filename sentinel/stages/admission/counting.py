"""The input tokens of requests, counted where they hold nobody up: long prompts beside the event loop. Cannot fail."""

import asyncio
from typing import Final

from sentinel.downstream.offload import Offload
from sentinel.openai import wire
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops.records import Call

# Where one count takes about a millisecond; longer ones would stall every other request of this worker (rule K3).
_INLINE_CHARACTERS_MAX: Final = 16_384


class Counting:
    """Counts by `tokenizer`, which who need not wait may ask itself."""

    def __init__(self, tokenizer: Tokenizer, aside: Offload) -> None:
        self.tokenizer = tokenizer
        self._aside = aside

    async def long(self, call: Call, caller: str) -> int:
        """The tokens of a prompt that may be long, though its body may as well be images."""
        if call.prompt is None:
            return 0
        if wire.is_long(call.body):
            # Even to look how much there is to count may take long.
            return await self._aside.do(caller, self.tokenizer.prompt, call.prompt, call.model)
        if self.tokenizer.characters(call.prompt) > _INLINE_CHARACTERS_MAX:
            return await asyncio.to_thread(self.tokenizer.prompt, call.prompt, call.model)
        return self.tokenizer.prompt(call.prompt, call.model)
