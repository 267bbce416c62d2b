"""Where the clients under test live: each in a directory of its own below `.clients/`, installed once from its committed lock.

Nothing of them is visible to the tests' own environment, nor the other way round. `NotInstalledError` says what could not be
installed and what to do; `missing_node` says why the clients of Node cannot run here.
"""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ROOT / "locks" / "clients"
ENVIRONMENT: Final = ROOT / "tests" / "locks" / "environment.sh"
_INSTALLED: Final = ROOT / ".clients"
_STAMP: Final = ".installed"
_NODE_MAJOR_MIN: Final = 20
_INSTALL_S: Final = 300
_OUTPUT_LINES_SHOWN: Final = 15


class NotInstalledError(Exception):
    """A client could not be installed; the text is for whoever started the tests."""


def python_of(name: str) -> Path:
    """The interpreter of an environment that holds `locks/clients/{name}.txt`, and nothing else but pip."""
    lock = LOCKS / f"{name}.txt"
    # Python compiles what it imports, which is a fraction of what is installed.
    command = [str(ENVIRONMENT), sys.executable, ".", str(lock), "--no-compile", "--only-binary", ":all:", "--quiet"]
    pins = [lock, ENVIRONMENT, ROOT / "locks" / "oldest-pip.txt", ROOT / "locks" / "venv.sh"]
    with _locked(name) as directory:
        return installed(directory, pins, sys.version, command) / "bin" / "python"


def node_packages(lock: str = "node") -> Path:
    """The directory in which a script finds what `locks/clients/{lock}` pins."""
    pins = [LOCKS / lock / name for name in ("package.json", "package-lock.json")]
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    with _locked(lock) as directory:
        return installed(directory, pins, _node_version(), npm, copied=pins)


def missing_node() -> str:
    """Why the clients of Node cannot run here, or "" where they can."""
    version = _node_version()
    if not version:
        return "there is no node on PATH"
    if int(version.removeprefix("v").split(".")[0]) < _NODE_MAJOR_MIN:
        return f"node is {version}, and the clients need v{_NODE_MAJOR_MIN} or newer"
    return "" if shutil.which("npm") else "there is no npm on PATH"


@cache
def _node_version() -> str:
    node = shutil.which("node")
    if node is None:
        return ""
    return subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout.strip()


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """The directory of this client; test processes that want it at the same time come one after another."""
    _INSTALLED.mkdir(exist_ok=True)
    with (_INSTALLED / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield _INSTALLED / name


def installed(
    directory: Path, pins: Sequence[Path], runtime: str, command: Sequence[str], *, copied: Sequence[Path] = ()
) -> Path:
    """`directory`, as `command`, run in it, fills it from these pins for this runtime; done already where its stamp says so.

    NotInstalledError where the command fails; the next call tries again. `copied` are laid in the directory before it.
    """
    parts = [*(pin.read_bytes() for pin in pins), runtime.encode(), platform.machine().encode()]
    stamp = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if directory.is_dir() and (directory / _STAMP).is_file() and (directory / _STAMP).read_text() == stamp:
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for pin in copied:
        shutil.copy(pin, directory)
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_INSTALL_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"{_needed(directory)} It took longer than {_INSTALL_S} s.") from error
    if done.returncode:
        told = "\n".join(done.stdout.splitlines()[-_OUTPUT_LINES_SHOWN:])
        raise NotInstalledError(f"{_needed(directory)} `{' '.join(command[:4])} …` said:\n{told}")
    (directory / _STAMP).write_text(stamp)
    return directory


def _needed(directory: Path) -> str:
    return (
        f"The client {directory.name!r} could not be installed from locks/clients: the first run of these tests needs the"
        " package registries. Look at the network, then start again."
    )
