"""Who is given a body as it comes, and how long one waits for more of it. Cannot fail."""

from collections.abc import Callable


class Pouring:
    """`full`: the sink has had enough for now. Times as `Connection.pour` has them."""

    __slots__ = ("ends_s", "full", "idle_s", "sink")

    def __init__(self, sink: Callable[[bytes], bool], idle_s: float, ends_s: float) -> None:
        self.sink = sink
        self.idle_s = idle_s
        self.ends_s = ends_s
        self.full = False
