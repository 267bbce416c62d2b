"""What a lock pins, and what of its packages' requirements it lacks on a Python it is meant for.

`lacking` judges by the packages' own metadata with the extras that are asked for; `pip check` looks at neither the extras nor
another Python than its own. A requirement or a lock that cannot be parsed raises.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Pin:
    """One pinned version of a lock; `marker` says where it counts."""

    name: str
    version: str
    marker: Marker | None
    hashed: bool

    def counts_in(self, environment: Environment) -> bool:
        """Whether it is installed there."""
        return self.marker is None or self.marker.evaluate({**environment, "extra": ""})


def pins(lock: Path) -> list[Pin]:
    """The pins of a lock, in its order."""
    found = []
    for block in re.split(r"\n(?=\S)", lock.read_text().strip()):
        requirement = Requirement(block.partition("\\")[0])
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", block
        hashed = "--hash=sha256:" in block
        found.append(Pin(canonicalize_name(requirement.name), specifier.version, requirement.marker, hashed))
    return found


def environment(python: str, system: str, machine: str) -> Environment:
    """The markers of CPython `python` (three numbers) there."""
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_version": "",
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": system,
    }


def lacking(
    wanted: Iterable[str], lock: Iterable[Pin], requires: Mapping[str, Iterable[str]], where: Environment
) -> tuple[list[str], set[str]]:
    """(what the lock lacks of the wanted and all they require, there; the names that are needed).

    `requires` has the metadata of each package by its canonical name; one that is not known there requires nothing.
    """
    counting = {pin.name: pin.version for pin in lock if pin.counts_in(where)}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    open_ = [(Requirement(text), "", "the lock") for text in wanted]
    while open_:
        requirement, extra, by = open_.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({**where, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        version = counting.get(name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{requirement} of {by}: {version or 'not pinned'}")
            continue
        for one in ("", *requirement.extras):
            if (name, one) not in seen:
                seen.add((name, one))
                open_ += [(Requirement(text), one, name) for text in requires.get(name, ())]
    return sorted(set(missing)), {name for name, _ in seen}
