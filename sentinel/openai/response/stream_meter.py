"""What an answer costs, read off the bytes while they pass. Nothing here fails and nothing holds the answer up.

An answer whose usage cannot be read has none, and is billed by what it produced (rules U11, L1); an event too long to be held
passes before it is whole, and is read abridged. Only an event that can hold usage or the end is decoded; everything else is
searched for two byte strings and forwarded as the very object that came in.
"""

from typing import Final

from sentinel.openai.response import event_buffer, head_and_tail, sse
from sentinel.openai.response.content_kind import Kind, told
from sentinel.openai.response.dialects import END_MARK, GRAMMARS, NOTHING, Reading, failure
from sentinel.openai.response.error_fields import Hidden
from sentinel.openai.response.unbilled_output import UnbilledOutput
from sentinel.openai.response.usage import decode, latest
from sentinel.ops.records import Dialect, Produced, Usage

# An object is named in the first event of its stream; some providers send one with filters only before it (Azure).
_NAMELESS_EVENTS_MAX: Final = 16
ERROR: Final = b"error"  # in every error, whatever its shape (openai.response.error_fields)


class StreamMeter:
    """Meters one stream of server-sent events, and takes out the usage event that the client did not ask for.

    `usage_hidden` says that Sentinel asked for usage on its own account (rules U2, U5), `names` that the id of the answer's
    object is wanted: it is known before the bytes that tell it are returned. What `feed` and `finish` return is what goes
    downstream; after `finish` the client always stands at an event boundary, so that an event can be added there.
    `terminated` says that the stream's own end was passed on: `[DONE]`, or the last event of a response (rule P1). `choices`
    is how many were asked for: each that began must end. `working_id` names the object whose state `unfinished` is, where it
    was said; `long_event` is what is known of the last event that was too long to be held; `hidden` is what an error said about
    the provider's account, and what does not go down.

    Whole events of words alone, without `mark` (where `marked` matches), `end` and ERROR, may pass without it (`stages/relay`),
    unless it is `wary`: must see the next bytes, whatever they are. Whoever lets them pass notes them as `latest`, among
    `events`, and in `unpaid` where it `counts`.
    """

    __slots__ = (
        "_choices",
        "_dialect",
        "_failed_first",
        "_failed_last",
        "_finished",
        "_grammar",
        "_long",
        "_looks",
        "_nameless_events",
        "_opened",
        "_splitter",
        "_usage_hidden",
        "counts",
        "end",
        "events",
        "hidden",
        "latest",
        "long_event",
        "mark",
        "marked",
        "object_id",
        "terminated",
        "unfinished",
        "unpaid",
        "usage",
        "wary",
        "working_id",
    )

    def __init__(
        self,
        dialect: Dialect,
        *,
        usage_hidden: bool = False,
        names: bool = False,
        choices: int = 1,
        tail_bytes_max: int | None = None,
        kept_bytes_max: int = event_buffer.BYTES_MAX,
    ) -> None:
        self.events = 0
        self.usage: Usage | None = None
        self.terminated = self.unfinished = False
        self.object_id = self.working_id = ""
        self.hidden = Hidden()
        self._dialect = dialect
        self._grammar = GRAMMARS[dialect]
        self.counts = self._grammar.say is not None
        self.mark, self.marked, self.end, *_ = self._grammar
        self._usage_hidden = usage_hidden
        self._choices = choices
        self._splitter = sse.Splitter(tail_bytes_max or self._grammar.tail_bytes_max)
        self.unpaid = UnbilledOutput(self._grammar.say, kept_bytes_max)
        # The events read last; b"" where a later one may have been the end. `_long` goes down before it is whole.
        self.latest = self.long_event = b""
        self._long: head_and_tail.LongEvent | None = None
        self._opened = self._finished = self._failed_first = self._failed_last = False
        self._nameless_events = _NAMELESS_EVENTS_MAX if names else 0
        # Whether the next event is read in any case: the first, and more where the id is wanted and not yet seen.
        self._looks = self.wary = True

    @property
    def failed(self) -> bool:
        """Whether the first event is an error, or a response failed before it said anything (rule F4)."""
        return self._failed_first or (self._failed_last and self.unpaid.silent())

    @property
    def empty(self) -> bool:
        """Whether no event came where a model should have spoken: a page has none, and comments alone are none."""
        return not (self._opened or self.overflowed or self._dialect is Dialect.NONE)

    @property
    def finished(self) -> bool:
        """Whether the answer was whole (rule F2): each choice gave its `finish_reason`, or a response its last event.

        Usage in an event of its own is the last word of a stream: behind it one `finish_reason` is enough. Streams of other
        kinds end when they end. Looked up on demand, from the end, where it stands.
        """
        if not self._grammar.needs_end:
            return True
        if self._dialect is Dialect.RESPONSES:
            return self.terminated or (self.overflowed > 0 and not self.latest)
        if self._choices > 1:
            return (self._finished and self.unpaid.silent()) or self.unpaid.all_finished(self._choices)
        self._finished = self._finished or self.unpaid.finished()
        return self._finished

    @property
    def overflowed(self) -> int:
        """Events that outgrew `tail_bytes_max` and passed before they were whole (rule S7)."""
        return self._splitter.overflowed

    def feed(self, chunk: bytes) -> bytes:
        """What goes downstream now; a chunk of whole events without a usage object is returned itself."""
        before, region, after = self._splitter.split(chunk)
        if self._long is not None:
            self._long.add(before)
            before = self.hidden.in_rest(before)
            if after or not self._splitter.skipping:
                self._end_long(self._long, cut=False)
        if region:
            self.latest = region
            self.events += region.count(b"data:")
            if self._tells(region):
                region = self._read(region)
            else:
                self.unpaid.add(region)
            if region.find(ERROR) >= 0:
                region = self.hidden.in_events(region)
        if after:
            self.latest = b""
            self._long = head_and_tail.LongEvent(self._grammar, after)
            if self._nameless_events:
                # It must be known before the client can have it.
                self.object_id = self._long.object_id(after)
            after = self.hidden.in_start(after)
        self.wary = self._looks or self._splitter.carries
        return before + region + after if before or after else region

    def finish(self) -> bytes:
        """What is still to go downstream when the provider sends no more: the held tail, as a whole event.

        A last event that lacks only its blank line gets one (so `[DONE]` counts, rule F2); a half one is dropped, as every
        client would drop it (WHATWG HTML 9.2.6), and an error event can follow (rules F1, S7).
        """
        skipping = self._splitter.skipping
        rest = self._splitter.rest()
        if skipping:
            self.latest = b":"
            # The colon stands for the line that went out before: its end alone is not yet a blank line.
            return self.hidden.in_rest(sse.closed(b":" + rest)[1:])
        said = sse.payload(rest)
        if said.startswith(END_MARK) or decode(said or self._bare(rest)) is not None:
            return self.hidden.in_events(self._read(sse.closed(rest)))
        self._opened = self._opened or bool(said)  # half an event was served as well
        comments = sse.comments(rest)
        return comments if not said and comments == rest else b""

    def ending(self) -> bytes:
        """What is owed behind a whole answer: `[DONE]` where chat's own is missing (rule F2)."""
        return sse.DONE if self._dialect is Dialect.CHAT and not self.terminated else b""

    def failure(self, message: str, type: str, code: str | None) -> bytes:  # noqa: A002  the field's own name
        """The end of a stream that broke off, as both SDKs raise it; nothing where the client reads no further."""
        return b"" if self.terminated else failure(self._dialect, message, type, code, self.latest)

    def produced(self) -> Produced:
        """What was said since the last usage that had an output (rules L1, L4); nothing in dialects whose texts do not count.

        Decodes what was kept, which costs microseconds an event: for a stream that ended without usage, not for every one.
        """
        if self._long is not None:
            self._end_long(self._long, cut=True)
        return self.unpaid.produced()

    def _read(self, region: bytes) -> bytes:
        """Looks into each event of a region that holds something: one of the first events, usage or the end."""
        passed: list[bytes] = []
        unpaid: list[bytes] = []
        changes = False
        for event in sse.events(region):
            said, first = sse.payload(event), not self._opened
            if not said and (bare := self._bare(event)):
                changes = True
                event, said = sse.from_json(bare), bare  # noqa: PLW2901
            reading = self._look(said)
            if reading.usage is None:
                unpaid.append(event)
            else:
                self._pay(reading, reading.usage, [*unpaid, event])
                unpaid.clear()
            hides = reading.alone and self._usage_hidden and not (first and reading.greets)
            changes = changes or hides
            passed.append(sse.comments(event) if hides else event)
        if unpaid:
            self.unpaid.add(b"".join(unpaid))
        return b"".join(passed) if changes else region

    def _bare(self, event: bytes) -> bytes:
        """The JSON that a provider sends though it has announced events, an error as a rule; b"" where it is none.

        No client would see it: it goes down as the event that it should have been.
        """
        return b"" if self._opened or told(event) is not Kind.JSON or decode(event) is None else event

    def _tells(self, said: bytes) -> bool:
        """Whether there may be more in `said` than words."""
        at = said.find(self.mark)
        return self._looks or (at >= 0 and self.marked.search(said, at) is not None) or said.find(self.end) >= 0

    def _look(self, said: bytes) -> Reading:
        """Reads the data of one event, where there is something to read."""
        if not said or not self._tells(said):
            return NOTHING
        reading = self._grammar.read(said)
        if not self._opened:
            self._opened = True
            self._failed_first = reading.fails
        if reading.ends:
            self.terminated = True
            self._failed_last = reading.fails
            # A response that ends well behind an error has not failed: its last event says what became of it.
            self._failed_first = self._failed_first and (reading.fails or self._dialect is not Dialect.RESPONSES)
        if reading.unfinished is not None:
            self.unfinished = reading.unfinished
            self.working_id = reading.object_id
        if self._nameless_events:
            self.object_id = reading.object_id
            self._nameless_events = 0 if self.object_id else self._nameless_events - 1
        self._looks = self._nameless_events > 0
        return reading

    def _pay(self, reading: Reading, usage: Usage, events: list[bytes]) -> None:
        """The last usage wins (rule U8), and its output covers all up to its own event, which need not be kept."""
        if self._choices > 1:
            self._finished = self.unpaid.all_finished(self._choices, events, one_is_enough=reading.alone)
        else:
            # The reason stands with the usage or just before it.
            self._finished = (self._dialect is Dialect.CHAT and self.unpaid.finishes(events)) or self.finished
        self.usage = latest(self.usage, usage)
        if usage.output_tokens:
            self.unpaid.clear()
        else:  # what was said tells whether there truly was none
            self.unpaid.add(b"".join(events))

    def _end_long(self, long: head_and_tail.LongEvent, *, cut: bool) -> None:
        """Reads a long event like any other, once it has ended; of one that was cut off only what it said."""
        event, unread_bytes = long.said(cut=cut)
        self._long = None
        self.unpaid.unread_bytes += unread_bytes
        if cut:
            self.unpaid.add(event)
        elif event:
            self.latest = self.long_event = event
            self._read(event)
