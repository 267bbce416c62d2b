"""The Responses API: plain, streamed, in the background, resumed; stored ones; input tokens; compaction (rule P1-P4).

Raises `RefusedError`, and what aiohttp raises when the client is gone. Work in the background does not notice that.
"""

import asyncio
import secrets
import time
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider import kinds, prompt
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import refused
from sentinel.devstack.provider.objects import Collection, Routes
from sentinel.devstack.provider.response_script import ResponseScript, usage
from sentinel.devstack.provider.sending import EventStream, reply
from sentinel.devstack.provider.store import Thing, page

PATH: Final = "/v1/responses"
STORED: Final = Collection(PATH, "response_id", kinds.RESPONSE, gone="response")
_ENDED: Final = ("completed", "incomplete", "failed", "cancelled")


class _Work:
    """One response being made, from what was asked to what is stored."""

    def __init__(self, asked: Asked) -> None:
        body = asked.fields
        self.asked = asked
        self._model = asked.model()
        self._stored = body.get("store") is not False
        self._conversation = _conversation(asked)
        self._items = _items(asked)
        self._input_tokens = _input_tokens(asked, self._conversation, self._items)
        self._tokens = self._input_tokens
        wanted = asked.output_tokens
        cap = wanted if body.get("max_output_tokens") is None else int(body["max_output_tokens"])
        cut_short = asked.scripted is None and cap < wanted
        self.script = ResponseScript(
            body,
            asked.said(min(wanted, cap)),
            ending="failed" if asked.simulate.get("fail") else "incomplete" if cut_short else "completed",
            conversation=self._conversation.id if self._conversation else "",
        )
        self.thing = Thing(kinds.RESPONSE, self.script.id, "", self.script.shown("queued"))
        self._events: list[bytes] = []
        self._news = asyncio.Event()

    def begin(self) -> None:
        """Its prompt counts from here on."""
        self.asked.row.input_tokens = self._input_tokens

    def spend(self, text: str, *, reported: bool = True) -> dict[str, Any] | None:
        """The usage of what was said, written into the row; None where none is to be reported."""
        produced = self.asked.desk.count_text(text, self._model)
        self._tokens = self._input_tokens + produced
        given, produced = self.asked.spent(self._input_tokens, produced, reported=reported)
        return None if self.asked.simulate.get("no_usage") else usage(given, produced)

    def keep(self, spent: dict[str, Any] | None) -> None:
        """It has ended: store it, and add it to its conversation."""
        self.thing.shown = self.script.shown(self.script.ending, spent)
        self.save()
        if self._conversation is not None:
            for item in [*self._items, *self.thing.shown["output"]]:
                self.asked.desk.store.put(Thing(kinds.ITEM, item["id"], self._conversation.id, item))

    def save(self) -> None:
        """Store it as it is."""
        self.thing.hidden |= {"items": self._items, "tokens": self._tokens, "work": self}
        if self._stored:
            store = self.asked.desk.store
            store.put(self.thing)
            for item in [*self._items, *self.thing.shown["output"]]:
                store.put(Thing(kinds.REFERABLE, item["id"], "", item))

    # In the background

    async def run(self) -> None:
        """Do the work, whoever looks on; the tokens go into the row of the request that began it."""
        asked, streamed = self.asked, self.asked.row.stream
        said = ""
        self._tell(*self.script.opening(queued=True))
        self.thing.shown = self.script.shown("in_progress")
        if not streamed or "background_s" in asked.simulate:
            await asyncio.sleep(asked.background_s)
        for event, text in self.script.events():
            if self.thing.shown["status"] == "cancelled":
                return
            if text and streamed:
                await asked.pace()
            said += text
            self._tell(event)
        spent = self.spend(said)
        self.keep(spent)
        self._tell(self.script.last(spent))

    def cancel(self) -> None:
        """End it now; nothing was used, as far as anyone is told."""
        self.thing.shown = self.script.shown("cancelled")
        self._tell()

    def _tell(self, *events: bytes) -> None:
        """Add events, and wake all who follow."""
        self._events += events
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, asked: Asked, start: int) -> web.StreamResponse:
        """Send the events from number `start` on, as they come."""
        stream = EventStream(asked)
        await stream.open()
        at = start
        while True:
            news = self._news
            while at < len(self._events):
                if not await stream.send(self._events[at]):
                    return stream.response
                at += 1
            if self.thing.shown["status"] in _ENDED:
                break
            if news is self._news:
                await news.wait()
        await stream.close()
        return stream.response


async def create(asked: Asked) -> web.StreamResponse:
    """POST /v1/responses."""
    work = _Work(asked)
    if asked.fields.get("background") is True:
        return await _background(work)
    work.begin()
    if asked.row.stream:
        return await _stream(work)
    await asked.delay()
    asked.row.status = 200
    work.keep(work.spend(work.script.produced))
    return await reply(asked, work.thing.shown)


async def _background(work: _Work) -> web.StreamResponse:
    asked = work.asked
    if asked.fields.get("store") is False:
        raise refused(400, "Background responses require store=true.", param="background")
    await asked.delay()
    queued = work.thing.shown
    work.save()
    asked.desk.start(work.run())
    return await work.follow(asked, 0) if asked.row.stream else await reply(asked, queued)


