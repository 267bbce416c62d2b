"""The ids of a provider's objects that a body names (files, conversations, stores …), which may be another caller's.

Fails closed: what stands where an id stands is one, in whatever spelling and however deep; too many, or one too long, raise
BadRequestError. Bodies that can name nothing are told apart by a look at their bytes, so that most cost next to nothing.
"""

import re
from collections.abc import Iterable, Mapping
from json import JSONDecoder
from typing import Any, Final

from msgspec import Raw

from sentinel.errors import BadRequestError

NAMED_MAX: Final = 4096  # OpenAI takes 2000 files at a time
ID_CHARACTERS_MAX: Final = 256

# What objects of an account are called, and so whose owner matters. Parts of objects (messages, runs, steps) are reached
# through these.
OBJECT_PREFIXES: Final = frozenset(
    {"file-", "file_", "batch_", "resp_", "conv_", "vs_", "vsfb_", "thread_", "asst_", "cntr_", "video_", "upload_", "ftjob-"}
    | {"eval_", "skill_", "voice_", "cons_", "char_"}
)
# Members whose texts are ids, whatever they look like; in an object under one of these, its `id`.
ID_KEYS: Final = frozenset(
    {"file_id", "file_ids", "input_file_id", "training_file", "validation_file", "previous_response_id", "conversation"}
    | {"vector_store_id", "vector_store_ids", "assistant_id", "thread_id", "container", "container_id", "batch_id", "eval_id"}
    | {"upload_id", "video_id", "skill_id"}
)
_NOTHING: Final[frozenset[str]] = frozenset()

_PREFIXES: Final = tuple(sorted(OBJECT_PREFIXES))
_MAYBE_KEY: Final = re.compile(r"id|video|file|voice|consent|characters?|.*_(?:ids?|file)", re.DOTALL)
# The application's own words and schemas, which refer to nothing; but under `variables` a member has any name.
_OPAQUE: Final = frozenset({"metadata", "parameters", "schema", "json_schema"})
_FREELY_NAMED: Final = "variables"
_MODELS: Final = "models"
_IMAGES: Final = b"image_generation"
# As a number, which is found several times as fast as a text of one byte.
_BACKSLASH: Final = ord("\\")
MODELS_KEYS: Final = (_MODELS, "providerOptions", "provider_options")
_NAMING_MODELS: Final = frozenset(MODELS_KEYS)
# Where a run of an eval has its items from, if not from all that the account has stored.
_OWN_SOURCES: Final = ("file_content", "file_id")

# Searches begin with a sign that texts hold seldom, which is found fast: at the underscore of a voice that was made, or of a
# key that ends as ids do, unless its value is a text that is no id. The long list is looked at only then, which spares the
# `tool_call_id` of every agent.
_ANY_PREFIX: Final = "|".join(_PREFIXES).encode()
_EXPLICIT: Final = b"|".join(rb'(?<=["_]%s")' % key.encode() for key in sorted(ID_KEYS) if key.endswith("_id"))
_KEY: Final = re.compile(
    rb'_(?:(?<="voice_)|ids"|file"|id"(?:' + _EXPLICIT + rb'|[ \t\r\n]*+:[ \t\r\n]*+(?:"(?:' + _ANY_PREFIX + rb")|[\[{])))"
)
_ID: Final = re.compile(rb'"id"[ \t\r\n]*+:[ \t\r\n]*+"(?:' + _ANY_PREFIX + rb")")
# A letter, digit, underscore or hyphen in its long spelling, of which keys and ids are made.
_ESCAPED: Final = re.compile(rb"\\(?=u00(?:2[dD]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]))")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, repeated ones too: the provider may take another one than the last."""


# Numbers name nothing, and those with thousands of digits are no integers to Python.
_decode: Final = JSONDecoder(object_pairs_hook=_Pairs, parse_int=float).decode


def in_chat(body: bytes) -> frozenset[str]:
    """What a chat, a completion or an embedding names, which is little: a file under `file_id`, a voice that was made."""
    at = body.find(b"_")
    if (at >= 0 and _KEY.search(body, at)) or (_BACKSLASH in body and _has_escaped(body)):
        return in_json(body)
    return _NOTHING


def in_response(body: bytes) -> frozenset[str]:
    """What a request for a response names."""
    if b'"conversation"' in body or b'"container"' in body or (b'"id"' in body and _ID.search(body)):
        return in_json(body)
    return in_chat(body)


def in_json(body: bytes) -> frozenset[str]:
    """What any JSON names, which must have been found well-formed and not too deep."""
    found: set[str] = set()
    waiting: list[tuple[str, Any]] = [("", _decode(body.decode()))]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, _Pairs):
            for name, inner in value:
                if name not in _OPAQUE or key == _FREELY_NAMED:
                    waiting.append((key if name == "id" and key in ID_KEYS else name, inner))
        elif isinstance(value, list):
            waiting.extend([(key, inner) for inner in value])
        elif isinstance(value, str) and is_id(key, value):
            add(found, key, value)
    return frozenset(found)


def runs_over_account(body: bytes) -> bool:
    """Whether a run of an eval takes its items from what the account has stored (chats, responses), not from the request or
    a file: those may be any caller's. `body` is JSON as for `in_json`."""
    sources = [source for data in _members([_decode(body.decode())], "data_source") for source in _members([data], "source")]
    return any(kind not in _OWN_SOURCES for kind in _members(sources, "type"))


def models(members: Mapping[str, Raw]) -> frozenset[str]:
    """The models that the top-level `members` of a body name beside `model`: to be asked where that fails (Vercel's
    `providerOptions.gateway.models`; a plain `models` as other gateways have it)."""
    if _NAMING_MODELS.isdisjoint(members):
        return _NOTHING
    waiting = [(name, _decode(bytes(members[name]).decode())) for name in MODELS_KEYS if name in members]
    found: set[str] = set()
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, _Pairs):
            waiting.extend(value)
        elif isinstance(value, list):
            waiting.extend([(key, inner) for inner in value])
        elif isinstance(value, str) and key == _MODELS:
            found.add(value)
    return frozenset(found)


def models_of_tools(members: Mapping[str, Raw]) -> frozenset[str]:
    """The models that the tools of a response ask: the one that makes its images."""
    tools = bytes(members.get("tools", b""))
    if _IMAGES not in tools and not _has_escaped(tools):
        return _NOTHING
    given = _decode(tools.decode())
    return frozenset(name for name in _members(given if type(given) is list else (), "model") if isinstance(name, str))


def is_id(key: str, text: str) -> bool:
    """Whether `text` is an id where it stands under `key`."""
    return bool(text) and (key in ID_KEYS or (text.startswith(_PREFIXES) and _MAYBE_KEY.fullmatch(key) is not None))


def add(found: set[str], key: str, text: str) -> None:
    """`text`, which stands under `key`, is an id. Raises BadRequestError where it is too long, or one too many."""
    if len(text) > ID_CHARACTERS_MAX:
        param = key if key in ID_KEYS else None
        raise BadRequestError(f"An id is no longer than {ID_CHARACTERS_MAX} characters.", param=param, code="invalid_value")
    found.add(text)
    if len(found) > NAMED_MAX:
        raise BadRequestError(f"The body names too many objects: at most {NAMED_MAX} are read.", code="invalid_body")


def _members(values: Iterable[Any], wanted: str) -> list[Any]:
    """What stands under `wanted` in those of `values` that are objects, each time it does."""
    return [inner for value in values if isinstance(value, _Pairs) for name, inner in value if name == wanted]


def _has_escaped(body: bytes) -> bool:
    return b"\\u00" in body and _ESCAPED.search(body) is not None
