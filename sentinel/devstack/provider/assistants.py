"""Assistants, threads and their messages. Raises `RefusedError`."""

import time
from collections.abc import Mapping
from typing import Any, Final

from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import require
from sentinel.devstack.provider.objects import Collection, Routes, new
from sentinel.devstack.provider.store import Thing


def _assistant(asked: Asked) -> Mapping[str, Any]:
    body = asked.fields
    return {
        "model": asked.model(),
        "name": body.get("name"),
        "description": body.get("description"),
        "instructions": body.get("instructions"),
        "tools": body.get("tools") or [],
        "tool_resources": body.get("tool_resources") or {},
        "metadata": body.get("metadata") or {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
    }


def new_thread(asked: Asked, given: Mapping[str, Any]) -> Thing:
    """A thread with the messages it begins with."""
    fields = {"metadata": given.get("metadata") or {}, "tool_resources": given.get("tool_resources") or {}}
    thread = new(asked, kinds.THREAD, fields)
    add_messages(asked, thread, given.get("messages"))
    return thread


def add_messages(asked: Asked, thread: Thing, given: Any) -> None:
    """Messages as they stand in a request that makes a thread or a run."""
    for message in given or ():
        new(asked, kinds.MESSAGE, message_fields(thread.id, message), parent=thread.id)


def message_fields(thread_id: str, given: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """What a message holds beside id and time."""
    content = given.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "thread_id": thread_id,
        "role": given.get("role", "user"),
        "content": [_shown(part) for part in parts],
        "status": "completed",
        "completed_at": int(time.time()),
        "incomplete_at": None,
        "incomplete_details": None,
        "assistant_id": None,
        "run_id": None,
        "attachments": given.get("attachments") or [],
        "metadata": given.get("metadata") or {},
        **fields,
    }


def _shown(part: Mapping[str, Any]) -> Mapping[str, Any]:
    text = part.get("text")
    return {"type": "text", "text": {"value": text, "annotations": []}} if isinstance(text, str) else part


def _message(asked: Asked) -> Mapping[str, Any]:
    require(asked.fields, "role", "content")
    return message_fields(asked.ids["thread_id"], asked.fields)


def _thread(asked: Asked) -> Mapping[str, Any]:
    return {"metadata": asked.fields.get("metadata") or {}, "tool_resources": asked.fields.get("tool_resources") or {}}


def _begun(asked: Asked, thread: Thing) -> None:
    add_messages(asked, thread, asked.fields.get("messages"))


_ASSISTANT_CHANGES: Final = ("model", "name", "description", "instructions", "tools", "tool_resources", "metadata")
ASSISTANTS: Final = Collection(
    "/v1/assistants", "assistant_id", kinds.ASSISTANT, _assistant, changes=_ASSISTANT_CHANGES, gone="assistant.deleted"
)
THREADS: Final = Collection(
    "/v1/threads",
    "thread_id",
    kinds.THREAD,
    _thread,
    changes=("metadata", "tool_resources"),
    gone="thread.deleted",
    made=_begun,
)
MESSAGES: Final = Collection(
    "/v1/threads/{thread_id}/messages",
    "message_id",
    kinds.MESSAGE,
    _message,
    above=THREADS,
    changes=("metadata",),
    gone="thread.message.deleted",
)


def routes() -> Routes:
    """The rows of the route table; threads cannot be listed."""
    yield from ASSISTANTS.routes()
    yield from (row for row in THREADS.routes() if row[:2] != ("GET", THREADS.path))
    yield from MESSAGES.routes()
