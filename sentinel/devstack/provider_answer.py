"""One answer of the provider's simulator on its way to one client, at its pace and with the faults it was asked for.

Raises what aiohttp raises when the client is gone (ConnectionError, CancelledError); its row then says what was produced.
"""

import asyncio
import json
import secrets
from typing import Any, Final, Protocol

from aiohttp import web

from sentinel.devstack import provider_script
from sentinel.devstack.provider_journal import Row
from sentinel.devstack.provider_request import prompts

CHAT_PATH: Final = "/v1/chat/completions"
STALL_S: Final = 3600.0
_CAPS: Final = ("max_completion_tokens", "max_tokens")


class Desk(Protocol):
    """What an answer needs of the simulator: its counting, its pace, its memory of failures."""

    def count(self, body: dict[str, Any], *, chat: bool) -> int:
        """The prompt's tokens."""

    def count_text(self, text: str, model: str) -> int:
        """The tokens of a produced text."""

    def should_fail(self, simulate: dict[str, Any], row: Row) -> bool:
        """Whether this request is among those that are to fail."""

    def pace_ms(self, simulate: dict[str, Any]) -> float:
        """The time between two pieces of a stream."""

    def output_tokens(self, simulate: dict[str, Any]) -> int:
        """How long an answer would become if nothing capped it."""


class Answer:
    """One generated answer on its way to one client."""

    def __init__(self, desk: Desk, request: web.Request, row: Row, body: dict[str, Any]) -> None:
        self._desk = desk
        self._request = request
        self._row = row
        self._simulate: dict[str, Any] = body.get("simulate") or {}
        chat = request.path == CHAT_PATH
        self._chat = chat
        self._input_tokens = desk.count(body, chat=chat)
        wanted = desk.output_tokens(self._simulate)
        cap = next((body[name] for name in _CAPS if body.get(name) is not None), wanted)
        choices = (body.get("n") or 1) * (1 if chat else max(1, len(prompts(body)[0])))
        self._script = provider_script.Script(
            body, chat=chat, output_tokens=min(wanted, cap), cut_short=cap < wanted, choices=choices
        )

    async def send(self) -> web.StreamResponse:
        """Answer as asked. ConnectionError or CancelledError when the client is gone."""
        simulate, row = self._simulate, self._row
        delay_ms = simulate.get("delay_ms", 0) + (0 if row.stream else simulate.get("delay_plain_ms", 0))
        if simulate.get("status") and self._desk.should_fail(simulate, row):
            await asyncio.sleep(delay_ms / 1000)
            return _failed(simulate)
        row.input_tokens = self._input_tokens
        await asyncio.sleep(delay_ms / 1000)
        row.status = 200
        if row.stream:
            return await self._stream()
        spent = self._spent(["".join(self._script.pieces)] * self._script.choices)
        response = await answered(200, self._script.whole(None if simulate.get("no_usage") else spent))
        response.headers.update(simulate.get("headers") or {})
        if "cut_after_events" in simulate:
            return await self._half(response)
        return response

    async def _stream(self) -> web.StreamResponse:
        simulate, row = self._simulate, self._row
        response = web.StreamResponse(headers={**_headers(), "content-type": "text/event-stream; charset=utf-8"})
        response.headers["cache-control"] = "no-cache"
        response.headers.update(simulate.get("headers") or {})
        await response.prepare(self._request)
        if simulate.get("error_first_event"):
            row.input_tokens = 0
            failure = provider_script.error("The server had an error while processing your request.", "server_error")
            await response.write(b"data: " + json.dumps(failure).encode() + b"\n\n")
            return response
        texts = [""] * self._script.choices
        whole = False
        try:
            whole = await self._produce(response, texts)
        finally:
            spent = self._spent(texts, reported=whole)
        if whole:
            if self._script.usage_shown and not simulate.get("no_usage"):
                await response.write(self._script.usage_event(spent))
            if not simulate.get("no_done"):
                await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            row.complete = True
        return response

    async def _produce(self, response: web.StreamResponse, texts: list[str]) -> bool:
        """Send the events at their pace and note what was said; False if the connection was to be cut on the way."""
        simulate = self._simulate
        pace_ms = self._desk.pace_ms(simulate)
        for count, (event, index, text) in enumerate(self._script.events()):
            if count == simulate.get("stall_after_events"):
                await asyncio.sleep(simulate.get("stall_s", STALL_S))
            if count == simulate.get("cut_after_events"):
                self._cut()
                return False
            if pace_ms and text and index == 0:
                await asyncio.sleep(pace_ms / 1000)
            elif count % 16 == 15:
                await asyncio.sleep(0)  # else a client that left is noticed only at the end
            await response.write(event)
            texts[index] += text
        return True

    def _spent(self, texts: list[str], *, reported: bool = True) -> dict[str, Any]:
        """The usage of these texts, written into the row; the offset counts only in what is reported."""
        offset = self._simulate.get("usage_offset", 0) if reported and not self._simulate.get("no_usage") else 0
        more = offset if isinstance(offset, dict) else {"input": offset, "output": offset}
        row = self._row
        row.input_tokens = self._input_tokens + more.get("input", 0)
        row.output_tokens = sum(self._desk.count_text(text, row.model) for text in texts) + more.get("output", 0)
        return provider_script.usage(row.input_tokens, row.output_tokens, chat=self._chat)

    async def _half(self, response: web.Response) -> web.StreamResponse:
        """A plain answer that breaks off in its middle, under a content-length that promised all of it."""
        body = response.body
        assert isinstance(body, bytes)
        half = web.StreamResponse(headers=response.headers)
        half.content_length = len(body)
        await half.prepare(self._request)
        await half.write(body[: len(body) // 2])
        self._cut()
        return half

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.close()  # after what was written, unlike abort()


def _headers() -> dict[str, str]:
    return {**provider_script.EDGE_HEADERS, "x-request-id": f"req_{secrets.token_hex(16)}", "server": "cloudflare"}


async def answered(status: int, body: dict[str, Any]) -> web.Response:
    """A JSON answer under the headers of a real provider's edge."""
    return web.json_response(body, status=status, headers=_headers())


def _failed(simulate: dict[str, Any]) -> web.Response:
    """The error status that was asked for."""
    status = int(simulate["status"])
    text = simulate.get("body") or json.dumps(provider_script.status_error(status))
    response = web.Response(status=status, text=text, content_type="text/html" if "body" in simulate else "application/json")
    response.headers.update({**_headers(), **(simulate.get("headers") or {})})
    return response
