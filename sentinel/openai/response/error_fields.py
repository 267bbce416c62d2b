"""Where an answer says what went wrong at the provider, and what of it is about the provider's account.

Cannot fail: what cannot be read says nothing, and passes. An error of the provider is an event that is one as a whole, or the
member `error` (`last_error` of a run) of an event or a body, of the response in it, or of one of its choices. At any other
depth the word is a tool's or the model's, and so is the `error` beside an `item_id`. What is looked into is bounded in bytes
and in members; an error longer than anybody writes one is replaced by Sentinel's words.
"""

import re
from typing import Any, Final

import msgspec

from sentinel.openai.response import sse
from sentinel.openai.response.account_errors import Disclosed, hide_error, is_refused

# Of an event, up to its error; of an error; of JSON within an event.
LOOKED_BYTES_MAX: Final = 1 << 20
ERROR_BYTES_MAX: Final = 64 << 10
TOKENS_MAX: Final = 50_000
LONG_MESSAGE: Final = "The provider failed, and said more about it than is passed on."

# That an event may be an error, or hold one: a member with a value that is not null, a type, or the event's own name. All have
# the one word, which is found fast in an event of any length.
_ERRING: Final = re.compile(rb'error(?:"\s*:\s*[{"]|(?<="error)"\s*[,}]|(?<=event: error)|(?<=event:error))')
_ERROR_LINE: Final = re.compile(rb"(?:\A|[\r\n])event: ?error[\r\n]")
_ERROR_MEMBER: Final = re.compile(rb'"(?:last_)?error"\s*:\s*[{"]')
_DATA: Final = re.compile(rb"(?:\A|[\r\n])data:")
# What comes before the data of an event is short.
_LINES_BYTES_MAX: Final = 4096
_BOM: Final = b"\xef\xbb\xbf"
# A string without an end reaches to the end, so that none is searched for twice.
_TOKEN: Final = re.compile(rb'(?P<string>"(?:[^"\\]++|\\.)*+(?P<quote>")?)(?P<colon>\s*:)?|(?P<open>[{\[])|[}\]]', re.DOTALL)
_LONG_VALUE: Final = msgspec.json.encode(
    {"message": LONG_MESSAGE, "type": "server_error", "param": None, "code": "upstream_error"}
)
_LONG_TEXT: Final = msgspec.json.encode(LONG_MESSAGE)
_CLOSING: Final = bytes.maketrans(b"{[", b"}]")
_NULL: Final = msgspec.Raw(b"null")

# What an opened array or object is.
_ROOT, _RESPONSE, _CHOICES, _CHOICE, _ERROR, _OTHER = range(6)
_OPENED: Final = {
    (_ROOT, b'"response"', b"{"): _RESPONSE,
    (_ROOT, b'"choices"', b"["): _CHOICES,
    (_CHOICES, b"", b"{"): _CHOICE,
}
_ERRORS: Final = {
    *((_ROOT, b'"error"'), (_ROOT, b'"last_error"'), (_RESPONSE, b'"error"'), (_RESPONSE, b'"last_error"')),
    (_CHOICE, b'"error"'),
}


class _Object(msgspec.Struct):
    """What of an object may be an error; nothing else is built."""

    type: Any = None
    item_id: Any = None
    error: msgspec.Raw = _NULL
    last_error: msgspec.Raw = _NULL
    response: "_Object | None" = None
    choices: "list[_Object] | None" = None

    def errors(self) -> list[bytes]:
        """As they are written."""
        own = () if self.item_id is not None else (self.error, self.last_error)
        within = () if self.response is None else (self.response.error, self.response.last_error)
        chosen = [choice.error for choice in self.choices or ()]
        return [error for error in map(bytes, (*own, *within, *chosen)) if error.startswith((b"{", b'"'))]


class _Place(msgspec.Struct):
    """Where an error stands; `end` is 0 where it goes on behind what was looked into, within `around` (opening brackets)."""

    role: int
    begin: int
    end: int = 0
    around: bytes = b""


