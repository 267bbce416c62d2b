"""What the provider's simulator says: answers, streams and errors in OpenAI's shapes.

Pure composition; the caller counts tokens and sends. Cannot fail on what the simulator has let in.
"""

import json
import re
import secrets
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Final

from sentinel.devstack.provider.plays import Call, Said

MODELS: Final = (
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
    "gpt-4",
    "gpt-4-turbo",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-5",
    "gpt-5-mini",
    "o3-mini",
    "anthropic/claude-sonnet-4",
    "openai/gpt-4o",
    "openai/gpt-4o-mini",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-ada-002",
    "openai/text-embedding-3-small",
    "omni-moderation-latest",
    "dall-e-2",
    "gpt-image-1",
    "gpt-4o-mini-tts",
    "tts-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "whisper-1",
    "gpt-realtime",
    "gpt-6-luna",
    "sora-2",
)
# Each piece is one token in every encoding that is shipped, wherever it stands; so a text of n pieces has n tokens.
PIECES: Final = tuple(
    re.findall(
        r" \w+|[.,]",
        " The river was wide and slow in the evening, and the small boat moved along the bank without a sound."
        " A man stood at the front and looked at the light on the water.",
    )
)
_CREATED: Final = 1_715_367_049
_FINGERPRINT: Final = "fp_5d2a1b7c90"

# What a real provider's edge sends beside the answer, and no client of Sentinel may see (rules H3, I6).
EDGE_HEADERS: Final = {
    "alt-svc": 'h3=":443"; ma=86400',
    "cf-ray": "8c1f2a3b4c5d6e7f-FRA",
    "cf-cache-status": "DYNAMIC",
    "openai-organization": "simulated-organization",
    "openai-project": "proj_simulated",
    "openai-processing-ms": "42",
    "openai-version": "2020-10-01",
    "set-cookie": "__cf_bm=simulated; path=/; HttpOnly",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "6ms",
}


def pieces(count: int) -> list[str]:
    """`count` pieces of text, one token each."""
    return [piece if position else piece.lstrip() for position, piece in enumerate(islice(cycle(PIECES), count))]


def usual(output_tokens: int, tools: Sequence[Mapping[str, Any]] | None = None, call: str = "") -> Said:
    """What is said where nothing else is scripted: a text of so many pieces, or a call of one of these tools that holds it."""
    said = pieces(output_tokens)
    return Said((), [Call(call, _arguments(tools, call, said))]) if call and tools else Said(said)


def _arguments(tools: Sequence[Mapping[str, Any]], name: str, said: Sequence[str]) -> list[str]:
    """The arguments of a call of the tool `name`, compact JSON in pieces: `said` is one of them, the others are JSON around it.

    It stands under the first of the tool's parameters that is a string, under `text` where it has none. `tools` are those of
    a chat or of a response.
    """
    functions = (tool.get("function") or tool for tool in tools)
    schema = next((one.get("parameters") or {} for one in functions if one.get("name") == name), {})
    properties = schema.get("properties") or {}
    field = next((key for key, value in properties.items() if value.get("type") == "string"), "text")
    return [f'{{{json.dumps(field)}:"', *said, '"}']


def model_entry(model: str) -> dict[str, Any]:
    """One model as GET /v1/models/{id} shows it."""
    return {"id": model, "object": "model", "created": _CREATED, "owned_by": "system"}


def model_list() -> dict[str, Any]:
    """GET /v1/models."""
    return {"object": "list", "data": [model_entry(model) for model in MODELS]}


def error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error body, all four keys."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_error(status: int) -> dict[str, Any]:
    """The body that belongs to an error status somebody asked for."""
    kinds = {
        429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again in 1s."),
        401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-simu****************ated."),
        403: ("invalid_request_error", "unsupported_country_region_territory", "Country, region, or territory not supported"),
        404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    }
    kind, code, message = kinds.get(
        status,
        ("server_error", None, "The server had an error while processing your request. Sorry about that!")
        if status >= 500
        else ("invalid_request_error", "simulated_error", f"This answer with status {status} was asked for."),
    )
    return error(message, kind, code=code)


def wrong_key(key: str) -> dict[str, Any]:
    """The 401 of a wrong key, which quotes part of it as OpenAI does; or of none."""
    if not key:
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."
        )
        return error(message, "invalid_request_error")
    quoted = f"{key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:]}" if len(key) > 12 else "*" * len(key)
    message = (
        f"Incorrect API key provided: {quoted}. You can find your API key at https://platform.openai.com/account/api-keys."
    )
    return error(message, "invalid_request_error", code="invalid_api_key")


