"""Runs one client's script against one base URL, and reads the lines it tells: one JSON object a scenario."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.clients.installation import node_packages, python_packages

SCRIPTS: Final = Path(__file__).with_name("scripts")
_RUN_S: Final = 120

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


async def lines(client: Client, scenarios: Sequence[str], environ: Mapping[str, str], home: Path) -> Lines:
    """What `client` tells of each scenario. It sees these variables, an empty HOME, and nothing else of this process."""
    command, paths = await asyncio.to_thread(_command, client, home)
    process = await asyncio.create_subprocess_exec(
        *command,
        *scenarios,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **paths, **environ},
        cwd=home,
    )
    try:
        async with asyncio.timeout(_RUN_S):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        output, errors = await process.communicate()
        raise AssertionError(f"{client} hangs after:\n{output.decode()}\n{errors.decode()}") from None
    told = [json.loads(line) for line in output.decode().splitlines()]
    assert process.returncode == 0, f"{client} failed after {len(told)} scenarios:\n{errors.decode()}"
    return {line.pop("scenario"): line for line in told}


def _command(client: Client, home: Path) -> tuple[list[str], dict[str, str]]:
    """(command, variables by which it finds its packages); installs them where they are not."""
    if client.node:
        # Node looks for packages beside the script, so they meet in this client's own home.
        (home / "node_modules").symlink_to(node_packages() / "node_modules")
        shutil.copytree(SCRIPTS, home / "scripts")
        return ["node", str(home / "scripts" / client.script)], {"CLIENT_MODULE": client.module}
    packages = python_packages(client.name)
    # -S: the packages of the tests' own environment are out of sight.
    return [sys.executable, "-S", "-s", str(SCRIPTS / client.script)], {"PYTHONPATH": str(packages)}
