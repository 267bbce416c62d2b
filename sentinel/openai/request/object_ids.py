"""The ids of a provider's objects in a body: at the places where the API takes one, and what only looks like one elsewhere.

An id at a place of the API (openai/request/id_paths.py) is an object of the account. Anywhere else a text is the application's
own, and what looks like an id is only looked up, so that a new field of the API cannot reach another caller's object. Too many
ids at places of the API, or one too long, raise BadRequestError. Bodies that hold nothing of the kind are told apart by a look
at their bytes, so that most cost next to nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, repeat
from json import JSONDecoder
from typing import Any, Final

from msgspec import Raw

from sentinel.openai import byte_search
from sentinel.openai.byte_search import SLICE_BYTES, holds
from sentinel.openai.request.id_paths import BY_ROUTE, Places, Tree, tree
from sentinel.ops.errors import BadRequestError
from sentinel.ops.records import NO_IDS, Ids

NAMED_MAX: Final = 4096  # OpenAI takes 2000 files at a time
MODELS_MAX: Final = 512  # each fine-tuned one is looked up
ID_CHARACTERS_MAX: Final = 256

# What objects of an account are called, and so whose owner matters. Parts of objects (messages, runs, steps) are reached
# through these.
OBJECT_PREFIXES: Final = frozenset(
    {"file-", "file_", "batch_", "resp_", "conv_", "vs_", "vsfb_", "thread_", "asst_", "cntr_", "video_", "upload_", "ftjob-"}
    | {"eval_", "skill_", "voice_", "cons_", "char_"}
)
# Members under which any text looks like an id, since the API takes one under that name somewhere; in an object under one of
# these, its `id`.
ID_KEYS: Final = frozenset(place.rpartition(".")[2].removesuffix("[]") for taken in BY_ROUTE.values() for place in taken) - {
    "id",
    "consent",
}

_PREFIXES: Final = tuple(sorted(OBJECT_PREFIXES))
_MAYBE_KEY: Final = re.compile(r"id|video|file|voice|consent|characters?|.*_(?:ids?|file)", re.DOTALL)
# The application's own words, which the API never takes for an object: they are not even looked up. Ids of tool calls are made
# by models, of the names of functions.
_OWN: Final = frozenset(
    {"metadata", "client_metadata", "attributes", "user", "safety_identifier", "prompt_cache_key", "tool_call_id", "call_id"}
    | {"parameters", "schema", "json_schema", "item", "item_schema"}
)
_CALLS: Final = "tool_calls"
_MODELS: Final = "models"
_NO_MODELS: Final[frozenset[str]] = frozenset()
# A fine-tuned model, maybe behind the name of a vendor; and how it may be spelled in JSON.
_TUNED: Final = re.compile(r"(?:[^:]*/)?(ft:.*)", re.DOTALL)
_MAYBE_TUNED: Final = re.compile(
    rb'"(?:[^":]{0,80}(?:/|\\u002[fF]))?(?:f|\\u0066)(?:t|\\u0074)(?::|\\u003[aA])',
)
# What the name of a model has behind it where an earlier state of it is meant.
_CHECKPOINT: Final = ":ckpt-step-"
_IMAGES: Final = b"image_generation"
# As a number, which is found several times as fast as a text of one byte.
_BACKSLASH: Final = ord("\\")
_UNDERSCORE: Final = ord("_")
MODELS_KEYS: Final = (_MODELS, "providerOptions", "provider_options")
NAMING_MODELS: Final = frozenset(MODELS_KEYS)
MODEL_ENDINGS: Final = ("model", "models")
# Where a run of an eval has its items from, if not from all that the account has stored.
_OWN_SOURCES: Final = ("file_content", "file_id")

# Searches begin with a sign that texts hold seldom, which is found fast: at the underscore of a voice that was made, or of a
# key that ends as ids do, unless its value is a text that is no id. The long list is looked at only then, and never for the
# `tool_call_id` of every agent.
_ANY_PREFIX: Final = "|".join(_PREFIXES).encode()
_EXPLICIT: Final = b"|".join(rb'(?<=["_]%s")' % key.encode() for key in sorted(ID_KEYS) if key.endswith("_id"))
_KEY: Final = re.compile(
    rb'_(?:(?<="voice_)|ids"|file"|id"(?<!call_id")(?:'
    + _EXPLICIT
    + rb'|[ \t\r\n]*+:[ \t\r\n]*+(?:"(?:'
    + _ANY_PREFIX
    + rb")|[\[{])))"
)
_ID: Final = re.compile(rb'"id"[ \t\r\n]*+:[ \t\r\n]*+"(?:' + _ANY_PREFIX + rb")")
# A letter, digit, underscore or hyphen in its long spelling, of which keys and ids are made.
_ESCAPED: Final = re.compile(rb"\\(?=u00(?:2[dD]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]))")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, repeated ones too: the provider may take another one than the last."""


