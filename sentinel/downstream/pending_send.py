"""An await that was begun outside of any task, and is ended inside of one. Fails as what is awaited does."""

from collections.abc import Generator
from typing import Any, Final

# What an awaitable that need not wait gives out first, where it is asked by `next` with this to fall back on.
TAKEN: Final = object()


class PendingSend:
    """The rest of an awaitable that had to wait: a generator that gives out what it waits for, and is asked to go on then.

    `waits_for` is what it gave out first; whoever awaits this waits for that, and then for the rest.
    """

    __slots__ = ("_sending", "_waits_for")

    def __init__(self, waits_for: Any, sending: Generator[Any, Any, None]) -> None:
        self._waits_for = waits_for
        self._sending = sending

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._waits_for
        yield from self._sending
