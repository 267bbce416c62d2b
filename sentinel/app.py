"""The ASGI callable: lifespan, the path table, and the only place where an error becomes a response.

Fails in OpenAI's shape: a `SentinelError` is answered with its own status, anything else is a defect, answered as a
bare 500 and logged with its trace. What cannot be opened at start-up is told to the server
(`lifespan.startup.failed`), which then stops.
"""

import asyncio
import signal
import socket
from collections.abc import Coroutine
from typing import Any, Final

from sentinel import logs, metrics, settings
from sentinel.edges.bodies import Receive
from sentinel.edges.exchange import Exchange, Scope, Send
from sentinel.errors import BadRequestError, ClientGoneError, DrainingError, SentinelError, Source
from sentinel.logs import Log
from sentinel.ops import metrics_page
from sentinel.protocol import headers, routes, upgrades, wire
from sentinel.worker import Worker

_log: Final = Log("app")

# The signal by which the supervisor tells a worker to drain: Granian's own SIGTERM reaches the application only when every
# connection has already ended.
DRAIN_SIGNAL: Final = signal.SIGUSR1
# The supervisor says this right after it.
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_STOP_S: Final = 1.0

_USAGE: Final = "/v1/usage"
_JSON: Final = [(b"content-type", b"application/json")]


class App:
    """The application one worker serves. `listener` is a copy of the socket it serves on, where there is one."""

    def __init__(self) -> None:
        self.listener: socket.socket | None = None
        self._worker: Worker | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """ASGI 3. The coroutine of what is asked itself: one around it would be gone through at each of its steps."""
        if scope["type"] == "http":
            assert self._worker is not None
            return _Answering(self._worker, scope, receive, send).run()
        return self._lifespan(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._open()
                except Exception as error:  # noqa: BLE001 - any failure to open is the server's to know
                    await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                assert self._worker is not None
                await self._worker.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> None:
        effective = settings.read()
        logs.start(effective.log_level)
        self._worker = Worker(effective, self.listener)
        await self._worker.open()
        asyncio.get_running_loop().add_signal_handler(DRAIN_SIGNAL, self._worker.drain)
        if signal.sigpending() & {*_STOP_SIGNALS, DRAIN_SIGNAL}:
            # Told to stop since the fork, before it could hear. It has served nothing yet, and begins with nothing.
            signal.sigtimedwait(_STOP_SIGNALS, _STOP_S)
            await self._worker.close()
            raise SystemExit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOP_SIGNALS, DRAIN_SIGNAL})


