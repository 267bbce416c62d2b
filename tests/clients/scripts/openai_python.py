"""The scenarios of the `openai` package for Python, of any release since 1."""

import asyncio
import io
import os
from typing import Any

import openai
from lines import HELLO, PNG, TOOLS, api_failure, run

MARK = os.environ["CLIENT_MARK"]

# Base URL and key come from OPENAI_BASE_URL and OPENAI_API_KEY, as the package reads them by itself.
client = openai.OpenAI(max_retries=0, timeout=30)
patient = openai.OpenAI(timeout=30)
slashed = openai.OpenAI(base_url=os.environ["OPENAI_BASE_URL"] + "/", max_retries=0, timeout=30)


def ask(name: str, *, of: openai.OpenAI = client, simulate: Any = None, **more: Any) -> Any:
    """A chat completion; the provider's journal knows it by `name`."""
    extra = {} if simulate is None else {"extra_body": {"simulate": simulate}}
    return of.chat.completions.create(**{"model": "gpt-4o", "messages": HELLO, "user": f"{MARK}/{name}", **extra, **more})


def plain(answer: Any) -> dict[str, Any]:
    """A plain answer: its first choice, and all of it."""
    choice = answer.choices[0]
    text = choice.message.content if hasattr(choice, "message") else choice.text
    return {
        "text": text,
        "finish": choice.finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
        "request_id": answer._request_id,
        "whole": answer.model_dump(mode="json"),
    }


