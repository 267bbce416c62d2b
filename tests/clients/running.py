"""Runs one client's script for several sides at once, and reads the lines it tells: one JSON object a scenario."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.clients.installation import node_packages, python_of

SCRIPTS: Final = Path(__file__).with_name("scripts")
_RUN_S: Final = 120
# What each process of a Python script would import, at once or on first use: imported once for all of them.
_OPENAI: Final = ("openai", "openai.resources.chat.completions", "openai.resources.responses")
_IMPORTED: Final = {
    "openai_python.py": _OPENAI,
    "langchain_python.py": ("langchain_openai", *_OPENAI),
    "llm_cli.py": ("llm.cli", *_OPENAI),
}

Line = dict[str, Any]
Lines = dict[str, Line]


@dataclass(frozen=True)
class Client:
    """One client of one release. `kind` is what its failures look like; `package` is what users install, at `version`.

    `module` is what a Node script imports as `package`, where several releases of it are installed side by side.
    """

    name: str
    kind: str
    script: str
    package: str
    version: str
    module: str = ""

    @property
    def node(self) -> bool:
        """Whether it runs in Node, else in Python."""
        return self.script.endswith(".mjs")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Side:
    """A process of a client: the scenarios it runs, the variables it sees, and its HOME, an empty directory."""

    scenarios: Sequence[str]
    environ: Mapping[str, str]
    home: Path

    def told(self) -> Lines:
        """What it told of each scenario, as far as it came."""
        file = self.home / "told"
        text = file.read_text() if file.exists() else ""
        told = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return {line.pop("scenario"): line for line in told}


@dataclass(frozen=True)
class _Program:
    """A command to run; `given` is its standard input."""

    command: Sequence[str]
    environ: Mapping[str, str]
    home: Path
    given: bytes = b""


async def tell(client: Client, sides: Sequence[Side]) -> list[Lines]:
    """What `client` tells at each side, all of them at the same time; installs it where it is not. NotInstalledError."""
    if client.node:
        packages = await asyncio.to_thread(node_packages)
        programs = [_in_node(client, packages, side) for side in sides]
    else:
        python = await asyncio.to_thread(python_of, client.name)
        programs = [_in_python(client, python, sides)]
    failures = [failure for failure in await asyncio.gather(*map(_failure, programs)) if failure]
    told = [side.told() for side in sides]
    counts = ", ".join(f"{len(lines)} of {len(side.scenarios)}" for side, lines in zip(sides, told, strict=True))
    assert not failures, f"{client} failed; its processes told {counts} scenarios:\n{''.join(failures)}"
    return told


async def _failure(program: _Program) -> str:
    """Run a program: what went wrong, or "". One that hangs is killed, with all it started."""
    process = await asyncio.create_subprocess_exec(
        *program.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(program.home), **program.environ},
        cwd=program.home,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_RUN_S):
            output, _ = await process.communicate(program.given)
            return f"exit code {process.returncode}\n{output.decode()}" if process.returncode else ""
    except TimeoutError:
        return f"it hangs: killed after {_RUN_S} s\n"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _in_node(client: Client, packages: Path, side: Side) -> _Program:
    # Node looks for packages beside the script, so they meet in this side's own home.
    (side.home / "node_modules").symlink_to(packages / "node_modules")
    shutil.copytree(SCRIPTS, side.home / "scripts")
    command = ["node", str(side.home / "scripts" / client.script), *side.scenarios]
    return _Program(command, {"CLIENT_MODULE": client.module, **side.environ}, side.home)


def _in_python(client: Client, python: Path, sides: Sequence[Side]) -> _Program:
    given = [{"scenarios": side.scenarios, "environ": side.environ, "home": str(side.home)} for side in sides]
    command = [str(python), "-s", str(SCRIPTS / "sides.py"), str(SCRIPTS / client.script), *_IMPORTED[client.script]]
    return _Program(command, {}, sides[0].home, json.dumps(given).encode())
