"""The scenarios of `langchain-openai`."""

import os
from typing import Any

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from lines import TOOLS, api_failure, run

MARK = os.environ["CLIENT_MARK"]
QUESTION = "Say something about rivers."


def model(name: str, *, simulate: Any = None, **more: Any) -> ChatOpenAI:
    """A model; base URL and key come from OPENAI_BASE_URL and OPENAI_API_KEY where they are not given."""
    extra = {} if simulate is None else {"extra_body": {"simulate": simulate}}
    return ChatOpenAI(
        **{"model": "gpt-4o", "max_retries": 0, "timeout": 30, "model_kwargs": {"user": f"{MARK}/{name}"}, **extra, **more}
    )


def shown(message: Any) -> dict[str, Any]:
    """A message, or the sum of a stream's chunks."""
    usage = message.usage_metadata
    return {
        "text": message.content,
        "finish": message.response_metadata.get("finish_reason"),
        "usage": usage and [usage["input_tokens"], usage["output_tokens"]],
        "whole": message.model_dump(mode="json"),
    }


def streamed(runnable: Any, most: int | None = None) -> dict[str, Any]:
    """The chunks of a stream, and their sum; after `most` of them the client leaves."""
    chunks: list[Any] = []
    for chunk in runnable.stream(QUESTION):
        chunks.append(chunk)
        if len(chunks) == most:
            break
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return {**shown(total), "chunks": len(chunks)}


def twice() -> dict[str, Any]:
    """Two requests where one is allowed at a time: the second is told to wait, waits, and is served."""
    tight = model("rate", base_url=os.environ["TIGHT_BASE_URL"], api_key=os.environ["TIGHT_KEY"], max_retries=2)
    return {"texts": [tight.invoke(QUESTION).content for _ in range(2)]}


def embedded() -> dict[str, Any]:
    """Two embeddings of texts as they are: by default the package would fetch a vocabulary and send numbers."""
    embeddings = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False)
    return {"lengths": [len(vector) for vector in embeddings.embed_documents(["One river", "Two rivers"])]}


def called(name: str, *, stream: bool) -> dict[str, Any]:
    """The tool calls of an answer."""
    bound = model(name, simulate={"call": "get_weather"}).bind_tools(TOOLS)
    if not stream:
        return {"calls": [[call["name"], call["args"]] for call in bound.invoke(QUESTION).tool_calls]}
    whole = streamed(bound)["whole"]
    return {"calls": [[call["name"], call["args"]] for call in whole["tool_calls"]]}


LATE: dict[str, Any] = {"status": 429, "times": 1, "headers": {"retry-after-ms": "20"}, "key": f"{MARK}/retried"}
CUT: dict[str, Any] = {"cut_after_events": 5}

SCENARIOS = {
    "chat": lambda: shown(model("chat").invoke(QUESTION)),
    "chat_stream": lambda: streamed(model("chat_stream")),
    "chat_stream_usage": lambda: streamed(model("chat_stream_usage", stream_usage=True)),
    "tools": lambda: shown(model("tools").bind_tools(TOOLS).invoke(QUESTION)),
    "tools_stream": lambda: streamed(model("tools_stream").bind_tools(TOOLS)),
    "slashed": lambda: shown(model("slashed", base_url=os.environ["OPENAI_BASE_URL"] + "/").invoke(QUESTION)),
    "empty_messages": lambda: model("empty_messages").invoke([]),
    "bad_key": lambda: model("bad_key", api_key="sk-wrong").invoke(QUESTION),
    "unknown_model": lambda: model("unknown_model", model="gpt-none").invoke(QUESTION),
    "unknown_model_stream": lambda: streamed(model("unknown_model_stream", model="gpt-none")),
    "too_large": lambda: model("too_large").invoke("x" * 2**22),
    "quota": lambda: model("quota", api_key=os.environ["SPENT_KEY"], max_retries=2).invoke(QUESTION),
    "rate": twice,
    "retried": lambda: shown(model("retried", simulate=LATE, max_retries=2).invoke(QUESTION)),
    **{
        f"provider_{status}": (lambda status=status: model(f"provider_{status}", simulate={"status": status}).invoke(QUESTION))
        for status in (400, 429, 500, 503)
    },
    "cut": lambda: streamed(model("cut", simulate=CUT)),
    "error_event": lambda: streamed(model("error_event", simulate={"error_first_event": True})),
    "aborted": lambda: streamed(model("aborted", simulate={"stall_after_events": 5}), most=3),
    "tool_calls": lambda: called("tool_calls", stream=False),
    "tool_calls_stream": lambda: called("tool_calls_stream", stream=True),
    "embeddings": embedded,
    "responses": lambda: shown(model("responses", use_responses_api=True).invoke(QUESTION)),
    "responses_stream": lambda: streamed(model("responses_stream", use_responses_api=True)),
}

if __name__ == "__main__":
    run(SCENARIOS, api_failure)
