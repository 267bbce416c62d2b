"""What a figure was measured on and with: read from the system, never fails; what cannot be known is "unknown"."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from sentinel.devstack.child import StackError
from sentinel.devstack.redis_server import find_server

_LIBRARIES: Final = ("granian", "uvloop", "msgspec", "aiohttp", "redis", "hiredis", "tiktoken", "prometheus-client")
_INTERPRETER: Final = """
import os, platform, sys, sysconfig
debian = sys.base_prefix == "/usr" and os.path.exists("/etc/debian_version")
guided = debian or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
built = f"{'with' if guided else 'without'} profile-guided optimisation{' (of Debian)' if debian else ''}"
print(f"{platform.python_implementation()} {platform.python_version()}, {built}")
"""
_ROOT: Final = Path(__file__).parents[1]


def describe() -> dict[str, str]:
    """The machine, the versions, and the commit, as one line each."""
    return {
        "cpu": cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "load": load(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python built": interpreter().partition(", ")[2],
        **{name: library(name) for name in _LIBRARIES},
        "redis-server": redis_version(),
        "commit": commit(),
    }


def interpreter(executable: str = sys.executable) -> str:
    """An interpreter in words: "CPython 3.13.5, with profile-guided optimisation"; "unknown" where it does not run.

    Debian builds its own so without a word of it in the arguments of `configure`.
    """
    return _said(executable, "-I", "-S", "-c", _INTERPRETER).strip() or "unknown"


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
