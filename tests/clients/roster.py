"""Which clients are tried, in which releases, with which scenarios."""

from typing import Final

from tests.clients.running import Client
from tests.clients.tasks import codex, front_ends, opencode

CLIENTS: Final = (
    Client("openai-1", "openai-python", "openai_python.py", "openai", "1.109.1"),
    Client("openai-3.3", "openai-python", "openai_python.py", "openai", "3.3.1"),
    Client("openai-3", "openai-python", "openai_python.py", "openai", "3.52.0"),
    Client("langchain", "langchain", "langchain_python.py", "langchain-openai", "1.7.3"),
    Client("llm", "llm", "llm_cli.py", "llm", "0.36"),
    Client("openai-node-6", "openai-node", "openai_node.mjs", "openai", "6.49.0", "openai"),
    Client("openai-node-7", "openai-node", "openai_node.mjs", "openai", "7.55.0", "openai-newest"),
    Client("ai-sdk-compatible", "ai-sdk", "ai_sdk.mjs", "@ai-sdk/openai-compatible", "2.0.87", "@ai-sdk/openai-compatible"),
    Client("ai-sdk-openai", "ai-sdk-openai", "ai_sdk.mjs", "@ai-sdk/openai", "3.0.141", "@ai-sdk/openai"),
)

# Whole programs, with a task each.
TASKS: Final = (*codex.TASKS, *opencode.TASKS, *front_ends.TASKS)

# What only Sentinel can answer: asked of the provider too, they would say something else.
OURS: Final = frozenset({"too_large", "quota", "rate"})

# They wait for most of their time, so they run in a process of their own, beside the one that runs all the others.
_WAITING: Final = frozenset({"quota", "provider_500", "provider_503"})

_EVERYWHERE: Final = ("chat", "chat_stream_usage", "slashed", "bad_key", "unknown_model", "quota", "rate")
_SDKS: Final = ("chat_stream", "tools", "tools_stream", "unknown_model_stream", "too_large")
_MORE: Final = ("tool_calls", "tool_calls_stream", "embeddings", "responses", "responses_stream")
_STEERED: Final = (
    *("retried", "provider_400", "provider_429", "provider_500", "provider_503", "cut", "error_event", "aborted"),
)
_OPENAI: Final = (
    *_EVERYWHERE,
    *_SDKS,
    *_STEERED,
    *("completions", "completions_stream", "models", "model", "headers", "headers_stream", "bad_parameter", "empty_messages"),
    *("unknown_path", "wrong_method", "provider_401", "provider_409", "provider_422", "provider_429_stream", "provider_html"),
    *("cut_plain", "no_done", "bad_key_large"),
    *_MORE,
    *("embeddings_floats", "responses_background", "responses_call", "files", "images", "speech", "transcription"),
)

SCENARIOS: Final = {
    "openai-python": (*_OPENAI, "chat_async", "chat_async_stream"),
    "openai-node": _OPENAI,
    "langchain": (*_EVERYWHERE, *_SDKS, *_STEERED, *_MORE),
    "llm": (*_EVERYWHERE, "completions", "models", "endpoint", "responses"),
    "ai-sdk": (*_EVERYWHERE, *_SDKS, *_STEERED, "tool_calls", "tool_calls_stream", "embeddings"),
    # It takes no fields of the simulator, and has an API of its own for responses.
    "ai-sdk-openai": (*_EVERYWHERE, *_SDKS, "embeddings", "responses", "responses_stream"),
}


def parts(client: Client) -> list[list[str]]:
    """The scenarios of this client by the process that runs them."""
    names = SCENARIOS[client.kind]
    return [[name for name in names if name not in _WAITING], [name for name in names if name in _WAITING]]
