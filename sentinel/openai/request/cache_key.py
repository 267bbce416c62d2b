"""Which requests may be answered by an earlier answer, and under what name it is kept. Never raises: what is unclear is asked.

An answer may be given again where the same bytes are meant to give the same answer: no stream, temperature 0, one choice, no
tools, nothing that stays with the provider (design: the answer cache).
"""

from hashlib import sha256
from typing import Any, Final

import msgspec

from sentinel.openai.response.usage import decode
from sentinel.ops.records import Call, Caller

_PATHS: Final = frozenset({"/chat/completions", "/completions", "/embeddings"})
_CERTAIN: Final = "/embeddings"  # whose answers have no chance in them
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Asked(msgspec.Struct):
    """What is read of a body; a value of another type makes it unreadable."""

    temperature: int | float | None = None
    n: int | None = None
    best_of: int | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    web_search_options: Any = None
    audio: Any = None


_decoder: Final = msgspec.json.Decoder(_Asked)


def is_repeatable(call: Call) -> bool:
    """Whether an answer to the same bytes may be given again."""
    if call.path not in _PATHS or call.method != "POST" or call.stream or call.stored or call.background:
        return False
    try:
        asked = _decoder.decode(call.body)
    except _UNREADABLE:
        return False
    certain = call.path == _CERTAIN or asked.temperature == 0
    alone = asked.n in {None, 1} and asked.best_of in {None, 1}
    lasting = asked.stream or asked.store or asked.background
    beside = asked.tools or asked.functions or asked.web_search_options is not None or asked.audio is not None
    return certain and alone and not lasting and not beside


def name(caller: Caller, call: Call) -> str:
    """The name under which an answer is kept: made of the caller, the path, the query and the bytes of the body."""
    digest = sha256()
    for part in (caller.external_id.encode("utf-8", "surrogatepass"), call.path.encode("latin-1"), call.query, call.body):
        # Each with its length, so that no two requests can be cut into the same bytes.
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def is_whole(body: bytes) -> bool:
    """Whether a body is one JSON object that tells no error."""
    fields = decode(body)
    return fields is not None and not fields.get("error")


def pack(media: bytes, body: bytes) -> bytes:
    """An answer as it is kept: its content type, a line end, its body."""
    return media + b"\n" + body


def unpack(kept: bytes) -> tuple[bytes, bytes]:
    """The content type and the body of what was kept."""
    media, _, body = kept.partition(b"\n")
    return media, body
