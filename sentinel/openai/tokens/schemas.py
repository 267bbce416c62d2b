"""Tools, schemas and all other JSON as pieces of a prompt: texts to be tokenised, and tokens (rules T2, T3).

Cannot fail: any JSON has pieces. What the published formula does not name is counted as its compact JSON or its texts, and
base64 as a file of its size.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from sentinel.openai.tokens import base64_text

# OpenAI cookbook, "How to count tokens with tiktoken", for tools; all of them together end with more (prompts.py).
_PROPERTIES: Final = 3
_PROPERTY: Final = 3
_ENUM: Final = -3
_ENUM_ITEM: Final = 3
# Not published: the form of an answer is framed like a message.
_FORM: Final = 3
# Documents: the provider reads both text and pictures of each page; a plain page is about 100 KB and a thousand tokens.
_FILE_BYTES: Final = 100
_FILE_MIN: Final = 1000
_FILE_MAX: Final = 128_000

_encode: Final = msgspec.json.Encoder().encode

_PLAIN_SCHEMA: Final = frozenset({"type", "properties", "required", "additionalProperties", "$schema"})


# ---- tools -------------------------------------------------------------------------------------------------------------


def tool(given: Any, opens: int) -> Iterator[str | int]:
    """One tool, which `opens` with so many tokens: a function by the cookbook's formula, any other by its texts."""
    yield opens
    function = _function(given)
    if function is None:
        yield from unnamed(given)
        return
    yield f"{plain(function, 'name')}:{plain(function, 'description').removesuffix('.')}"
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or not isinstance(properties, dict):
        if schema:
            yield compact(schema)
        return
    if properties:
        yield _PROPERTIES
    for name, definition in properties.items():
        yield from _property(name, definition)
    rest = {key: value for key, value in schema.items() if key not in _PLAIN_SCHEMA}
    if rest:
        yield compact(rest)


def _function(given: Any) -> dict[str, Any] | None:
    """What describes a function, which a chat nests and a response does not; None for a tool of another kind."""
    if not isinstance(given, dict):
        return None
    function = given.get("function", given if given.get("type") == "function" else None)
    return function if isinstance(function, dict) else None


def _property(name: str, definition: Any) -> Iterator[str | int]:
    """One property as the cookbook's line; all that the cookbook does not name as compact JSON beside it."""
    yield _PROPERTY
    if not isinstance(definition, dict):
        yield f"{name}:{compact(definition)}"
        return
    rest = dict(definition)
    enum = rest.pop("enum", None)
    if isinstance(enum, list):
        yield _ENUM
        for item in enum:
            yield _ENUM_ITEM
            yield item if isinstance(item, str) else compact(item)
    elif enum is not None:
        yield compact(enum)
    if isinstance(rest.get("type", ""), str):
        rest.pop("type", None)
    rest.pop("description", None)
    yield f"{name}:{plain(definition, 'type')}:{plain(definition, 'description').removesuffix('.')}"
    if rest:
        yield compact(rest)


def plain(fields: Any, key: str) -> str:
    """The text at `key`, or nothing where it is missing or something else."""
    value = fields.get(key) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""


def answer_form(form: dict[str, Any]) -> Iterator[str | int]:
    """The form an answer must have: its schema as compact JSON, with its name and description."""
    inner = form.get("json_schema", form)
    if form.get("type") != "json_schema" or not isinstance(inner, dict):
        return
    yield _FORM
    for key in ("name", "description"):
        yield plain(inner, key)
    yield compact(inner.get("schema"))


# ---- all other JSON ----------------------------------------------------------------------------------------------------


def unnamed(value: Any) -> Iterator[str | int]:
    """The texts of JSON that no formula names; what is plainly base64 counts as a file of its size, a number as a token."""
    for item in _leaves(value) if value is not None else ():
        if not isinstance(item, str):
            yield 1
        elif base64_text.is_encoded(item):
            yield file(len(item) * 3 // 4)
        else:
            yield item


def compact(value: Any) -> str:
    """`value` as JSON without blanks."""
    with suppress(RecursionError, OverflowError, ValueError):  # an integer of over 64 bits, half a character
        return _encode(value).decode()
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return ",".join(map(str, _leaves(value)))


def _leaves(value: Any) -> Iterator[Any]:
    """All texts and scalars in `value`, keys too, in no particular order, and without recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        else:
            yield item


def encoded_bytes(value: Any) -> int:
    """How many bytes the base64 in `value` stands for."""
    return sum(len(item) for item in _leaves(value) if isinstance(item, str) and base64_text.is_encoded(item)) * 3 // 4


def file(size_bytes: int) -> int:
    """Tokens of a file of this size."""
    return min(max(size_bytes // _FILE_BYTES, _FILE_MIN), _FILE_MAX)
