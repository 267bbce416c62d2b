"""Each lock is a closed set: the oldest pip installs it and nothing else, it is imported, and is enough on every Python."""

import asyncio
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from packaging.markers import default_environment
from packaging.utils import canonicalize_name

from tests.clients.installation import ENVIRONMENT, ROOT, python_of
from tests.locks.closure import Environment, Pin, environment, lacking, pins

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

LOCKS = ROOT / "locks"
PROJECT = ("dev", "test", "bench")
CLIENTS = tuple(sorted(path.stem for path in (LOCKS / "clients").glob("*.in")))
# The first release of 3.11, the first that needs no async-timeout, and what has come since.
EVERYWHERE = [
    pytest.param(environment(python, system, machine), id=f"{python}-{system}-{machine}")
    for python in ("3.11.0", "3.11.3", "3.12.0", "3.13.0", "3.14.0")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]
_INSTALL_S = 500


@dataclass(frozen=True)
class Installed:
    """What stands in a new environment: versions and requirements by canonical name, and what could not be imported."""

    versions: dict[str, str]
    requires: dict[str, list[str]]
    failed: dict[str, str]


def lock_file(name: str) -> Path:
    """The lock of the project or of a client that is called so."""
    return LOCKS / (f"{name}.txt" if name in PROJECT else f"clients/{name}.txt")


def wanted(name: str) -> list[str]:
    """What a lock was made for."""
    if name not in PROJECT:
        return [line for line in (LOCKS / "clients" / f"{name}.in").read_text().splitlines() if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(line for one in PROJECT[: PROJECT.index(name) + 1] for line in optional[one])]