def _pairs(members: list[tuple[str, Any]]) -> _Pairs:
    """In Python, so that the decoder, which is C, gives others the interpreter at each object; so does the next one."""
    return _Pairs(members)


def _number(_text: str) -> None:
    """Numbers name nothing, and those with thousands of digits are no integers to Python."""


_decode: Final = JSONDecoder(object_pairs_hook=_pairs, parse_int=_number, parse_float=_number).decode
# What of it names something, or holds what does.
_HOLDING: Final = (str, list)


def in_chat(body: bytes, places: Places) -> Ids:
    """What a chat, a completion or an embedding names, which is little: a file under `file_id`, a voice that was made."""
    if len(body) > SLICE_BYTES:
        return in_json(body, places) if holds_key(body) or holds(body, b'"voice"') or has_escaped(body) else NO_IDS
    at = body.find(b"_")
    if (at >= 0 and _KEY.search(body, at)) or b'"voice"' in body or (_BACKSLASH in body and has_escaped(body)):
        return in_json(body, places)
    return NO_IDS


def in_response(body: bytes, places: Places) -> Ids:
    """What a request for a response names."""
    if b'"conversation"' in body or b'"container"' in body or (b'"id"' in body and _ID.search(body)):
        return in_json(body, places)
    return in_chat(body, places)


def holds_key(body: bytes) -> bool:
    """Whether _KEY is found in a long body: by what such keys end with, which takes a tenth of the time where all is `_`."""
    for ending in (b'id"', b'ids"', b'file"'):
        if any(body[at - 1] == _UNDERSCORE and _KEY.match(body, at - 1) for at in byte_search.places(body, ending) if at):
            return True
    return holds(body, b'"voice_')


def in_json(body: bytes, places: Places) -> Ids:
    """What any JSON names whose route takes ids at `places`. It must have been found well-formed and not too deep."""
    objects: set[str] = set()
    alike: set[str] = set()
    waiting: list[tuple[str, Any, Tree | None]] = [("", _decode(body.decode()), tree(places))]
    while waiting:
        key, value, place = waiting.pop()
        if isinstance(value, _Pairs):
            for name, inner in value:
                if isinstance(inner, _HOLDING):
                    under = place.under(name) if place is not None else None
                    if under is not None or not (name in _OWN or (name == "id" and key == _CALLS)):
                        waiting.append((key if name == "id" and key in ID_KEYS else name, inner, under))
        elif isinstance(value, list):
            waiting.extend([(key, inner, place) for inner in value if isinstance(inner, _HOLDING)])
        elif value:
            if place is not None and place.taken:
                take(objects, key, value)
            elif looks_like_id(key, value):
                note(alike, value)
    return ids(objects, alike)


def ids(objects: set[str], alike: set[str]) -> Ids:
    """What was found. Raises BadRequestError for too many objects; texts of an application are as many as a body can hold."""
    if len(objects) > NAMED_MAX:
        raise BadRequestError(f"The body names too many objects: at most {NAMED_MAX} are read.", code="invalid_body")
    return Ids(frozenset(objects), frozenset(alike - objects)) if objects or alike else NO_IDS


def runs_over_account(body: bytes) -> bool:
    """Whether a run of an eval takes its items from what the account has stored (chats, responses), not from the request or
    a file: those may be any caller's. `body` is JSON as for `in_json`."""
    sources = [source for data in _members([_decode(body.decode())], "data_source") for source in _members([data], "source")]
    return any(kind not in _OWN_SOURCES for kind in _members(sources, "type"))


