"""intake.read: what the client asks, read as far as its route needs, within bounds of bytes, time and memory.

Fails closed, before anything is held: BodyTooLargeError (413), BodyTimeoutError (408), OverLimitError (429: its caller has too
much in memory, or on its way), OverloadedError (503), BadRequestError (400), UnsupportedMediaTypeError (415), ClientGoneError.
What is not JSON on a pass-through route is not read but streams by. A body that is read goes on without the compression it came
in, one that streams by goes on in it.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from sentinel.downstream import content_codings
from sentinel.downstream.body_budget import Bodies
from sentinel.downstream.exchange import Exchange
from sentinel.downstream.offload import Offload, OneOfEach
from sentinel.downstream.upload import Upload
from sentinel.openai import wire
from sentinel.openai.models import Models
from sentinel.openai.request import media_types
from sentinel.ops.records import Call, Dialect, Reads, Route, Scope

_MAYBE_FILES: Final = frozenset({Reads.ANY, Reads.FORM})
# What is made plain in a thread before the next of it is counted.
_BATCH_BYTES: Final = 1_048_576


class Intake:
    """Reads requests. `searching` says that forms are looked through for the objects they name, so that they are read whole;
    `trace_upstream`, that the provider gets the request's trace."""

    def __init__(
        self,
        bodies: Bodies,
        aside: Offload,
        models: Models,
        *,
        upload_bytes_max: int,
        searching: bool,
        trace_upstream: bool,
    ) -> None:
        self._bodies = bodies
        self._aside = aside
        self._unpacking = OneOfEach()
        self._models = models
        self._upload_bytes_max = upload_bytes_max
        self._searching = searching
        self._trace_upstream = trace_upstream

    async def read(self, exchange: Exchange, route: Route, caller: str) -> tuple[Call, Upload | None]:
        """The call of `caller`, and the body where it streams by. `exchange` counts a body that was read, and what it holds.

        To be awaited in a section of it.
        """
        first = exchange.headers.first
        content_type = first.get(b"content-type", b"")
        coded = self._codings(exchange, route) if content_codings.HEADER in first else ()
        upload = None
        body = b""
        if route.reads in _MAYBE_FILES and self._streams(exchange, route, content_type):
            upload = exchange.upload(self._bodies, caller, self._upload_bytes_max)
        else:
            if coded:
                content_codings.check_readable(coded)
            body = await exchange.read_body(self._bodies, caller)
            if coded:
                body = await self._plain(exchange, caller, body, coded)
        asked = (route, route.method, exchange.path.removeprefix("/v1"), exchange.query, body, content_type)
        # Others are served while a large body is read (rule H12).
        if len(body) <= self._bodies.small_bytes:
            call = wire.read_call(*asked)
        elif not wire.is_long(body):
            exchange.take_body(len(body) + wire.decoded_bytes(body, content_type))
            call = wire.read_call(*asked)
        else:
            decoded = await self._aside.do(caller, wire.decoded_bytes, body, content_type)
            exchange.take_body(len(body) + decoded)
            call = await self._aside.do(caller, wire.read_call, *asked)
        if route.creates and (call.stored or call.background or route.scope is not Scope.CORE):
            detached = bool(route.polls) and (call.background or route.dialect is Dialect.EVENTS)
            call = replace(call, creates=route.creates, detached=detached)
        # Where tokens are produced the model must be seen; a form cannot show it, and the lines of a batch do not.
        if self._models.restricts:
            self._models.check(call, needed=route.by_model or route.dialect is not Dialect.NONE)
        if upload is not None and coded:
            call = replace(call, coding=b", ".join(coded).decode("ascii"))
        if self._trace_upstream:
            call = replace(call, trace=exchange.trace.sent())
        return call, upload

    def _codings(self, exchange: Exchange, route: Route) -> tuple[bytes, ...]:
        """The content codings of a body that goes on; of none, and of one that does not, they say nothing."""
        return content_codings.named(exchange.headers) if route.reads is not Reads.NOTHING and exchange.has_body() else ()

    async def _plain(self, exchange: Exchange, caller: str, body: bytes, coded: Sequence[bytes]) -> bytes:
        """`body` without its codings. What comes out counts as it grows, beside what it comes out of."""
        pieces = content_codings.plain(body, coded, self._bodies.bytes_max)
        batches = []
        count = 0
        more = True
        while more:
            batch = await self._unpacking.do(caller, content_codings.batch, pieces, _BATCH_BYTES)
            more = len(batch) >= _BATCH_BYTES  # else the usual body would cost a second thread that finds nothing
            batches.append(batch)
            count += len(batch)
            exchange.take_body(len(body) + count)
        exchange.forget_body()
        exchange.take_body(count)
        return b"".join(batches)

    def _streams(self, exchange: Exchange, route: Route, content_type: bytes) -> bool:
        """Whether the body goes by unread: where its route reads any, it is not JSON, and there is one."""
        if route.reads is Reads.FORM and self._searching:
            return False
        return not media_types.is_json(content_type) and exchange.has_body()
