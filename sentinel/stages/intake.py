"""intake.read: what the client asks, read as far as its route needs, within bounds of bytes, time and memory.

Fails closed, before anything is held: BodyTooLargeError (413), BodyTimeoutError (408), OverloadedError (503), BadRequestError
(400), UnsupportedMediaTypeError (415), ClientGoneError. What is not JSON on a pass-through route is not read but streams by.
"""

import asyncio
from typing import Final

from msgspec.structs import replace

from sentinel.edges.bodies import BodyBudget
from sentinel.edges.exchange import Exchange
from sentinel.edges.upload import Upload
from sentinel.protocol import media, wire
from sentinel.protocol.models import Models
from sentinel.records import Call, Dialect, Reads, Route, Scope

_MAYBE_FILES: Final = frozenset({Reads.ANY, Reads.FORM})


class Intake:
    """Reads requests. `searching` says that forms are looked through for the objects they name, so that they are read whole;
    `trace_upstream`, that the provider gets the request's trace."""

    def __init__(
        self,
        budget: BodyBudget,
        models: Models,
        *,
        body_bytes_max: int,
        body_timeout_s: float,
        upload_bytes_max: int,
        searching: bool,
        trace_upstream: bool,
    ) -> None:
        self._budget = budget
        self._models = models
        self._body_bytes_max = body_bytes_max
        self._body_timeout_s = body_timeout_s
        self._upload_bytes_max = upload_bytes_max
        self._searching = searching
        self._trace_upstream = trace_upstream

    async def read(self, exchange: Exchange, route: Route) -> tuple[Call, Upload | None]:
        """The call, and the body where it streams by. `exchange` still counts a body that was read against the budget."""
        content_type = exchange.header(b"content-type")
        upload = None
        body = b""
        if route.reads in _MAYBE_FILES and self._streams(exchange, route, content_type):
            upload = exchange.upload(self._upload_bytes_max, self._body_timeout_s)
        else:
            body = await exchange.read_body(self._body_bytes_max, self._body_timeout_s, self._budget)
        asked = (route, route.method, exchange.path.decode("latin-1").removeprefix("/v1"), exchange.query, body, content_type)
        # Others are served while a large body is read (wire.md H12).
        if len(body) <= wire.INLINE_BYTES_MAX:
            call = wire.read_call(*asked)
        else:
            call = await asyncio.to_thread(wire.read_call, *asked)
        if route.leaves and (call.stored or call.background or route.scope is not Scope.CORE):
            lasts = bool(route.polls) and (call.background or route.dialect is Dialect.EVENTS)
            call = replace(call, leaves=route.leaves, lasts=lasts)
        # Where tokens are produced the model must be seen; a form cannot show it, and the lines of a batch do not.
        self._models.check(call, needed=route.by_model or route.dialect is not Dialect.NONE)
        if self._trace_upstream:
            call = replace(call, trace=exchange.trace.sent())
        return call, upload

    def _streams(self, exchange: Exchange, route: Route, content_type: bytes) -> bool:
        """Whether the body goes by unread: where its route reads any, it is not JSON, and there is one."""
        if route.reads is Reads.FORM and self._searching:
            return False
        if media.is_json(content_type):
            return False
        return exchange.header(b"content-length") not in (b"", b"0") or bool(exchange.header(b"transfer-encoding"))
