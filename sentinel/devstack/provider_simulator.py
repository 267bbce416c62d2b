"""An OpenAI that runs here: its whole public API, plain and streamed, with usage as OpenAI sends it.

A process of its own: `python -m sentinel.devstack.provider_simulator --port 0 [--token-ms 20] [--output-tokens 48]`; the key it
accepts comes from SIMULATOR_PROVIDER_KEY. All objects belong to that one account. What OpenAI would refuse is refused in
OpenAI's shape; what it is asked to do wrong comes with the request as `simulate`: an object in a JSON body, the JSON of one in
a form's field or in the query. Any of:

- `status` (that error instead of an answer), with `times` (only for the first so many requests of the same `key`; the key
  is the request's method, path and body where none is given) and `body` (raw text instead of OpenAI's error); `headers`: added
  to the answer; `gzip`: the answer is compressed, though nobody asked for that
- `usage_offset`: added to both counts, or `{"input": …, "output": …}`; `no_usage`; `output_tokens`; `token_ms`
- `delay_ms` before the headers of any answer, `delay_plain_ms` before those of a plain one
- streams only: `stall_after_events` (then silent for `stall_s`, default an hour, and on), `cut_after_events` (then the
  connection is dropped; in a plain answer after half of it), `error_first_event`; `no_done` (chat), `no_terminal` (responses).
  In generated content blocks of 64 KiB count as events
- `call`: a chat, a response or a run that was given tools calls the one of this name, with what it would have said as its
  argument; `fail`: a response ends as failed, with usage
- `background_s` (default 0.3): how long a background response, a run, a batch and other jobs take

Forms: a file named `refuse-early` or `refuse-early-413` is refused (400, 413) as soon as its name was read. A file of the
purpose `simulate-N` or `simulate-N-chunked` has N bytes of generated content (`provider.sending.generated`). `user` is taken
for the journal from the body, the form or the query.

Control: `GET /simulator/served` -> `{rows}` (`provider.journal.Row`), `POST /simulator/reset`, `POST /simulator/plays` with a
scripted conversation (`provider.plays.Play`), in which the simulator plays the model of an agent that sends no fields of ours,
`GET /simulator/connections` -> `{open, active, accepted}`.
"""

import argparse
import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, cast
from weakref import WeakSet

from aiohttp import web
from aiohttp.typedefs import Middleware

from sentinel.devstack import provider_script
from sentinel.devstack.listener import listen
from sentinel.devstack.provider import (
    assistants,
    chat,
    embeddings,
    files,
    jobs,
    media,
    responses,
    runs,
    shelves,
    vectors,
    verdicts,
)
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import RefusedError, refused
from sentinel.devstack.provider.desk import Desk
from sentinel.devstack.provider.journal import Row
from sentinel.devstack.provider.objects import Route
from sentinel.devstack.provider.sending import edge_headers, failed
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import vocab

_Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BODY_BYTES_MAX: Final = 256 * 2**20
_ROUTES: Final = (
    *chat.ROUTES,
    *embeddings.ROUTES,
    *verdicts.ROUTES,
    *responses.routes(),
    *files.routes(),
    *vectors.routes(),
    *runs.routes(),
    *assistants.routes(),
    *jobs.routes(),
    *shelves.routes(),
    *media.routes(),
)


