"""What is judged and not kept: moderations, decisions, provenance checks, graders. Raises `RefusedError`."""

import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider import prompt
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import require
from sentinel.devstack.provider.files import the_file
from sentinel.devstack.provider.response_script import usage
from sentinel.devstack.provider.sending import reply

_CATEGORIES: Final = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
_GRADER_ERRORS: Final = (
    *("formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error"),
    *("model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error"),
    *("sample_parse_error", "truncated_observation_error", "unresponsive_reward_error"),
)


async def moderate(asked: Asked) -> web.StreamResponse:
    """POST /v1/moderations: nothing is ever flagged, and nothing is charged."""
    model = asked.model("omni-moderation-latest")
    require(asked.fields, "input")
    given = asked.fields["input"]
    count = len(given) if isinstance(given, list) and all(isinstance(one, str) for one in given) else 1
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0001),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    return await reply(asked, {"id": f"modr-{secrets.token_hex(12)}", "model": model, "results": [result] * count})


async def decide(asked: Asked) -> web.StreamResponse:
    """POST /v1/decisions: every question is answered yes, or with its first choice or level; each answer costs a token."""
    model = asked.model()
    require(asked.fields, "input", "questions")
    questions = asked.fields["questions"]
    messages = prompt.messages(prompt.items(asked.fields["input"]))
    texts = [{"role": "user", "content": question.get("instructions") or ""} for question in questions]
    spent = usage(*asked.spent(asked.desk.count_messages([*messages, *texts], model), len(questions)))
    shown: dict[str, Any] = {"model": model, "answers": [_answer(question) for question in questions]}
    return await reply(asked, shown if asked.simulate.get("no_usage") else {**shown, "usage": spent})


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"type": question.get("type", "predicate"), "name": question.get("name")}
    if answer["type"] == "choice":
        first = question["choices"][0]["value"]
        return {**answer, "choice": first, "confidence": 1.0, "probabilities": [{"value": first, "probability": 1.0}]}
    if answer["type"] == "score":
        scored = [{"label": question["levels"][0]["label"], "value": 0, "probability": 1.0}]
        return {**answer, "score": 0.0, "confidence": 1.0, "probabilities": scored}
    return {**answer, "probability": 1.0}


async def check_provenance(asked: Asked) -> web.StreamResponse:
    """POST /v1/content_provenance_checks: nothing is ever detected."""
    the_file(asked)
    results = [{"type": "synthid", "outcome": "not_detected", "model": None, "generated_at": None}]
    return await reply(asked, {"object": "content_provenance_check", "created_at": int(time.time()), "results": results})


async def run_grader(asked: Asked) -> web.StreamResponse:
    """POST /v1/fine_tuning/alpha/graders/run: every sample is right."""
    require(asked.fields, "grader", "model_sample")
    grader = asked.fields["grader"]
    metadata = {
        "name": grader.get("name", ""),
        "type": grader.get("type", ""),
        "errors": dict.fromkeys(_GRADER_ERRORS, False),
        "execution_time": 0.01,
        "scores": {},
        "token_usage": None,
        "sampled_model_name": None,
    }
    shown = {"reward": 1.0, "metadata": metadata, "sub_rewards": {}, "model_grader_token_usage_per_model": {}}
    return await reply(asked, shown)


async def validate_grader(asked: Asked) -> web.StreamResponse:
    """POST /v1/fine_tuning/alpha/graders/validate: answers the grader."""
    require(asked.fields, "grader")
    return await reply(asked, {"grader": asked.fields["grader"]})


ROUTES: Final = (
    ("POST", "/v1/moderations", moderate),
    ("POST", "/v1/decisions", decide),
    ("POST", "/v1/content_provenance_checks", check_provenance),
    ("POST", "/v1/fine_tuning/alpha/graders/run", run_grader),
    ("POST", "/v1/fine_tuning/alpha/graders/validate", validate_grader),
)
