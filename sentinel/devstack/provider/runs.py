"""Runs of assistants over threads: in the background, streamed, waiting for a tool's output; and their steps.

The tokens go into the row of the request that began the run. Raises `RefusedError`, and what aiohttp raises when the client is
gone.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.assistants import THREADS, add_messages, message_fields, new_thread
from sentinel.devstack.provider.checks import refused, require
from sentinel.devstack.provider.objects import Collection, Routes, action, new
from sentinel.devstack.provider.sending import EventStream, event, reply
from sentinel.devstack.provider.store import Thing
from sentinel.devstack.provider_script import pieces

RUNS: Final = Collection("/v1/threads/{thread_id}/runs", "run_id", kinds.RUN, above=THREADS, changes=("metadata",))
STEPS: Final = Collection("/v1/threads/{thread_id}/runs/{run_id}/steps", "step_id", kinds.STEP, above=RUNS)
_OPEN: Final = ("queued", "in_progress", "requires_action")
_UNSET: Final = ("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at", "last_error", "required_action")
_DONE: Final = b"event: done\ndata: [DONE]\n\n"


class _Run:
    """One run: what it will say, and the request whose row gets its tokens."""

    def __init__(self, asked: Asked, thread: Thing) -> None:
        body = asked.fields
        require(body, "assistant_id")
        store = asked.desk.store
        assistant = store.get(kinds.ASSISTANT, body["assistant_id"])
        self.asked = asked
        model = asked.model(assistant.shown["model"])
        instructions = body.get("instructions") or assistant.shown["instructions"] or ""
        messages = [thing.shown for thing in store.all(kinds.MESSAGE, thread.id)]
        said = [{"role": one["role"], "content": _texts(one)} for one in messages]
        tools = body.get("tools") or assistant.shown["tools"]
        self.input_tokens = asked.desk.count_messages([{"role": "system", "content": instructions}, *said], model, tools)
        wanted = asked.output_tokens
        cap = min(wanted, body.get("max_completion_tokens") or wanted)
        self.pieces = pieces(cap)
        self.text = "".join(self.pieces)
        self.call = str(asked.simulate.get("call") or "") if tools else ""
        fields = {
            "thread_id": thread.id,
            "assistant_id": assistant.id,
            "model": model,
            "instructions": instructions,
            "tools": tools,
            "status": "queued",
            "parallel_tool_calls": True,
            "metadata": body.get("metadata") or {},
            "usage": None,
            "incomplete_details": {"reason": "max_completion_tokens"} if cap < wanted else None,
            **dict.fromkeys(_UNSET),
        }
        self.ending = "incomplete" if cap < wanted else "completed"
        self.thing = new(asked, kinds.RUN, fields, parent=thread.id)
        self.thing.hidden["run"] = self

    def waits(self) -> bool:
        """Stop for a tool's output, if it is to call one and has not yet."""
        if not self.call:
            return False
        function = {"name": self.call, "arguments": '{"text":"The river"}'}
        calls = [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}]
        action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
        self.thing.shown |= {"status": "requires_action", "required_action": action}
        self.call = ""
        return True

    def message(self, text: str, status: str = "completed") -> Thing:
        """Its message, kept."""
        shown = self.thing.shown
        fields = message_fields(
            shown["thread_id"],
            {"role": "assistant", "content": text},
            assistant_id=shown["assistant_id"],
            run_id=self.thing.id,
            status=status,
            metadata={},
        )
        return new(self.asked, kinds.MESSAGE, fields, parent=shown["thread_id"])

    def step(self, message_id: str) -> Thing:
        """Its one step, kept."""
        run = self.thing.shown
        fields = {
            "run_id": self.thing.id,
            "thread_id": run["thread_id"],
            "assistant_id": run["assistant_id"],
            "type": "message_creation",
            "step_details": {"type": "message_creation", "message_creation": {"message_id": message_id}},
            "status": "in_progress",
            "metadata": {},
            "usage": None,
        }
        return new(self.asked, kinds.STEP, fields, parent=self.thing.id)

    def spend(self, text: str, *, reported: bool = True) -> dict[str, int] | None:
        """The usage of what was said, written into the row of the request that began the run."""
        produced = self.asked.desk.count_text(text, self.thing.shown["model"])
        given, produced = self.asked.spent(self.input_tokens, produced, reported=reported)
        if self.asked.simulate.get("no_usage"):
            return None
        return {"prompt_tokens": given, "completion_tokens": produced, "total_tokens": given + produced}

    def end(self, spent: dict[str, int] | None) -> None:
        """It has come to its end."""
        self.thing.shown |= {"status": self.ending, "usage": spent, "completed_at": int(time.time()), "required_action": None}

    def work(self) -> None:
        """Do all of it at once, unless it was cancelled."""
        if self.thing.shown["status"] in _OPEN and not self.waits():
            spent = self.spend(self.text)
            step = self.step(self.message(self.text).id)
            step.shown |= {"status": "completed", "usage": spent, "completed_at": int(time.time())}
            self.end(spent)

    def events(self) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        """All of it as events: (name, content, text); the last one is not among them."""
        run = self.thing.shown
        run["status"] = "in_progress"
        yield "thread.run.in_progress", run, ""
        if self.waits():
            return
        message = self.message("", "in_progress")
        message.shown["content"] = []
        step = self.step(message.id)
        for state in ("created", "in_progress"):
            yield f"thread.run.step.{state}", step.shown, ""
        for state in ("created", "in_progress"):
            yield f"thread.message.{state}", message.shown, ""
        for piece in self.pieces:
            content = [{"index": 0, "type": "text", "text": {"value": piece, "annotations": []}}]
            yield (
                "thread.message.delta",
                {"id": message.id, "object": "thread.message.delta", "delta": {"content": content}},
                piece,
            )
        content = [{"type": "text", "text": {"value": self.text, "annotations": []}}]
        message.shown |= {"content": content, "status": "completed"}
        yield "thread.message.completed", message.shown, ""
        step.shown |= {"status": "completed", "completed_at": int(time.time())}
        yield "thread.run.step.completed", step.shown, ""


