"""The scripts that Redis runs: package files, read by name. A missing file is a broken package and raises FileNotFoundError.

A line `-- include: _part` is replaced by that file, so that what several scripts share is written once. Files with an
underscore are such parts; every other file is one script with its contract in its first lines.
"""

import re
from importlib.resources import files
from typing import Final

_INCLUDE: Final = re.compile(r"^-- include: (_[a-z]+)$", re.MULTILINE)


def source(name: str) -> str:
    """The whole text of the script `name` (without `.lua`), its parts put in."""
    return _INCLUDE.sub(lambda found: _read(found[1]), _read(name))


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
