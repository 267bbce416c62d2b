"""What every client is held to, one table for all of them: what arrives, what is raised, what may differ from the provider."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sentinel.devstack.provider_script import pieces
from tests.clients.running import Client

TEXT: Final = "".join(pieces(48))

# Scenarios that end with TEXT, and whether the client sees usage.
SERVED: Final = {
    "chat": True,
    "chat_stream": False,
    "chat_stream_usage": True,
    "tools": True,
    "tools_stream": False,
    "completions": True,
    "completions_stream": False,
    "slashed": True,
    "retried": True,
    "no_done": False,
    "chat_async": True,
    "chat_async_stream": False,
    "endpoint": False,
}
# The AI SDK's provider for OpenAI asks every stream for usage; `llm` shows none of a legacy completion.
_USAGE_SEEN: Final = {
    ("ai-sdk-openai", "chat_stream"): True,
    ("ai-sdk-openai", "tools_stream"): True,
    ("llm", "completions"): False,
}
_INVALID: Final = "invalid_request_error"


@dataclass(frozen=True)
class Refusal:
    """An error answer as a program sees it."""

    status: int
    type: str | None
    code: str | None
    param: str | None = None


REFUSED: Final = {
    "bad_parameter": Refusal(400, _INVALID, None, "stream_options"),
    "empty_messages": Refusal(400, _INVALID, "empty_array", "messages"),
    "bad_key": Refusal(401, _INVALID, "invalid_api_key"),
    "bad_key_large": Refusal(401, _INVALID, "invalid_api_key"),
    "unknown_model": Refusal(404, _INVALID, "model_not_found"),
    "unknown_model_stream": Refusal(404, _INVALID, "model_not_found"),
    "unknown_path": Refusal(404, _INVALID, None),
    "wrong_method": Refusal(405, _INVALID, None),
    "too_large": Refusal(413, _INVALID, "request_too_large"),
    "quota": Refusal(429, "insufficient_quota", "insufficient_quota"),
    "provider_400": Refusal(400, _INVALID, "simulated_error"),
    "provider_401": Refusal(502, "server_error", "upstream_error"),
    "provider_409": Refusal(409, _INVALID, "simulated_error"),
    "provider_422": Refusal(422, _INVALID, "simulated_error"),
    "provider_429": Refusal(429, "requests", "rate_limit_exceeded"),
    "provider_429_stream": Refusal(429, "requests", "rate_limit_exceeded"),
    "provider_500": Refusal(502, "server_error", "upstream_error"),
    "provider_503": Refusal(503, "server_error", "upstream_unavailable"),
    "provider_html": Refusal(502, None, None),
}

# Answers that begin as 200 and break: (class, code, type) by kind of client. A plain body that breaks off is the connection's.
_IN_STREAM: Final = ("APIError", "upstream_error", "server_error")
_FIRST: Final = ("APIError", None, "server_error")
_AI_SDK: Final = ("object", None, None)  # it hands the error object of the stream to its reader, as it is
BROKEN: Final = {
    "cut": {"openai-python": _IN_STREAM, "langchain": _IN_STREAM, "openai-node": _IN_STREAM, "ai-sdk": _AI_SDK},
    "error_event": {"openai-python": _FIRST, "langchain": _FIRST, "openai-node": _FIRST, "ai-sdk": _AI_SDK},
    "cut_plain": {"openai-python": ("APIConnectionError", None, None), "openai-node": ("TypeError", None, None)},
}

# Routes beyond chat: what they answer is compared with the provider's own answer, and is no error.
ROUTES: Final = frozenset(
    {
        *("models", "model", "tool_calls", "tool_calls_stream", "embeddings", "embeddings_floats", "files", "images"),
        *("responses", "responses_stream", "responses_background", "responses_call", "speech", "transcription"),
    }
)

# Held to something by a test of their own.
ALONE: Final = frozenset({"headers", "headers_stream", "rate", "aborted"})

# Where Sentinel's answer is not the provider's, on purpose: what of it is still the same.
_REFUSAL: Final = ("class", "status", "code", "type", "param")
DIFFERENT: Final[dict[str, tuple[str, ...]]] = {
    "bad_key": _REFUSAL,  # the message says where the key comes from
    "bad_key_large": _REFUSAL,
    "provider_401": (),  # Sentinel's own key was refused, which is no fault of the caller's: 502
    "provider_500": ("class", "type"),  # tried once more, then 502
    "provider_503": ("class", "status", "type"),  # tried twice more, then told as Sentinel's own
    "cut": (),  # told in the stream, where the provider just hangs up
    "headers": (),  # the limits are the caller's own
    "headers_stream": (),
}

_MADE_UP: Final = re.compile(r"^(chatcmpl|cmpl|resp|msg|fc|call|rs|req|file|lc_run|run)[-_].*")

_OWN: Final = frozenset({"obfuscation", "user"})
_TIMES: Final = frozenset({"created", "created_at", "completed_at"})


def usage_seen(client: Client, scenario: str) -> bool:
    """Whether this client sees usage in this scenario."""
    return _USAGE_SEEN.get((client.kind, scenario), SERVED[scenario])


def error_class(client: Client, status: int) -> str:
    """The class under which this client raises an error status (rule E2)."""
    if client.kind.startswith("ai-sdk"):
        return "AI_APICallError"
    if client.kind == "llm":
        return "CommandError"
    names = {400: "BadRequest", 401: "Authentication", 404: "NotFound", 409: "Conflict", 422: "UnprocessableEntity"}
    names |= {403: "PermissionDenied", 429: "RateLimit"}
    other = "API" if client.kind == "openai-node" else "APIStatus"
    return f"{'InternalServer' if status >= 500 else names.get(status, other)}Error"


def comparable(value: Any) -> Any:
    """A told value without what is made anew for every answer: ids, times, padding, and the user, which names the side.

    A null `usage` is left out as well: a stream that Sentinel asks for usage has it in each chunk (rule U5).
    """
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in _OWN and (name, item) != ("usage", None)}
        return {name: 0 if name in _TIMES else comparable(item) for name, item in kept.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [comparable(item) for item in value]
    return _MADE_UP.sub(r"\1", value) if isinstance(value, str) else value
