"""forward.open: the request to the provider, one retry rule, other models, and the provider's failures in Sentinel's words.

Answers the client cannot be shown (401 and 403 quote the provider's key; 3xx would send it elsewhere) become `UpstreamError`.
A connection that could not be made and a 500 are tried once more, a 503 twice with backoff; all retries together are bounded by
a budget, so that a provider in trouble is not asked three times as much. Where a model is unavailable after that, the next of
its fallbacks is asked. Other answers, also 4xx, are the client's as they are.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from sentinel import metrics
from sentinel.edges.provider import Begun, Opened, Patience, Provider, Reply, Upload, judged
from sentinel.errors import UpstreamError, UpstreamUnavailableError
from sentinel.logs import Log
from sentinel.protocol import headers, models, wire
from sentinel.protocol.fields import Fields
from sentinel.protocol.kinds import Kind
from sentinel.protocol.models import Fallbacks
from sentinel.records import Call, Dialect, Hold, Origin

_log: Final = Log("forward")

_BACKOFF_S: Final = 0.2
_RETRIES_MAX: Final = {"unreachable": 1, "500": 1, "503": 2}
# Enough for the code of any error; what comes after it is not looked at.
_ERROR_BYTES_MAX: Final = 65_536

# Answers of these are JSON or a stream of events; whatever else comes under a status of success was not said by a model.
_JSON_OR_EVENTS: Final = frozenset((Dialect.CHAT, Dialect.RESPONSES, Dialect.EVENTS))
_BODILESS: Final = frozenset((204, 205))


class RetryBudget:
    """Allows retries for a tenth of the requests, and ten at once: the rule of the SRE book against retry storms."""

    def __init__(self, ratio: float = 0.1, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._burst = burst
        self._left = burst

    def earn(self) -> None:
        """A first attempt earns its share of a retry."""
        if self._left < self._burst:
            self._left = min(self._burst, self._left + self._ratio)

    def spend(self) -> bool:
        """Whether one more retry is allowed; it is counted if so."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


# What comes of an attempt: a reply, or the failure of one that did not reach the provider.
_Attempt = Opened | UpstreamError


class _Asking(msgspec.Struct):
    """What is sent, to whichever model: everything but the call itself."""

    headers: list[str]
    patience: Patience
    on_sent: Callable[[], None]
    upload: Upload | None


