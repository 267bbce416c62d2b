"""owners.check: one account at the provider serves all callers, so every object in it has an owner, and only that one sees it.

Fails closed: an object of somebody else, or of nobody, is NotFoundError in the provider's own words, so that nobody learns
what others have. A text that only looks like an id is refused in the same words, but only where it is known as somebody else's.
A route that shows or changes the account as a whole, or lies outside SENTINEL_PASSTHROUGH, is ForbiddenError; while Redis is
away both are LedgerUnavailableError. What could not be noted is logged, and its owner cannot reach it.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain, islice
from typing import Final
from urllib.parse import unquote

from sentinel.ledger import Ledger
from sentinel.openai import objects, wire
from sentinel.openai.request import object_ids
from sentinel.openai.response import model_list
from sentinel.openai.routes import Match
from sentinel.ops import metrics
from sentinel.ops.errors import ForbiddenError, LedgerUnavailableError, UpstreamError
from sentinel.ops.logs import Log
from sentinel.ops.records import NO_IDS, Call, Caller, Scope
from sentinel.upstream.provider import Reply, Whole

_log: Final = Log("owners")

# Others are served between two rounds; what only looks like an id costs less to look up.
_NAMED_AT_ONCE_MAX: Final = 512
_LOOKED_UP_AT_ONCE_MAX: Final = 1024
_MODELS: Final = "/models/"
# Of a list of models; the longest known one (Vercel's) is a fiftieth of it.
_LIST_BYTES_MAX: Final = 16 * 2**20
_ORDER: Final = list(Scope)


class Owners:
    """Keeps callers apart. `mode` is the widest scope that is forwarded; `all` means one tenant, so nothing is kept apart."""

    def __init__(self, ledger: Ledger, *, mode: str, life_s: int) -> None:
        self._ledger = ledger
        self._mode = Scope(mode)
        self._life_s = life_s
        # Whether what a call leaves with the provider is nobody's, and objects have owners here.
        self._unowned = self._mode is not Scope.OWNED
        self.guarding: Final = self._mode is not Scope.ACCOUNT
        # Routes of other scopes are not forwarded at all.
        self.forwarded: Final = frozenset(_ORDER[: _ORDER.index(self._mode) + 1])

    def usual(self, match: Match, call: Call) -> Call | None:
        """`call`, where nothing that it names can have an owner; None where `check` is to look."""
        # What has a place in a path is an object, what lies within one, or a model.
        if (
            call.referenced_ids is not NO_IDS
            or "{" in match.route.template
            or call.models
            or "ft:" in call.model
            or call.of_account
        ):
            return None
        return None if self._unowned and match.route.creates else call

    async def check(self, caller: Caller, match: Match, call: Call) -> Call:
        """`call`, if every object that its path and its body name is the caller's; one that must leave nothing behind says so.

        Raises NotFoundError, ForbiddenError or LedgerUnavailableError.
        """
        if not self.guarding:
            return call
        if call.of_account:
            raise ForbiddenError(
                "A run over what is stored is not available through this gateway: that is of every caller. Name a file.",
                code="route_not_available",
                param="data_source",
            )
        if match.referenced_ids or call.referenced_ids.objects:
            await self._check_named(caller, match.referenced_ids, call.referenced_ids.objects)
        if self._mode is Scope.OWNED:
            if match.parts:
                await self._check_parts(caller, match.parts)
            if call.referenced_ids.alike:
                await self._check_alike(caller, list(call.referenced_ids.alike))
            if call.models or "ft:" in call.model or call.path.startswith(_MODELS):
                await self._check_tuned(caller, _tuned(call))
            return call
        return _leaving_nothing(call) if match.route.creates else call

    async def keep(self, caller: Caller, object_ids: Iterable[str]) -> None:
        """The provider has made these objects for `caller`. Called before the caller learns their ids; never fails."""
        if self._mode is not Scope.OWNED:
            return
        made = [(name, self._life(objects.kind_of(name))) for name in object_ids]
        try:
            await self._ledger.owners.keep(caller.external_id, made)
        except LedgerUnavailableError:
            metrics.OBJECTS_UNOWNED.inc(len(made))
            _log.error("objects have no owner", external_id=caller.external_id, objects=[name for name, _ in made])

    async def show_models(self, caller: Caller, reply: Reply) -> Reply:
        """The provider's list of models without those of others; any other reply as it is, and where nothing has an owner.

        Raises UpstreamError, or LedgerUnavailableError where it names a fine-tuned model and nobody can say whose that is.
        """
        if self._mode is not Scope.OWNED or reply.status != 200:
            return reply
        body = bytearray()
        try:
            while chunk := await reply.read():
                body += chunk
                if len(body) > _LIST_BYTES_MAX:
                    raise UpstreamError("The provider's list of models is too long to be read.", retry=False, sent=False)
        finally:
            reply.close()
        shown = bytes(body)
        if hidden := await self._hidden(caller, shown):
            shown = model_list.without(shown, hidden)
        kept = tuple(line for line in reply.headers if line[0].lower() != b"content-length")
        return Whole(kept, shown, reply.origin)

    async def _check_named(self, caller: Caller, in_path: Sequence[tuple[str, str]], in_body: Set[str]) -> None:
        # In an order, so that the same request is refused for the same object; the many of a batch would be long to sort.
        ordered = sorted(in_body) if len(in_body) <= _NAMED_AT_ONCE_MAX else in_body
        named = chain(in_path, ((objects.kind_of(name), name) for name in ordered))
        while some := list(islice(named, _NAMED_AT_ONCE_MAX)):
            if self._mode is not Scope.OWNED:
                raise objects.not_found(*some[0])
            found = await self._ledger.owners.find([(name, self._life(kind)) for kind, name in some])
            for (kind, name), owner in zip(some, found, strict=True):
                if owner != caller.external_id:
                    raise objects.not_found(kind, name)

    async def _check_parts(self, caller: Caller, parts: Sequence[tuple[str, str]]) -> None:
        """What lies within an object is no other caller's, whatever the provider makes of its path. Without an owner of its own
        it is the object's: the provider has made it.
        """
        found = await self._ledger.owners.known(name for _, name in parts)
        for kind, name in parts:
            if found.get(name, caller.external_id) != caller.external_id:
                raise objects.not_found(kind, name)

    async def _check_alike(self, caller: Caller, names: list[str]) -> None:
        """What looks like an id is refused only where it is another caller's: the API might take it where that is not known."""
        for start in range(0, len(names), _LOOKED_UP_AT_ONCE_MAX):
            found = await self._ledger.owners.known(names[start : start + _LOOKED_UP_AT_ONCE_MAX])
            for name, owner in found.items():
                if owner != caller.external_id:
                    tuned = bool(object_ids.tuned_name(name))
                    raise objects.model_not_found(name) if tuned else objects.not_found(objects.kind_of(name), name)
            if found:
                # One's own was used, and lives on.
                await self._ledger.owners.find([(name, self._life(objects.kind_of(name))) for name in found])

    async def _check_tuned(self, caller: Caller, models: Mapping[str, str]) -> None:
        """A fine-tuned model is its maker's; one that nobody has made here was made for everybody."""
        found = await self._ledger.owners.find([(name, self._life_s) for name in models])
        for model, owner in zip(models.values(), found, strict=True):
            if owner not in (None, caller.external_id):
                raise objects.model_not_found(model)

    async def _hidden(self, caller: Caller, body: bytes) -> set[str]:
        """Which models of a list are others'."""
        try:
            names = list(model_list.tuned(body))
        except ValueError as error:
            raise UpstreamError("The provider's list of models cannot be read.", retry=False, sent=False) from error
        hidden: set[str] = set()
        for start in range(0, len(names), _LOOKED_UP_AT_ONCE_MAX):
            found = await self._ledger.owners.known(names[start : start + _LOOKED_UP_AT_ONCE_MAX])
            hidden.update(name for name, owner in found.items() if owner != caller.external_id)
        return hidden

    def _life(self, kind: str) -> int:
        """At most as long as the setting says, so that an operator can bound what Redis remembers."""
        return min(objects.life_s(kind) or self._life_s, self._life_s)


def _tuned(call: Call) -> dict[str, str]:
    """The fine-tuned models a call asks for, or asks about, by the names under which they have owners."""
    models = [call.model, *call.models]
    if call.path.startswith(_MODELS):
        models.append(unquote(call.path.removeprefix(_MODELS)))
    return {name: model for model in models if (name := object_ids.tuned_name(model))}


def _leaving_nothing(call: Call) -> Call:
    """`call` with `store` off, where objects are not served: the provider must not keep what nobody can ask for again."""
    if call.background:
        raise ForbiddenError("Background responses are not available through this gateway.", code="route_not_available")
    return wire.unstored(call) if call.stored else call


def not_forwarded(match: Match) -> ForbiddenError:
    """The 403 for a route that this deployment does not forward."""
    path = f"{match.route.method} /v1{match.route.template}"
    why = ": it is about the objects of every caller. Ask for yours by id." if match.route.scope is Scope.ACCOUNT else "."
    return ForbiddenError(f"{path} is not available through this gateway{why}", code="route_not_available")
