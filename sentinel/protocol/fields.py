"""The header lines of a request: in their order, and by name. Pure; cannot fail."""

from collections.abc import Iterator, Sequence

Line = tuple[bytes, bytes]


class Fields:
    """Header lines, names in lower case as ASGI promises. `first` has the first value of each name, `repeated` says whether any
    name has several.
    """

    __slots__ = ("first", "lines", "repeated")

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.first: dict[bytes, bytes] = dict(lines)
        # Rare; only then is it worth to look at each line again.
        self.repeated = len(self.first) != len(lines)
        if self.repeated:
            self.first = dict(reversed(lines))

    def every(self, name: bytes) -> list[bytes]:
        """All values of `name`, in their order."""
        if self.repeated:
            return [value for given, value in self.lines if given == name]
        return [self.first[name]] if name in self.first else []

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)
