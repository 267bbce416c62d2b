"""Embeddings, models, and secrets for realtime clients: no objects stand behind them. Raises `RefusedError`."""

import base64
import random
import secrets
import sys
import time
from array import array
from typing import Any, Final

from aiohttp import web

from sentinel.devstack import provider_script
from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import prompts, refused, require
from sentinel.devstack.provider.sending import reply
from sentinel.ops.records import TextPrompt

_DIMENSIONS: Final = {"text-embedding-3-large": 3072}
_DIMENSIONS_DEFAULT: Final = 1536
_INPUTS_MAX: Final = 2048


async def embed(asked: Asked) -> web.StreamResponse:
    """POST /v1/embeddings: a vector for each input that only depends on the input."""
    body = asked.fields
    model = asked.model()
    require(body, "input")
    given = body["input"]
    inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    if not isinstance(inputs, list) or not 0 < len(inputs) <= _INPUTS_MAX or not all(_is_input(one) for one in inputs):
        raise refused(400, "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs.")
    texts, tokens_given = prompts(body, "input")
    input_tokens, _ = asked.spent(asked.desk.count(TextPrompt(texts, tokens_given), model), 0)
    dimensions = int(body.get("dimensions") or _DIMENSIONS.get(model, _DIMENSIONS_DEFAULT))
    encoded = body.get("encoding_format") == "base64"
    vectors = [_vector(f"{model}:{one}", dimensions, encoded=encoded) for one in inputs]
    shown: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)],
        "model": model,
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }
    if asked.simulate.get("no_usage"):
        del shown["usage"]
    return await reply(asked, shown)


def _is_input(one: Any) -> bool:
    return isinstance(one, str | list) and len(one) > 0


def _vector(seed: str, dimensions: int, *, encoded: bool) -> list[float] | str:
    chance = random.Random(seed)
    values = array("f", (chance.uniform(-0.05, 0.05) for _ in range(dimensions)))
    if not encoded:
        return values.tolist()
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()


async def list_models(asked: Asked) -> web.StreamResponse:
    """GET /v1/models: those everyone has, then the fine-tuned ones."""
    listed = provider_script.model_list()
    listed["data"] += [thing.shown for thing in asked.desk.store.all(kinds.MODEL)]
    return await reply(asked, listed)


async def show_model(asked: Asked) -> web.StreamResponse:
    """GET /v1/models/{id}; ids with a slash come raw or escaped."""
    return await reply(asked, _model(asked))


async def delete_model(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/models/{id}: fine-tuned ones only."""
    thing = asked.desk.store.find(kinds.MODEL, _model(asked)["id"])
    if thing is None:
        raise refused(403, "You have insufficient permissions for this operation.")
    asked.desk.store.drop(thing)
    return await reply(asked, {"id": thing.id, "object": "model", "deleted": True})


def _model(asked: Asked) -> dict[str, Any]:
    asked.row.model = model = asked.ids["model"]
    if model in provider_script.MODELS:
        return provider_script.model_entry(model)
    thing = asked.desk.store.find(kinds.MODEL, model)
    if thing is None:
        raise refused(404, f"The model '{model}' does not exist", param="model", code="model_not_found")
    return thing.shown


async def realtime_secret(asked: Asked) -> web.StreamResponse:
    """POST /v1/realtime/client_secrets: a secret for one session, which is described."""
    session = asked.fields.get("session") or {}
    shown = {
        "type": "realtime",
        "model": "gpt-realtime",
        **session,
        "object": "realtime.session",
        "id": f"sess_{secrets.token_hex(10)}",
    }
    expires_at = int(time.time()) + 600
    return await reply(asked, {"value": f"ek_{secrets.token_hex(16)}", "expires_at": expires_at, "session": shown})


ROUTES: Final = (
    ("POST", "/v1/embeddings", embed),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/{model:.+}", show_model),
    ("DELETE", "/v1/models/{model:.+}", delete_model),
    ("POST", "/v1/realtime/client_secrets", realtime_secret),
)
