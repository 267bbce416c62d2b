"""`sentinel dev`: the stack in the foreground, until a signal.

Fails by exit code and one sentence on standard error, with nothing left running.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sentinel.devstack.child import StackError
from sentinel.devstack.claims import require_free
from sentinel.devstack.demo import greeting
from sentinel.devstack.stack import Stack
from sentinel.ops.settings import SettingsError, read

_PROVIDER_VARIABLES: Final = ("OPENAI_API_KEY", "VERCEL_AI_GATEWAY_API_KEY")


def _provider(environ: Mapping[str, str]) -> str:
    """The real provider whose key is set (in `environ`, in `.env` or by file): openai, vercel, or "" where none is.

    SettingsError, with every problem, if anything else is wrong.
    """
    try:
        return read(environ).provider
    except SettingsError as error:
        problems = [text for text in error.problems if not (text.startswith(_PROVIDER_VARIABLES) and "is not set" in text)]
        if problems:
            raise SettingsError(problems) from error
        return ""


async def develop(
    *,
    port: int = 8080,
    admin_port: int = 8081,
    workers: int = 2,
    simulators: bool = True,
    directory: Path = Path(".sentinel"),
    token_ms: float = 20,
) -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; a second one kills what does not stop in time. Returns the exit code.

    0 after such a signal; 1 where something does not start or ends by itself, 2 for wrong settings, with a sentence on stderr.
    """
    environ = {"SENTINEL_DRAIN_SECONDS": "5", **os.environ}
    zion = {"ZION_API_URL": "http://127.0.0.1", "ZION_API_KEY": "unused"} if simulators else {}
    stack: Stack | None = None
    try:
        provider = _provider({**environ, **zion}) if simulators else read(environ).provider
        require_free(port)
        require_free(admin_port, "--admin-port")
        stack = Stack(
            directory,
            port=port,
            admin_port=admin_port,
            workers=workers,
            simulators=simulators,
            real_provider=bool(provider),
            environ=environ,
            token_ms=token_ms,
        )
        ended = await _run(stack, provider)
    except SettingsError as error:
        print("\n".join(f"sentinel: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    except StackError as error:
        ended = str(error)
    finally:
        if stack is not None:
            await stack.stop()
    if ended:
        print(f"sentinel: {ended}", file=sys.stderr)
        return 1
    print("Stopped.")
    return 0


async def _run(stack: Stack, provider: str) -> str:
    """Start the stack, greet the user, wait. Returns "" after a signal, or what ended by itself."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            stack.kill_all()
        stop.set()

    async def run() -> str:
        print(f"Starting {', '.join(stack.pieces)} ...", flush=True)
        await stack.start()
        model = "openai/gpt-4o-mini" if provider == "vercel" else "gpt-4o-mini"
        logs = str(stack.directory / "logs")
        source = provider or "the provider simulator"
        print(greeting(stack.url, stack.admin_url, tokens=stack.tokens, provider=source, model=model, logs=logs), flush=True)
        return await stack.ended()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signalled)
    tasks = (asyncio.create_task(run()), asyncio.create_task(stop.wait()))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        print("Stopping ...", flush=True)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        return ""
    tasks[1].cancel()
    return tasks[0].result()
