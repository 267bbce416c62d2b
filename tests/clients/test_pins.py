"""The clients' pins: each at the version that is said, in the lock as in what it is made from (tests/locks has the rest)."""

import json
import re

import pytest

from tests.clients.installation import LOCKS, ROOT
from tests.clients.roster import CLIENTS, TASKS
from tests.clients.running import Client
from tests.clients.tasks.task import Task

PAGE = ROOT / "docs" / "compatibility-clients.md"
PYTHON = [client for client in CLIENTS if not client.node]
NODE = [client for client in CLIENTS if client.node]


@pytest.mark.parametrize("client", PYTHON, ids=str)
def test_a_python_client_is_pinned(client: Client) -> None:
    """The client is asked for, and locked, at its version."""
    assert f"{client.package}=={client.version}" in (LOCKS / f"{client.name}.in").read_text().splitlines()
    assert f"\n{client.package}=={client.version} " in f"\n{(LOCKS / f'{client.name}.txt').read_text()}"


@pytest.mark.parametrize("client", NODE, ids=str)
def test_a_node_client_is_pinned(client: Client) -> None:
    """The client is asked for, and locked, at its version; every package of the lock has its hash, and no address is kept."""
    asked = json.loads((LOCKS / "node" / "package.json").read_text())["dependencies"]
    assert asked[client.module].rpartition("@")[2] == client.version
    lock = json.loads((LOCKS / "node" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages[f"node_modules/{client.module}"]["version"] == client.version
    assert all("integrity" in package and "resolved" not in package for package in packages.values())


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_client_is_documented(client: Client) -> None:
    """The table of clients names each package with the version that is tried."""
    assert re.search(rf"\| `{re.escape(client.package)}`[^|]*\| {re.escape(client.version)} \|", PAGE.read_text())


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_program_is_pinned(task: Task) -> None:
    """The program is asked for, and locked, at its version; of Node every package has its hash, and no address is kept."""
    if (LOCKS / f"{task.lock}.in").exists():
        assert f"{task.package}=={task.version}" in (LOCKS / f"{task.lock}.in").read_text().splitlines()
        assert f"\n{task.package}=={task.version} " in f"\n{(LOCKS / f'{task.lock}.txt').read_text()}"
        return
    module = task.module or task.package
    assert json.loads((LOCKS / task.lock / "package.json").read_text())["dependencies"] == {module: task.version}
    lock = json.loads((LOCKS / task.lock / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages[f"node_modules/{module}"]["version"] == task.version
    assert all("integrity" in package and "resolved" not in package for package in packages.values())


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_program_is_documented(task: Task) -> None:
    """The table of programs names each package with the version that is tried."""
    assert re.search(rf"\| `{re.escape(task.package)}`[^|]*\| {re.escape(task.version)} \|", PAGE.read_text())
