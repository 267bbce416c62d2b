"""The header lines of a request: in their order, and by name. Pure; cannot fail."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

Line = tuple[bytes, bytes]


_NONE: Final[frozenset[bytes]] = frozenset()


class Fields:
    """Header lines, names in lower case as ASGI promises. `first` has the first value of each name, `repeated` are the names
    that have several.
    """

    __slots__ = ("first", "lines", "repeated")

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.first: dict[bytes, bytes] = dict(lines)
        self.repeated = _NONE
        if len(self.first) != len(lines):
            # Rare; only then is it worth to look at each line again.
            self.first = dict(reversed(lines))
            self.repeated = frozenset(name for name, count in Counter(name for name, _ in lines).items() if count > 1)

    def every(self, name: bytes) -> list[bytes]:
        """All values of `name`, in their order."""
        if name in self.repeated:
            return [value for given, value in self.lines if given == name]
        return [self.first[name]] if name in self.first else []

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)
