"""The models a deployment lets its callers ask for, and what says that the provider has none of a name.

Fails closed: a model that no pattern names, or one that cannot be seen where one is needed, is ForbiddenError (403).
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from typing import Final

import msgspec

from sentinel.openai.request import json_edit
from sentinel.openai.response.usage import decode
from sentinel.ops.errors import ForbiddenError
from sentinel.ops.records import Call

_SHOWN_CHARACTERS_MAX: Final = 256
_UNKNOWN_MODEL: Final = "model_not_found"


class Models:
    """The allow-list: shell patterns, letter by letter; everything is allowed where there are none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        # Whether there are some that are not allowed.
        self.restricts: Final = bool(patterns)
        self._allowed = re.compile("|".join(map(translate, patterns))) if patterns else None

    def check(self, call: Call, *, needed: bool = True) -> None:
        """Raise ForbiddenError where the call's model is not allowed; or cannot be seen, on a route where one is `needed`.

        Which model answers a call without one is the provider's choice, so nobody could say whether that is allowed. Models to
        be asked where that one fails must be allowed as well.
        """
        if self._allowed is None:
            return
        asked = {call.model, *call.models} if call.model or needed else call.models
        refused = [model for model in asked if not self._allowed.match(model)]
        if not refused:
            return
        name = max(refused)[:_SHOWN_CHARACTERS_MAX]
        shown = f"The model '{name}'" if name and name.isprintable() else "A request that does not show its model"
        raise ForbiddenError(f"{shown} is not allowed at this gateway.", code="model_not_allowed", param="model")


class Fallbacks:
    """Which models are asked, in order, where one is unavailable."""

    def __init__(self, chains: Mapping[str, Sequence[str]]) -> None:
        self._chains = chains

    def after(self, call: Call) -> Sequence[str]:
        """The models to ask after the call's own. None but for JSON that names its model: nothing else can be given another."""
        chain = self._chains.get(call.model, ())
        return chain if chain and call.body.lstrip()[:1] == b"{" else ()


def asking(call: Call, model: str) -> Call:
    """`call` for `model` instead, every other byte as it was (rule H9)."""
    return msgspec.structs.replace(
        call, model=model, body=json_edit.with_member(call.body, "model", msgspec.json.encode(model))
    )


def is_unknown(body: bytes) -> bool:
    """Whether the body of a 404 says that the provider has no such model (rule E3)."""
    said = (decode(body) or {}).get("error")
    return isinstance(said, dict) and _UNKNOWN_MODEL in (said.get("code"), said.get("type"))
