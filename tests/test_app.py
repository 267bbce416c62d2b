"""app: what becomes an answer, whatever a request ends with."""

import asyncio
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sentinel.app import App


def request(waits_for: "asyncio.Future[None]", sent: list[MutableMapping[str, Any]]) -> "asyncio.Task[None]":
    """A request whose journey waits for something that others wait for as well."""

    async def handle(*_: object) -> None:
        await asyncio.shield(waits_for)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    app = App()
    app._worker = SimpleNamespace(  # type: ignore[assignment]
        request_ids=iter(["req_1"]),
        beginning=set(),
        cors=None,
        going_on=set(),
        public_pages=frozenset(),
        draining=False,
        journey=SimpleNamespace(handle=handle),
    )
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "headers": [], "http_version": "1.1"}
    return asyncio.ensure_future(app(scope, receive, send))


@pytest.mark.asyncio
async def test_what_ends_with_its_worker_is_told() -> None:
    """A request whose question is ended with the worker gets a 503 with its id, not the bare 500 of the server."""
    question: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sent: list[MutableMapping[str, Any]] = []
    task = request(question, sent)
    await asyncio.sleep(0)
    question.cancel()
    await task
    assert sent[0]["status"] == 503
    assert (b"x-request-id", b"req_1") in sent[0]["headers"]
    assert msgspec.json.decode(sent[1]["body"])["error"]["code"] == "draining"


@pytest.mark.asyncio
async def test_a_request_that_is_cancelled_itself_ends() -> None:
    """Whoever cancels the request waits for its end, not for an answer."""
    question: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sent: list[MutableMapping[str, Any]] = []
    task = request(question, sent)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sent
