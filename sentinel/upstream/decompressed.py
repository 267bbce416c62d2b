"""Replies that came compressed although nobody asked for it, made plain where they have to be read (rule H5).

Fails as UpstreamError: a coding that cannot be read, or bytes that are not what they are said to be.
"""

from sentinel.openai.response.content_kind import Kind
from sentinel.ops.errors import UpstreamError
from sentinel.upstream.inflate import Inflater, readable
from sentinel.upstream.reply import Opened, ReplyWrapper


def inflated(reply: Opened) -> Opened:
    """`reply` made plain where it came compressed under a label of neither JSON nor events. Raises like `opened`."""
    lists = [value for name, value in reply.headers if name.lower() == b"content-encoding"]
    coding = coding_of(lists, reply.status) if lists else b""
    return Inflated(reply, coding, reply.kind) if coding else reply


def coding_of(lists: list[bytes], status: int) -> bytes:
    """The one coding of a body that is read here, b"" where it is plain. Raises UpstreamError where it cannot be read: who
    answered with the `status` of a failure has served nothing, so that nothing is owed.
    """
    names = [name.strip().lower() for value in lists for name in value.split(b",")]
    codings = [name for name in names if name not in {b"", b"identity"}]
    if codings and (len(codings) > 1 or not readable(codings[0])):
        raise UpstreamError("The provider's answer is compressed in a way nobody asked for.", retry=False, sent=status < 300)
    return codings[0] if codings else b""


class Inflated(ReplyWrapper):
    """A reply made plain: without the headers that speak of the compressed bytes, of which neither may stay alone."""

    def __init__(self, reply: Opened, coding: bytes, kind: Kind) -> None:
        super().__init__(reply)
        self.kind = kind
        self.ready = self.fits = kind is Kind.EVENTS
        self.bound = reply.bound
        self.headers = tuple(
            (name, value) for name, value in reply.headers if name.lower() not in {b"content-encoding", b"content-length"}
        )
        self._inflater = Inflater(coding)

    async def read(self) -> bytes:
        """See Reply; a piece at a time, however much one read holds."""
        try:
            while True:
                if piece := self._inflater.piece():
                    return piece
                chunk = await self._reply.read()
                if not chunk:
                    self._inflater.end()
                    return b""
                self._inflater.feed(chunk)
        except ValueError as error:
            raise UpstreamError("The provider broke off in the middle of its answer.", retry=False) from error
