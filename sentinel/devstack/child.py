"""One child process of the stack, in a process group of its own, with its output in a log file.

What does not come up raises `StackError`: one sentence for the user, with the last lines of the log where they tell more.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_POLL_S: Final = 0.02
_LOG_LINES_SHOWN: Final = 8


class StackError(Exception):
    """The stack cannot go on; the text is one sentence for the user that says what to do."""


class Child:
    """A program that is started, stopped (SIGTERM, then SIGKILL) and killed as a whole group. Start it from the main thread:
    the kernel ties its life to the thread that started it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environ = dict(environ)
        self._cwd = cwd
        self._pass_fds = tuple(pass_fds)
        self._process: asyncio.subprocess.Process | None = None
        self._log_offset = 0
        self._swept = True  # nobody is left in the group; its number may be another's by now

    @property
    def pid(self) -> int:
        """The process id, which is that of its group too. StackError if it was never started."""
        if self._process is None:
            raise StackError(f"{self.name} was not started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self, ready: Callable[[], Awaitable[bool]], *, timeout_s: float) -> None:
        """Start it and wait until `ready`. StackError, with nothing left running, if it ends or takes longer."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_offset = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environ,
                cwd=self._cwd,
                pass_fds=self._pass_fds,
                start_new_session=True,
            )
            self._swept = False
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        try:
            while not await ready():
                if not self.running:
                    raise StackError(f"{self.name} ended at once (exit code {self.returncode}):\n{self.tail()}")
                if asyncio.get_running_loop().time() > deadline_s:
                    raise StackError(f"{self.name} did not come up within {timeout_s:g} s; its log is {self.log}.")
                await asyncio.sleep(_POLL_S)
        except BaseException:
            await self.kill()
            raise

    async def wait(self) -> int:
        """Wait until it ends; returns its exit code. The rest of its group is not waited for."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, *, timeout_s: float) -> int | None:
        """Ask it to stop; after `timeout_s`, and for whatever it left behind, kill. Returns its exit code."""
        if self._process is None:
            return None
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):  # the group is killed below
                await asyncio.wait_for(self._process.wait(), timeout_s)
        await self.kill()
        return self.returncode

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send `number` to the whole group; with SIGKILL, wait until its leader is gone."""
        self.signal_group(number)
        if self._process is not None and number == signal.SIGKILL:
            await self._process.wait()
            self._swept = True

    def signal_group(self, number: int) -> None:
        """Send `number` to the whole group, without waiting; nothing happens if nobody is left in it."""
        if self._process is not None and not self._swept:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def output(self) -> str:
        """What it has written since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """The last lines it has written since it was last started."""
        return "\n".join(self.output().splitlines()[-_LOG_LINES_SHOWN:])
