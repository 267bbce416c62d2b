"""Content types of requests: what is read as JSON, and what is not (rules H11, H18); and what media may cost.

Fails closed: a type that no reader takes raises UnsupportedMediaTypeError, which is OpenAI's 415; so does text in another
encoding than UTF-8, which the provider might read where Sentinel could not.
"""

import re
from typing import Final

from sentinel.ops.errors import UnsupportedMediaTypeError
from sentinel.ops.records import Dialect, Route

TYPE_CHARACTERS_MAX: Final = 128

PLAIN: Final = frozenset({b"", b"application/json"})  # as every SDK spells JSON, and as clients leave it out
_JSON: Final = re.compile(rb"application/(?:json|[!#$&^_.+a-z0-9-]++(?<=\+json))[ \t]*+(?:;|$)", re.IGNORECASE)
_FORM: Final = re.compile(rb"multipart/form-data[ \t]*+;", re.IGNORECASE)
# What a lenient reader would take for JSON or for fields: curl sends the first by itself.
_LOOSE: Final = re.compile(rb"application/x-www-form-urlencoded|text/|[^/]*+$", re.IGNORECASE)
_CHARSET: Final = re.compile(rb"charset[ \t]*+=[ \t]*+\"?+([^\" \t;,]*+)", re.IGNORECASE)
_UTF8: Final = frozenset({b"utf-8", b"utf8"})
_OUTPUT_TOKENS_LEAST: Final = 1  # held where output is possible, so that a limit that is used up refuses it
_PRODUCED: Final = frozenset({"images", "audio"})
_NOT_PRINTABLE: Final = re.compile(rb"[^ -~]")


def is_json(content_type: bytes) -> bool:
    """Whether a body of this type is read as JSON: so says its type, or nothing does.

    Raises UnsupportedMediaTypeError for JSON in another encoding than UTF-8.
    """
    if content_type in PLAIN:
        return True
    if not _JSON.match(content_type):
        return False
    if any(name.lower() not in _UTF8 for name in _CHARSET.findall(content_type)):
        raise unsupported(content_type)
    return True


def is_form(content_type: bytes) -> bool:
    """Whether the body is a form of parts (RFC 7578)."""
    return _FORM.match(content_type) is not None


def check_opaque(content_type: bytes) -> None:
    """Raise UnsupportedMediaTypeError for a type that is neither read nor plainly something else, as a file or a form is."""
    if _LOOSE.match(content_type):
        raise unsupported(content_type)


def unsupported(content_type: bytes) -> UnsupportedMediaTypeError:
    """The 415 of OpenAI for a type that is not read here."""
    shown = _NOT_PRINTABLE.sub(b"?", content_type[:TYPE_CHARACTERS_MAX]).decode()
    return UnsupportedMediaTypeError(
        f"Unsupported content type: '{shown}'. This API method only accepts 'application/json' requests, but you specified the "
        f"header 'Content-Type: {shown}'. Please try again with a supported content type."
    )


def output_tokens(route: Route) -> int | None:
    """What is held for the output of a request that declares no cap, nor can: None is the default, as of any other model."""
    if route.dialect is Dialect.NONE:
        return 0
    return None if route.dialect is Dialect.MEDIA and route.label in _PRODUCED else _OUTPUT_TOKENS_LEAST