class _Walk:
    """Walks over JSON from `begin`, as far as the bounds allow: `places` are its errors, `is_error` that it is one itself."""

    def __init__(self, text: bytes, begin: int) -> None:
        self.places: list[_Place] = []
        self.is_error = False
        self.end = min(len(text), begin + LOOKED_BYTES_MAX)
        self._text = text
        self._roles: list[int] = []
        self._brackets = b""
        self._key = b""
        self._items = False
        for number, token in enumerate(_TOKEN.finditer(text, begin, self.end)):
            if number >= TOKENS_MAX:
                self.end = token.start()
                break
            if token["string"] is not None:
                self._string(token)
            elif token["open"] is not None:
                self._open(token)
            else:
                self._close(token)
        if self._items:
            self.places = [place for place in self.places if place.role != _ROOT]

    def _role(self) -> int:
        return self._roles[-1] if self._roles else _OTHER

    def _string(self, token: re.Match[bytes]) -> None:
        role = self._role()
        if token["colon"] is not None:
            self._key = token["string"]
            self._items = self._items or (role == _ROOT and self._key == b'"item_id"')
            return
        if (role, self._key) in _ERRORS:
            self.places.append(_Place(role, token.start(), token.end() if token["quote"] else 0, self._brackets))
        elif role == _ROOT and self._key == b'"type"' and token["string"] == b'"error"':
            self.is_error = True
        self._key = b""

    def _open(self, token: re.Match[bytes]) -> None:
        role, opening = self._role(), token["open"]
        new = _OPENED.get((role, self._key, opening), _OTHER) if self._roles else _ROOT
        if (role, self._key) in _ERRORS:
            new = _ERROR
            self.places.append(_Place(role, token.start(), 0, self._brackets))
        self._roles.append(new)
        self._brackets += opening
        self._key = b""

    def _close(self, token: re.Match[bytes]) -> None:
        if self._roles and self._roles.pop() == _ERROR:
            self.places[-1].end = token.end()
        self._brackets = self._brackets[:-1]
        self._key = b""


class Hidden(msgspec.Struct):
    """What is hidden of one stream: `disclosed` says what, None where nothing is."""

    disclosed: Disclosed | None = None
    # Whether something else went down in place of the long event, so that nothing more of it may.
    _drops: bool = False

    def in_events(self, region: bytes) -> bytes:
        """`region`, whole events, as they may go down."""
        disclosed = self.disclosed or Disclosed()
        if (hidden := hide_in_events(region, disclosed)) != region:
            self.disclosed = disclosed
        return hidden

    def in_start(self, start: bytes) -> bytes:
        """The same for the start of an event that is too long to be held."""
        disclosed = self.disclosed or Disclosed()
        hidden, self._drops = hide_in_start(start, disclosed)
        if hidden != start:
            self.disclosed = disclosed
        return hidden

    def in_rest(self, rest: bytes) -> bytes:
        """The same for what comes after its start."""
        return b"" if self._drops else rest


def hide_in_events(region: bytes, disclosed: Disclosed) -> bytes:
    """`region`, whole events of a stream, with what their errors say about the account hidden, and noted in `disclosed`."""
    if not _ERRING.search(region):
        return region
    return b"".join([_hide_in_event(event, disclosed) if _ERRING.search(event) else event for event in sse.events(region)])


def hide_in_start(start: bytes, disclosed: Disclosed) -> tuple[bytes, bool]:
    """The same for the start of an event that is too long to be held; and whether what goes down instead is whole already, so
    that the rest of the event is to be dropped.
    """
    if not _ERRING.search(start, 0, LOOKED_BYTES_MAX):
        return start, False
    walk = _Walk(start, _data(start))
    if walk.is_error or _ERROR_LINE.search(start, 0, _LINES_BYTES_MAX):
        return _long(start, disclosed), True
    return _hide_or_cut(start, walk.places, disclosed)


