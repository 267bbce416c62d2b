"""An OpenAI that runs here: chat completions, completions and models, plain and streamed, with usage as OpenAI sends it.

A process of its own: `python -m sentinel.devstack.provider_simulator --port 0 [--token-ms 20] [--output-tokens 48]`; the key it
accepts comes from SIMULATOR_PROVIDER_KEY. What OpenAI would refuse is refused in OpenAI's shape; what it is asked to do wrong
comes with the request, in the body's extra field `simulate`, an object with any of:

- `status` (that error instead of an answer), with `times` (only for the first so many requests of the same `key`; the key
  is the body's SHA-256 where none is given) and `body` (raw text instead of OpenAI's error); `headers`: added to the answer
- `usage_offset`: added to both counts, or `{"input": …, "output": …}`; `no_usage`; `output_tokens`; `token_ms`
- `delay_ms` before the headers of any answer, `delay_plain_ms` before those of a plain one
- streams only: `stall_after_events` (then silent for `stall_s`, default an hour, and on), `cut_after_events` (then the
  connection is dropped; in a plain answer after half of it), `error_first_event`, `no_done`

Control: `GET /simulator/served` -> `{rows}` (`provider_journal.Row`), `POST /simulator/reset`,
`GET /simulator/connections` -> `{open, active, accepted}`.
"""

import argparse
import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import unquote
from weakref import WeakSet

from aiohttp import web
from aiohttp.typedefs import Middleware

from sentinel import vocab
from sentinel.devstack import provider_script
from sentinel.devstack.listener import listen
from sentinel.devstack.provider_answer import CHAT_PATH, Answer, answered
from sentinel.devstack.provider_journal import Row
from sentinel.devstack.provider_request import RefusedError, prompts, read
from sentinel.protocol.tokens import Tokenizer
from sentinel.records import ChatPrompt, TextPrompt

_Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProviderSimulator:
    """The HTTP side: keys, checks, pace, faults and the journal. What is said comes from `provider_script`."""

    def __init__(self, *, key: str, tokenizer: Tokenizer, token_ms: float, output_tokens: int) -> None:
        self._key = key
        self._tokenizer = tokenizer
        self._token_ms = token_ms
        self._output_tokens = output_tokens
        self._rows: list[Row] = []
        self._failed: Counter[str] = Counter()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._accepted = 0
        self._active = 0
        self.runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[cast("Middleware", self._in_shape)], client_max_size=256 * 2**20)
        app.router.add_post(CHAT_PATH, self._generate)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_get("/simulator/served", self._served)
        app.router.add_get("/simulator/connections", self._connections)
        app.router.add_post("/simulator/reset", self._reset)
        return app

    def opened(self, runner: web.AppRunner) -> None:
        """Take the runner whose connections are to be shown."""
        self.runner = runner

    # OpenAI's own endpoints

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return await self._journalled(request, lambda _row: answered(200, provider_script.model_list()))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        async def answer(row: Row) -> web.Response:
            row.model = unquote(request.match_info["model"])
            if row.model not in provider_script.MODELS:
                message = f"The model '{row.model}' does not exist"
                raise RefusedError(
                    404, provider_script.error(message, "invalid_request_error", param="model", code="model_not_found")
                )
            return await answered(200, provider_script.model_entry(row.model))

        return await self._journalled(request, answer)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        async def answer(row: Row) -> web.StreamResponse:
            body = read(await request.read(), chat=request.path == CHAT_PATH)
            row.user, row.model, row.stream = body.get("user"), body["model"], body.get("stream") is True
            return await Answer(self, request, row, body).send()

        return await self._journalled(request, answer)

    async def _journalled(
        self, request: web.Request, answer: Callable[[Row], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Check the key, answer, and write the row, also for a client that went away."""
        row = Row(request.headers, await request.read())
        self._rows.append(row)
        self._active += 1
        try:
            key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            if not secrets.compare_digest(key.encode(), self._key.encode()):
                raise RefusedError(401, provider_script.wrong_key(key))
            response = await answer(row)
            row.status = response.status
            row.complete = row.complete or not response.prepared
            return response
        except RefusedError as refused:
            row.status = refused.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            row.client_gone = True
            raise
        finally:
            self._active -= 1

    # What an answer needs

    def count(self, body: dict[str, Any], *, chat: bool) -> int:
        """The prompt's tokens, counted as Sentinel counts them."""
        if chat:
            prompt: ChatPrompt | TextPrompt = ChatPrompt(body["messages"], body.get("tools") or body.get("functions") or ())
        else:
            texts, tokens_given = prompts(body)
            prompt = TextPrompt(texts, tokens_given)
        return self._tokenizer.prompt(prompt, body["model"])

    def count_text(self, text: str, model: str) -> int:
        """The tokens of a produced text."""
        return self._tokenizer.text(text, model) if text else 0

    def should_fail(self, simulate: dict[str, Any], row: Row) -> bool:
        """Whether this request is among the first `times` of its key that are to fail."""
        key = str(simulate.get("key", row.body_sha256))
        self._failed[key] += 1
        return bool(self._failed[key] <= simulate.get("times", float("inf")))

    def pace_ms(self, simulate: dict[str, Any]) -> float:
        """The time between two pieces of a stream."""
        return float(simulate.get("token_ms", self._token_ms))

    def output_tokens(self, simulate: dict[str, Any]) -> int:
        """How long an answer would become if nothing capped it."""
        return int(simulate.get("output_tokens", self._output_tokens))

    # Control

    async def _served(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"rows": [row.shown() for row in self._rows]})

    async def _connections(self, _request: web.Request) -> web.StreamResponse:
        server = self.runner.server if self.runner is not None else None
        opened = len(server.connections) if server is not None else 0
        return web.json_response({"open": opened, "active": self._active, "accepted": self._accepted})

    async def _reset(self, _request: web.Request) -> web.StreamResponse:
        self._rows = []
        self._failed.clear()
        self._accepted = 0
        return web.json_response({})

    @web.middleware
    async def _in_shape(self, request: web.Request, **named: _Answering) -> web.StreamResponse:
        """Every failure in OpenAI's error shape; connections are counted on their first request."""
        if request.transport is not None and request.transport not in self._transports:
            self._transports.add(request.transport)
            self._accepted += 1
        try:
            return await named["handler"](request)  # the name is aiohttp's
        except RefusedError as refused:
            return await answered(refused.status, refused.body)
        except web.HTTPMethodNotAllowed as error:
            message = (
                f"Not allowed to {request.method} on {request.path} (HINT: Perhaps you meant to use a different HTTP method?)"
            )
            body = provider_script.error(message, "invalid_request_error")
            return web.json_response(body, status=405, headers={"Allow": error.headers["Allow"]})
        except web.HTTPException as error:
            body = provider_script.error(f"Invalid URL ({request.method} {request.path})", "invalid_request_error")
            return await answered(error.status, body)


def main() -> None:
    """Run the simulator until it is told to stop."""
    parser = argparse.ArgumentParser(prog="provider_simulator")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-ms", type=float, default=20)
    parser.add_argument("--output-tokens", type=int, default=48)
    arguments = parser.parse_args()
    simulator = ProviderSimulator(
        key=os.environ["SIMULATOR_PROVIDER_KEY"],
        tokenizer=Tokenizer.load(vocab.ranks),
        token_ms=arguments.token_ms,
        output_tokens=arguments.output_tokens,
    )
    asyncio.run(listen(simulator.application(), arguments.port, opened=simulator.opened))


if __name__ == "__main__":
    main()
