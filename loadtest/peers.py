"""Sentinel beside other gateways (`loadtest.gateways`): plain completions, each alone on the first core.

None is part of Sentinel's locks: SENTINEL_BENCH_LITELLM and so on name their executables (loadtest/README.md), and the rows of
one that is not named say so. One that is named and does not come up raises StackError.

All ask the run's provider. None gives its requests an `x-request-id`, so that they are no part of what was served and booked;
one that began to would make the sums differ, and the run fail.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from loadtest import gateways, processes
from loadtest.figures import per
from loadtest.gateways import Peer
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


_PEERS: Final[dict[str, tuple[str, Callable[[Path, int, str, Path], Peer]]]] = {
    "Envoy": ("SENTINEL_BENCH_ENVOY", gateways.envoy),
    "one-api": ("SENTINEL_BENCH_ONE_API", gateways.one_api),
    "Portkey": ("SENTINEL_BENCH_PORTKEY", gateways.portkey),
    "LiteLLM": ("SENTINEL_BENCH_LITELLM", gateways.litellm),
}
_MISSING: Final = "Bifrost is not among them: the Go module proxy that this was written before serves none of its versions."


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
        "One after the other on the first core, one worker each, before the same provider, asked by the same client. `by it`: "
        f"Sentinel's rate by theirs. No other keeps limits in Redis or a journal. {_MISSING}",
        ["connections", "target", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "core %", "by it", "what is on"],
    )
    found = find()
    await _measure(table, "Sentinel", rig, profile, rig.sentinel, None)
    for name, (_, made) in _PEERS.items():
        if name not in found:
            table.rows += [[count, name, "not installed here", *[""] * 6] for count in _CONNECTIONS]
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
        await peer.prepare(url)
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
        on = "everything" if peer is None else peer.on
        table.rows.append([count, target.name, seen["rate"], ms["p50"], ms["p99"], seen["cpu_us"], seen["busy"], by_it, on])
        table.figures[f"rate {name}"] = seen["rate"]
