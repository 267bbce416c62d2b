"""Chat front ends of the command line: conversations of three turns with a tool called in each, streamed."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tests.clients.installation import python_of
from tests.clients.tasks.task import QUESTIONS, SAID, Answer, Place, Program, Read, Task, calls, says

_MODEL: Final = "gpt-4o-mini"
_GREETING: Final = "hello, world\n"
# What its documentation tells users to write for a server that speaks OpenAI's language.
_LLM_MODEL: Final = "- {{model_id: given, model_name: {model}, api_base: {url}, api_key_name: given, supports_tools: true}}\n"
_LLM_TOOLS: Final = '''
from pathlib import Path

def list_files() -> str:
    """The names of all files."""
    return " ".join(sorted(path.name for path in Path().iterdir()))

def read_file(name: str) -> str:
    """What is in a file."""
    return Path(name).read_text()

def write_file(name: str, text: str) -> str:
    """Write a file."""
    Path(name).write_text(text)
    return "written"
'''


def _turns(*called: tuple[str, Mapping[str, Any]]) -> Callable[[Place], Sequence[Answer]]:
    """A turn for each of these calls: the call, and then what is said of it."""
    answers = [answer for call, said in zip(called, SAID, strict=True) for answer in (calls(call), says(said))]
    return lambda _place: answers


def _shell_gpt(place: Place) -> Program:
    python = python_of("shell-gpt")
    # What `sgpt --install-functions` does.
    (function,) = python.parents[1].glob("lib/*/site-packages/sgpt/llm_functions/common/execute_shell.py")
    place.write(f".config/shell_gpt/functions/{function.name}", function.read_text())
    environ = {
        "API_BASE_URL": place.base_url,
        "DEFAULT_MODEL": _MODEL,
        "SHOW_FUNCTIONS_OUTPUT": "true",
        "CHAT_CACHE_PATH": str(place.home / "chats"),
        "CACHE_PATH": str(place.home / "answers"),
    }
    # The first line stands before the first question; then the conversation begins.
    command = [str(python.with_name("sgpt")), "--repl", "task", "--no-md"]
    return Program(command, environ, "\n".join([place.marker, "__sgpt__eof__", *QUESTIONS, "exit()", ""]))


def _llm(place: Place) -> Program:
    place.write("llm/extra-openai-models.yaml", _LLM_MODEL.format(model=_MODEL, url=place.base_url))
    tools = place.write("tools.py", _LLM_TOOLS)
    llm = str(python_of("llm").with_name("llm"))
    command = [llm, "chat", "-m", "given", "--key", place.key, "--tools-debug", "--functions", str(tools)]
    questions = [f"{place.marker}: {question}" for question in QUESTIONS]
    return Program(command, {"LLM_USER_PATH": str(place.home / "llm")}, "\n".join([*questions, "exit", ""]))


def _reader(called: str) -> Read:
    """The lines of the output, and what stands there or among the errors as this pattern says."""
    pattern = re.compile(called, re.DOTALL)
    return lambda output, errors: ([line.strip() for line in output.splitlines()], pattern.findall(output + errors))


TASKS: Final = (
    Task(
        "shell-gpt",
        "shell-gpt",
        "1.5.1",
        "shell-gpt",
        _turns(
            ("execute_shell_command", {"shell_command": "ls"}),
            ("execute_shell_command", {"shell_command": "cat notes.txt"}),
            ("execute_shell_command", {"shell_command": f"printf '{_GREETING.strip()}\\n' > notes.txt"}),
        ),
        _shell_gpt,
        _reader(r"@FunctionCall .*?```text\n.*?```"),
    ),
    Task(
        "llm",
        "llm",
        "0.36",
        "llm",
        _turns(
            ("list_files", {}), ("read_file", {"name": "notes.txt"}), ("write_file", {"name": "notes.txt", "text": _GREETING})
        ),
        _llm,
        _reader(r"Tool call: .*?\n  .*?\n"),
    ),
)
