"""An error answer of the provider, looked into before it goes down, without what it says about the provider's account.

Never fails by itself: an error that breaks off is shown as far as it came, and fails for its reader then. What was hidden is
told to the operator, keys excepted.
"""

from typing import Final

from sentinel import metrics
from sentinel.edges.provider.plain import inflated
from sentinel.edges.provider.reply import Opened, Through
from sentinel.errors import UpstreamError
from sentinel.logs import Log
from sentinel.protocol.account import Disclosed, Hiding

_log: Final = Log("provider")

# Enough for any error an API tells; what comes after it is still searched for ids, but its length is not known in advance.
BEGINNING_BYTES_MAX: Final = 65_536


class Failed(Through):
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
    said, whole, broken = b"", False, None
    plain = reply
    try:
        plain = inflated(reply)
        # An error has an end in sight, whatever its label says.
        plain.bound(as_stream=False)
        while len(said) < BEGINNING_BYTES_MAX and not whole:
            chunk = await plain.read()
            said += chunk
            whole = not chunk
    except UpstreamError as error:
        _log.info("an error of the provider broke off", status=reply.status, code=error.code)
        broken = error
    except BaseException:
        # The client has left: an open reply holds a connection.
        reply.close()
        raise
    return Failed(plain, said, whole=whole, broken=broken, key=key)


def tell_disclosed(disclosed: Disclosed, request_id: str, status: int) -> None:
    """Tell the operator what an error said about the account, and count where the account was refused."""
    if disclosed.ids:
        _log.warning("provider names its account in an error", request_id=request_id, status=status, ids=disclosed.ids)
    if disclosed.refused:
        tell_refused("account", request_id, status)


def tell_refused(reason: str, request_id: str, status: int, code: str = "") -> None:
    """Tell the operator that the provider serves nobody here: it refuses the "key", or the "account"."""
    metrics.UPSTREAM_REFUSALS.labels(reason).inc()
    _log.error(f"provider refuses the {reason} of this deployment", request_id=request_id, status=status, code=code)