def usage(input_tokens: int, output_tokens: int, *, chat: bool) -> dict[str, Any]:
    """The usage object of a chat answer, or of a completion."""
    totals = {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }
    if not chat:
        return totals
    details = ("reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
    return {
        **totals,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": dict.fromkeys(details, 0),
    }


class Script:
    """One answer: `choices` times the same, whole or as the events of a stream. Only a chat can call tools."""

    def __init__(self, body: Mapping[str, Any], said: Said, *, chat: bool, cut_short: bool = False, choices: int = 1) -> None:
        self.chat = chat
        self.choices = choices
        self._said = said
        self._call_ids = [[call.id or f"call_{secrets.token_hex(12)}" for call in said.calls] for _ in range(choices)]
        self.finish_reason = "length" if cut_short else "tool_calls" if said.calls else "stop"
        options = body.get("stream_options") or {}
        self.usage_shown = options.get("include_usage") is True
        self._padded = options.get("include_obfuscation") is not False
        alphabet = string.ascii_letters + string.digits
        name = "".join(secrets.choice(alphabet) for _ in range(29))
        self._head = {
            "id": f"chatcmpl-{name}" if chat else f"cmpl-{name}",
            "created": int(time.time()),
            "model": body["model"],
            **({"service_tier": "default"} if chat else {}),
            "system_fingerprint": _FINGERPRINT,
        }

    @property
    def produced(self) -> str:
        """What one choice costs."""
        return self._said.produced

    def whole(self, spent: Mapping[str, Any] | None) -> dict[str, Any]:
        """The plain answer; `spent` None leaves usage out."""
        counted = {} if spent is None else {"usage": spent}
        return {
            **self._head,
            "object": "chat.completion" if self.chat else "text_completion",
            "choices": [self._whole_choice(index) for index in range(self.choices)],
            **counted,
        }

    def events(self) -> Sequence[tuple[bytes, int, str]]:
        """The stream without usage event and `[DONE]`, as (event, choice index, what it carries of `produced`)."""
        events: list[tuple[bytes, int, str]] = []
        for parts in zip(*map(self._parts, range(self.choices)), strict=True):
            events += [(self._delta(index, part, None), index, text) for index, (part, text) in enumerate(parts)]
        for index in range(self.choices):
            events.append((self._delta(index, {} if self.chat else "", self.finish_reason), index, ""))
        return events

    def usage_event(self, spent: Mapping[str, Any]) -> bytes:
        """The extra last event, with empty choices (rule U1)."""
        return self._event({"choices": [], "usage": spent})

    def _whole_choice(self, index: int) -> dict[str, Any]:
        ending = {"logprobs": None, "finish_reason": self.finish_reason}
        text, calls = self._said.text, self._said.calls
        if not self.chat:
            return {"text": text, "index": index, **ending}
        called = [self._called(index, at, call.arguments) for at, call in enumerate(calls)]
        said = {"content": text or None, "tool_calls": called} if calls else {"content": text}
        message: dict[str, Any] = {"role": "assistant", **said, "refusal": None, "annotations": []}
        return {"index": index, "message": message, **ending}

    def _called(self, index: int, at: int, arguments: str) -> dict[str, Any]:
        """Call number `at` of this choice, with what has been said of its arguments."""
        function = {"name": self._said.calls[at].name, "arguments": arguments}
        return {"id": self._call_ids[index][at], "type": "function", "function": function}

    def _parts(self, index: int) -> Iterator[tuple[Any, str]]:
        """What the events of a choice bring, each with what it carries of `produced`; the first of a chat names the role."""
        text, calls = self._said.pieces, self._said.calls
        if not self.chat:
            yield from ((piece, piece) for piece in text)
            return
        opening: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if text or not calls:
            yield opening, ""
            yield from (({"content": piece}, piece) for piece in text)
            opening = {}
        for at, call in enumerate(calls):
            begun = {"tool_calls": [{"index": at, **self._called(index, at, "")}]}
            yield {**opening, **({"content": None} if opening else {}), **begun}, call.name
            yield from (({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}, piece) for piece in call.pieces)
            opening = {}

    def _delta(self, index: int, part: Any, finish_reason: str | None) -> bytes:
        content = {"index": index, "delta": part} if self.chat else {"text": part, "index": index}
        choice = {**content, "logprobs": None, "finish_reason": finish_reason}
        return self._event({"choices": [choice], **({"usage": None} if self.usage_shown else {})})

    def _event(self, fields: Mapping[str, Any]) -> bytes:
        padding = {"obfuscation": secrets.token_urlsafe(6)} if self.chat and self._padded else {}
        object_name = "chat.completion.chunk" if self.chat else "text_completion"
        return b"data: " + json.dumps({**self._head, "object": object_name, **fields, **padding}).encode() + b"\n\n"