async def said(*command: str, cwd: Path | None = None) -> str:
    """What a command prints; its last lines where it fails."""
    environ = {key: text for key, text in os.environ.items() if not key.startswith(("COV", "PYTHON", "SENTINEL_"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        # What is imported is compiled then, which is a fraction of what is installed.
        env={**environ, "PIP_COMPILE": "0", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    output, errors = await asyncio.wait_for(process.communicate(), _INSTALL_S)
    assert process.returncode == 0, (output + errors).decode()[-4000:]
    return output.decode()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout, as far as an installation reads it."""
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("locks", "sentinel"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory / name)
    return directory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def look(checkout: Path) -> Callable[[str], Awaitable[Installed]]:
    """What a lock installs; the three of the project in one environment, as the largest holds the others."""
    looked: dict[str, asyncio.Task[Installed]] = {}

    async def interpreter(name: str) -> Path:
        if name not in PROJECT:
            return await asyncio.to_thread(python_of, name)
        await said(str(ENVIRONMENT), sys.executable, str(checkout / ".venv"))
        await said("bash", "-c", "set -euo pipefail; . locks/venv.sh; prepare bench", cwd=checkout)
        return checkout / ".venv" / "bin" / "python"

    async def found(name: str) -> Installed:
        text = await said(str(await interpreter(name)), str(Path(__file__).with_name("importing.py")), cwd=checkout)
        told = json.loads(text.splitlines()[-1])
        everything = {canonicalize_name(package): rest for package, rest in told["installed"].items()}
        return Installed(
            {package: version for package, (version, _) in everything.items()},
            {package: requires for package, (_, requires) in everything.items()},
            told["failed"],
        )

    async def once(name: str) -> Installed:
        key = "project" if name in PROJECT else name
        if key not in looked:
            looked[key] = asyncio.create_task(found(name))
        return await looked[key]

    return once


@pytest.mark.parametrize("where", EVERYWHERE)
@pytest.mark.parametrize(("smaller", "larger"), [("dev", "test"), ("test", "bench")])
async def test_a_lock_of_the_project_holds_the_smaller(smaller: str, larger: str, where: Environment) -> None:
    """Every pin of the smaller set is one of the larger, so that what installs and imports the largest does so for each."""
    small, large = (
        {(pin.name, pin.version) for pin in pins(lock_file(name)) if pin.counts_in(where)} for name in (smaller, larger)
    )
    assert small < large


@pytest.mark.parametrize("name", [*PROJECT, *CLIENTS])
async def test_a_lock_is_hashed_and_names_no_registry(name: str) -> None:
    """Every pin has its hashes, and no address of a registry is kept."""
    assert all(pin.hashed for pin in pins(lock_file(name)))
    assert "://" not in lock_file(name).read_text()


@pytest.mark.parametrize("name", ["bench", *CLIENTS])
async def test_a_new_environment_holds_the_lock_and_nothing_else(
    look: Callable[[str], Awaitable[Installed]], name: str
) -> None:
    """By the oldest pip that this Python came with: just what the lock pins for it is installed, and all of it is imported."""
    installed = await look(name)
    assert installed.failed == {}
    here = {key: str(text) for key, text in default_environment().items()}
    pinned = {pin.name: pin.version for pin in pins(lock_file(name)) if pin.counts_in(here) and pin.name != "pip"}
    assert installed.versions == pinned


@pytest.mark.parametrize("where", EVERYWHERE)
@pytest.mark.parametrize("name", [*PROJECT, *CLIENTS])
async def test_a_lock_is_closed_on_every_python(
    look: Callable[[str], Awaitable[Installed]], name: str, where: Environment
) -> None:
    """What is asked for and all that it requires, with its extras, is pinned in a version that fits; and nothing besides."""
    lock = pins(lock_file(name))
    missing, needed = lacking(wanted(name), lock, (await look(name)).requires, where)
    assert missing == []
    assert needed == {pin.name for pin in lock if pin.counts_in(where)}


async def test_an_environment_is_made_once_for_its_locks(look: Callable[[str], Awaitable[Installed]], checkout: Path) -> None:
    """The smaller sets are there with the largest; a lock that changed since, and only that, asks for a new environment."""
    await look("bench")
    for name in PROJECT:
        assert await said("bash", "-c", f"set -euo pipefail; . locks/venv.sh; prepare {name} 2>&1", cwd=checkout) == ""
    fits = ("bash", "-c", "set -euo pipefail; . locks/venv.sh; if venv_fits; then echo fits; fi")
    assert await said(*fits, cwd=checkout) == "fits\n"
    for name, left in (("pyproject.toml", "fits\n"), ("locks/test.txt", "")):
        text = (checkout / name).read_text()
        (checkout / name).write_text(f"{text}# another\n")
        assert await said(*fits, cwd=checkout) == left
        (checkout / name).write_text(text)


TREE = {
    "plugin": ["library[toml]>=2", "other; extra == 'more'"],
    "library": ["parser>=1; extra == 'toml' and python_version < '3.12'", "backport; python_full_version < '3.11.3'"],
}


@pytest.mark.parametrize(
    ("lock", "python", "missing"),
    [
        ("plugin==1 library==2 parser==1", "3.11.3", []),
        ("plugin==1 library==2", "3.12.0", []),
        ("plugin==1 library==2", "3.11.3", ["parser"]),
        ("plugin==1 library==2 parser==1", "3.11.0", ["backport"]),
        ("plugin==1 library==1 parser==1", "3.12.0", ["library"]),
        ("plugin==1", "3.12.0", ["library"]),
        ("library==2", "3.12.0", ["plugin"]),
    ],
)
async def test_what_a_lock_lacks_is_found(lock: str, python: str, missing: list[str]) -> None:
    """A requirement of an extra or of another Python, one that is not pinned, and a pin that does not fit are named."""
    pinned = [Pin(*text.split("=="), None, hashed=True) for text in lock.split()]
    lacks, _ = lacking(["plugin"], pinned, TREE, environment(python, "linux", "x86_64"))
    assert [re.split(r"[\[>; ]", text)[0] for text in lacks] == missing
