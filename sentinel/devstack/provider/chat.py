"""Chat completions and completions, plain and streamed, and the chat completions that were stored.

Raises `RefusedError`, and what aiohttp raises when the client is gone.
"""

from typing import Any, Final

from aiohttp import web

from sentinel.devstack import provider_script
from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import check_generation, prompts
from sentinel.devstack.provider.sending import EventStream, event, reply
from sentinel.devstack.provider.store import Thing, page
from sentinel.ops.records import ChatPrompt, TextPrompt

CHAT_PATH: Final = "/v1/chat/completions"
_CAPS: Final = ("max_completion_tokens", "max_tokens")


async def generate(asked: Asked) -> web.StreamResponse:
    """POST /v1/chat/completions and /v1/completions."""
    return await _Answer(asked).send()


class _Answer:
    """One generated answer on its way to one client."""

    def __init__(self, asked: Asked) -> None:
        body = asked.fields
        self._chat = asked.request.path == CHAT_PATH
        check_generation(body, chat=self._chat)
        self._asked = asked
        model = asked.model()
        prompt: ChatPrompt | TextPrompt = (
            ChatPrompt(body["messages"], body.get("tools") or body.get("functions") or ())
            if self._chat
            else TextPrompt(*prompts(body))
        )
        self._input_tokens = asked.desk.count(prompt, model)
        wanted = asked.output_tokens
        cap = next((body[name] for name in _CAPS if body.get(name) is not None), wanted)
        choices = (body.get("n") or 1) * (1 if self._chat else max(1, len(prompts(body)[0])))
        self._script = provider_script.Script(
            body,
            asked.said(min(wanted, cap), calling=self._chat),
            chat=self._chat,
            cut_short=asked.scripted is None and cap < wanted,
            choices=choices,
        )

    async def send(self) -> web.StreamResponse:
        """Answer as asked. ConnectionError or CancelledError when the client is gone."""
        asked = self._asked
        asked.row.input_tokens = self._input_tokens
        if asked.row.stream:
            return await self._stream()
        await asked.delay()
        asked.row.status = 200
        spent = self._spent([self._script.produced] * self._script.choices)
        whole = self._script.whole(None if asked.simulate.get("no_usage") else spent)
        self._keep(whole)
        return await reply(asked, whole)

    async def _stream(self) -> web.StreamResponse:
        asked = self._asked
        stream = EventStream(asked)
        await stream.open()
        if asked.simulate.get("error_first_event"):
            asked.row.input_tokens = 0
            await stream.write(event(provider_script.status_error(500)))
            return stream.response
        texts = [""] * self._script.choices
        whole = False
        try:
            whole = await self._produce(stream, texts)
        finally:
            spent = self._spent(texts, reported=whole)
        if whole:
            self._keep(self._script.whole(spent))
            if self._script.usage_shown and not asked.simulate.get("no_usage"):
                await stream.write(self._script.usage_event(spent))
            if not asked.simulate.get("no_done"):
                await stream.write(b"data: [DONE]\n\n")
            await stream.close()
        return stream.response

    async def _produce(self, stream: EventStream, texts: list[str]) -> bool:
        """Send the events at their pace and note what was said; False if the connection was to be cut on the way."""
        for piece, index, text in self._script.events():
            if text and index == 0:
                await self._asked.pace()
            if not await stream.send(piece):
                return False
            texts[index] += text
        return True

    def _spent(self, texts: list[str], *, reported: bool = True) -> dict[str, Any]:
        """The usage of these texts, written into the row."""
        asked = self._asked
        produced = sum(asked.desk.count_text(text, asked.row.model) for text in texts)
        given, produced = asked.spent(self._input_tokens, produced, reported=reported)
        return provider_script.usage(given, produced, chat=self._chat)

    def _keep(self, whole: dict[str, Any]) -> None:
        """Store what is to be stored (`store: true`)."""
        asked = self._asked
        if self._chat and asked.fields.get("store") is True:
            shown = {**whole, "metadata": asked.fields.get("metadata") or {}}
            messages = [{"id": f"{whole['id']}-{at}", **message} for at, message in enumerate(asked.fields["messages"])]
            asked.desk.store.put(Thing(kinds.STORED_CHAT, whole["id"], "", shown, hidden={"messages": messages}))


def _stored(asked: Asked) -> Thing:
    return asked.desk.store.get(kinds.STORED_CHAT, asked.ids["completion_id"])


async def list_stored(asked: Asked) -> web.StreamResponse:
    """GET /v1/chat/completions: oldest first."""
    model = asked.request.query.get("model")
    shown = [thing.shown for thing in asked.desk.store.all(kinds.STORED_CHAT)]
    kept = [one for one in shown if model in (None, one["model"])]
    return await reply(asked, page(kept, asked.request.query, newest_first=False))


async def stored(asked: Asked) -> web.StreamResponse:
    """GET /v1/chat/completions/{id}."""
    return await reply(asked, _stored(asked).shown)


async def update_stored(asked: Asked) -> web.StreamResponse:
    """POST /v1/chat/completions/{id}: its metadata."""
    thing = _stored(asked)
    thing.shown["metadata"] = asked.fields.get("metadata") or {}
    return await reply(asked, thing.shown)


async def delete_stored(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/chat/completions/{id}."""
    thing = _stored(asked)
    asked.desk.store.drop(thing)
    return await reply(asked, {"object": "chat.completion.deleted", "id": thing.id, "deleted": True})


async def stored_messages(asked: Asked) -> web.StreamResponse:
    """GET /v1/chat/completions/{id}/messages: what was asked, oldest first."""
    return await reply(asked, page(_stored(asked).hidden["messages"], asked.request.query, newest_first=False))


ROUTES: Final = (
    ("POST", CHAT_PATH, generate),
    ("POST", "/v1/completions", generate),
    ("GET", CHAT_PATH, list_stored),
    ("GET", CHAT_PATH + "/{completion_id}", stored),
    ("POST", CHAT_PATH + "/{completion_id}", update_stored),
    ("DELETE", CHAT_PATH + "/{completion_id}", delete_stored),
    ("GET", CHAT_PATH + "/{completion_id}/messages", stored_messages),
)
