"""The ASGI callable: lifespan, the path table, and the only place where an error becomes a response.

Fails in OpenAI's shape: a `SentinelError` is answered with its own status, anything else is a defect, answered as a
bare 500 and logged with its trace. What cannot be opened at start-up is told to the server
(`lifespan.startup.failed`), which then stops.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any, Final

from sentinel.admin import metrics_page
from sentinel.downstream import websocket_upgrade
from sentinel.downstream.body_budget import Receive
from sentinel.downstream.exchange import Exchange, Scope, Send
from sentinel.openai import headers, routes, wire
from sentinel.ops import logs, metrics, settings
from sentinel.ops.errors import BadRequestError, ClientGoneError, DrainingError, SentinelError, Source
from sentinel.ops.logs import Log
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
    """The application one worker serves. `listener` is a copy of the socket it serves on, where there is one.

    `usual`: see Journey.
    """

    def __init__(self, *, usual: bool = True) -> None:
        self._usual = usual
        self.listener: socket.socket | None = None
        self._worker: Worker | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3. A request ends with exactly one answer, or with a client that left."""
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        worker = self._worker
        assert worker is not None
        exchange = Exchange(scope, receive, send, next(worker.request_ids))
        worker.beginning.add(exchange)
        if worker.cors is not None:
            exchange.always = worker.cors.answer(exchange.headers)
        try:
            await self._answering(worker, exchange)
        except ClientGoneError:
            await _tell_gone(exchange)
        except SentinelError as error:
            await _tell(exchange, await worker.journey.refuse(exchange, error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody has cancelled the request, but the worker ends, and with it what the request has waited for.
            await _tell(exchange, DrainingError())
        except Exception as error:  # noqa: BLE001 - a defect: the caller gets a bare 500, the log gets everything
            _log.error("defect", exception=error, request_id=exchange.request_id, route=exchange.route)
            await _tell(exchange, SentinelError("The gateway failed to handle this request."))
        finally:
            exchange.close()
            worker.beginning.discard(exchange)
            worker.going_on.discard(exchange)
            metrics.REQUESTS[exchange.route, str(exchange.status)] += 1

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
        self._worker = Worker(effective, self.listener, usual=self._usual)
        await self._worker.open()
        asyncio.get_running_loop().add_signal_handler(DRAIN_SIGNAL, self._worker.drain)
        if signal.sigpending() & {*_STOP_SIGNALS, DRAIN_SIGNAL}:
            # Told to stop since the fork, before it could hear. It has served nothing yet, and begins with nothing.
            signal.sigtimedwait(_STOP_SIGNALS, _STOP_S)
            await self._worker.close()
            os._exit(0)  # all is closed; what is raised here would be logged as a failure that nobody has read
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOP_SIGNALS, DRAIN_SIGNAL})

    def _answering(self, worker: Worker, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """The path table: what answers it, to be awaited."""
        path = exchange.path
        if path in worker.public_pages:
            return _operate(worker, exchange, path)
        if websocket_upgrade.HEADER in exchange.headers.first and path.startswith("/v1"):
            _check_upgrade(exchange)
        if exchange.method == "OPTIONS" and worker.cors is not None and (granted := worker.cors.preflight(exchange.headers)):
            return _grant(worker, exchange, granted)
        if path == _USAGE:
            return _show_usage(worker, exchange, path)
        match = routes.DIRECT.get((exchange.method, path)) or routes.match(exchange.method, path)
        exchange.match, exchange.route = match, match.route.label
        if not exchange.query.isascii():
            # It would go up in another encoding than it came in (rule H8).
            raise BadRequestError("A query must be percent-encoded.")
        if worker.draining:
            raise DrainingError
        return worker.journey.handle(exchange, match)


def _check_upgrade(exchange: Exchange) -> None:
    """Before anything else is asked: a client of a WebSocket tries again and again until it is told that there is none."""
    if websocket_upgrade.asks_websocket(exchange.headers, exchange.scope["http_version"]):
        exchange.route = "websocket"
        raise websocket_upgrade.websocket_refused()


async def _grant(worker: Worker, exchange: Exchange, granted: list[tuple[bytes, bytes]]) -> None:
    """A preflight of CORS that is allowed."""
    exchange.route = "preflight"
    await worker.turns.brief()
    await _write(exchange, 204, granted, b"")


async def _show_usage(worker: Worker, exchange: Exchange, path: str) -> None:
    """A caller's own usage: authenticated, but nothing is held, forwarded or billed."""
    exchange.route = "usage"
    if exchange.method not in {"GET", "HEAD"}:
        raise wire.wrong_method(exchange.method, path, "GET, HEAD")
    if worker.draining:
        raise DrainingError
    page = await worker.usage_page.render(exchange.headers)
    await _write(exchange, 200, [*_JSON, (b"cache-control", b"no-store")], page)


async def _operate(worker: Worker, exchange: Exchange, path: str) -> None:
    """Health and metrics, where the public port has them: no caller, no limits."""
    exchange.route = "ops"
    if exchange.method not in {"GET", "HEAD"}:
        raise wire.wrong_method(exchange.method, path, "GET, HEAD")
    if path == "/metrics":
        page = await asyncio.to_thread(worker.metrics_page.text)
        await _write(exchange, 200, [(b"content-type", metrics_page.CONTENT_TYPE)], page)
    elif path == "/health/live":
        await _write(exchange, *_with(_JSON, worker.health.live()))
    else:
        await _write(exchange, *_with(_JSON, await worker.health.ready()))


async def _tell(exchange: Exchange, error: SentinelError) -> None:
    """The answer to a failure; nothing where an answer has begun, since the relay has then told it in the stream."""
    fault = error.source is not Source.DOWNSTREAM
    if fault or _log.info_enabled:
        (_log.warning if fault else _log.info)(
            "request failed" if fault else "request refused",
            request_id=exchange.request_id,
            route=exchange.route,
            status=error.status,
            code=error.code,
            source=error.source.value,
            # A refusal may quote what the caller sent; only our own faults are told in full.
            message=error.message if fault else "",
            # Its kind alone: a library's error may quote the headers it sent, and with them a key or a token.
            cause=type(error.__cause__).__name__ if fault and error.__cause__ else "",
        )
    if not exchange.started:
        await _write(exchange, error.status, headers.error(error), wire.error_body(error))


async def _tell_gone(exchange: Exchange) -> None:
    """The answer to a client that left. It is still read where only one side is closed, or where the server says
    "disconnect" of a body whose framing is broken; without one the server would answer 500 by itself (rule E6).
    """
    if not exchange.started:
        gone = BadRequestError("The connection was closed, or the framing of the body is broken.", code="client_closed")
        await _write(exchange, gone.status, headers.error(gone), wire.error_body(gone))
        exchange.status = 499


async def _write(exchange: Exchange, status: int, head: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]  # RFC 9110 §8.6
    await exchange.answer(status, [*head, (b"x-request-id", exchange.request_id.encode()), *length], body)
    await exchange.linger()


def _with(head: list[tuple[bytes, bytes]], answer: tuple[int, bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    status, body = answer
    return status, head, body


def create() -> Any:
    """The factory Granian calls in every worker."""
    return App()
