"""JSON that was cut off: closed behind its last word, or behind its last whole member. Cannot fail.

What comes of something else than the beginning of JSON is no JSON either, which whoever decodes it will find.
"""

import re
from typing import Final

# Up to the last whole escape of a string that is cut off.
_CUT: Final = rb'"(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+'
_STRING: Final = _CUT + rb'"'
# Whatever stands between two of `{}[],`.
_BETWEEN: Final = rb'(?:[^"{}\[\],]++|' + _STRING + rb")*+"
# From one bracket to the next in one go, and the last comma before it: lists of words and numbers are most of what is long.
_MEMBERS: Final = re.compile(rb"((?:" + _BETWEEN + rb",)*+)" + _BETWEEN + rb"([{}\[\]]?)", re.DOTALL)
_CUT_STRING: Final = re.compile(_CUT, re.DOTALL)
_VALUE: Final = re.compile(rb",?\s*+" + _STRING + rb"\s*+", re.DOTALL)
_NAMED_VALUE: Final = re.compile(rb",?\s*+" + _STRING + rb"\s*+:\s*+" + _STRING + rb"\s*+", re.DOTALL)
_CLOSERS: Final = {b"{": b"}", b"[": b"]"}
# What is read takes 0.3 s at most; an answer of 8 MiB has as many where it has log probabilities.
_BRACKETS_MAX: Final = 1 << 18


class _Cut:
    """Where a text was cut: in what (`closers`), where each of these began its last member, and where its text ends.

    `text` is as much of it as was looked at: all up to the last of so many brackets.
    """

    __slots__ = ("closers", "members", "string_at", "text", "text_end")

    def __init__(self, text: bytes) -> None:
        self.closers: list[bytes] = []
        self.members = [0]
        self.string_at = -1
        self.text_end = len(text)
        at = 0
        for _ in range(_BRACKETS_MAX):
            found = _MEMBERS.match(text, at)
            assert found is not None
            at = found.end()
            if found[1]:
                self.members[-1] = found.end(1) - 1
            sign = found[2]
            if sign in _CLOSERS:
                self.closers.append(_CLOSERS[sign])
                self.members.append(at)
            elif not sign:
                break
            elif self.closers:
                self.closers.pop()
                self.members.pop()
        else:
            text, self.text_end = text[:at], at
        self.text = text
        if cut := _CUT_STRING.match(text, at):
            self.string_at, self.text_end = cut.span()

    def closed(self, depth: int) -> bytes:
        """What closes the outermost `depth` of those that are open."""
        return b"".join(reversed(self.closers[:depth]))


def mended(text: bytes) -> bytes:
    """`text` as whole JSON: a string that was cut ends where it was, a name or a number that was cut is left out."""
    cut = _Cut(text)
    text, depth = cut.text, len(cut.closers)
    if cut.string_at >= 0:
        before = text[cut.members[-1] : cut.string_at].rstrip()
        if before.endswith(b":") or cut.closers[-1:] == [b"]"]:
            return text[: cut.text_end] + b'"' + cut.closed(depth)
    elif text[cut.members[-1] :].rstrip().endswith((b"}", b"]")) or _ends_in_value(text[cut.members[-1] :], cut):
        return text + cut.closed(depth)
    return text[: cut.members[-1]] + cut.closed(depth)


def whole_members(text: bytes, depth: int) -> bytes:
    """The members that are whole of the outermost object of a cut `text`, or of the one at `depth` where it is open."""
    cut = _Cut(text)
    if not cut.closers:
        return cut.text
    text = cut.text
    depth = min(depth, len(cut.closers))
    return text[: cut.members[depth]] + cut.closed(depth)


def _ends_in_value(member: bytes, cut: _Cut) -> bool:
    """Whether the last member ends with a whole text: not with the name of another."""
    return (_VALUE if cut.closers[-1:] == [b"]"] else _NAMED_VALUE).fullmatch(member) is not None
