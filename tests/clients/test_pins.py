"""The clients' pins: each at the version that is said, in the lock as in what it is made from (tests/locks has the rest)."""

import json
import re

import pytest

from tests.clients.installation import LOCKS, ROOT
from tests.clients.roster import CLIENTS, TASKS
from tests.clients.running import Client
from tests.clients.tasks.task import Task

PAGE = ROOT / "docs" / "compatibility-clients.md"


def is_pinned_for_python(name: str, package: str, version: str) -> bool:
    """Whether this version is asked for, and locked."""
    asked, locked = (LOCKS / f"{name}.in").read_text().splitlines(), (LOCKS / f"{name}.txt").read_text().splitlines()
    return f"{package}=={version}" in asked and any(line.startswith(f"{package}=={version} ") for line in locked)


def is_pinned_for_node(name: str, module: str, version: str) -> bool:
    """Whether this version is asked for, and locked; every package of the lock has its hash, and no address is kept."""
    asked = json.loads((LOCKS / name / "package.json").read_text())["dependencies"][module]
    lock = json.loads((LOCKS / name / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    return asked.rpartition("@")[2] == packages[f"node_modules/{module}"]["version"] == version and all(
        "integrity" in package and "resolved" not in package for package in packages.values()
    )


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_client_is_pinned(client: Client) -> None:
    """The client is asked for, and locked, at its version."""
    if client.node:
        assert is_pinned_for_node("node", client.module, client.version)
    else:
        assert is_pinned_for_python(client.name, client.package, client.version)


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_client_is_documented(client: Client) -> None:
    """The table of clients names each package with the version that is tried."""
    assert re.search(rf"\| `{re.escape(client.package)}`[^|]*\| {re.escape(client.version)} \|", PAGE.read_text())


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_program_is_pinned(task: Task) -> None:
    """The program is asked for, and locked, at its version."""
    if (LOCKS / f"{task.lock}.in").exists():
        assert is_pinned_for_python(task.lock, task.package, task.version)
    else:
        assert is_pinned_for_node(task.lock, task.module or task.package, task.version)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_program_is_documented(task: Task) -> None:
    """The table of programs names each package with the version that is tried."""
    assert re.search(rf"\| `{re.escape(task.package)}`[^|]*\| {re.escape(task.version)} \|", PAGE.read_text())
