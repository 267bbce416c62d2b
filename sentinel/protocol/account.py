"""What the provider says about its own account in an error: whose it is, and that it cannot pay. Neither is any caller's.

Cannot fail: what cannot be read says nothing, and passes. Only errors are looked at; an answer may say what it likes. Ids of
organisations, projects, teams and users, and what is left of keys, become one neutral word, every other byte stays. An error
event that says that the account cannot pay says so in Sentinel's words instead, since it would look like the caller's limit.
"""

import json
import re
from typing import Any, Final

from msgspec import Struct, field

from sentinel.protocol import sse
from sentinel.protocol.answers import decode, decode_head

NEUTRAL: Final = b"provider-account"
REFUSED_MESSAGE: Final = "The provider refused the account of this gateway. Your own limits are not affected."
# More than any error names; what goes beyond is hidden all the same.
IDS_MAX: Final = 16
ID_BYTES_MAX: Final = 128
HELD_BYTES_MAX: Final = 256

# By which a provider says, in the code or in the type of an error, that its account is not served: OpenAI's (older and newer
# ones), Vercel's, Anthropic's.
UNPAID: Final = (
    *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"),
    *("credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded"),
    *("organization_usage_limit_exceeded", "insufficient_funds", "billing_error"),
)

# Where a word begins: also behind an escape of JSON, whose letters are none of the word.
_BEGINS: Final = rb"(?:(?<![A-Za-z0-9_\\-])|(?<=\\[bfnrt\\])|(?<=\\u[0-9A-Fa-f]{4}))"
# Keys, as far as they are shown (`sk-proj-...abcd`, `sk-ab***yz`), and whatever else is starred.
_KEY: Final = rb"(?:sk-|vck_)(?:[A-Za-z0-9_*-]|\.+(?=[A-Za-z0-9_*-])|\xe2\x80\xa6|\\u2026)+|[A-Za-z0-9_-]+\*{4,}[A-Za-z0-9_-]*"
_ID: Final = (
    # OpenAI's organisations and projects.
    rb"org(?:-|\\u002[dD])[A-Za-z0-9_-]+|proj(?:_|\\u005[fF])[A-Za-z0-9_-]+"
    # Vercel's teams and projects, OpenAI's users. These prefixes begin words as well (`team_members`), but those have no digit.
    rb"|(?:team|prj)_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{3,}|user-(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,}"
    # Azure's subscriptions.
    rb"|(?<=/subscriptions/)[0-9A-Fa-f-]{36}"
)
# A member that names it, whatever its value looks like; also in JSON that is quoted within JSON, where quotes are escaped.
_MEMBER: Final = (
    rb'(?P<member>(?P<quote>(?P<quoted>\\{1,7})?")(?:organi[sz]ation|org|project|team|account)(?:_?(?:[iI]d|[nN]ame|[sS]lug))?'
    rb'(?P=quote)\s*:\s*(?P=quote))(?P<value>(?(quoted)(?:[^"\\]|\\[^"])+|(?:[^"\\]|\\.)+))(?P=quote)'
)
_HIDDEN: Final = re.compile(rb"%b|%b(?:(?P<key>%b)|(?P<id>%b))" % (_MEMBER, _BEGINS, _KEY, _ID))
_SECRET: Final = re.compile(_KEY)
# What an id, or what stands around it, consists of: a piece that ends in it may go on in the next one.
_OPEN: Final = bytes(byte for byte in range(256) if byte >= 0x80 or chr(byte).isalnum() or byte in rb"_*.\/-")

# That an event may be an error, or hold one: a member with a value that is not null, a type, or the event's own name. All have
# the one word, which is found fast in an event of any length.
_ERRING: Final = re.compile(rb'error(?:"\s*:\s*[{"]|(?<="error)"\s*[,}]|(?<=event: error)|(?<=event:error))')
_ERROR_LINE: Final = re.compile(rb"(?:\A|[\r\n])event: ?error[\r\n]")
_ERROR_MEMBER: Final = re.compile(rb'"(?:last_)?error"\s*:\s*(?=[{"])')
_MESSAGE: Final = re.compile(rb'("message"\s*:\s*)"(?:[^"\\]|\\.)*+"')
_CODE: Final = re.compile(rb'("(code|type)"\s*:\s*)"(?:%b)"' % "|".join(UNPAID).encode())
_INSTEAD: Final = {b"code": b'"upstream_error"', b"type": b'"server_error"'}
_lenient: Final = json.JSONDecoder(strict=False)


