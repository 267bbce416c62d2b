"""What a response says: its object at each moment and its events (rule P1; openai's types.responses). Pure; cannot fail."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sentinel.devstack.provider.kinds import RESPONSE
from sentinel.devstack.provider.plays import Call, Said
from sentinel.devstack.provider.sending import event

_ECHOED: Final[Mapping[str, Any]] = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "max_output_tokens": None,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}},
    "truncation": "disabled",
    "store": True,
    "user": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
}


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The usage of a response."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


@dataclass(frozen=True)
class _Item:
    """One thing a response puts out: a message of these pieces, or a call whose arguments they are."""

    id: str
    pieces: Sequence[str]
    call: Call | None = None
    call_id: str = ""

    def shown(self, text: str, status: str) -> dict[str, Any]:
        """It with what has been said of it."""
        if self.call is not None:
            kind, said = ("custom_tool_call", "input") if self.call.custom else ("function_call", "arguments")
            called = {"call_id": self.call_id, "name": self.call.name, said: text}
            return {"id": self.id, "type": kind, "status": status, **called}
        content = [_part(text)] if text else []
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


def _called(call: Call) -> _Item:
    prefix = "ctc" if call.custom else "fc"
    return _Item(f"{prefix}_{secrets.token_hex(16)}", call.pieces, call, call.id or f"call_{secrets.token_hex(12)}")


class ResponseScript:
    """One response, whole or as events. `ending` is its last status: completed, incomplete or failed.

    Events are numbered in the order they are made.
    """

    def __init__(self, body: Mapping[str, Any], said: Said, *, ending: str, conversation: str) -> None:
        self.id = RESPONSE.new_id()
        self.ending = ending
        self._said = said
        messages = [_Item(f"msg_{secrets.token_hex(16)}", said.pieces)] if said.pieces or not said.calls else []
        self._items = [*messages, *map(_called, said.calls)]
        self._number = 0
        self._head = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": body["model"],
            "background": body.get("background") is True,
            "conversation": {"id": conversation} if conversation else None,
            "service_tier": "default",
            **{field: default if body.get(field) is None else body[field] for field, default in _ECHOED.items()},
        }

    @property
    def produced(self) -> str:
        """What it costs."""
        return self._said.produced

    def shown(self, status: str, spent: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The response at this moment; its output is there once it has ended."""
        ended = status == self.ending
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        error = {"code": "server_error", "message": "The model failed to generate a response."} if status == "failed" else None
        return {
            **self._head,
            "status": status,
            "error": error,
            "incomplete_details": details,
            "output": [item.shown("".join(item.pieces), self._ended) for item in self._items] if ended else [],
            "usage": spent,
            "completed_at": int(time.time()) if status == "completed" else None,
        }

    def opening(self, *, queued: bool) -> Iterator[bytes]:
        """The events before anything is said."""
        status = "queued" if queued else "in_progress"
        yield self._event("response.created", response=self.shown(status))
        if queued:
            yield self._event("response.queued", response=self.shown(status))
        yield self._event("response.in_progress", response=self.shown("in_progress"))

    def events(self) -> Iterator[tuple[bytes, str]]:
        """The events that say it, each with what it carries of `produced`."""
        for at, item in enumerate(self._items):
            name = item.call.name if item.call is not None else ""
            yield self._event("response.output_item.added", output_index=at, item=item.shown("", "in_progress")), name
            yield from self._telling({"item_id": item.id, "output_index": at}, item)
            shown = item.shown("".join(item.pieces), self._ended)
            yield self._event("response.output_item.done", output_index=at, item=shown), ""

    def _telling(self, at: dict[str, Any], item: _Item) -> Iterator[tuple[bytes, str]]:
        """The events between the beginning and the end of an item."""
        text = "".join(item.pieces)
        if item.call is not None:
            kind = "custom_tool_call_input" if item.call.custom else "function_call_arguments"
            done = {"input": text} if item.call.custom else {"arguments": text, "name": item.call.name}
            for piece in item.pieces:
                yield self._event(f"response.{kind}.delta", **at, delta=piece), piece
            yield self._event(f"response.{kind}.done", **at, **done), ""
            return
        at = {**at, "content_index": 0}
        yield self._event("response.content_part.added", **at, part=_part("")), ""
        for piece in item.pieces:
            yield self._event("response.output_text.delta", **at, delta=piece, logprobs=[]), piece
        yield self._event("response.output_text.done", **at, text=text, logprobs=[]), ""
        yield self._event("response.content_part.done", **at, part=_part(text)), ""

    def last(self, spent: Mapping[str, Any] | None) -> bytes:
        """The terminal event, which repeats the whole response."""
        return self._event(f"response.{self.ending}", response=self.shown(self.ending, spent))

    def error(self) -> bytes:
        """An error instead of a response, in the stream (rule F5)."""
        message = "The server had an error while processing your request."
        return self._event("error", code="server_error", message=message, param=None)

    @property
    def _ended(self) -> str:
        """The last status of its items."""
        return "completed" if self.ending == "completed" else "incomplete"

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": name, "sequence_number": number, **fields}, name)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
