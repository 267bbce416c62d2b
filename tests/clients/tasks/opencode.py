"""opencode: chat completions by the AI SDK, streamed; a second request beside the first asks for a title."""

import json
import platform
from collections.abc import Sequence
from typing import Any, Final

from tests.clients.installation import missing_node, node_packages
from tests.clients.tasks.task import QUESTIONS, SAID, Answer, Place, Program, Task, calls, says

_BINARY: Final = "opencode-linux-x64-baseline"
_OFFLINE: Final = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    # It installs the types of its plug-ins by npm, which is told here to ask no registry.
    "npm_config_offline": "true",
}


def _answers(place: Place) -> Sequence[Answer]:
    notes = str(place.project / "notes.txt")
    return (
        calls(("bash", {"command": "ls"}), text=SAID[0]),
        calls(("read", {"filePath": notes}), ("bash", {"command": "wc -c notes.txt"}), text=SAID[1]),
        calls(("edit", {"filePath": notes, "oldString": "hello", "newString": "hello, world"})),
        says(SAID[2]),
    )


def _program(place: Place) -> Program:
    given = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": place.base_url, "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {"gpt-4o-mini": {}},
    }
    config = {"model": "given/gpt-4o-mini", "autoupdate": False, "share": "disabled", "provider": {"given": given}}
    place.write(".config/opencode/opencode.json", json.dumps(config))
    binary = node_packages("opencode") / "node_modules" / _BINARY / "bin" / "opencode"
    command = [str(binary), "run", "--format", "json", f"{place.marker}: {' '.join(QUESTIONS)}"]
    return Program(command, _OFFLINE)


def _read(output: str, _errors: str) -> tuple[list[str], list[Any]]:
    parts = [line["part"] for line in map(json.loads, output.splitlines())]
    said = [part["text"] for part in parts if part["type"] == "text"]
    states = [(part["tool"], part["state"]) for part in parts if part["type"] == "tool"]
    told = [(tool, state["status"], state["input"], state.get("output"), state.get("error")) for tool, state in states]
    return said, sorted(told, key=str)  # calls of one answer end in any order


def _lacking() -> str:
    """Its package for this platform is the only one that is pinned."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "opencode is pinned for Linux on x86-64 only"
    return missing_node()


TASKS: Final = (Task("opencode", "opencode-ai", "1.18.33", "opencode", _answers, _program, _read, _lacking, _BINARY),)
