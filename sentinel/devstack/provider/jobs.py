"""Batches, fine-tuning jobs and evals: work that is given an order and is done a while later. Raises `RefusedError`.

A batch's tokens go into the row of the request that made it, when it completes.
"""

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack import provider_script
from sentinel.devstack.provider import kinds, prompt
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import prompts, refused, require
from sentinel.devstack.provider.files import put_file
from sentinel.devstack.provider.objects import Collection, Routes, action, ends, new
from sentinel.devstack.provider.response_script import usage
from sentinel.devstack.provider.sending import reply
from sentinel.devstack.provider.store import Thing
from sentinel.ops.records import TextPrompt

_DAY_S: Final = 86_400
_WAITING: Final = ("validating", "in_progress")
_TRAINING: Final = ("validating_files", "queued", "running")
_NO_ERROR: Final = {"code": "", "message": ""}
_LINES_MAX: Final = 10_000

# Batches


def _batch(asked: Asked) -> Mapping[str, Any]:
    body = asked.fields
    require(body, "input_file_id", "endpoint", "completion_window")
    times = dict.fromkeys(("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelled_at"))
    return {
        "endpoint": body["endpoint"],
        "input_file_id": body["input_file_id"],
        "completion_window": body["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "expires_at": int(time.time()) + _DAY_S,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.get("metadata"),
        **times,
    }


def _batch_made(asked: Asked, batch: Thing) -> None:
    lines = _lines(asked, batch)
    batch.shown["status"] = "in_progress"

    def completed() -> Mapping[str, Any]:
        given = sum(_line_tokens(asked, line.get("body") or {}) for line in lines)
        spent = usage(*asked.spent(given, len(lines) * asked.output_tokens))
        said = "\n".join(json.dumps(_answered(asked, line)) for line in lines).encode()
        output = put_file(asked, f"{batch.id}_output.jsonl", len(said), said, "batch_output")
        return {
            "status": "completed",
            "completed_at": int(time.time()),
            "output_file_id": output.id,
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
            "usage": spent,
        }

    ends(asked, batch, waiting=_WAITING, then=completed)


def _lines(asked: Asked, batch: Thing) -> list[dict[str, Any]]:
    """The requests of the input file; what is no JSON object is none."""
    file = asked.desk.store.get(kinds.FILE, batch.shown["input_file_id"], status=400, param="input_file_id")
    lines = []
    for line in (file.content or b"").splitlines()[:_LINES_MAX]:
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict):
            lines.append(read)
    return lines


def _line_tokens(asked: Asked, body: Mapping[str, Any]) -> int:
    model = str(body.get("model"))
    if "messages" in body:
        return asked.desk.count_messages(body["messages"], model)
    if "prompt" in body or (isinstance(body.get("input"), list) and all(isinstance(one, str) for one in body["input"])):
        return asked.desk.count(TextPrompt(*prompts(body, "prompt" if "prompt" in body else "input")), model)
    return asked.desk.count_messages(prompt.messages(prompt.items(body.get("input"))), model)


def _answered(asked: Asked, line: Mapping[str, Any]) -> dict[str, Any]:
    body = line.get("body") or {}
    said = provider_script.usual(asked.output_tokens)
    script = provider_script.Script({"model": str(body.get("model"))}, said, chat=True)
    spent = provider_script.usage(_line_tokens(asked, body), asked.output_tokens, chat=True)
    answer = {"status_code": 200, "request_id": f"req_{secrets.token_hex(8)}", "body": script.whole(spent)}
    return {"id": f"batch_req_{secrets.token_hex(8)}", "custom_id": line.get("custom_id"), "response": answer, "error": None}


def _cancel_batch(_asked: Asked, batch: Thing) -> None:
    if batch.shown["status"] not in _WAITING:
        raise refused(409, f"Cannot cancel a batch with status '{batch.shown['status']}'.")
    batch.shown |= {"status": "cancelled", "cancelled_at": int(time.time())}


