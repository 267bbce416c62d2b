"""What a response says: its object at each moment and its events (wire.md P1; openai's types.responses). Pure; cannot fail."""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sentinel.devstack.provider.kinds import RESPONSE
from sentinel.devstack.provider.sending import event
from sentinel.devstack.provider_script import arguments, pieces

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


class ResponseScript:
    """One response: a message of `output_tokens` pieces, or a call of the function `call` whose arguments hold them.

    `ending` is its last status: completed, incomplete or failed. Events are numbered in the order they are made.
    """

    def __init__(self, body: Mapping[str, Any], *, output_tokens: int, call: str, ending: str, conversation: str) -> None:
        self.id = RESPONSE.new_id()
        self.ending = ending
        said = pieces(output_tokens)
        self._pieces = arguments(body["tools"], call, said) if call else said
        self._call = call
        self._item_id = f"{'fc' if call else 'msg'}_{secrets.token_hex(16)}"
        self._call_id = f"call_{secrets.token_hex(12)}"
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
    def text(self) -> str:
        """All that it says."""
        return "".join(self._pieces)

    @property
    def produced(self) -> str:
        """What it costs: its text, or the name and the arguments of its call."""
        return self._call + self.text

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
            "output": [self.item(self.text, "completed" if status == "completed" else "incomplete")] if ended else [],
            "usage": spent,
            "completed_at": int(time.time()) if status == "completed" else None,
        }

    def item(self, text: str, status: str) -> dict[str, Any]:
        """The one thing it puts out: a message or a call."""
        if self._call:
            call = {"call_id": self._call_id, "name": self._call, "arguments": text}
            return {"id": self._item_id, "type": "function_call", "status": status, **call}
        content = [_part(text)] if text else []
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def opening(self, *, queued: bool) -> Iterator[bytes]:
        """The events before anything is said."""
        status = "queued" if queued else "in_progress"
        yield self._event("response.created", response=self.shown(status))
        if queued:
            yield self._event("response.queued", response=self.shown(status))
        yield self._event("response.in_progress", response=self.shown("in_progress"))

    def events(self) -> Iterator[tuple[bytes, str]]:
        """The events that say it, each with what it carries of `produced`."""
        at = {"item_id": self._item_id, "output_index": 0}
        yield self._event("response.output_item.added", output_index=0, item=self.item("", "in_progress")), self._call
        if self._call:
            for piece in self._pieces:
                yield self._event("response.function_call_arguments.delta", **at, delta=piece), piece
            done = {"arguments": self.text, "name": self._call}
            yield self._event("response.function_call_arguments.done", **at, **done), ""
        else:
            at |= {"content_index": 0}
            yield self._event("response.content_part.added", **at, part=_part("")), ""
            for piece in self._pieces:
                yield self._event("response.output_text.delta", **at, delta=piece, logprobs=[]), piece
            yield self._event("response.output_text.done", **at, text=self.text, logprobs=[]), ""
            yield self._event("response.content_part.done", **at, part=_part(self.text)), ""
        status = "completed" if self.ending == "completed" else "incomplete"
        yield self._event("response.output_item.done", output_index=0, item=self.item(self.text, status)), ""

    def last(self, spent: Mapping[str, Any] | None) -> bytes:
        """The terminal event, which repeats the whole response."""
        return self._event(f"response.{self.ending}", response=self.shown(self.ending, spent))

    def error(self) -> bytes:
        """An error instead of a response, in the stream (wire.md F5)."""
        message = "The server had an error while processing your request."
        return self._event("error", code="server_error", message=message, param=None)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": name, "sequence_number": number, **fields}, name)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