class ProviderSimulator:
    """The HTTP side: routes, keys, the journal. What is answered comes from the families in `provider`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._rows: list[Row] = []
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._accepted = 0
        self._active = 0
        self.runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[cast("Middleware", self._in_shape)], client_max_size=_BODY_BYTES_MAX)
        for method, path, route in _ROUTES:
            app.router.add_route(method, path, self._journalled(route))
        app.router.add_get("/simulator/served", self._served)
        app.router.add_get("/simulator/connections", self._connections)
        app.router.add_post("/simulator/reset", self._reset)
        app.router.add_post("/simulator/plays", self._play)
        return app

    def opened(self, runner: web.AppRunner) -> None:
        """Take the runner whose connections are to be shown."""
        self.runner = runner

    # OpenAI's own endpoints

    def _journalled(self, route: Route) -> _Answering:
        """`route` with its checks before it, and its row of the journal."""

        async def answer(request: web.Request) -> web.StreamResponse:
            row = _row(request)
            asked = Asked(self._desk, request, row)
            raw = b""
            if not asked.is_form:
                raw = await request.read()
                row.body_sha256 = hashlib.sha256(raw).hexdigest()
            self._rows.append(row)
            self._active += 1
            try:
                self._check_key(request)
                await asked.read(raw)
                response = await self._fault_or(route, asked)
                row.status = response.status
                row.complete = row.complete or not response.prepared
                return response
            except RefusedError as refusal:
                row.status = refusal.status
                raise
            except (asyncio.CancelledError, ConnectionError):
                row.client_gone = True
                raise
            finally:
                self._active -= 1

        return answer

    def _unrouted(self, request: web.Request, status: int) -> None:
        """Note a request that no route is there for."""
        row = _row(request)
        row.status, row.complete = status, True
        self._rows.append(row)

    def _check_key(self, request: web.Request) -> None:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not secrets.compare_digest(key.encode(), self._desk.key.encode()):
            raise RefusedError(401, provider_script.wrong_key(key))

    async def _fault_or(self, route: Route, asked: Asked) -> web.StreamResponse:
        """The error that was asked for, or the answer."""
        if asked.simulate.get("status") and self._desk.should_fail(asked.simulate, asked.row):
            await asked.delay()
            return failed(asked)
        try:
            return await route(asked)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise refused(400, f"A value in the request is of the wrong type: {error!r}.") from error

    # Control

    async def _served(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"rows": [row.shown() for row in self._rows]})

    async def _play(self, request: web.Request) -> web.StreamResponse:
        try:
            self._desk.plays.add(await request.read())
        except ValueError as error:
            raise refused(400, f"This is no play: {error}.") from error
        return web.json_response({})

    async def _connections(self, _request: web.Request) -> web.StreamResponse:
        server = self.runner.server if self.runner is not None else None
        opened = len(server.connections) if server is not None else 0
        return web.json_response({"open": opened, "active": self._active, "accepted": self._accepted})

    async def _reset(self, _request: web.Request) -> web.StreamResponse:
        self._rows = []
        self._desk.reset()
        self._accepted = 0
        return web.json_response({})

    @web.middleware
    async def _in_shape(self, request: web.Request, **named: _Answering) -> web.StreamResponse:
        """Every failure in OpenAI's error shape; connections are counted on their first request."""
        if request.transport is not None and request.transport not in self._transports:
            self._transports.add(request.transport)
            self._accepted += 1
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self._unrouted(request, 426)
            body = provider_script.error("WebSockets are not simulated.", "invalid_request_error")
            return web.json_response(body, status=426, headers={**edge_headers(), "Upgrade": "HTTP/1.1"})
        try:
            return await named["handler"](request)  # the name is aiohttp's
        except RefusedError as refusal:
            return web.json_response(refusal.body, status=refusal.status, headers=edge_headers())
        except web.HTTPMethodNotAllowed as error:
            self._unrouted(request, error.status)
            message = (
                f"Not allowed to {request.method} on {request.path} (HINT: Perhaps you meant to use a different HTTP method?)"
            )
            body = provider_script.error(message, "invalid_request_error")
            return web.json_response(body, status=405, headers={**edge_headers(), "Allow": error.headers["Allow"]})
        except web.HTTPException as error:
            self._unrouted(request, error.status)
            body = provider_script.error(f"Invalid URL ({request.method} {request.path})", "invalid_request_error")
            return web.json_response(body, status=error.status, headers=edge_headers())


def _row(request: web.Request) -> Row:
    return Row(request.headers, request.method, request.rel_url.raw_path, request.rel_url.raw_query_string)


def main() -> None:
    """Run the simulator until it is told to stop."""
    parser = argparse.ArgumentParser(prog="provider_simulator")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-ms", type=float, default=20)
    parser.add_argument("--output-tokens", type=int, default=48)
    arguments = parser.parse_args()
    desk = Desk(
        key=os.environ["SIMULATOR_PROVIDER_KEY"],
        tokenizer=Tokenizer.load(vocab.ranks),
        token_ms=arguments.token_ms,
        output_tokens=arguments.output_tokens,
    )
    simulator = ProviderSimulator(desk)
    asyncio.run(listen(simulator.application(), arguments.port, opened=simulator.opened))


if __name__ == "__main__":
    main()
