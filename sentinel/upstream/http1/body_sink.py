"""Who is given a body as it comes, and how long one waits for more of it. What the sink raises is kept, not raised."""

from collections.abc import Callable

from sentinel.upstream.http1.answer import Answer


class BodySink:
    """`full`: the sink has had enough for now; `error`: what it raised. Times as `Connection.pipe` has them."""

    __slots__ = ("ends_s", "error", "full", "idle_s", "sink")

    def __init__(self, sink: Callable[[bytes], bool], idle_s: float, ends_s: float) -> None:
        self.sink = sink
        self.idle_s = idle_s
        self.ends_s = ends_s
        self.full = False
        self.error: Exception | None = None

    def give(self, answer: Answer) -> bool:
        """Give what has come of `answer` to the sink. Whether it takes more."""
        try:
            while answer.arrivals and not self.full:
                self.full = not self.sink(answer.take())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised to the task that pours
            self.error = error
            self.full = True
        return not self.full