class Forward:
    """Opens answers of one provider. `routes` are the routes whose patience is not the usual one."""

    def __init__(
        self,
        provider: Provider,
        budget: RetryBudget,
        patience: Patience,
        routes: Mapping[str, Patience],
        fallbacks: Fallbacks,
    ) -> None:
        self._provider = provider
        self._budget = budget
        self._patience = patience
        self._routes = routes
        self._fallbacks = fallbacks

    async def open(
        self,
        call: Call,
        request_headers: Fields,
        hold: Hold,
        on_sent: Callable[[], None],
        upload: Upload | None = None,
    ) -> Reply:
        """The provider's answer to `call`, its body still arriving. A cap that `hold` imposed on the output goes along.
        `on_sent` is called as soon as the provider may have begun to work. `upload` is sent in place of the call's body.

        The reply's `origin` names the model that answered, where it is not the one that was asked.
        Raises UpstreamError, UpstreamUnavailableError, UpstreamTimeoutError, or what the upload raises.
        """
        asking = _Asking(
            headers.upstream(
                request_headers,
                request_id=hold.request_id,
                key=self._provider.key,
                caller=hold.caller.external_id,
                trace=call.trace,
            ),
            self._routes.get(call.route, self._patience),
            on_sent,
            upload,
        )
        if call.coding:
            asking.headers.append(f"content-encoding: {call.coding}")
        if hold.output_capped:
            call = wire.capped(call, hold.output_tokens // call.choices, self._provider.chat_cap)
        self._budget.earn()
        attempt = await self._persist(call, asking)
        if upload is None and (fallbacks := self._fallbacks.after(call)):
            call, attempt = await self._fall_back(fallbacks, call, asking, attempt, hold)
        if isinstance(attempt, UpstreamError) or (attempt.status >= 300 and _reason(attempt)):
            raise self._refusal(attempt)
        if call.model != hold.model:
            attempt.origin = Origin(model=call.model)
        if call.dialect not in _JSON_OR_EVENTS or attempt.status >= 300 or attempt.status in _BODILESS:
            return attempt if attempt.ready else await _begun(attempt)
        # Who asked for events is told at once that they come; the body is the stream's own matter then.
        usual = attempt.fits and (call.stream or attempt.kind is not Kind.EVENTS)
        return attempt if usual else await _judged(attempt)

    async def _fall_back(
        self, fallbacks: Sequence[str], call: Call, asking: _Asking, attempt: _Attempt, hold: Hold
    ) -> tuple[Call, _Attempt]:
        """The call that was asked last, and what came of it: of the first model that is available, if one is."""
        for model in fallbacks:
            attempt, why = await _looked_into(attempt)
            if not why:
                break
            assert not isinstance(attempt, UpstreamError)
            attempt.close()
            metrics.FALLBACKS.labels(why).inc()
            _log.warning("model unavailable", request_id=hold.request_id, model=call.model, reason=why, fallback=model)
            call = models.asking(call, model)
            attempt = await self._persist(call, asking)
        return call, attempt

    async def _persist(self, call: Call, asking: _Asking) -> _Attempt:
        """Attempts until one is final: by the retry rule, by the budget, or since an upload cannot be sent again."""
        upload = asking.upload
        body = call.body if upload is None else upload
        attempt: _Attempt
        tries = 0
        while True:
            try:
                attempt = await self._provider.send(
                    call.method, call.path, call.query, asking.headers, body, asking.on_sent, asking.patience
                )
            except UpstreamError as error:
                metrics.UPSTREAM.labels(error.code).inc()
                if error.code != "upstream_unreachable":
                    raise
                attempt = error
            else:
                metrics.UPSTREAM.labels(f"{attempt.status // 100}xx").inc()
                if attempt.status < 300:
                    return attempt
            consumed = upload is not None and upload.consumed
            if consumed or tries >= _RETRIES_MAX.get(_reason(attempt), 0) or not self._budget.spend():
                return attempt
            await _back_off(attempt, tries)
            tries += 1

    def _refusal(self, attempt: _Attempt) -> UpstreamError:
        """What the client is told where it cannot have the provider's own answer; nothing was served, so nothing is owed."""
        if isinstance(attempt, UpstreamError):
            return attempt
        attempt.close()
        status = attempt.status
        if status in {401, 403}:
            _log.error("provider refuses the key of this deployment", status=status, provider=self._provider.name)
            return UpstreamError("The provider refused this gateway's credentials.", retry=False, sent=False)
        if status < 400:
            _log.error("provider answers with a redirect", status=status, provider=self._provider.name)
            return UpstreamError("The provider answered with a redirect.", retry=False, sent=False)
        advice = headers.retry_advice(attempt.headers)
        if status == 503:
            wait_s = None if any(name.startswith(b"retry-after") for name, _ in advice) else 1.0
            return UpstreamUnavailableError("The provider is overloaded.", retry_after_s=wait_s, sent=False, headers=advice)
        return UpstreamError("The provider failed.", sent=False, headers=advice)


def _reason(attempt: _Attempt) -> str:
    """Why this is not yet the client's answer, "" where it is."""
    if isinstance(attempt, UpstreamError):
        return "unreachable"
    status = attempt.status
    if status in {500, 503}:
        return str(status)
    return "hidden" if status in {401, 403} or 300 <= status < 400 else ""


async def _back_off(attempt: _Attempt, tries: int) -> None:
    """Wait before the next attempt; what is left of this one is read meanwhile, for the connection's sake."""
    if not isinstance(attempt, UpstreamError):
        try:
            await attempt.drain(_BACKOFF_S)
        finally:
            # Also where the client leaves meanwhile: an open reply holds a connection.
            attempt.close()
    metrics.UPSTREAM_RETRIES.labels(_reason(attempt)).inc()
    # Jittered, so that callers who failed together do not come back together.
    await asyncio.sleep(_BACKOFF_S * 2**tries * random.uniform(0.5, 1.0))


async def _begun(reply: Opened) -> Reply:
    """`reply` with the first bytes of its body here: the server sends no head before them either, so a body that fails at its
    first byte can still be told as what it is, not as a defect of this gateway (wire.md E6).
    """
    try:
        return Begun(reply, await reply.read())
    except BaseException as error:
        reply.close()
        if isinstance(error, UpstreamError) and reply.status >= 400:
            error.sent = False  # it refused, and served nothing
        raise


async def _judged(attempt: Opened) -> Reply:
    try:
        return await judged(attempt)
    except UpstreamError as error:
        metrics.UPSTREAM.labels(error.code).inc()
        raise


async def _looked_into(attempt: _Attempt) -> tuple[_Attempt, str]:
    """The attempt, and why its model is unavailable: "model_not_found", "429" or "5xx"; "" where it is not.

    What had to be read for that comes first in the reply that is returned.
    """
    if isinstance(attempt, UpstreamError):
        return attempt, ""
    if attempt.status >= 500:
        return attempt, "5xx"
    if attempt.status == 429:
        return attempt, "429"
    if attempt.status != 404:
        return attempt, ""
    said = await _beginning(attempt)
    return Begun(attempt, said), "model_not_found" if models.is_unknown(said) else ""


async def _beginning(reply: Reply) -> bytes:
    """The first bytes of a body, at least all of a usual error; fewer where it breaks off (and will again for its reader)."""
    said = b""
    try:
        while len(said) < _ERROR_BYTES_MAX and (chunk := await reply.read()):
            said += chunk
    except UpstreamError as error:
        _log.info("an error of the provider broke off", status=reply.status, code=error.code)
    except BaseException:
        # The client has left: an open reply holds a connection.
        reply.close()
        raise
    return said
