"""forward.open: the request to the provider, one retry rule, and the provider's failures in Sentinel's words.

Answers the client cannot be shown (401 and 403 quote the provider's key; 3xx would send it elsewhere) become `UpstreamError`.
A connection that could not be made and a 500 are tried once more, a 503 twice with backoff; all retries together are bounded by
a budget, so that a provider in trouble is not asked three times as much. Other answers, also 4xx, are the client's as they are.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

from sentinel import metrics
from sentinel.edges.provider import Provider, Reply
from sentinel.errors import UpstreamError, UpstreamUnavailableError
from sentinel.logs import Log
from sentinel.protocol import headers, wire
from sentinel.records import Call, Hold

_log: Final = Log("forward")

_BACKOFF_S: Final = 0.2
_RETRIES_MAX: Final = {"unreachable": 1, "500": 1, "503": 2}


class RetryBudget:
    """Allows retries for a tenth of the requests, and ten at once: the rule of the SRE book against retry storms."""

    def __init__(self, ratio: float = 0.1, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._burst = burst
        self._left = burst

    def earn(self) -> None:
        """A first attempt earns its share of a retry."""
        self._left = min(self._burst, self._left + self._ratio)

    def spend(self) -> bool:
        """Whether one more retry is allowed; it is counted if so."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Forward:
    """Opens answers of one provider."""

    def __init__(self, provider: Provider, budget: RetryBudget) -> None:
        self._provider = provider
        self._budget = budget

    async def open(
        self, call: Call, request_headers: Sequence[tuple[bytes, bytes]], hold: Hold, on_sent: Callable[[], None]
    ) -> Reply:
        """The provider's answer to `call`, its body still arriving. A cap that `hold` imposed on the output goes along.
        `on_sent` is called as soon as the provider may have begun to work.

        Raises UpstreamError, UpstreamUnavailableError or UpstreamTimeoutError.
        """
        sent = headers.upstream(request_headers, request_id=hold.request_id, key=self._provider.key)
        if hold.output_capped:
            call = wire.capped(call, hold.output_tokens // call.choices, self._provider.chat_cap)
        self._budget.earn()
        tries = 0
        while True:
            reason, reply, failure = await self._try(call, sent, on_sent)
            if reply is not None and reason is None:
                return reply
            assert reason is not None
            try:
                if tries >= _RETRIES_MAX.get(reason, 0) or not self._budget.spend():
                    raise self._refusal(reply, failure)
                if reply is not None:
                    await reply.drain(_BACKOFF_S)
            finally:
                # Also where the client leaves meanwhile: an open reply holds a connection.
                if reply is not None:
                    reply.close()
            metrics.UPSTREAM_RETRIES.labels(reason).inc()
            # Jittered, so that callers who failed together do not come back together.
            await asyncio.sleep(_BACKOFF_S * 2**tries * random.uniform(0.5, 1.0))
            tries += 1

    async def _try(
        self, call: Call, sent: list[tuple[str, str]], on_sent: Callable[[], None]
    ) -> tuple[str | None, Reply | None, UpstreamError | None]:
        """One attempt: (None, reply, None) is the client's answer; a reason says what stands against that."""
        try:
            reply = await self._provider.send(call.method, call.path, call.query, sent, call.body, on_sent)
        except UpstreamError as error:
            metrics.UPSTREAM.labels(error.code).inc()
            if error.code == "upstream_unreachable":
                return "unreachable", None, error
            raise
        metrics.UPSTREAM.labels(f"{reply.status // 100}xx").inc()
        if reply.status in {500, 503}:
            return str(reply.status), reply, None
        if reply.status in {401, 403} or reply.status < 200 or 300 <= reply.status < 400:
            return "hidden", reply, None
        return None, reply, None

    def _refusal(self, reply: Reply | None, failure: UpstreamError | None) -> UpstreamError:
        """What the client is told where it cannot have the provider's own answer."""
        if reply is None:
            assert failure is not None
            return failure
        status = reply.status
        retry_after_s = _retry_after_s(reply)
        if status == 503:
            return UpstreamUnavailableError("The provider is overloaded.", retry_after_s=retry_after_s or 1.0, sent=False)
        if status in {401, 403}:
            _log.error("provider refuses the key of this deployment", status=status, provider=self._provider.name)
            return UpstreamError("The provider refused this gateway's credentials.", retry=False, sent=False)
        if status < 400:
            _log.error("provider answers with a redirect", status=status, provider=self._provider.name)
            return UpstreamError("The provider answered with a redirect.", retry=False, sent=False)
        return UpstreamError("The provider failed.", sent=False)


def _retry_after_s(reply: Reply) -> float | None:
    """The provider's own Retry-After in seconds; a date counts as absent."""
    for name, value in reply.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return float(min(int(value), 3600))
    return None