def streamed(stream: Any, most: int | None = None) -> dict[str, Any]:
    """A streamed answer: its first choice, and all events; after `most` events the client leaves."""
    chunks = []
    with stream:
        for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == most:
                break
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    return {
        "text": "".join((choice.delta.content if hasattr(choice, "delta") else choice.text) or "" for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": [usages[-1].prompt_tokens, usages[-1].completion_tokens] if usages else None,
        "usage_events": len(usages),
        "request_id": stream.response.headers["x-request-id"],
        "whole": [chunk.model_dump(mode="json") for chunk in chunks],
    }


def limits(raw: Any) -> dict[str, Any]:
    """The headers that tell of limits and of the request, beside the answer's own parse."""
    names = ("x-request-id", "content-type", *(name for name in raw.headers if name.lower().startswith("x-ratelimit")))
    return {"headers": {name.lower(): raw.headers.get(name) for name in names}, "parsed": type(raw.parse()).__name__}


def twice() -> dict[str, Any]:
    """Two requests where one is allowed at a time: the second is told to wait, waits, and is served."""
    tight = openai.OpenAI(base_url=os.environ["TIGHT_BASE_URL"], api_key=os.environ["TIGHT_KEY"], timeout=30)
    return {"texts": [ask("rate", of=tight).choices[0].message.content for _ in range(2)]}


def asynchronous(*, stream: bool) -> dict[str, Any]:
    """The same over the asynchronous client."""

    async def call() -> dict[str, Any]:
        async with openai.AsyncOpenAI(max_retries=0, timeout=30) as other:
            answer = await other.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
            if not stream:
                return plain(answer)
            chunks = [chunk async for chunk in answer]
            return {"text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks), "events": len(chunks)}

    return asyncio.run(call())


def file_round() -> dict[str, Any]:
    """A file of arbitrary bytes up, its description, its bytes down again, and away with it."""
    made = client.files.create(file=("bytes.bin", io.BytesIO(PNG * 1000)), purpose="user_data")
    content = client.files.content(made.id).read()
    return {"bytes": made.bytes, "same": content == PNG * 1000, "deleted": client.files.delete(made.id).deleted}


def respond(name: str, **more: Any) -> Any:
    """One call of the Responses API."""
    return client.responses.create(
        **{"model": "gpt-4o", "input": "Say something about rivers.", "user": f"{MARK}/{name}", **more}
    )


def responded(answer: Any) -> dict[str, Any]:
    """What a response says, and its usage."""
    usage = answer.usage and [answer.usage.input_tokens, answer.usage.output_tokens]
    return {"text": answer.output_text, "status": answer.status, "usage": usage}


def background() -> dict[str, Any]:
    """A response that goes on in the background, fetched until it is done."""
    answer = respond("responses_background", background=True, extra_body={"simulate": {"background_s": 0.05}})
    for _ in range(500):
        if answer.status not in {"queued", "in_progress"}:
            break
        asyncio.run(asyncio.sleep(0.02))
        answer = client.responses.retrieve(answer.id)
    return responded(answer)


def response_events() -> dict[str, Any]:
    """A streamed response: the names of its events in their order, and what the last one says."""
    with respond("responses_stream", stream=True) as stream:
        events = list(stream)
    return {"events": [event.type for event in events], **responded(events[-1].response)}


def embedded(**more: Any) -> dict[str, Any]:
    """Two embeddings."""
    answer = client.embeddings.create(model="text-embedding-3-small", input=["One river", "Two rivers"], **more)
    return {"lengths": [len(item.embedding) for item in answer.data], "input_tokens": answer.usage.prompt_tokens}


def transcribed() -> dict[str, Any]:
    """Speech to text, by an upload."""
    answer = client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", io.BytesIO(PNG)))
    return {"text": answer.text}


def calls(answer: Any) -> list[Any]:
    """The tool calls of a plain answer."""
    return [call.function.model_dump(mode="json") for call in answer.choices[0].message.tool_calls]


def response_calls() -> dict[str, Any]:
    """The tool calls of a response."""
    tool = {"type": "function", **TOOLS[0]["function"], "strict": False}
    answer = respond("responses_call", tools=[tool], extra_body={"simulate": CALL})
    return {"calls": [[item.name, item.arguments] for item in answer.output if item.type == "function_call"]}


CALL: dict[str, Any] = {"call": "get_weather"}  # the provider's simulator calls the tool of this name
LARGE: list[Any] = [{"role": "user", "content": "x" * 2**22}]
LEGACY: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "One river"}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
CUT: dict[str, Any] = {"cut_after_events": 5}
LATE: dict[str, Any] = {"status": 429, "times": 1, "headers": {"retry-after-ms": "20"}, "key": f"{MARK}/retried"}
HTML: dict[str, Any] = {"status": 502, "body": "<html><body>Bad gateway</body></html>"}

SCENARIOS = {
    "chat": lambda: plain(ask("chat")),
    "chat_stream": lambda: streamed(ask("chat_stream", stream=True)),
    "chat_stream_usage": lambda: streamed(ask("chat_stream_usage", **USAGE)),
    "chat_async": lambda: asynchronous(stream=False),
    "chat_async_stream": lambda: asynchronous(stream=True),
    "tools": lambda: plain(ask("tools", tools=TOOLS)),
    "tools_stream": lambda: streamed(ask("tools_stream", tools=TOOLS, stream=True)),
    "completions": lambda: plain(client.completions.create(**LEGACY)),
    "completions_stream": lambda: streamed(client.completions.create(**LEGACY, stream=True)),
    "models": lambda: {"models": [model.id for model in client.models.list()]},
    "model": lambda: client.models.retrieve("openai/gpt-4o").model_dump(mode="json"),
    "headers": lambda: limits(client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)),
    "headers_stream": lambda: limits(
        client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO, stream=True)
    ),
    "slashed": lambda: plain(ask("slashed", of=slashed)),
    "bad_parameter": lambda: ask("bad_parameter", stream_options={"include_usage": True}),
    "empty_messages": lambda: ask("empty_messages", messages=[]),
    "bad_key": lambda: ask("bad_key", of=client.with_options(api_key="sk-wrong")),
    "bad_key_large": lambda: ask("bad_key_large", of=client.with_options(api_key="sk-wrong"), messages=LARGE),
    "unknown_model": lambda: ask("unknown_model", model="gpt-none"),
    "unknown_model_stream": lambda: ask("unknown_model_stream", model="gpt-none", stream=True),
    "unknown_path": lambda: client.get("/nothing", cast_to=object),
    "wrong_method": lambda: client.get("/embeddings", cast_to=object),
    "too_large": lambda: ask("too_large", messages=LARGE),
    "quota": lambda: ask("quota", of=patient.with_options(api_key=os.environ["SPENT_KEY"])),
    "rate": twice,
    "retried": lambda: plain(ask("retried", of=patient, simulate=LATE)),
    **{
        f"provider_{status}": (lambda status=status: ask(f"provider_{status}", simulate={"status": status}))
        for status in (400, 401, 409, 422, 429, 500, 503)
    },
    "provider_429_stream": lambda: ask("provider_429_stream", simulate={"status": 429}, stream=True),
    "provider_html": lambda: ask("provider_html", simulate=HTML),
    "cut": lambda: streamed(ask("cut", simulate=CUT, stream=True)),
    "cut_plain": lambda: plain(ask("cut_plain", simulate=CUT)),
    "error_event": lambda: streamed(ask("error_event", simulate={"error_first_event": True}, stream=True)),
    "no_done": lambda: streamed(ask("no_done", simulate={"no_done": True}, stream=True)),
    "aborted": lambda: streamed(ask("aborted", simulate={"stall_after_events": 5}, stream=True), most=3),
    "tool_calls": lambda: {"calls": calls(ask("tool_calls", tools=TOOLS, simulate=CALL))},
    "tool_calls_stream": lambda: streamed(ask("tool_calls_stream", tools=TOOLS, simulate=CALL, stream=True)),
    "embeddings": embedded,
    "embeddings_floats": lambda: embedded(encoding_format="float"),
    "responses": lambda: responded(respond("responses")),
    "responses_stream": response_events,
    "responses_background": background,
    "responses_call": response_calls,
    "files": file_round,
    "images": lambda: {"images": len(client.images.generate(model="gpt-image-1", prompt="A river").data or [])},
    "speech": lambda: {"bytes": len(client.audio.speech.create(model="tts-1", voice="alloy", input="A river").read())},
    "transcription": transcribed,
}

if __name__ == "__main__":
    run(SCENARIOS, api_failure)
