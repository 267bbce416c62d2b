"""What a plain answer costs, read off the bytes while they pass. Nothing here fails and nothing holds the answer up.

A JSON body is kept up to a bound and read when it is whole: one beyond it, in an abridged form, or at its two ends. One that is
no single object is read as far as it can be (`values`). Every other body is only measured, however long it is.
"""

from typing import Any, Final

from sentinel.openai.response import event_buffer, head_and_tail
from sentinel.openai.response.abridged_json import Abridged
from sentinel.openai.response.content_kind import Kind, told
from sentinel.openai.response.dialects import GRAMMARS
from sentinel.openai.response.json_values import objects
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.openai.response.texts import Texts
from sentinel.openai.response.usage import Head, decode, decode_head, head_of, latest
from sentinel.ops.records import NOTHING_PRODUCED, Dialect, Produced, Usage


class BodyMeter:
    """Meters one plain JSON body, which goes downstream unchanged and at once.

    `names` says that the id of the answer's object is wanted; like `usage` it is known after `finish`. `finished` says that
    the body is whole JSON. Of a body over `kept_bytes_max` the base64 is left out; of one that is longer even so, usage and id
    are found at its two ends, as providers write them, and `finished` then says that the usage was found.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_dialect",
        "_events",
        "_grammar",
        "_kept_bytes_max",
        "_long",
        "_names",
        "counts",
        "failed",
        "finished",
        "object_id",
        "unfinished",
        "usage",
    )

    events: Final = 0
    terminated: Final = False

    def __init__(self, dialect: Dialect, *, names: bool = False, kept_bytes_max: int = event_buffer.BYTES_MAX) -> None:
        self.usage: Usage | None = None
        self.failed = False
        self.finished = False
        self.object_id = ""
        self.unfinished = False
        self._dialect = dialect
        self._events: StreamMeter | None = None
        self._grammar = GRAMMARS[dialect]
        self.counts = self._grammar.say is not None
        self._names = names
        self._kept_bytes_max = kept_bytes_max
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._long: Abridged | None = None

    def feed(self, chunk: bytes) -> bytes:
        """`chunk` itself."""
        if self._long is not None:
            self._long.add(chunk)
            return chunk
        self._body.append(chunk)
        self._body_bytes += len(chunk)
        if self._body_bytes > self._kept_bytes_max:
            self._long = Abridged(self._kept_bytes_max)
            self._long.add(b"".join(self._body))
            self._body.clear()
        return chunk

    def finish(self) -> bytes:
        """Nothing: reads the body, now that it is whole."""
        # Written out: this is done for every answer.
        body = b"".join(self._body) if self._long is None else self._long.whole
        head = self._read_ends() if body is None else decode_head(body)
        if head is not None:
            self.finished = True
            reading = self._grammar.read_body(head)
            self.usage, self.failed, self.unfinished = reading.usage, reading.fails, bool(reading.unfinished)
            if self._names:
                self.object_id = reading.object_id
        elif body and (kind := told(body)) is Kind.EVENTS:
            self._read_events(body)
        elif body:
            self._read_objects(body, kind)
        return b""

    def _read_events(self, body: bytes) -> None:
        """Reads a stream that came as JSON, since white space alone told so for too long."""
        self._events = StreamMeter(self._dialect)
        self._events.feed(body.lstrip())
        self._events.finish()
        self.usage, self.failed, self.finished = self._events.usage, self._events.failed, self._events.finished

    def _read_objects(self, body: bytes, kind: Kind | None) -> None:
        """Reads what is no single object like the events of a stream: the last usage wins, the first may be an error. Where no
        object is found and it does not begin like JSON, no model said it, unless it may be sound or an image.
        """
        found, _ = objects(body)
        self.failed = kind is Kind.OTHER and not found and self._dialect is not Dialect.MEDIA
        readings = [self._grammar.read_body(head_of(fields)) for fields in found]
        for reading in readings:
            if reading.usage is not None:
                self.usage = latest(self.usage, reading.usage)
        if readings:
            self.failed, self.unfinished = readings[0].fails, bool(readings[-1].unfinished)
            name = readings[0].object_id
            # Of a body that was cut within it there is no id.
            if self._names and f'"{name}"'.encode() in body:
                self.object_id = name

    def produced(self) -> Produced:
        """What the answer says (rules L1, L4), as far as it came. Nothing in dialects whose texts are not counted."""
        say = self._grammar.say
        if say is None or (self.usage is not None and self.usage.output_tokens):
            return NOTHING_PRODUCED
        if self._events is not None:
            return self._events.produced()
        body = self._whole()
        if body is None:
            assert self._long is not None
            fields = decode(head_and_tail.of_body(self._long)) or {}
            found, unread_bytes = [fields], self._long.words_bytes if self._grammar.may_speak(fields) else 0
        elif fields := decode(body) or {}:
            found, unread_bytes = [fields], 0
        else:
            found, unread_bytes = objects(body)
        texts = Texts(self._kept_bytes_max)
        for fields in found:
            say(fields, texts)
        usage = None
        if self.usage is None and not self.finished:
            for fields in found:
                usage = self._grammar.read_body(head_of(fields)).usage or usage
        return Produced(texts.joined(), texts.bytes_uncounted, texts.media_tokens, unread_bytes, usage)

    def fields(self) -> dict[str, Any] | None:
        """The whole body decoded, None where it is not whole JSON or was not kept."""
        return decode(self._whole() or b"")

    def _whole(self) -> bytes | None:
        """The body, its base64 shortened where it is long; None where it is longer even so."""
        return b"".join(self._body) if self._long is None else self._long.whole

    def _read_ends(self) -> Head | None:
        """The first and last members of a body that was not kept; None where its usage is not among them."""
        assert self._long is not None
        head = decode_head(head_and_tail.of_body(self._long))
        if head is None or (head.usage is None and head.per_model_usage is None):
            if head is not None and self._names:
                self.object_id = head.name
            return None
        return head


class PassMeter:
    """Lets through what is neither JSON nor events: audio, files, tables. Only the bytes are counted, none is kept.

    In dialects whose texts are counted they may be an answer that cannot be read.
    """

    __slots__ = ("_body_bytes", "counts", "finished")

    events: Final = 0
    usage: Final = None
    terminated: Final = False
    failed: Final = False
    object_id: Final = ""
    unfinished: Final = False

    def __init__(self, dialect: Dialect = Dialect.NONE) -> None:
        self.finished = False
        self.counts = GRAMMARS[dialect].say is not None
        self._body_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """`chunk` itself."""
        self._body_bytes += len(chunk)
        return chunk

    def finish(self) -> bytes:
        """Nothing."""
        self.finished = True
        return b""

    def produced(self) -> Produced:
        """No text; the bytes where they may have been one."""
        return Produced(unread_bytes=self._body_bytes) if self.counts else NOTHING_PRODUCED
