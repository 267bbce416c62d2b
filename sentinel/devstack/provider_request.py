"""What the provider's simulator lets in: bodies checked as OpenAI checks them. Pure; raises `RefusedError` with the answer."""

import json
from typing import Any

from sentinel.devstack import provider_script


class RefusedError(Exception):
    """What OpenAI answers with an error: its status and its body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def read(raw: bytes, *, chat: bool) -> dict[str, Any]:
    """The body, or the 400 or 404 that OpenAI would answer."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        message = "We could not parse the JSON body of your request."
        raise RefusedError(400, provider_script.error(message, "invalid_request_error")) from error
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise RefusedError(400, provider_script.error("you must provide a model parameter", "invalid_request_error"))
    if chat and not (isinstance(body.get("messages"), list) and body["messages"]):
        message = "Missing required parameter: 'messages'."
        raise RefusedError(
            400,
            provider_script.error(message, "invalid_request_error", param="messages", code="missing_required_parameter"),
        )
    if body.get("stream_options") is not None and body.get("stream") is not True:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise RefusedError(400, provider_script.error(message, "invalid_request_error", param="stream_options"))
    if body["model"] not in provider_script.MODELS:
        message = f"The model `{body['model']}` does not exist or you do not have access to it."
        raise RefusedError(404, provider_script.error(message, "invalid_request_error", code="model_not_found"))
    return body


def prompts(body: dict[str, Any]) -> tuple[list[str], int]:
    """The texts of a completions prompt, and the number of tokens given as such (wire.md T4)."""
    prompt = body.get("prompt", "")
    if isinstance(prompt, str):
        return [prompt], 0
    texts = [item for item in prompt if isinstance(item, str)]
    return texts, sum(len(item) if isinstance(item, list) else 1 for item in prompt if not isinstance(item, str))
