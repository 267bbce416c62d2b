"""./run_dev.sh as a newcomer meets it: one command, two lines to paste, and nothing left behind."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sentinel.devstack.claims import free_port

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

ROOT = Path(__file__).parents[2]
# A real provider's key would replace the simulator; a newcomer has no settings, and measures no coverage.
_NOT_A_NEWCOMERS = ("SENTINEL_", "ZION_", "REDIS_", "COV")
ENVIRON = {
    name: text for name, text in os.environ.items() if not name.endswith("_API_KEY") and not name.startswith(_NOT_A_NEWCOMERS)
}


class Run:
    """One ./run_dev.sh and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path, port: int) -> None:
        self.process = process
        self.directory = directory
        self.port = port
        self.said = ""

    async def until(self, text: str) -> None:
        """Read on until a line has `text`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(120):
            while text not in self.said:
                line = await self.process.stdout.readline()
                assert line, f"ended before {text!r}:\n{self.said}"
                self.said += line.decode()

    async def end(self, number: int) -> int:
        """Send a signal and wait."""
        self.process.send_signal(number)
        async with asyncio.timeout(60):
            rest, _ = await self.process.communicate()
        self.said += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    def left(self) -> list[str]:
        """Processes that belong to this run: every child inherits its mark, or (Redis) works in its directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environ = (entry / "environ").read_bytes()
                    inside = (entry / "cwd").readlink().is_relative_to(self.directory)
                except OSError:
                    continue
                if inside or f"RUN_OF={self.directory}\0".encode() in environ:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


async def start(directory: Path, port: int) -> Run:
    """Start ./run_dev.sh as a user would, in a data directory of its own."""
    process = await asyncio.create_subprocess_exec(
        str(ROOT / "run_dev.sh"),
        *("--port", str(port), "--admin-port", str(free_port()), "--directory", str(directory)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
        env=ENVIRON | {"RUN_OF": str(directory)},
    )
    return Run(process, directory, port)


@pytest_asyncio.fixture(loop_scope="session")
async def running(tmp_path: Path) -> AsyncIterator[Run]:
    """A run that has printed everything."""
    run = await start(tmp_path / "dev", free_port())
    await run.until("print(")
    yield run
    if run.process.returncode is None:
        await run.end(signal.SIGKILL)


async def shell(command: str) -> str:
    """What a pasted line prints."""
    process = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_what_it_prints_works_when_pasted(running: Run) -> None:
    """The curl line and the snippet get a completion; Ctrl-C stops every child, with exit code 0."""
    (curl,) = re.findall(r"^curl .*$", running.said, re.MULTILINE)
    answer = json.loads(await shell(curl))
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0
    snippet = running.said[running.said.index("from openai") :]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", snippet, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert answer["choices"][0]["message"]["content"].startswith(output.decode().strip()[:20])
    tokens = re.findall(r"^ey[\w.-]+$", running.said, re.MULTILINE)
    assert len(tokens) == 3
    spent = await shell(f"curl -s -H 'Authorization: Bearer {tokens[2]}' http://127.0.0.1:{running.port}/v1/models")
    assert json.loads(spent)["error"]["code"] == "insufficient_quota"
    assert len(running.left()) >= 7
    assert await running.end(signal.SIGINT) == 0
    assert running.left() == []


async def test_a_second_one_says_what_to_do(running: Run, tmp_path: Path) -> None:
    """A port in use and a directory in use are one sentence each and exit code 1; SIGTERM ends the first cleanly."""
    for directory, port, words in (
        (tmp_path / "other", running.port, f"Port {running.port} is in use"),
        (running.directory, free_port(), "already runs"),
    ):
        second = await start(directory, port)
        output, _ = await asyncio.wait_for(second.process.communicate(), 60)
        assert second.process.returncode == 1
        (line,) = (line for line in output.decode().splitlines() if line.startswith("sentinel: "))
        assert words in line
    assert await running.end(signal.SIGTERM) == 0
    assert running.left() == []


async def test_kill_9_leaves_nothing_running(running: Run) -> None:
    """Whoever is killed without warning takes its children along, and the next start works."""
    await running.end(signal.SIGKILL)
    async with asyncio.timeout(20):
        while running.left():
            await asyncio.sleep(0.1)
    again = await start(running.directory, running.port)
    await again.until("print(")
    assert await again.end(signal.SIGINT) == 0


async def first_words(script: Path, **environ: str) -> tuple[int | None, str]:
    """(exit code, output) of a run that cannot start."""
    process = await asyncio.create_subprocess_exec(
        *(str(script), "--port", str(free_port()), "--admin-port", str(free_port())),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=ENVIRON | environ,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode()


async def test_wrong_settings_are_said_at_once() -> None:
    """A setting that is wrong is named, with exit code 2, before anything is started."""
    code, output = await first_words(ROOT / "run_dev.sh", SENTINEL_LOG_LEVEL="loud", SENTINEL_WORKERS="0")
    assert code == 2
    assert "SENTINEL_LOG_LEVEL" in output
    assert "SENTINEL_WORKERS" in output


async def test_no_python_is_said_at_once(tmp_path: Path) -> None:
    """Without a Python that will do: one sentence that says what to install, and nothing is left half-made."""
    (tmp_path / "locks").mkdir()
    for name in ("run_dev.sh", "locks/venv.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    code, output = await first_words(tmp_path / "run_dev.sh", PYTHON="/nowhere/python")
    assert code == 1
    assert output.count("\n") == 1
    assert "Python 3.11 or newer" in output
    assert not (tmp_path / ".venv").exists()