def _texts(message: Mapping[str, Any]) -> str:
    return "".join(part["text"]["value"] for part in message["content"] if part["type"] == "text")


async def create(asked: Asked) -> web.StreamResponse:
    """POST /v1/threads/{id}/runs."""
    thread = THREADS.thing(asked)
    add_messages(asked, thread, asked.fields.get("additional_messages"))
    run = _Run(asked, thread)
    return await _answer(asked, run, [("thread.run.created", run.thing.shown), ("thread.run.queued", run.thing.shown)])


async def create_both(asked: Asked) -> web.StreamResponse:
    """POST /v1/threads/runs."""
    thread = new_thread(asked, asked.fields.get("thread") or {})
    run = _Run(asked, thread)
    opening = [
        ("thread.created", thread.shown),
        ("thread.run.created", run.thing.shown),
        ("thread.run.queued", run.thing.shown),
    ]
    return await _answer(asked, run, opening)


async def submit(asked: Asked) -> web.StreamResponse:
    """POST /v1/threads/{id}/runs/{id}/submit_tool_outputs: the run goes on."""
    thing = RUNS.thing(asked)
    require(asked.fields, "tool_outputs")
    if thing.shown["status"] != "requires_action":
        raise refused(400, f'Runs in status "{thing.shown["status"]}" do not accept tool outputs.')
    thing.shown |= {"status": "queued", "required_action": None}
    return await _answer(asked, thing.hidden["run"], [("thread.run.queued", thing.shown)])


async def _answer(asked: Asked, run: _Run, opening: list[tuple[str, dict[str, Any]]]) -> web.StreamResponse:
    if asked.row.stream:
        return await _stream(asked, run, opening)
    queued = dict(run.thing.shown)
    asked.desk.later(run.asked.background_s, run.work)
    return await reply(asked, queued)


async def _stream(asked: Asked, run: _Run, opening: list[tuple[str, dict[str, Any]]]) -> web.StreamResponse:
    stream = EventStream(asked)
    await stream.open()
    run.asked.row.input_tokens = run.input_tokens
    said, whole = "", True
    try:
        for name, shown in opening:
            whole = whole and await stream.send(event(shown, name))
        for name, content, text in run.events() if whole else ():
            if text:
                await asked.pace()
            whole = await stream.send(event(content, name))
            if not whole:
                break
            said += text
    except BaseException:
        whole = False
        raise
    finally:
        waits = run.thing.shown["status"] == "requires_action"
        spent = run.spend(said, reported=whole and not waits)
        if not whole:
            # Nobody looks on any more; the run does not notice.
            asked.desk.later(run.asked.background_s, run.work)
    if not whole:
        return stream.response
    if waits:
        run.asked.row.input_tokens = 0  # counted when it ends
    else:
        run.end(spent)
    await stream.write(event(run.thing.shown, f"thread.run.{run.thing.shown['status']}") + _DONE)
    await stream.close()
    return stream.response


def _cancel(_asked: Asked, run: Thing) -> None:
    if run.shown["status"] not in _OPEN:
        raise refused(400, f"Cannot cancel run with status '{run.shown['status']}'.")
    run.shown |= {"status": "cancelled", "cancelled_at": int(time.time())}


def routes() -> Routes:
    """The rows of the route table."""
    yield "POST", "/v1/threads/runs", create_both
    yield "POST", RUNS.path, create
    yield from RUNS.routes()
    yield "POST", f"{RUNS.path}/{{run_id}}/submit_tool_outputs", submit
    yield "POST", f"{RUNS.path}/{{run_id}}/cancel", action(RUNS, _cancel)
    yield from STEPS.routes()
