"""An error answer of the provider, looked into before it goes down, without what it says about the provider's account.

Never fails by itself: an error that breaks off is shown as far as it came, and fails for its reader then. What was hidden is
told to the operator, keys excepted.
"""

from typing import Final

from sentinel.openai.response.account_errors import Disclosed, Hiding
from sentinel.openai.response.error_fields import hide_in_body
from sentinel.ops import metrics
from sentinel.ops.errors import UpstreamError
from sentinel.ops.logs import Log
from sentinel.upstream.decompressed import inflated
from sentinel.upstream.reply import Opened, PrefetchedReply, ReplyWrapper

_log: Final = Log("provider")

# Enough for any error an API tells; what comes after it is still searched for ids, but its length is not known in advance.
BEGINNING_BYTES_MAX: Final = 65_536


class Failed(ReplyWrapper):
    """An error answer whose `beginning` was read, as the provider sent it; `broken` is why there is no more of it, if it broke.

    What is read of it has nothing of the account. Where that, or its length, is another than the provider's, so is its head.
    """

    ready = True
    fits = True

    def __init__(self, reply: Opened, beginning: bytes, *, whole: bool, broken: UpstreamError | None, key: str) -> None:
        super().__init__(reply)
        self.kind = reply.kind
        self.bound = reply.bound
        self.beginning = beginning
        self.broken = broken
        self._hiding = Hiding(key)
        self.disclosed = self._hiding.disclosed
        self._first = self._hiding.feed(beginning)
        if whole or broken is not None:
            self._first += self._hiding.finish()
        if not whole or self._first != beginning:
            length = [(b"content-length", b"%d" % len(self._first))] if whole else []
            self.headers = (*(line for line in reply.headers if line[0].lower() != b"content-length"), *length)

    async def read(self) -> bytes:
        """See Reply."""
        passed, self._first = self._first, b""
        while not passed:
            try:
                chunk = await self._reply.read()
            except UpstreamError:
                # The next read fails again.
                if held := self._hiding.finish():
                    return held
                raise
            if not chunk:
                return self._hiding.finish()
            passed = self._hiding.feed(chunk)
        return passed


async def looked_into(reply: Opened, key: str) -> Failed:
    """`reply`, an error, with its beginning read: all of a usual one, made plain. `key` is the provider's."""
    try:
        plain = inflated(reply)
    except UpstreamError as error:
        return Failed(reply, b"", whole=False, broken=error, key=key)
    # An error has an end in sight, whatever its label says.
    plain.bound(as_stream=False)
    said, whole, broken = await _beginning(plain)
    return Failed(plain, said, whole=whole, broken=broken, key=key)


async def without_account(reply: Opened, request_id: str) -> PrefetchedReply:
    """`reply`, an object that may tell its own failure, without what that says about the account, as far as its beginning goes.

    Where it breaks off, the next read fails again.
    """
    said, whole, _ = await _beginning(reply)
    disclosed = Disclosed()
    begun = PrefetchedReply(reply, hide_in_body(said, disclosed))
    if begun.first != said:
        tell_disclosed(disclosed, request_id, reply.status)
        length = [(b"content-length", b"%d" % len(begun.first))] if whole else []
        begun.headers = (*(line for line in reply.headers if line[0].lower() != b"content-length"), *length)
    return begun


async def _beginning(reply: Opened) -> tuple[bytes, bool, UpstreamError | None]:
    """The first bytes of `reply`, whether they are all, and why there are no more, if it broke off."""
    said = b""
    try:
        while len(said) < BEGINNING_BYTES_MAX:
            chunk = await reply.read()
            said += chunk
            if not chunk:
                return said, True, None
    except UpstreamError as error:
        _log.info("an error of the provider broke off", status=reply.status, code=error.code)
        return said, False, error
    except BaseException:
        # The client has left: an open reply holds a connection.
        reply.close()
        raise
    return said, False, None


def tell_disclosed(disclosed: Disclosed, request_id: str, status: int) -> None:
    """Tell the operator what an error said about the account, and count where the account was refused."""
    if disclosed.ids:
        _log.warning("provider names its account in an error", request_id=request_id, status=status, ids=disclosed.ids)
    if disclosed.refused:
        tell_refused("account", request_id, status)


def tell_refused(reason: str, request_id: str, status: int, code: str = "") -> None:
    """Tell the operator that the provider serves nobody here: it refuses the "key", or the "account"."""
    metrics.UPSTREAM_REFUSALS[reason] += 1
    _log.error(f"provider refuses the {reason} of this deployment", request_id=request_id, status=status, code=code)
