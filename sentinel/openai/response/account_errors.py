"""What the provider says about its own account in an error: whose it is, and that it cannot pay. Neither is any caller's.

Cannot fail: what cannot be read says nothing, and passes. Only errors are looked at; an answer may say what it likes. Ids of
organisations, projects, teams and users, and what is left of keys, become one neutral word, every other byte stays. An error
event that says that the account cannot pay says so in Sentinel's words instead, since it would look like the caller's limit.
"""

import re
from typing import Any, Final

from msgspec import Struct, field

from sentinel.openai.response import sse
from sentinel.openai.response.content_kind import Kind, told
from sentinel.openai.response.usage import decode

NEUTRAL: Final = b"provider-account"
REFUSED_MESSAGE: Final = "The provider refused the account of this gateway. Your own limits are not affected."
# More than any error names; what goes beyond is hidden all the same.
IDS_MAX: Final = 16
ID_BYTES_MAX: Final = 128
HELD_BYTES_MAX: Final = 256
# Of a stream that comes as an error: it ends with what went wrong, and begins with little.
_EVENTS_MAX: Final = 16
_BOM: Final = b"\xef\xbb\xbf"

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
# In the forms that are given out, and nothing that is only called like one (`org-chart`, `user-defined1`): so many letters and
# digits; or letters alone, as one in fifty has, where it is exactly as long as those are and mixed.
_ID: Final = (
    # OpenAI's organisations, projects and users; Vercel's teams and projects; Anthropic's workspaces; Stripe's accounts.
    rb"(?:(?:org(?:[-_]|\\u00(?:2[dD]|5[fF]))|(?:proj|team|prj|acct|wrkspc)(?:_|\\u005[fF]))(?=[A-Za-z]*[0-9])[A-Za-z0-9]{16,40}"
    rb"|user(?:-|\\u002[dD])(?=[A-Za-z]*[0-9])[A-Za-z0-9]{24}"
    rb"|(?:org-|proj_|user-|team_)(?=[A-Z]*[a-z]+[A-Z])[A-Za-z]{24})(?![A-Za-z0-9_-])"
    # Azure's subscriptions.
    rb"|(?<=/subscriptions/)[0-9A-Fa-f-]{36}"
)
# A member that names it, whatever its value looks like; also in JSON that is quoted within JSON, where quotes are escaped.
_MEMBER: Final = (
    rb'(?P<member>(?P<quote>(?P<quoted>\\{1,7})?")(?:organi[sz]ation|org|project|team|account|workspace)'
    rb"(?:_?(?:[iI]d|[nN]ame|[sS]lug))?(?P=quote)\s*:\s*)"
    rb'(?:(?P=quote)(?P<value>(?(quoted)(?:[^"\\]|\\[^"])+|(?:[^"\\]|\\.)+))(?P=quote)'
    rb'|(?P<other>-?[0-9]++(?![.eE])|\{(?:[^{}"\\]|"(?:[^"\\]|\\.)*+")*+\}))'
)
# A name in words.
_NAMED: Final = (
    rb"(?P<named>\b(?:[oO]rgani[sz]ation|[wW]orkspace|[aA]ccount)\s+(?P<mark>\\{1,7}\"|['`]))"
    rb"(?P<name>[^\"'`\\\r\n]{1,64})(?P=mark)"
)
_HIDDEN: Final = re.compile(rb"%b|%b|%b(?:(?P<key>%b)|(?P<id>%b))" % (_MEMBER, _NAMED, _BEGINS, _KEY, _ID))
_SECRET: Final = re.compile(_KEY)
# What an id, or what stands around it, consists of: a piece that ends in it may go on in the next one.
_OPEN: Final = bytes(byte for byte in range(256) if byte >= 0x80 or chr(byte).isalnum() or byte in rb"_*.\/-")

_MESSAGE: Final = re.compile(rb'("message"\s*:\s*)"(?:[^"\\]|\\.)*+"')
_CODE: Final = re.compile(rb'("(code|type)"\s*:\s*)"(?:%b)"' % "|".join(UNPAID).encode())
_INSTEAD: Final = {b"code": b'"upstream_error"', b"type": b'"server_error"'}


class Disclosed(Struct):
    """What was hidden: ids for the operator (keys are nobody's to read), and whether the account was refused."""

    ids: list[str] = field(default_factory=list)
    refused: bool = False


class Hiding:
    """Hides, in an error that arrives in pieces, what it says about the account. `key` is the provider's, as it is sent.

    `disclosed` is what was hidden so far. A piece that ends in what could be the beginning of an id is held up to its end; only
    a member's value, or a name in words, that is no id is not seen where a piece ends within it.
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
    """The code by which the body of an error says that the account is not served, "" where it says something else.

    It may also be the first of a list, or an event of a stream.
    """
    events = sse.events(body) if told(body) is Kind.EVENTS else []
    texts = [sse.payload(event) for event in events[:_EVENTS_MAX]] or [body]
    return next((code for text in texts if (code := _refusal(text))), "")


def _refusal(text: bytes) -> str:
    read = decode(b'{"it":%b}' % text.removeprefix(_BOM)) or {}
    said = read.get("it")
    if isinstance(said, list):
        said = said[0] if said else None
    if not isinstance(said, dict):
        return ""
    error = said.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else {"code": error}
    found = (inner.get("code"), inner.get("type"), said.get("code"), said.get("type"))
    return next((code for code in found if isinstance(code, str) and code in UNPAID), "")


def is_refused(error: bytes) -> bool:
    """Whether `error`, in JSON, says that the account is not served."""
    return _CODE.search(error) is not None


def hide_error(said: bytes, disclosed: Disclosed) -> bytes:
    """`said`, an error of the provider's within an answer, with all of the account hidden, and noted in `disclosed`."""
    if _CODE.search(said):
        disclosed.refused = True
        said = _CODE.sub(lambda found: found[1] + _INSTEAD[found[2]], said)
        said = _MESSAGE.sub(rb'\1"%b"' % REFUSED_MESSAGE.encode(), said)
    return _hide(said, disclosed)


def _hide(said: bytes, disclosed: Disclosed) -> bytes:
    def neutral(found: re.Match[bytes]) -> bytes:
        told = (found["value"] or found["other"] or found["name"] or found["id"] or b"")[:ID_BYTES_MAX]
        if told and len(disclosed.ids) < IDS_MAX and not _SECRET.search(told):
            disclosed.ids.append(told.decode("utf-8", "replace"))
        if found["named"] is not None:
            return found["named"] + NEUTRAL + found["mark"]
        return NEUTRAL if found["member"] is None else found["member"] + found["quote"] + NEUTRAL + found["quote"]

    return _HIDDEN.sub(neutral, said)
