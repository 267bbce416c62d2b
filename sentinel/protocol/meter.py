"""What an answer costs, read off the bytes while they pass. Nothing here fails and nothing holds the answer up.

An answer whose usage cannot be read has none, and is billed by what it produced (wire.md U11, L1); bytes that cannot be read at
all pass unchanged and are counted as bytes. Only the event that can hold usage is decoded; everything else is searched for two
byte strings and forwarded as the very object that came in.
"""

import re
from typing import Any, Final

from sentinel.protocol import sse
from sentinel.protocol.answers import Texts, decode, is_usage_alone, read_usage
from sentinel.protocol.kept import Kept
from sentinel.records import Usage

KEPT_BYTES_MAX: Final = 8 << 20

# Enough for the usage object and whatever follows it at the end of a body too large to keep.
_BODY_TAIL_BYTES: Final = 16 << 10

# A quote inside a JSON string is escaped, so it cannot match within one (wire.md U9). Whatever is not plainly null counts:
# the object may stand on the next `data` line.
_USAGE: Final = re.compile(rb'"usage"(?!\s*:\s*null)')
_FINISH: Final = re.compile(rb'"finish_reason"(?!\s*:\s*null)')
_COMMENTS: Final = re.compile(rb"(?:(?::[^\r\n]*)?(?>\r\n|\n|\r))*")
_END_MARK: Final = b"[DONE]"


