"""Routes of objects that are made, listed, shown, changed and deleted: one row of a table is one collection.

Raises `RefusedError` with OpenAI's 404 for ids that are unknown.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.sending import reply
from sentinel.devstack.provider.store import Kind, Thing, page

Route = Callable[[Asked], Awaitable[web.StreamResponse]]
Routes = Iterator[tuple[str, str, Route]]
# What every object holds that its maker may have sent, and may send again.
_COPIED: Final = ("metadata", "name", "description")


@dataclass(frozen=True)
class Collection:
    """The objects of `kind` at `path`, whose ids are `variable` in paths.

    `fields` gives what a new object holds beside id, object and time; None where it is not made here. `above` is the collection
    it belongs to. `changes` are the fields a POST may change, none: it cannot be changed. `gone` is the `object` of the answer
    to a deletion, empty: 204 without a body, None: it cannot be deleted. `made` is called with each new object.
    """

    path: str
    variable: str
    kind: Kind
    fields: Callable[[Asked], Mapping[str, Any]] | None = None
    above: "Collection | None" = None
    changes: tuple[str, ...] = ()
    gone: str | None = None
    newest_first: bool = True
    made: Callable[[Asked, Thing], None] | None = None

    def parent(self, asked: Asked) -> str:
        """The id of what the collection belongs to, which must exist."""
        return self.above.thing(asked).id if self.above else ""

    def thing(self, asked: Asked) -> Thing:
        """The object that the path names, or OpenAI's 404."""
        return asked.desk.store.get(self.kind, asked.ids[self.variable], self.parent(asked))

    def routes(self) -> Routes:
        """The rows of the route table."""
        item = f"{self.path}/{{{self.variable}}}"
        if self.fields is not None:
            yield "POST", self.path, self._create
        yield "GET", self.path, self._list
        yield "GET", item, self._show
        if self.changes:
            yield "POST", item, self._update
        if self.gone is not None:
            yield "DELETE", item, self._delete

    async def _create(self, asked: Asked) -> web.StreamResponse:
        assert self.fields is not None
        parent = self.parent(asked)
        thing = new(asked, self.kind, self.fields(asked), parent=parent)
        answer = dict(thing.shown)
        if self.made is not None:
            self.made(asked, thing)
        return await reply(asked, answer)

    async def _list(self, asked: Asked) -> web.StreamResponse:
        things = asked.desk.store.all(self.kind, self.parent(asked))
        shown: list[dict[str, Any]] = [thing.shown for thing in things]
        return await reply(asked, page(shown, asked.request.query, newest_first=self.newest_first))

    async def _show(self, asked: Asked) -> web.StreamResponse:
        return await reply(asked, self.thing(asked).shown)

    async def _update(self, asked: Asked) -> web.StreamResponse:
        thing = self.thing(asked)
        for name in self.changes:
            if name in asked.fields:
                thing.shown[name] = asked.fields[name]
        return await reply(asked, thing.shown)

    async def _delete(self, asked: Asked) -> web.StreamResponse:
        thing = self.thing(asked)
        asked.desk.store.drop(thing)
        if not self.gone:
            return await reply(asked, b"", status=204)
        return await reply(asked, {"id": thing.id, "object": self.gone, "deleted": True})


def new(asked: Asked, kind: Kind, fields: Mapping[str, Any], *, parent: str = "", name: str = "") -> Thing:
    """Make and keep an object; what its maker sent of metadata, name and description is copied unless `fields` has it."""
    name = name or kind.new_id()
    copied: dict[str, Any] = {copy: asked.fields[copy] for copy in _COPIED if copy in asked.fields}
    shown: dict[str, Any] = {"id": name, "object": kind.object, kind.stamp: int(time.time()), **copied, **fields}
    return asked.desk.store.put(Thing(kind, name, parent, shown))


def action(collection: Collection, act: Callable[[Asked, Thing], None]) -> Route:
    """A route that does something to an object and shows it, such as POST …/cancel."""

    async def route(asked: Asked) -> web.StreamResponse:
        thing = collection.thing(asked)
        act(asked, thing)
        return await reply(asked, thing.shown)

    return route


def ends(asked: Asked, thing: Thing, *, waiting: tuple[str, ...], then: Callable[[], Mapping[str, Any]]) -> None:
    """Give the object its last fields when its time is over, unless something else has ended it by then."""

    def end() -> None:
        if thing.shown["status"] in waiting:
            thing.shown.update(then())

    asked.desk.later(asked.background_s, end)
