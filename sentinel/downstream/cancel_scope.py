"""A section of a task that another may end with a reason, as `asyncio.timeout` ends one when time is up."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

_T = TypeVar("_T")


class CancelScope:
    """A `with` block, entered as often as one likes, one after the other, by the task that entered it first.

    Raises the reason it was interrupted for, inside the block or at the next entrance. Whoever sets `stays` before the block is
    asked at its first interruption whether the block may go on all the same: then the answer is what to call when it is over.
    The second interruption ends it.
    """

    stays: Callable[[Exception], Callable[[], object] | None] | None = None
    _cancelled = False
    _cancelling = 0
    _inside = False
    _reason: Exception | None = None
    _staying: Callable[[], object] | None = None
    _task: asyncio.Task[Any] | None = None

    def interrupt(self, reason: Exception) -> None:
        """End it, now or when it is next entered; the first reason stands."""
        if self._reason is not None and self._staying is None:
            return
        if self._reason is None:
            self._reason = reason
            self._staying = self.stays(reason) if self._inside and self.stays is not None else None
            if self._staying is not None:
                return
        self._stop_staying()
        if self._inside:
            assert self._task is not None
            self._cancelled = True
            self._task.cancel()

    async def within(self, wait: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        """What `wait` gives for these arguments, in a block of its own."""
        with self:
            return await wait(*arguments)

    def stay_no_more(self) -> None:
        """Nothing is worth staying for: it ends now if it was interrupted before, and from now on when it is."""
        self.stays = None
        if self._staying is not None:
            # A task that cancels itself, and then waits no more in the block, would be cancelled behind it.
            asyncio.get_running_loop().call_soon(self._stayed)

    def _stayed(self) -> None:
        """What was stayed for has failed; nothing happens where the block has ended since."""
        if self._staying is not None:
            assert self._reason is not None
            self.interrupt(self._reason)

    def _stop_staying(self) -> None:
        if self._staying is not None:
            self._staying()
            self._staying = None

    def close(self) -> None:
        """It will not be entered again. The reason, once raised, knows the frames it rose through, and these know the section:
        a circle that would keep all of them, and the client's connection with them, until the next collection.
        """
        self._reason = self.stays = None

    def __enter__(self) -> None:
        if self._reason is not None:
            raise self._reason
        if self._task is None:
            self._task = asyncio.current_task()
            assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._inside = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._inside = False
        self.stays = None
        if self._staying is not None:
            self._stop_staying()
        if not self._cancelled:
            return
        self._cancelled = False
        assert self._task is not None
        assert self._reason is not None
        # Somebody else may have cancelled the task as well; then the cancellation is theirs and goes on.
        if self._task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._reason from None
