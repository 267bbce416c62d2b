"""The header lines of a request: in their order, and by name. Pure; cannot fail."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Self

from msgspec import Struct

Line = tuple[bytes, bytes]


_NONE: Final[frozenset[bytes]] = frozenset()


class Fields(Struct):
    """Header lines, names in lower case as ASGI promises. `first` has the first value of each name, `repeated` are the names
    that have several.
    """

    lines: Sequence[Line]
    first: Mapping[bytes, bytes]
    repeated: frozenset[bytes] = _NONE

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Self:
        """Any lines. Where no name comes twice, as is usual, `Fields(lines, dict(lines))` is the same."""
        repeated = frozenset(name for name, count in Counter(name for name, _ in lines).items() if count > 1)
        return cls(lines, dict(reversed(lines)), repeated)

    def every(self, name: bytes) -> list[bytes]:
        """All values of `name`, in their order."""
        if name in self.repeated:
            return [value for given, value in self.lines if given == name]
        return [self.first[name]] if name in self.first else []

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)
