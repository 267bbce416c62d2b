"""The scenarios of `llm`, the command line: each is one or more of its commands, as somebody would type them."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from lines import run
from llm.cli import cli

QUESTION = "Say something about rivers."
KEY = os.environ["OPENAI_API_KEY"]
BASE_URL = os.environ["OPENAI_BASE_URL"]
# What its documentation tells users to write for a server that speaks OpenAI's language.
MODELS = f"""
- {{model_id: chat, model_name: gpt-4o, api_base: "{BASE_URL}", api_key_name: sentinel}}
- {{model_id: slashed, model_name: gpt-4o, api_base: "{BASE_URL}/", api_key_name: sentinel}}
- {{model_id: legacy, model_name: gpt-3.5-turbo-instruct, api_base: "{BASE_URL}", api_key_name: sentinel, completion: true}}
- {{model_id: none, model_name: gpt-none, api_base: "{BASE_URL}", api_key_name: sentinel}}
- {{model_id: tight, model_name: gpt-4o, api_base: "{os.environ.get("TIGHT_BASE_URL", "")}", api_key_name: sentinel}}
"""
_USAGE = re.compile(r"Token usage: ([\d,]+) input, ([\d,]+) output")


class CommandError(Exception):
    """A command of `llm` ended with an exit code."""


def llm(*arguments: str, key: str = KEY) -> tuple[str, str]:
    """(output, errors) of one command; its key goes by the option that belongs to it.

    It enters where the program `llm` does, without the second a new interpreter takes.
    """
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        cli.main([*arguments, "--key", key], prog_name="llm")
    if errors.getvalue().startswith("Error"):
        raise CommandError(errors.getvalue().strip())
    return output.getvalue(), errors.getvalue()


def prompt(model: str, *options: str, key: str = KEY) -> dict[str, Any]:
    """`llm -m MODEL -u QUESTION`: the text, and the usage it reports."""
    output, errors = llm("prompt", "-m", model, "-u", "--no-log", *options, QUESTION, key=key)
    found = _USAGE.search(errors)
    usage = [int(count.replace(",", "")) for count in found.groups()] if found else None
    return {"text": output.removesuffix("\n"), "usage": usage}


def failure(error: Exception) -> dict[str, Any]:
    """What a user sees on the terminal."""
    return {"class": type(error).__name__, "message": str(error)}


SCENARIOS = {
    "chat": lambda: prompt("chat", "--no-stream"),
    "chat_stream_usage": lambda: prompt("chat"),
    "completions": lambda: prompt("legacy", "--no-stream"),
    "models": lambda: {"models": llm("openai", "endpoint", BASE_URL, "--models")[0].split()},
    "endpoint": lambda: {"text": llm("openai", "endpoint", BASE_URL, "-m", "gpt-4o", QUESTION)[0].rstrip("\n")},
    "slashed": lambda: prompt("slashed", "--no-stream"),
    "bad_key": lambda: prompt("chat", key="sk-wrong"),
    "unknown_model": lambda: prompt("none"),
    "quota": lambda: prompt("chat", key=os.environ["SPENT_KEY"]),
    "rate": lambda: {"texts": [prompt("tight", key=os.environ["TIGHT_KEY"])["text"] for _ in range(2)]},
    "responses": lambda: {"text": llm("openai", "endpoint", BASE_URL, "--responses", "-m", "gpt-4o", QUESTION)[0].rstrip("\n")},
}

if __name__ == "__main__":
    home = Path.home() / "llm"
    home.mkdir(exist_ok=True)
    (home / "extra-openai-models.yaml").write_text(MODELS)
    os.environ["LLM_USER_PATH"] = str(home)
    run(SCENARIOS, failure)
