"""Sentinel beside LiteLLM's proxy and Portkey's gateway: plain completions, each alone on the first core.

Neither is part of Sentinel's locks: SENTINEL_BENCH_LITELLM and SENTINEL_BENCH_PORTKEY name their executables
(loadtest/README.md), and the rows of one that is not named say so. One that is named and does not come up raises StackError.

Both ask the run's provider. Neither gives its requests an `x-request-id`, so that they are no part of what was served and
booked; one that began to would make the sums differ, and the run fail.
"""

import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest import processes
from loadtest.figures import per
from loadtest.profiles import Profile
from loadtest.rig import Rig, Target
from loadtest.tables import Table, ask
from sentinel.devstack.child import Child, StackError
from sentinel.devstack.claims import free_port
from sentinel.devstack.simulator import is_ok

# The targets are those of the last.
_CONNECTIONS: Final = (1, 64)
# LiteLLM's first answer takes seconds, and Node compiles what is hot only once it is.
_WARM_UP_S: Final = 3.0
_START_S: Final = 120.0


@dataclass(frozen=True)
class Peer:
    """How one is started and asked. Its environment is this and PATH alone, lest it find a database or a proxy there."""

    version: str
    command: list[str]
    environ: dict[str, str]
    path_alive: str
    bearer: str
    headers: dict[str, str]


def litellm(executable: Path, port: int, provider_url: str, directory: Path) -> Peer:
    """LiteLLM's proxy with one worker, without a database; it does not start without a master key."""
    config = directory / "litellm.json"
    model = {"model": "openai/gpt-4o-mini", "api_base": provider_url, "api_key": "sk-bench"}
    config.write_text(json.dumps({"model_list": [{"model_name": "gpt-4o-mini", "litellm_params": model}]}), encoding="utf-8")
    installed = executable.parents[1].glob("lib/python*/site-packages/litellm-*.dist-info")
    key = f"sk-{secrets.token_hex(16)}"
    return Peer(
        version=next((path.name.removeprefix("litellm-").removesuffix(".dist-info") for path in installed), ""),
        command=[
            *(str(executable), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        environ={
            "LITELLM_MASTER_KEY": key,
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",  # as Sentinel's, and no access log
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches prices from the internet before it starts
        },
        path_alive="/health/liveliness",
        bearer=key,
        headers={},
    )


def portkey(script: Path, port: int, provider_url: str, _directory: Path) -> Peer:
    """Portkey's gateway; which provider it asks, and where, is said by every request. It listens on all addresses."""
    node = shutil.which("node")
    if node is None:
        raise StackError("Portkey's gateway needs node, which is not on PATH.")
    return Peer(
        version=json.loads((script.parents[1] / "package.json").read_text(encoding="utf-8"))["version"],
        command=[node, str(script), "--headless", f"--port={port}"],
        # 127.0.0.1 is trusted by default too, and other names with it.
        environ={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
        path_alive="/",
        bearer="sk-bench",
        headers={"x-portkey-provider": "openai", "x-portkey-custom-host": provider_url},
    )


_PEERS: Final[dict[str, tuple[str, Callable[[Path, int, str, Path], Peer]]]] = {
    "LiteLLM": ("SENTINEL_BENCH_LITELLM", litellm),
    "Portkey": ("SENTINEL_BENCH_PORTKEY", portkey),
}


def find() -> dict[str, Path]:
    """Those that are named, and where they are. StackError where there is no such file."""
    named = {name: os.environ.get(variable, "") for name, (variable, _) in _PEERS.items()}
    # The commands of npm and pipx are links; versions are told beside what they lead to.
    found = {name: Path(path).resolve() for name, path in named.items() if path}
    for name, path in found.items():
        if not path.is_file():
            raise StackError(f"{_PEERS[name][0]} names no file: {path}")
    return found


async def peers(rig: Rig, profile: Profile) -> Table:
    """Plain completions of Sentinel, then of each peer; and how many times its rate Sentinel's is."""
    table = Table(
        "peers",
        "Beside other gateways",
        "Sentinel with everything on; LiteLLM's proxy with one worker and no database, and Portkey's gateway, both without "
        "quotas to keep or anything to report. One after the other on the first core, before the same provider, asked by the "
        "same client. The last column is Sentinel's rate by theirs.",
        ["connections", "target", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "core %", "Sentinel by it"],
    )
    found = find()
    await _measure(table, "Sentinel", rig, profile, rig.sentinel, None)
    for name, (_, made) in _PEERS.items():
        if name not in found:
            table.rows += [[count, name, "not installed here", "", "", "", "", ""] for count in _CONNECTIONS]
            continue
        directory = rig.directory / name.lower()
        directory.mkdir()
        port = free_port()
        peer = made(found[name], port, f"{rig.direct.url}/v1", directory)
        async with _running(name, peer, f"http://127.0.0.1:{port}", directory, rig.core) as target:
            await _measure(table, name, rig, profile, target, peer)
    table.rows.sort(key=lambda row: row[0])
    return table


@asynccontextmanager
async def _running(name: str, peer: Peer, url: str, directory: Path, core: set[int]) -> AsyncIterator[Target]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory), **peer.environ}
    child = Child(name, peer.command, log=directory / "log", environ=environ, cwd=directory)
    await child.start(lambda: is_ok(url + peer.path_alive), timeout_s=_START_S)
    try:
        processes.pin(child.pid, core)
        yield Target(f"{name} {peer.version}".rstrip(), url, url, tuple(processes.of_group(child.pid)))
    finally:
        await child.stop(timeout_s=5)


async def _measure(table: Table, name: str, rig: Rig, profile: Profile, target: Target, peer: Peer | None) -> None:
    """The rows of one; Sentinel (`peer` None) comes first."""
    job = {} if peer is None else {"bearer": peer.bearer, "headers": peer.headers}
    for count in _CONNECTIONS:
        seen = await ask(rig, target, profile, connections=count, warm_up=max(_WARM_UP_S, profile.warm_up), **job)
        table.failed(f"{count} connections, {target.name}", seen)
        table.point(name, count, seen["rate"])
        by_it = "" if peer is None else per(dict(table.curves["Sentinel"])[count], seen["rate"])
        ms = seen["ms"]
        table.rows.append([count, target.name, seen["rate"], ms["p50"], ms["p99"], seen["cpu_us"], seen["busy"], by_it])
        table.figures[f"rate {name}"] = seen["rate"]