class Disclosed(Struct):
    """What was hidden: ids for the operator (keys are nobody's to read), and whether the account was refused."""

    ids: list[str] = field(default_factory=list)
    refused: bool = False


class Hiding:
    """Hides, in an error that arrives in pieces, what it says about the account. `key` is the provider's, as it is sent.

    `disclosed` is what was hidden so far. A piece that ends in what could be the beginning of an id is held up to its end; only
    a member's value that is no id is not seen where a piece ends within it.
    """

    def __init__(self, key: str) -> None:
        self.disclosed = Disclosed()
        self._key = key.encode()
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What may go down now."""
        said = self._held + piece
        end = max(len(said.rstrip(_OPEN)), len(said) - HELD_BYTES_MAX)
        self._held = said[end:]
        return self._hide(said[:end])

    def finish(self) -> bytes:
        """What is left when there is no more; b"" if asked again."""
        held, self._held = self._held, b""
        return self._hide(held)

    def _hide(self, said: bytes) -> bytes:
        if self._key and self._key in said:
            said = said.replace(self._key, NEUTRAL)
        return _hide(said, self.disclosed)


def refusal(body: bytes) -> str:
    """The code by which the body of an error says that the account is not served, "" where it says something else."""
    said = decode(body) or {}
    error = said.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else {"code": error}
    found = (inner.get("code"), inner.get("type"), said.get("code"), said.get("type"))
    return next((code for code in found if isinstance(code, str) and code in UNPAID), "")


def hide_in_events(region: bytes, disclosed: Disclosed) -> bytes:
    """`region`, whole events of a stream, with what their errors say about the account hidden, and noted in `disclosed`."""
    if not _ERRING.search(region):
        return region
    return b"".join([_hide_in_event(event, disclosed) if _ERRING.search(event) else event for event in sse.events(region)])


def _hide_in_event(event: bytes, disclosed: Disclosed) -> bytes:
    """An event that is an error is one as a whole; in any other, an error is an object of that name (a failed response or run),
    and what stands beside it is the answer.
    """
    if _ERROR_LINE.search(event) or ((head := decode_head(sse.payload(event))) is not None and head.type == "error"):
        return _hide_error(event, disclosed)
    hidden: list[bytes] = []
    end = 0
    # latin-1, so that places in the text are places in the bytes.
    text = event.decode("latin-1")
    for found in _ERROR_MEMBER.finditer(event):
        if found.start() >= end:
            begin, after = found.end(), _value_end(text, found.end())
            hidden += (event[end:begin], _hide_error(event[begin:after], disclosed))
            end = after
    return b"".join((*hidden, event[end:]))


def _value_end(text: str, begin: int) -> int:
    """Where the JSON value ends that begins there; all of the text where it is none."""
    try:
        return _lenient.raw_decode(text, begin)[1]
    except (ValueError, RecursionError):
        return len(text)


def _hide_error(said: bytes, disclosed: Disclosed) -> bytes:
    if _CODE.search(said):
        disclosed.refused = True
        said = _CODE.sub(lambda found: found[1] + _INSTEAD[found[2]], said)
        said = _MESSAGE.sub(rb'\1"%b"' % REFUSED_MESSAGE.encode(), said)
    return _hide(said, disclosed)


def _hide(said: bytes, disclosed: Disclosed) -> bytes:
    def neutral(found: re.Match[bytes]) -> bytes:
        told = (found["value"] or found["id"] or b"")[:ID_BYTES_MAX]
        if told and len(disclosed.ids) < IDS_MAX and not _SECRET.search(told):
            disclosed.ids.append(told.decode("utf-8", "replace"))
        return NEUTRAL if found["member"] is None else found["member"] + NEUTRAL + found["quote"]

    return _HIDDEN.sub(neutral, said)
