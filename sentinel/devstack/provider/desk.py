"""What all families of the provider's simulator share: counting, pace, what failed so far, the objects, work that goes on.

Cannot fail on what has been let in.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from sentinel.devstack.provider.journal import Row
from sentinel.devstack.provider.plays import Plays
from sentinel.devstack.provider.store import Store
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops.records import ChatPrompt, TextPrompt


class Desk:
    """`token_ms` is the default time between two pieces of a stream, `output_tokens` the default length of an answer."""

    def __init__(self, *, key: str, tokenizer: Tokenizer, token_ms: float, output_tokens: int) -> None:
        self.key = key
        self.token_ms = token_ms
        self.output_tokens = output_tokens
        self.store = Store()
        self.plays = Plays()
        self._tokenizer = tokenizer
        self._failed: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self, prompt: ChatPrompt | TextPrompt, model: str) -> int:
        """The prompt's tokens, counted as Sentinel counts them."""
        return self._tokenizer.prompt(prompt, model)

    def count_messages(self, messages: Sequence[Mapping[str, Any]], model: str, tools: Sequence[Any] = ()) -> int:
        """The tokens of a conversation."""
        return self.count(ChatPrompt(messages, tools), model)

    def count_text(self, text: str, model: str) -> int:
        """The tokens of a produced text."""
        return self._tokenizer.text(text, model) if text else 0

    def should_fail(self, simulate: Mapping[str, Any], row: Row) -> bool:
        """Whether this request is among the first `times` of its key that are to fail."""
        key = str(simulate.get("key", f"{row.method} {row.path} {row.body_sha256}"))
        self._failed[key] += 1
        return bool(self._failed[key] <= simulate.get("times", float("inf")))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work go on by itself."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do this after a while."""

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            action()

        self.start(wait())

    def reset(self) -> None:
        """As it was at the start; what is at work ends unfinished."""
        self._failed.clear()
        self.store.clear()
        self.plays.clear()
        for task in self._tasks:
            task.cancel()