class StreamMeter:
    """Meters one stream of server-sent events, and takes out the usage event that the client did not ask for.

    `usage_hidden` says that Sentinel asked for usage on its own account (wire.md U2, U5). What `feed` and `finish` return is
    what goes downstream; after `finish` the client always stands at an event boundary, so that an event can be added there.
    `terminated` says that `[DONE]` was passed on, `failed` that the first event is an error (wire.md F4); `events` counts what
    was passed on, about one a token.
    """

    __slots__ = (
        "_finished",
        "_kept_bytes_max",
        "_opened",
        "_past",
        "_splitter",
        "_unpaid",
        "_usage_hidden",
        "events",
        "failed",
        "terminated",
        "usage",
    )

    def __init__(
        self, *, usage_hidden: bool, tail_bytes_max: int = sse.TAIL_BYTES_MAX, kept_bytes_max: int = KEPT_BYTES_MAX
    ) -> None:
        self.events = 0
        self.usage: Usage | None = None
        self.terminated = False
        self.failed = False
        self._usage_hidden = usage_hidden
        self._splitter = sse.Splitter(tail_bytes_max)
        self._kept_bytes_max = kept_bytes_max
        self._unpaid = Kept(kept_bytes_max)
        # Past the cap events are read at once and only the size of their texts is remembered.
        self._past = Texts(0)
        self._opened = False
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether a choice gave its `finish_reason` (wire.md F2); looked up on demand, from the end, where it stands."""
        self._finished = self._finished or self._past.finished or any(map(_finishes, self._unpaid.newest_first()))
        return self._finished

    @property
    def overflowed(self) -> int:
        """Events that outgrew `tail_bytes_max` and passed unread (wire.md S7)."""
        return self._splitter.overflowed

    def feed(self, chunk: bytes) -> bytes:
        """What goes downstream now; a chunk of whole events without a usage object is returned itself."""
        before, region, after = self._splitter.split(chunk)
        if before:
            self._past.bytes_uncounted += len(before)
        if region:
            self.events += region.count(b"data:")
            at = region.find(b'"usage"')
            if (
                self._opened
                and (at < 0 or _USAGE.search(region, at) is None)
                and region.find(_END_MARK) < 0  # `in` costs twice as much on bytes
            ):
                if not self._unpaid.add(region):
                    _read_texts(region, self._past)
            else:
                region = self._read(region)
        if after:
            self._past.bytes_uncounted += len(after)
        return before + region + after if before or after else region

    def finish(self) -> bytes:
        """What is still to go downstream when the provider sends no more: the held tail, as a whole event.

        A last event that lacks only its blank line gets one (so `[DONE]` counts, wire.md F2); a half one is dropped, as every
        client would drop it (WHATWG HTML 9.2.6), and an error event can follow (wire.md F1, S7).
        """
        skipping = self._splitter.skipping
        rest = self._splitter.rest()
        if skipping:
            # The colon stands for the line that went out before: its end alone is not yet a blank line.
            return sse.closed(b":" + rest)[1:]
        said = sse.payload(rest)
        if said.startswith(_END_MARK) or decode(said) is not None:
            return self._read(sse.closed(rest))
        comments = _comments(rest)
        return comments if not said and comments == rest else b""

    def produced(self) -> tuple[list[str], int]:
        """The texts since the last usage, one per choice and field (wire.md L1), and the bytes that were not kept (L4).

        Decodes what was kept, which costs microseconds an event: for a stream that ended without usage, not for every one.
        Where `usage` is None, it is everything the stream said.
        """
        texts = Texts(self._kept_bytes_max)
        for region in self._unpaid:
            _read_texts(region, texts)
        return texts.joined(), texts.bytes_uncounted + self._past.bytes_uncounted

    def _read(self, region: bytes) -> bytes:
        """Looks into each event of a region that holds something: the first event, usage or the end."""
        passed: list[bytes] = []
        unpaid: list[bytes] = []
        hides = False
        for event in sse.events(region):
            said = sse.payload(event)
            if said and not self._opened:
                self._opened = True
                self.failed = _is_error(said)
            if said.startswith(_END_MARK):
                self.terminated = True
            fields = decode(said) if _USAGE.search(said) else None
            usage = read_usage(fields.get("usage")) if fields else None
            if usage is not None:
                self._pay(usage, [*unpaid, event])
                unpaid.clear()
            else:
                unpaid.append(event)
            if fields and self._usage_hidden and is_usage_alone(fields):
                hides = True
                passed.append(_comments(event))
            else:
                passed.append(event)
        rest = b"".join(unpaid)
        if not self._unpaid.add(rest):
            _read_texts(rest, self._past)
        return b"".join(passed) if hides else region

    def _pay(self, usage: Usage, events: list[bytes]) -> None:
        """The last usage wins (wire.md U8) and covers everything up to its own event, which need not be kept."""
        self._finished = self.finished or any(map(_finishes, events))
        self.usage = usage
        self._unpaid.clear()
        self._past = Texts(0)


class BodyMeter:
    """Meters one plain JSON body, which goes downstream unchanged and at once.

    `finished` says that the body is whole JSON. A body over `kept_bytes_max` is not kept; its usage is still found where it
    stands at the end, as providers write it, and `finished` then says that it was found.
    """

    __slots__ = ("_body", "_body_bytes", "_kept_bytes_max", "_tail", "failed", "finished", "terminated", "usage")

    def __init__(self, *, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self.usage: Usage | None = None
        self.terminated = False
        self.finished = False
        self.failed = False
        self._kept_bytes_max = kept_bytes_max
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._tail = b""

    @property
    def events(self) -> int:
        """None: what a plain body holds is known when it is whole."""
        return 0

    def feed(self, chunk: bytes) -> bytes:
        """`chunk` itself."""
        self._body_bytes += len(chunk)
        if self._body_bytes <= self._kept_bytes_max:
            self._body.append(chunk)
        else:
            self._tail = b"".join([*self._body, self._tail, chunk])[-_BODY_TAIL_BYTES:]
            self._body.clear()
        return chunk

    def finish(self) -> bytes:
        """Nothing: reads the body, now that it is whole."""
        fields = decode(b"".join(self._body)) if self._body else self._read_tail()
        if fields is not None:
            self.finished = True
            self.failed = _tells_error(fields)
            self.usage = read_usage(fields.get("usage"))
        return b""

    def produced(self) -> tuple[list[str], int]:
        """The texts of all choices (wire.md L1); the bytes of the body where it is not whole or was not kept (L4)."""
        fields = decode(b"".join(self._body))
        if fields is None:
            return [], self._body_bytes
        texts = Texts(self._kept_bytes_max)
        texts.read(fields)
        return texts.joined(), texts.bytes_uncounted

    def _read_tail(self) -> dict[str, Any] | None:
        """The last keys of a body that was not kept: they close it exactly if they stand at its top level (wire.md U9)."""
        at = self._tail.rfind(b'"usage"')
        return decode(b"{" + self._tail[at:]) if at >= 0 else None


def _read_texts(region: bytes, texts: Texts) -> None:
    """Adds to `texts` what the events of `region` say."""
    for event in sse.events(region):
        texts.read(decode(sse.payload(event)))


Meter = StreamMeter | BodyMeter


def _finishes(region: bytes) -> bool:
    """Whether a choice in `region` gave its finish reason."""
    if _FINISH.search(region) is None:
        return False
    texts = Texts(0)
    _read_texts(region, texts)
    return texts.finished


def _is_error(said: bytes) -> bool:
    fields = decode(said) if b'"error"' in said else None
    return fields is not None and _tells_error(fields)


def _tells_error(fields: dict[str, Any]) -> bool:
    return bool(fields.get("error")) or fields.get("type") == "error"


def _comments(event: bytes) -> bytes:
    """The comment lines an event begins with: they are nobody's part, and stay when it goes (wire.md S4)."""
    match = _COMMENTS.match(event)
    return match[0] if match else b""
