"""The stack the clients talk to, a second Sentinel with a tight window beside it, and each client's run through both sides."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.clients.installation import NotInstalledError, missing_node
from tests.clients.roster import OURS, SCENARIOS, parts
from tests.clients.running import Client, Lines, Side, tell
from tests.support.running import make_user

BODY_BYTES_MAX = 2**20
SETTLED_S = 10.0
_SETTINGS = {"SENTINEL_RATE_LIMIT_REQUESTS": "0", "SENTINEL_BODY_BYTES_MAX": str(BODY_BYTES_MAX), "SENTINEL_DRAIN_SECONDS": "5"}
_TIGHT = {"SENTINEL_RATE_LIMIT_REQUESTS": "1", "SENTINEL_RATE_LIMIT_WINDOW_SECONDS": "1", "SENTINEL_DRAIN_SECONDS": "5"}


@dataclass(frozen=True)
class Run:
    """What one client told: `ours` through Sentinel, `theirs` of the provider asked directly.

    `log` and `tight_log` are what the two Sentinels logged of it, `rows` what the provider's simulator saw, as `mark` names it.
    """

    ours: Lines
    theirs: Lines
    log: list[dict[str, Any]]
    tight_log: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    mark: str

    def logged(self, scenario: str) -> dict[str, Any]:
        """The line that ends the request of a scenario which tells its id."""
        name = self.ours[scenario]["told"]["request_id"]
        return next(line for line in self.log if line["event"] == "request" and line["request_id"] == name)

    def seen(self, scenario: str) -> list[dict[str, Any]]:
        """The provider's rows of a scenario that came through Sentinel."""
        return [row for row in self.rows if row["user"] == f"{self.mark}/{scenario}"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stacks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, Stack]]:
    """The stack all clients share, and beside it a second Sentinel, which lets each caller ask once a second."""
    stack = Stack(tmp_path_factory.mktemp("clients"), settings=_SETTINGS)
    started = [stack]
    try:
        await stack.start("redis", "zion", "provider")
        shared = {
            "ZION_API_URL": stack.zion_url,
            "ZION_API_KEY": stack.zion_key,
            "REDIS_URL": stack.redis_url,
            "SENTINEL_PROVIDER": "openai",
            "OPENAI_API_KEY": stack.provider_key,
            "OPENAI_API_URL": f"{stack.provider_url}/v1",
        }
        directory = tmp_path_factory.mktemp("tight")
        tight = Stack(directory, workers=1, simulators=False, settings=_TIGHT, environ={**os.environ, **shared})
        started.append(tight)
        async with asyncio.TaskGroup() as starting:
            starting.create_task(stack.start("sentinel"))
            starting.create_task(tight.start())
        yield stack, tight
        assert stack.child("sentinel").running
    finally:
        for one in reversed(started):
            await one.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def run(stacks: tuple[Stack, Stack], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Client], Awaitable[Run]]:
    """Runs a client's scenarios, once in a session; skips where there is no Node, unless SENTINEL_REQUIRE_NODE is 1."""
    running: dict[str, asyncio.Task[Run]] = {}  # with what it raised: its other tests need not try, and wait, again

    async def once(client: Client) -> Run:
        lacking = missing_node() if client.node else ""
        if lacking and os.environ.get("SENTINEL_REQUIRE_NODE") == "1":
            pytest.fail(f"SENTINEL_REQUIRE_NODE is 1, but {lacking}")
        if lacking:
            pytest.skip(lacking)
        if client.name not in running:
            running[client.name] = asyncio.create_task(_tried(client, *stacks, tmp_path_factory.mktemp(client.name)))
        try:
            return await running[client.name]
        except NotInstalledError as error:
            pytest.fail(str(error), pytrace=False)

    return once


async def _tried(client: Client, stack: Stack, tight: Stack, home: Path) -> Run:
    """Everything at the same time; nobody else asks these Sentinels meanwhile."""
    caller, spent, hasty = (
        await make_user(stack),
        await make_user(stack, requests={"limit": 5, "used": 5}),
        await make_user(stack),
    )
    begun = [len(side.child("sentinel").output()) for side in (stack, tight)]
    mark = f"{client.name}/sentinel"
    ours = {
        "OPENAI_BASE_URL": stack.base_url,
        "OPENAI_API_KEY": caller.token,
        "CLIENT_MARK": mark,
        "SPENT_KEY": spent.token,
        "TIGHT_BASE_URL": tight.base_url,
        "TIGHT_KEY": hasty.token,
    }
    theirs = {
        "OPENAI_BASE_URL": f"{stack.provider_url}/v1",
        "OPENAI_API_KEY": stack.provider_key,
        "CLIENT_MARK": f"{client.name}/provider",
    }
    names = SCENARIOS[client.kind]
    sides = [Side(names, ours, _home(home, f"sentinel-{number}")) for number, names in enumerate(parts(client))]
    compared = Side([name for name in names if name not in OURS], theirs, _home(home, "provider"))
    *told, from_provider = await tell(client, [*sides, compared])
    from_sentinel = {name: line for part in told for name, line in part.items()}
    wanted = {line["told"]["request_id"] for line in from_sentinel.values() if "request_id" in line.get("told", {})}
    log = await _log(
        stack,
        begun[0],
        lambda ended: (
            wanted <= {line["request_id"] for line in ended}
            and ("aborted" not in names or any(line["ending"] == "client_closed" for line in ended))
        ),
    )
    tight_log = await _log(tight, begun[1], lambda ended: len(ended) == 2)
    return Run(from_sentinel, from_provider, log, tight_log, await _rows(stack, f"{mark}/aborted"), mark)


def _home(home: Path, side: str) -> Path:
    (home / side).mkdir()
    return home / side


async def _log(stack: Stack, begun: int, whole: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """What this Sentinel logged since `begun`, once the requests that have ended are `whole`: bills come after answers."""
    async with asyncio.timeout(SETTLED_S):
        while True:
            text = stack.child("sentinel").output()[begun:]
            log = [json.loads(line) for line in text.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")]
            if whole([line for line in log if line["event"] == "request"]):
                return log
            await asyncio.sleep(0.05)


async def _rows(stack: Stack, left: str) -> list[dict[str, Any]]:
    """The provider's journal, as soon as whoever left early has been noticed there."""
    async with asyncio.timeout(SETTLED_S):
        while True:
            rows: list[dict[str, Any]] = (await stack.control("provider", "served"))["rows"]
            if all(row["client_gone"] for row in rows if row["user"] == left):
                return rows
            await asyncio.sleep(0.05)
