"""What the stages see of an answer while it passes, whatever its content type.

Meters never fail and never hold an answer up.
"""

from typing import Protocol

from sentinel.ops.records import Produced, Usage


class Meter(Protocol):
    """Bytes pass through `feed`; `finish` says that there are no more. What is read of them is known at any time."""

    @property
    def events(self) -> int:
        """Events of a stream that were passed on so far, about one a token; 0 for any other answer."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The provider's own figure, None until it is known."""
        ...

    @property
    def terminated(self) -> bool:
        """Whether the client has all that it will read, so that whatever follows is only drained (rule D5)."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the answer is an error under a status of success (rule F4)."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the answer is whole, once there is no more of it (rule F2)."""
        ...

    @property
    def object_id(self) -> str:
        """The id of the answer's object; "" until it is known, and for ever where nobody asked for it."""
        ...

    @property
    def unfinished(self) -> bool:
        """Whether the provider still worked on that object when it last said so, and its usage is to come (rule P3)."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """What goes downstream now."""
        ...

    def finish(self) -> bytes:
        """What is still to go downstream when the provider sends no more."""
        ...

    @property
    def counts(self) -> bool:
        """Whether what such an answer says becomes tokens where no usage covers it."""
        ...

    def produced(self) -> Produced:
        """What no usage covers (rules L1, L4)."""
        ...
