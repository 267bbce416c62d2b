"""What the provider's simulator lets in, checked as OpenAI checks it. Pure; raises `RefusedError` with the answer."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sentinel.devstack import provider_script
from sentinel.openai.request.id_paths import Tree


class RefusedError(Exception):
    """What OpenAI answers with an error: its status and its body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def refused(status: int, message: str, *, param: str | None = None, code: str | None = None) -> RefusedError:
    """A refusal of the type `invalid_request_error`."""
    return RefusedError(status, provider_script.error(message, "invalid_request_error", param=param, code=code))


def parsed(raw: bytes) -> Any:
    """The JSON of a body, or the 400 that OpenAI would answer."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise refused(400, "We could not parse the JSON body of your request.") from error


def require(fields: Mapping[str, Any], *names: str) -> None:
    """400 unless each of these is there and not null."""
    for name in names:
        if fields.get(name) is None:
            raise refused(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def check_generation(body: Any, *, chat: bool) -> None:
    """400 unless `body` is one of chat completions, or of completions."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise refused(400, "you must provide a model parameter")
    if chat and body.get("messages") == []:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        raise refused(400, message, param="messages", code="empty_array")
    if chat and not isinstance(body.get("messages"), list):
        raise refused(400, "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter")
    if body.get("stream_options") is not None and body.get("stream") is not True:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise refused(400, message, param="stream_options")


def named(body: Any, at: Tree) -> Iterator[tuple[str, str]]:
    """Every (field, id) by which a body names an object at the places of `at`; without recursion."""
    waiting: list[tuple[str, Any, Tree]] = [("", body, at)]
    while waiting:
        field, value, place = waiting.pop()
        if isinstance(value, list):
            waiting.extend((field, inner, place) for inner in value)
        elif isinstance(value, dict):
            waiting.extend((name, inner, under) for name, inner in value.items() if (under := place.under(name)) is not None)
        elif isinstance(value, str) and place.taken:
            yield field, value


def prompts(body: Mapping[str, Any], field: str = "prompt") -> tuple[list[str], int]:
    """The texts of a prompt, and the number of tokens given as such (rule T4)."""
    prompt = body.get(field, "")
    if isinstance(prompt, str):
        return [prompt], 0
    texts = [item for item in prompt if isinstance(item, str)]
    return texts, sum(len(item) if isinstance(item, list) else 1 for item in prompt if not isinstance(item, str))