class _Answering:
    """One request on its way through the path table; ends with exactly one answer, or with a client that left."""

    def __init__(self, worker: Worker, scope: Scope, receive: Receive, send: Send) -> None:
        self._worker = worker
        self._scope = scope
        self._exchange = Exchange(scope, receive, send, worker.request_id())
        self._exchange.always = worker.cors.answer(self._exchange.headers)
        self._route = "unknown"

    async def run(self) -> None:
        exchange = self._exchange
        self._worker.look_after(exchange, self._scope)
        try:
            await self._answer()
        except ClientGoneError:
            await self._tell_gone()
        except SentinelError as error:
            await self._tell(await self._worker.journey.refuse(exchange, error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody has cancelled the request, but the worker ends, and with it what the request has waited for.
            await self._tell(DrainingError())
        except Exception as error:  # noqa: BLE001 - a defect: the caller gets a bare 500, the log gets everything
            _log.error("defect", exception=error, request_id=exchange.request_id, route=self._route)
            await self._tell(SentinelError("The gateway failed to handle this request."))
        finally:
            exchange.close()
            self._worker.forget(exchange)
            metrics.REQUESTS[self._route, str(exchange.status)] += 1

    def _answer(self) -> Coroutine[Any, Any, None]:
        """What answers it, to be awaited."""
        exchange = self._exchange
        path = exchange.path.decode("latin-1")
        if path in self._worker.public_pages:
            return self._operate(path)
        if upgrades.HEADER in exchange.headers.first and path.startswith("/v1"):
            self._check_upgrade()
        if exchange.method == "OPTIONS" and (granted := self._worker.cors.preflight(exchange.headers)):
            return self._grant(granted)
        if path == _USAGE:
            return self._show_usage(path)
        match = routes.match(exchange.method, path)
        self._route = match.route.label
        if not exchange.query.isascii():
            # It would go up in another encoding than it came in (wire.md H8).
            raise BadRequestError("A query must be percent-encoded.")
        if self._worker.draining:
            raise DrainingError
        return self._worker.journey.travel(exchange, match)

    def _check_upgrade(self) -> None:
        """Before anything else is asked: a client of a WebSocket tries again and again until it is told that there is none."""
        if upgrades.asks_websocket(self._exchange.headers, self._scope["http_version"]):
            self._route = "websocket"
            raise upgrades.websocket_refused()

    async def _grant(self, granted: list[tuple[bytes, bytes]]) -> None:
        """A preflight of CORS that is allowed."""
        self._route = "preflight"
        await self._worker.turns.brief()
        await self._write(204, granted, b"")

    async def _show_usage(self, path: str) -> None:
        """A caller's own usage: authenticated, but nothing is held, forwarded or billed."""
        exchange = self._exchange
        self._route = "usage"
        if exchange.method not in {"GET", "HEAD"}:
            raise wire.wrong_method(exchange.method, path, "GET, HEAD")
        if self._worker.draining:
            raise DrainingError
        page = await self._worker.usage_page.render(exchange.headers)
        await self._write(200, [*_JSON, (b"cache-control", b"no-store")], page)

    async def _operate(self, path: str) -> None:
        """Health and metrics, where the public port has them: no caller, no limits."""
        exchange = self._exchange
        self._route = "ops"
        if exchange.method not in {"GET", "HEAD"}:
            raise wire.wrong_method(exchange.method, path, "GET, HEAD")
        if path == "/metrics":
            page = await asyncio.to_thread(self._worker.metrics_page.text)
            await self._write(200, [(b"content-type", metrics_page.CONTENT_TYPE)], page)
        elif path == "/health/live":
            await self._write(*_with(_JSON, self._worker.health.live()))
        else:
            await self._write(*_with(_JSON, await self._worker.health.ready()))

    async def _tell(self, error: SentinelError) -> None:
        """The answer to a failure; nothing where an answer has begun, since the relay has then told it in the stream."""
        exchange = self._exchange
        fault = error.source is not Source.DOWNSTREAM
        if fault or _log.tells_info:
            (_log.warning if fault else _log.info)(
                "request failed" if fault else "request refused",
                request_id=exchange.request_id,
                route=self._route,
                status=error.status,
                code=error.code,
                source=error.source.value,
                # A refusal may quote what the caller sent; only our own faults are told in full.
                message=error.message if fault else "",
                # Its kind alone: a library's error may quote the headers it sent, and with them a key or a token.
                cause=type(error.__cause__).__name__ if fault and error.__cause__ else "",
            )
        if not exchange.started:
            await self._write(error.status, headers.error(error), wire.error_body(error))

    async def _tell_gone(self) -> None:
        """The answer to a client that left. It is still read where only one side is closed, or where the server says
        "disconnect" of a body whose framing is broken; without one the server would answer 500 by itself (wire.md E6).
        """
        exchange = self._exchange
        if not exchange.started:
            gone = BadRequestError("The connection was closed, or the framing of the body is broken.", code="client_closed")
            await self._write(gone.status, headers.error(gone), wire.error_body(gone))
            exchange.status = 499

    async def _write(self, status: int, head: list[tuple[bytes, bytes]], body: bytes) -> None:
        exchange = self._exchange
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]  # RFC 9110 §8.6
        await exchange.start(status, [*head, (b"x-request-id", exchange.request_id.encode()), *length])
        await exchange.finish(body)
        await exchange.linger()


def _with(head: list[tuple[bytes, bytes]], answer: tuple[int, bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    status, body = answer
    return status, head, body


def create() -> Any:
    """The factory Granian calls in every worker."""
    return App()
