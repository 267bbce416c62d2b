"""What a figure was measured on and with: read from the system, never fails; what cannot be known is "unknown"."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from sentinel.devstack.child import StackError
from sentinel.devstack.redis_server import find_server

_LIBRARIES: Final = ("granian", "uvloop", "msgspec", "aiohttp", "redis", "hiredis", "tiktoken", "prometheus-client")
_ROOT: Final = Path(__file__).parents[1]


def describe() -> dict[str, str]:
    """The machine, the versions, and the commit, as one line each."""
    return {
        "cpu": cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "load": load(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: library(name) for name in _LIBRARIES},
        "redis-server": redis_version(),
        "commit": commit(),
    }


def load() -> str:
    """How many threads wanted to run, over the last 1, 5 and 15 minutes."""
    return " ".join(f"{threads:.2f}" for threads in os.getloadavg())


def cpu_model() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def library(name: str) -> str:
    """The installed version of a library."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def redis_version() -> str:
    """The version of the Redis server that `sentinel dev` would start."""
    try:
        words = _said(str(find_server()), "--version").split()
    except StackError:
        return "unknown"
    return next((word.removeprefix("v=") for word in words if word.startswith("v=")), "unknown")


def commit() -> str:
    """The last commit that changed Sentinel itself, with a mark where it was changed since."""
    name = _said("git", "-C", str(_ROOT), "log", "-1", "--format=%h", "--abbrev=12", "--", "sentinel").strip() or "unknown"
    changed = _said("git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no", "--", "sentinel").strip()
    return f"{name}, changed" if changed else name


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
