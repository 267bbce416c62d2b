"""Scripted conversations: the provider's simulator plays the model of an agent. Pure; ValueError for what is no play.

The n-th answer of a conversation is the n-th of the play whose marker stands anywhere in the request. Each request must
therefore bring the whole conversation, as agents do that store nothing with the provider.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec

# About what a token is, so that a text comes in as many pieces as a real model sends.
_PIECE: Final = re.compile(r"\s*\S{1,5}|\s+")
# Items of a response that only the model says, besides its messages.
_MODELS: Final = ("_call", "reasoning")


@dataclass(frozen=True)
class Call:
    """A call of the tool `name`, its arguments in pieces. One that is `custom`, in a response only, has text for them.

    `id` is what the model calls it, where it makes no id of OpenAI's.
    """

    name: str
    pieces: Sequence[str]
    custom: bool = False
    id: str = ""

    @property
    def arguments(self) -> str:
        """All of them."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Said:
    """What the model says at once: text in pieces, then calls."""

    pieces: Sequence[str]
    calls: Sequence[Call] = ()

    @property
    def text(self) -> str:
        """The text without the calls."""
        return "".join(self.pieces)

    @property
    def produced(self) -> str:
        """What it costs: its text, and the name and the arguments of each call."""
        return self.text + "".join(call.name + call.arguments for call in self.calls)


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] | str
    id: str = ""

    def pieces(self) -> list[str]:
        """The arguments as a stream brings them."""
        given = self.arguments
        return _PIECE.findall(given if isinstance(given, str) else msgspec.json.encode(given).decode())


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    text: str = ""
    calls: list[_Call] = []


class Play(msgspec.Struct, forbid_unknown_fields=True):
    """One conversation: `user` is who it counts for in the journal, where its requests name nobody."""

    marker: str
    answers: list[_Answer]
    user: str = ""

    def said(self, fields: Mapping[str, Any]) -> Said | None:
        """The answer that is due, or None: the play is over, or it calls a tool and none is given, as for a title."""
        conversation = fields.get("messages") or fields.get("input")
        due = turns(conversation)
        if due >= len(self.answers):
            return None
        answer = self.answers[due]
        if answer.calls and not any("tools" in given for given in (fields, *_objects(conversation))):
            return None
        calls = [Call(call.name, call.pieces(), isinstance(call.arguments, str), call.id) for call in answer.calls]
        return Said(_PIECE.findall(answer.text), calls)


class Plays:
    """The plays by marker."""

    def __init__(self) -> None:
        self._plays: dict[bytes, Play] = {}

    def add(self, raw: bytes) -> None:
        """Take a play as JSON; one of the same marker is replaced. ValueError where it is none."""
        play = msgspec.json.decode(raw, type=Play)
        self._plays[play.marker.encode()] = play

    def of(self, raw: bytes) -> Play | None:
        """The play this body belongs to."""
        return next((play for marker, play in self._plays.items() if marker in raw), None)

    def clear(self) -> None:
        """Forget them."""
        self._plays.clear()


def turns(conversation: Any) -> int:
    """How often the model has spoken in these messages of a chat or items of a response; what it says in a row is one turn."""
    spoken = [_is_models(one) for one in _objects(conversation)]
    return sum(now and not before for before, now in pairwise([False, *spoken]))


def _objects(conversation: Any) -> list[Mapping[str, Any]]:
    return [one for one in conversation if isinstance(one, dict)] if isinstance(conversation, list) else []


def _is_models(one: Mapping[str, Any]) -> bool:
    return one.get("role") == "assistant" or str(one.get("type")).endswith(_MODELS)
