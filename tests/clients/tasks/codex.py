"""Codex, OpenAI's agent of the command line: the Responses API, streamed, nothing stored."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.clients.installation import missing_node, node_packages
from tests.clients.tasks.task import QUESTIONS, SAID, Answer, Place, Program, Task, calls, says

_CONFIG: Final = """
model = "{model}"
{provider}
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
[analytics]
enabled = false
[features]
plugins = false
apps = false
"""
# A provider of one's own, and OpenAI at another address: Codex then asks for a WebSocket first.
_OWN: Final = """
model_provider = "given"
model_providers.given = {{name = "Given", base_url = "{base_url}", env_key = "OPENAI_API_KEY", wire_api = "responses"}}
"""
_OPENAI: Final = 'openai_base_url = "{base_url}"'
_PATCH: Final = """*** Begin Patch
*** Update File: notes.txt
@@
-hello
+hello, world
*** End Patch
"""
_TOLD: Final = {
    "command_execution": ("command", "aggregated_output", "exit_code"),
    "file_change": ("changes", "status"),
    "error": ("message",),
}


def _functions(_place: Place) -> Sequence[Answer]:
    """The tools as functions, as for every model that Codex does not know; two of them called at once."""
    shell = "exec_command"
    return (
        calls((shell, {"cmd": "ls"}), text=SAID[0]),
        calls((shell, {"cmd": "cat notes.txt"}), (shell, {"cmd": "wc -c notes.txt"}), text=SAID[1]),
        calls((shell, {"cmd": f"apply_patch <<'END'\n{_PATCH}END\n"})),
        says(SAID[2]),
    )


def _code(_place: Place) -> Sequence[Answer]:
    """One custom tool that takes a program, as for the newest models; the tools stand among the items of the input."""
    show = "text((await tools.exec_command({cmd: %s})).output)"
    return (
        calls(("exec", show % json.dumps("ls")), text=SAID[0]),
        calls(("exec", show % json.dumps("cat notes.txt")), text=SAID[1]),
        calls(("exec", f"text(await tools.apply_patch({json.dumps(_PATCH)}))")),
        says(SAID[2]),
    )


def _program(model: str, provider: str) -> Callable[[Place], Program]:
    def made(place: Place) -> Program:
        config = _CONFIG.format(model=model, provider=provider.format(base_url=place.base_url))
        place.write(".codex/config.toml", config)
        codex = node_packages("codex") / "node_modules" / ".bin" / "codex"
        command = [str(codex), "exec", "--skip-git-repo-check", "--json", f"{place.marker}: {' '.join(QUESTIONS)}"]
        return Program(command, {"CODEX_API_KEY": place.key})

    return made


def _read(output: str, _errors: str) -> tuple[list[str], list[Any]]:
    items = [line["item"] for line in map(json.loads, output.splitlines()) if line["type"] == "item.completed"]
    said = [item["text"] for item in items if item["type"] == "agent_message"]
    told = [(item["type"], *(item[field] for field in _TOLD[item["type"]])) for item in items if item["type"] in _TOLD]
    return said, sorted(told, key=str)  # calls of one answer end in any order


def _task(model: str, provider: str, answers: Callable[[Place], Sequence[Answer]], name: str, *refused: str) -> Task:
    program = _program(model, provider)
    return Task(name, "@openai/codex", "0.171.0", "codex", answers, program, _read, missing_node, refused=refused)


TASKS: Final = (
    _task("gpt-5", _OWN, _functions, "codex"),
    _task("gpt-6-luna", _OPENAI, _code, "codex-openai", "websocket_not_supported"),
)