async def _stream(work: _Work) -> web.StreamResponse:
    asked, script = work.asked, work.script
    stream = EventStream(asked)
    await stream.open()
    if asked.simulate.get("error_first_event"):
        asked.row.input_tokens = 0
        await stream.write(script.error())
        return stream.response
    said, whole = "", True
    try:
        for event in script.opening(queued=False):
            whole = whole and await stream.send(event)
        for event, text in script.events() if whole else ():
            if text:
                await asked.pace()
            whole = await stream.send(event)
            if not whole:
                break
            said += text
    except BaseException:
        whole = False
        raise
    finally:
        spent = work.spend(said, reported=whole)
    if whole:
        work.keep(spent)
        if not asked.simulate.get("no_terminal"):
            await stream.write(script.last(spent))
        await stream.close()
    return stream.response


def _items(asked: Asked) -> list[dict[str, Any]]:
    """The input; what it refers to stands in it as it was stored."""
    store = asked.desk.store
    items = prompt.items(asked.fields.get("input"))
    return [store.get(kinds.REFERABLE, one["id"]).shown if one["type"] == "item_reference" else one for one in items]


def _conversation(asked: Asked) -> Thing | None:
    """The conversation it belongs to, which must exist; an earlier response must, too."""
    body = asked.fields
    earlier = body.get("previous_response_id")
    if earlier and asked.desk.store.find(kinds.RESPONSE, earlier) is None:
        message = f"Previous response with id '{earlier}' not found."
        raise refused(400, message, param="previous_response_id", code="previous_response_not_found")
    named = body.get("conversation")
    if not named:
        return None
    if earlier:
        raise refused(400, "Use either 'conversation' or 'previous_response_id'.", param="conversation")
    return asked.desk.store.get(kinds.CONVERSATION, named["id"] if isinstance(named, dict) else named)


def _input_tokens(asked: Asked, conversation: Thing | None, items: list[dict[str, Any]]) -> int:
    """All that goes in: instructions, tools, what came before, what is new."""
    body, store = asked.fields, asked.desk.store
    before = [thing.shown for thing in store.all(kinds.ITEM, conversation.id)] if conversation else []
    tokens = asked.desk.count_messages(
        prompt.messages([*before, *items], body.get("instructions")), asked.row.model, body.get("tools") or ()
    )
    earlier = store.find(kinds.RESPONSE, body.get("previous_response_id") or "")
    return tokens + (earlier.hidden["tokens"] if earlier else 0)


# What is stored


async def show(asked: Asked) -> web.StreamResponse:
    """GET /v1/responses/{id}, or its events after `starting_after`; never charged (rule P3)."""
    thing = STORED.thing(asked)
    if asked.request.query.get("stream") != "true":
        return await reply(asked, thing.shown)
    work: _Work = thing.hidden["work"]
    if not (work.asked.row.stream and thing.shown["background"]):
        raise refused(400, "This response cannot be streamed because it was not created with background=true and stream=true.")
    asked.row.stream = True
    after = asked.request.query.get("starting_after")
    if after is not None and not after.isdecimal():
        raise refused(400, f"Invalid 'starting_after': '{after}'.", param="starting_after")
    return await work.follow(asked, 0 if after is None else int(after) + 1)


async def cancel(asked: Asked) -> web.StreamResponse:
    """POST /v1/responses/{id}/cancel: only what is in the background."""
    thing = STORED.thing(asked)
    if not thing.shown["background"]:
        raise refused(400, "Only responses created with background=true can be cancelled.")
    if thing.shown["status"] not in _ENDED:
        thing.hidden["work"].cancel()
    return await reply(asked, thing.shown)


async def input_items(asked: Asked) -> web.StreamResponse:
    """GET /v1/responses/{id}/input_items."""
    return await reply(asked, page(STORED.thing(asked).hidden["items"], asked.request.query))


async def input_tokens(asked: Asked) -> web.StreamResponse:
    """POST /v1/responses/input_tokens: counted, not charged (rule P4)."""
    asked.model("gpt-4o")
    tokens = _input_tokens(asked, _conversation(asked), _items(asked))
    return await reply(asked, {"object": "response.input_tokens", "input_tokens": tokens})


async def compact(asked: Asked) -> web.StreamResponse:
    """POST /v1/responses/compact: the input, and one item that stands for what came before; charged."""
    asked.model()
    asked.row.input_tokens = before = _input_tokens(asked, _conversation(asked), _items(asked))
    await asked.delay()
    packed = secrets.token_urlsafe(60)
    spent = usage(*asked.spent(before, asked.output_tokens))
    name = secrets.token_hex(16)
    shown = {
        "id": f"resp_{name}",
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [{"id": f"cmp_{name}", "type": "compaction", "encrypted_content": packed}],
        "usage": None if asked.simulate.get("no_usage") else spent,
    }
    return await reply(asked, shown)


def routes() -> Routes:
    """The rows of the route table."""
    yield "POST", PATH, create
    yield "POST", f"{PATH}/input_tokens", input_tokens
    yield "POST", f"{PATH}/compact", compact
    yield "GET", f"{PATH}/{{response_id}}", show
    yield "GET", f"{PATH}/{{response_id}}/input_items", input_items
    yield "POST", f"{PATH}/{{response_id}}/cancel", cancel
    yield from (row for row in STORED.routes() if row[0] == "DELETE")
