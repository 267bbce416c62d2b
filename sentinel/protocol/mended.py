"""JSON that was cut off: closed behind its last word, or behind its last whole member. Cannot fail.

What comes of something else than the beginning of JSON is no JSON either, which whoever decodes it will find.
"""

import re
from typing import Final

# A whole string, or one that is cut off, up to its last whole escape.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+("?)|[{}\[\],]', re.DOTALL)
_CLOSERS: Final = {b"{": b"}", b"[": b"]"}


class _Cut:
    """Where a text was cut: in what (`closers`), where each of these began its last member, and where its text ends."""

    __slots__ = ("closers", "members", "string_at", "text_end")

    def __init__(self, text: bytes) -> None:
        self.closers: list[bytes] = []
        self.members = [0]
        self.string_at = -1
        self.text_end = len(text)
        for found in _TOKEN.finditer(text):
            sign = found[0][:1]
            if sign == b'"':
                if not found[1]:
                    self.string_at, self.text_end = found.start(), found.end()
                    return
            elif sign == b",":
                self.members[-1] = found.start()
            elif sign in _CLOSERS:
                self.closers.append(_CLOSERS[sign])
                self.members.append(found.end())
            elif self.closers:
                self.closers.pop()
                self.members.pop()

    def closed(self, depth: int) -> bytes:
        """What closes the outermost `depth` of those that are open."""
        return b"".join(reversed(self.closers[:depth]))


def mended(text: bytes) -> bytes:
    """`text` as whole JSON: a string that was cut ends where it was, a name or a number that was cut is left out."""
    cut = _Cut(text)
    depth = len(cut.closers)
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
        return text
    depth = min(depth, len(cut.closers))
    return text[: cut.members[depth]] + cut.closed(depth)


def _ends_in_value(member: bytes, cut: _Cut) -> bool:
    """Whether the last member ends with a whole text: not with the name of another."""
    texts = [found for found in _TOKEN.finditer(member) if found[1]]
    return member.rstrip().endswith(b'"') and len(texts) > (0 if cut.closers[-1:] == [b"]"] else 1)
