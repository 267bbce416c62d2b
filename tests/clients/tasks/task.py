"""A task, and one run of it: the program as its users start it, in a project of its own.

A program that hangs is killed with all it started, and told as such, with what it waited for; nothing else fails here.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

QUESTIONS: Final = ("What files are here?", "What does notes.txt say?", "Complete the greeting in it.")
SAID: Final = ("There is one file, notes.txt.", "It says hello.", "The greeting is complete now.")
BEFORE: Final = {"notes.txt": "hello\n"}
AFTER: Final = {"notes.txt": "hello, world\n"}
_RUN_S: Final = 120

_PROC: Final = Path("/proc/net/tcp").exists()

Answer = dict[str, Any]
Read = Callable[[str, str], tuple[list[str], list[Any]]]


def says(text: str) -> Answer:
    """An answer of text alone."""
    return {"text": text}


def calls(*called: tuple[str, Mapping[str, Any] | str], text: str = "") -> Answer:
    """An answer that calls these tools, each with its arguments; the ids are of the kind that some models make of the names."""
    return {
        "text": text,
        "calls": [{"name": name, "arguments": given, "id": f"{name}-{1758 + at}"} for at, (name, given) in enumerate(called)],
    }


@dataclass(frozen=True)
class Place:
    """One side of a run: `home` is the program's own, and it works in `project`. `marker` is to stand in every prompt."""

    home: Path
    base_url: str
    key: str
    marker: str

    @property
    def project(self) -> Path:
        """The directory of the task, with the files of BEFORE."""
        return self.home / "project"

    def write(self, name: str, text: str) -> Path:
        """A file in the home, such as a configuration."""
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@dataclass(frozen=True)
class Program:
    """What is started in the project; `given` is its standard input."""

    command: Sequence[str]
    environ: Mapping[str, str]
    given: str = ""


@dataclass(frozen=True)
class Task:
    """`package` is what users install, at `version`, as `lock` has it; `module` is its entry there, where that is another.

    `answers` are what the model says, `program` installs what is to be started, `read` finds in its output and its errors what
    was said, and each call with what came of it. `lacking` tells why it cannot run here, "" where it can. `refused` has the
    code of each request that Sentinel is to refuse on the way.
    """

    name: str
    package: str
    version: str
    lock: str
    answers: Callable[[Place], Sequence[Answer]]
    program: Callable[[Place], Program]
    read: Read
    lacking: Callable[[], str] = str
    module: str = ""
    refused: Sequence[str] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Done:
    """What came of a task: the exit code, what was read of the output, the files of the project; `output` for whoever looks.

    `hung_by_itself` says that it was killed while whoever it asks had read all that it had sent.
    """

    code: int | None
    said: list[str]
    calls: list[Any]
    files: dict[str, str]
    output: str
    hung_by_itself: bool = False


async def run(task: Task, place: Place, proxy: str) -> Done:
    """Do the task. Whatever the program wants of anyone but this machine goes to `proxy`."""
    place.project.mkdir(parents=True)
    for name, text in BEFORE.items():
        (place.project / name).write_text(text)
    program = await asyncio.to_thread(task.program, place)
    away = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy) | {"NO_PROXY": "127.0.0.1,localhost"}
    environ = {"PATH": os.environ["PATH"], "HOME": str(place.home), "OPENAI_API_KEY": place.key}
    environ |= {**away, **{name.lower(): value for name, value in away.items()}, **program.environ}
    # Files, so that what a program that hangs has said is there to be read.
    streams = [place.write(name, "") for name in ("output", "errors")]
    with streams[0].open("wb") as output, streams[1].open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=environ,
            cwd=place.project,
            start_new_session=True,
        )
    by_itself = False
    try:
        async with asyncio.timeout(_RUN_S):
            await process.communicate(program.given.encode())
    except TimeoutError:
        left = unread_bytes(urlsplit(place.base_url).port or 80)
        by_itself = left == 0
        told = f"it hangs: killed after {_RUN_S} s, in {waits_in(process.pid)}, with {left} bytes unread by whom it asks"
        streams[1].write_text(f"{streams[1].read_text()}\n{told}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    told = [file.read_text().replace(str(place.home), "HOME").replace(place.marker, "MARKER") for file in streams]
    said, called = task.read(*told)
    files = {str(file.relative_to(place.project)): file.read_text() for file in place.project.rglob("*") if file.is_file()}
    return Done(process.returncode, said, called, files, "\n".join(told), by_itself)


def unread_bytes(port: int) -> int:
    """What came to the sockets of this port and was not read yet, with connections that were not accepted; 0 but on Linux."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]] if _PROC else []
    return sum(int(row[4].partition(":")[2], 16) for row in rows if int(row[1].partition(":")[2], 16) == port)


def waits_in(pid: int) -> str:
    """Where the threads of a process wait in the kernel, by their system calls."""
    if not _PROC:
        return "nobody knows what"
    calls = [path.read_text().split()[:2] for path in Path(f"/proc/{pid}/task").glob("*/syscall")]
    return ", ".join(sorted("call " + " of ".join(call) for call in calls))