def may_err(start: bytes) -> bool:
    """Whether a plain answer that begins with `start` is an object that may tell its own error."""
    return start.removeprefix(_BOM).lstrip().startswith(b"{") and _ERROR_MEMBER.search(start) is not None


def hide_in_body(start: bytes, disclosed: Disclosed) -> bytes:
    """`start`, the beginning of a plain answer or all of it, without what the error of a failed response or run in it says."""
    return _hide_at(start, [place for place in _Walk(start, 0).places if place.end], disclosed)


def _hide_in_event(event: bytes, disclosed: Disclosed) -> bytes:
    """An event that is an error is one as a whole; in any other, what stands beside an error is the answer."""
    read = _read(sse.payload(event))
    if _ERROR_LINE.search(event, 0, _LINES_BYTES_MAX) or (read is not None and read.type == "error"):
        return hide_error(event, disclosed) if len(event) <= ERROR_BYTES_MAX else _long(event, disclosed)
    errors = [] if read is None else read.errors()
    if read is not None and not errors:
        return event
    walk = _Walk(event, _data(event))
    end = walk.end
    for place in walk.places:
        if not place.end:
            # Of what is no JSON all is the error's, where that is not too long.
            to_end = len(event) if len(event) - place.begin <= ERROR_BYTES_MAX else 0
            place.end = next((place.begin + len(error) for error in errors if event.startswith(error, place.begin)), to_end)
            end = max(end, place.end)
    shown, is_cut = _hide_or_cut(event[:end], walk.places, disclosed)
    rest = b"" if is_cut else event[end:]
    for error in errors if rest else ():
        # Behind all that is looked into an error is told by its own text.
        if error in rest:
            rest = rest.replace(error, _hide_value(error, disclosed))
    return shown + rest


def _read(said: bytes) -> _Object | None:
    try:
        return msgspec.json.decode(said, type=_Object)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _data(event: bytes) -> int:
    found = _DATA.search(event, 0, _LINES_BYTES_MAX)
    return 0 if found is None else found.end()


def _hide_or_cut(text: bytes, places: list[_Place], disclosed: Disclosed) -> tuple[bytes, bool]:
    """`text` with its errors hidden; it ends at the first that has no end, which is replaced: True then."""
    cut = next((place for place in places if not place.end), None)
    if cut is None:
        return _hide_at(text, places, disclosed), False
    shown = _hide_at(text[: cut.begin], [place for place in places if place.end], disclosed)
    closing = cut.around[::-1].translate(_CLOSING)
    return shown + _hide_value(text[cut.begin :], disclosed, is_long=True) + closing + b"\n\n", True


def _hide_at(text: bytes, places: list[_Place], disclosed: Disclosed) -> bytes:
    parts: list[bytes] = []
    end = 0
    for place in places:
        parts += (text[end : place.begin], _hide_value(text[place.begin : place.end], disclosed))
        end = place.end
    return b"".join((*parts, text[end:]))


def _hide_value(error: bytes, disclosed: Disclosed, *, is_long: bool = False) -> bytes:
    if not is_long and len(error) <= ERROR_BYTES_MAX:
        return hide_error(error, disclosed)
    _note(error, disclosed)
    return _LONG_VALUE if error.startswith(b"{") else _LONG_TEXT


def _long(event: bytes, disclosed: Disclosed) -> bytes:
    """What is said instead of an error without an end in sight."""
    _note(event, disclosed)
    return sse.typed_error_event(LONG_MESSAGE, "server_error", "upstream_error", event[:_LINES_BYTES_MAX])


def _note(error: bytes, disclosed: Disclosed) -> None:
    """Whose account it was, as far as its two ends tell."""
    half = ERROR_BYTES_MAX // 2
    for end in (error[:half], error[max(half, len(error) - half) :]):
        disclosed.refused = disclosed.refused or is_refused(end)
        hide_error(end, disclosed)
