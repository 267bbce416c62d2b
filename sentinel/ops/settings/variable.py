"""One environment variable: its description, its text, and its value, checked.

Fails by note: what is wrong is added to `problems`, by the variable's name, so that every problem can be told at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Variable(msgspec.Struct, frozen=True):
    """What a field is called outside, what it means, and what values it takes: `reads` raises ValueError for others."""

    name: str
    help: str
    unit: str = ""
    secret: bool = False
    required: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    schemes: tuple[str, ...] = ()
    reads: Callable[[str], object] | None = None


def text_of(variable: Variable, outside: Mapping[str, str], problems: list[str]) -> str:
    """The raw text of a variable; a secret may also come from the file that `NAME_FILE` names."""
    file = outside.get(f"{variable.name}_FILE", "") if variable.secret else ""
    if file and not outside.get(variable.name):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{variable.name}_FILE cannot be read: {error}")
            return ""
    return outside.get(variable.name, "").strip()


def value_of(variable: Variable, kind: type, text: str, problems: list[str]) -> Any:
    """`text` as a checked value of `kind`; a problem is noted and the text returned."""
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            problems.append(f"{variable.name} is {text!r}, not a {'whole ' if kind is int else ''}number")
            return text
        if not (variable.low is None or number >= variable.low) or not (variable.high is None or number <= variable.high):
            problems.append(f"{variable.name} is {text}, outside {variable.low} to {variable.high} {variable.unit}".rstrip())
        return number
    if variable.choices and text not in variable.choices:
        problems.append(f"{variable.name} is {text!r}, not one of {', '.join(variable.choices)}")
    if variable.schemes and not _is_url(text, variable.schemes):
        given = "not such a URL" if variable.secret else repr(text)
        problems.append(
            f"{variable.name} must be a URL that begins with {' or '.join(s + '://' for s in variable.schemes)}, is {given}"
        )
    if variable.reads is not None:
        try:
            variable.reads(text)
        except ValueError as error:
            problems.append(f"{variable.name} {error}")
    if variable.secret and any(ord(sign) < 33 or ord(sign) > 126 for sign in text):
        problems.append(f"{variable.name} holds a blank or a character that no HTTP header can carry")
    return text


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.path if parts.scheme == "unix" else parts.hostname) and parts.port != 0
    except ValueError:
        return False