# Fine-tuning


def _tuning(asked: Asked) -> Mapping[str, Any]:
    body = asked.fields
    require(body, "training_file")
    return {
        "model": asked.model(),
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0},
        "method": body.get("method"),
        "status": "running",
        "seed": body.get("seed") or 1,
        "organization_id": "org-simulated",
        "result_files": [],
        "fine_tuned_model": None,
        "finished_at": None,
        "trained_tokens": None,
        "estimated_finish": None,
        "integrations": [],
        "error": None,
        "metadata": body.get("metadata"),
    }


def _tuning_made(asked: Asked, job: Thing) -> None:
    _tell(asked, job, "Created fine-tuning job")
    suffix = asked.fields.get("suffix") or ""

    def succeeded() -> Mapping[str, Any]:
        model = f"ft:{job.shown['model']}:simulated:{suffix}:{secrets.token_hex(4)}"
        new(asked, kinds.MODEL, {"owned_by": "simulated"}, name=model)
        checkpoint = {
            "fine_tuning_job_id": job.id,
            "fine_tuned_model_checkpoint": f"{model}:ckpt-step-1",
            "step_number": 1,
            "metrics": {"step": 1, "train_loss": 0.5},
        }
        new(asked, kinds.TUNING_CHECKPOINT, checkpoint, parent=job.id)
        _tell(asked, job, "The job has successfully completed")
        return {"status": "succeeded", "fine_tuned_model": model, "finished_at": int(time.time()), "trained_tokens": 100}

    ends(asked, job, waiting=_TRAINING, then=succeeded)


def _tell(asked: Asked, job: Thing, message: str) -> None:
    new(asked, kinds.TUNING_EVENT, {"level": "info", "message": message, "type": "message"}, parent=job.id)


def _cancel_tuning(_asked: Asked, job: Thing) -> None:
    job.shown |= {"status": "cancelled", "finished_at": int(time.time())}


def _pause(_asked: Asked, job: Thing) -> None:
    if job.shown["status"] != "running":
        raise refused(400, f"Cannot pause a job with status '{job.shown['status']}'.")
    job.shown["status"] = "paused"


def _resume(asked: Asked, job: Thing) -> None:
    if job.shown["status"] != "paused":
        raise refused(400, f"Cannot resume a job with status '{job.shown['status']}'.")
    job.shown["status"] = "running"
    _tuning_made(asked, job)


# Evals


def _eval(asked: Asked) -> Mapping[str, Any]:
    body = asked.fields
    require(body, "data_source_config", "testing_criteria")
    config = dict(body["data_source_config"])
    config["schema"] = config.pop("item_schema", None) or config.get("schema") or {}
    criteria = [{"id": secrets.token_hex(8), **one} for one in body["testing_criteria"]]
    kept = {"name": body.get("name") or "", "metadata": body.get("metadata") or {}}
    return {**kept, "data_source_config": config, "testing_criteria": criteria}


def _eval_run(asked: Asked) -> Mapping[str, Any]:
    body = asked.fields
    require(body, "data_source")
    return {
        "eval_id": asked.ids["eval_id"],
        "name": body.get("name") or "",
        "model": body["data_source"].get("model") or "gpt-4o",
        "status": "queued",
        "data_source": body["data_source"],
        "error": _NO_ERROR,
        "report_url": "https://platform.openai.com/evaluations",
        "per_model_usage": [],
        "per_testing_criteria_results": [],
        "result_counts": {"total": 0, "errored": 0, "failed": 0, "passed": 0},
        "metadata": body.get("metadata") or {},
    }