def models(members: Mapping[str, Raw], body: bytes, model: str) -> frozenset[str]:
    """The models that `body` names beside the `model` at its top, whose `members` are given: to be asked where that one fails
    (Vercel's `providerOptions.gateway.models`; a plain `models` as other gateways have it), or fine-tuned, at any depth.

    Raises BadRequestError for too many of them.
    """
    found = _NO_MODELS if NAMING_MODELS.isdisjoint(members) else _models(members)
    if (b"ft:" in body or b"\\u00" in body) and _MAYBE_TUNED.search(body):
        found |= _tuned(body, model)
    return _few(found)


def _few(texts: Iterable[str]) -> frozenset[str]:
    """The different ones among `texts`, which are read no further than to one too many: then BadRequestError is raised."""
    found: set[str] = set()
    for text in texts:
        found.add(text)
        if len(found) > MODELS_MAX:
            raise BadRequestError(f"The body names too many models: at most {MODELS_MAX} are read.", code="invalid_body")
    return frozenset(found)


def tuned_name(model: str) -> str:
    """The name under which a fine-tuned model has its owner; "" where `model` is none."""
    found = _TUNED.match(model)
    return found[1].partition(_CHECKPOINT)[0] if found else ""


def tuned_in(value: Any) -> frozenset[str]:
    """The owned names of all fine-tuned models that stand anywhere in decoded JSON."""
    return frozenset(name for _, text in _texts([("", value)], frozenset()) if (name := tuned_name(text)))


def decoded(text: bytes) -> Any:
    """JSON with every member of its objects, repeated ones too; it must have been found well-formed and not too deep."""
    return _decode(text.decode())


def _models(members: Mapping[str, Raw]) -> frozenset[str]:
    waiting = [(name, decoded(bytes(members[name]))) for name in MODELS_KEYS if name in members]
    return _few(text for key, text in _texts(waiting, frozenset()) if key == _MODELS)


def _tuned(body: bytes, model: str) -> frozenset[str]:
    """The fine-tuned models under members that are called like models; looked for where more is there than `model`."""
    if model and tuned_name(model) and next(islice(_MAYBE_TUNED.finditer(body), 1, None), None) is None:
        return _NO_MODELS
    texts = _texts([("", decoded(body))], _OWN)
    return _few(text for key, text in texts if "ft:" in text and key.lower().endswith(MODEL_ENDINGS) and tuned_name(text))


def _texts(waiting: list[tuple[str, Any]], left_out: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Every text in decoded JSON with the name of the member it stands under, but for what lies in those `left_out`."""
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list):
            for name, inner in value if isinstance(value, _Pairs) else zip(repeat(key), value, strict=False):
                if isinstance(inner, _HOLDING) and name not in left_out:
                    if isinstance(inner, str):
                        yield name, inner
                    else:
                        waiting.append((name, inner))


def models_of_tools(members: Mapping[str, Raw]) -> frozenset[str]:
    """The models that the tools of a response ask: the one that makes its images."""
    tools = bytes(members.get("tools", b""))
    if _IMAGES not in tools and not has_escaped(tools):
        return _NO_MODELS
    given = _decode(tools.decode())
    return _few(name for name in _members(given if type(given) is list else (), "model") if isinstance(name, str))


def looks_like_id(key: str, text: str) -> bool:
    """Whether `text` may be an id where it stands under `key`, though no place of the API is known there."""
    return key in ID_KEYS or (text.startswith(_PREFIXES) and _MAYBE_KEY.fullmatch(key) is not None)


def take(objects: set[str], key: str, text: str) -> None:
    """`text` stands under `key` where the API takes an id. Raises BadRequestError where it is too long for one."""
    if len(text) > ID_CHARACTERS_MAX:
        raise BadRequestError(f"An id is no longer than {ID_CHARACTERS_MAX} characters.", param=key, code="invalid_value")
    objects.add(text)


def note(alike: set[str], text: str) -> None:
    """`text` looks like an id; what is longer than any is none, nor is nothing."""
    if 0 < len(text) <= ID_CHARACTERS_MAX:
        alike.add(text)


def _members(values: Iterable[Any], wanted: str) -> list[Any]:
    """What stands under `wanted` in those of `values` that are objects, each time it does."""
    return [inner for value in values if isinstance(value, _Pairs) for name, inner in value if name == wanted]


def has_escaped(body: bytes) -> bool:
    """Whether a sign of which keys and ids are made is spelled as an escape, as nobody writes it who hides nothing."""
    return b"\\u00" in body and _ESCAPED.search(body) is not None