def _eval_run_made(asked: Asked, run: Thing) -> None:
    """It ends with one output item, and with a usage that belongs to its create."""
    criteria = asked.desk.store.get(kinds.EVAL, run.parent).shown["testing_criteria"]

    def completed() -> Mapping[str, Any]:
        given, produced = asked.spent(asked.desk.count_messages([], run.shown["model"]), asked.output_tokens)
        spent = {"prompt_tokens": given, "completion_tokens": produced, "total_tokens": given + produced, "cached_tokens": 0}
        sample = {
            "input": [],
            "output": [],
            "usage": spent,
            "error": _NO_ERROR,
            "finish_reason": "stop",
            "model": run.shown["model"],
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": 1,
            "max_completion_tokens": 100,
        }
        item = {
            "run_id": run.id,
            "eval_id": run.parent,
            "status": "pass",
            "datasource_item_id": 0,
            "datasource_item": {},
            "results": [{"name": one.get("name", ""), "passed": True, "score": 1.0} for one in criteria],
            "sample": sample,
        }
        new(asked, kinds.OUTPUT_ITEM, item, parent=run.id)
        results = [{"testing_criteria": one["id"], "passed": 1, "failed": 0} for one in criteria]
        return {
            "status": "completed",
            "result_counts": {"total": 1, "errored": 0, "failed": 0, "passed": 1},
            "per_model_usage": [{"model_name": run.shown["model"], "invocation_count": 1, **spent}],
            "per_testing_criteria_results": results,
        }

    ends(asked, run, waiting=("queued", "in_progress"), then=completed)


def _cancel_eval(_asked: Asked, run: Thing) -> None:
    run.shown["status"] = "canceled"


async def delete_eval(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/evals/{id}."""
    thing = EVALS.thing(asked)
    asked.desk.store.drop(thing)
    return await reply(asked, {"object": "eval.deleted", "deleted": True, "eval_id": thing.id})


async def delete_eval_run(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/evals/{id}/runs/{id}."""
    thing = EVAL_RUNS.thing(asked)
    asked.desk.store.drop(thing)
    return await reply(asked, {"object": "eval.run.deleted", "deleted": True, "run_id": thing.id})


BATCHES: Final = Collection("/v1/batches", "batch_id", kinds.BATCH, _batch, made=_batch_made)
TUNING: Final = Collection("/v1/fine_tuning/jobs", "job_id", kinds.TUNING, _tuning, made=_tuning_made)
_JOB: Final = f"{TUNING.path}/{{job_id}}"
EVENTS: Final = Collection(f"{_JOB}/events", "event_id", kinds.TUNING_EVENT, above=TUNING)
CHECKPOINTS: Final = Collection(f"{_JOB}/checkpoints", "checkpoint_id", kinds.TUNING_CHECKPOINT, above=TUNING)
EVALS: Final = Collection("/v1/evals", "eval_id", kinds.EVAL, _eval, changes=("name", "metadata"))
EVAL_RUNS: Final = Collection("/v1/evals/{eval_id}/runs", "run_id", kinds.EVAL_RUN, _eval_run, above=EVALS, made=_eval_run_made)
OUTPUT_ITEMS: Final = Collection(f"{EVAL_RUNS.path}/{{run_id}}/output_items", "item_id", kinds.OUTPUT_ITEM, above=EVAL_RUNS)


def routes() -> Routes:
    """The rows of the route table."""
    for collection in (BATCHES, TUNING, EVALS, EVAL_RUNS, OUTPUT_ITEMS):
        yield from collection.routes()
    for collection in (EVENTS, CHECKPOINTS):
        yield from (row for row in collection.routes() if row[1] == collection.path)
    yield "POST", "/v1/batches/{batch_id}/cancel", action(BATCHES, _cancel_batch)
    for name, act in (("cancel", _cancel_tuning), ("pause", _pause), ("resume", _resume)):
        yield "POST", f"{_JOB}/{name}", action(TUNING, act)
    yield "DELETE", "/v1/evals/{eval_id}", delete_eval
    for end in ("", "/cancel"):  # as documented, and as the SDK has it
        yield "POST", f"{EVAL_RUNS.path}/{{run_id}}{end}", action(EVAL_RUNS, _cancel_eval)
    yield "DELETE", f"{EVAL_RUNS.path}/{{run_id}}", delete_eval_run
