"""forward.open: the request to the provider, one retry rule, other models, and the provider's failures in Sentinel's words.

Answers the client cannot be shown become `UpstreamError`: 401 and 403 quote the provider's key; 402, and whatever else says
that the provider's account cannot pay, would look like the caller's own limit; 3xx would send it elsewhere. A connection that
could not be made and a 500 are tried once more, a 503 twice with backoff; all retries together are bounded by a budget, so that
a provider in trouble is not asked three times as much. Where a model is unavailable after that, the next of its fallbacks is
asked. Other answers, also 4xx, are the client's as they are, but for what an error says about the provider's account.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from sentinel.openai import headers, models, wire
from sentinel.openai.header_fields import Fields
from sentinel.openai.models import Fallbacks
from sentinel.openai.response import account_errors
from sentinel.openai.response.content_kind import Kind, is_usual
from sentinel.ops import metrics
from sentinel.ops.errors import UpstreamError
from sentinel.ops.logs import Log
from sentinel.ops.records import Call, Dialect, Hold, Origin
from sentinel.stages.forward.attempts import RETRIED, Attempt, looked_at, reason_of, shown, told
from sentinel.upstream.provider import (
    Asked,
    Failed,
    Opened,
    Plain,
    Provider,
    Reply,
    Timeouts,
    Upload,
    begin,
    recognised,
    tell_refused,
)

_log: Final = Log("forward")

_BACKOFF_S: Final = 0.2
_RETRIES_MAX: Final = {"unreachable": 1, "500": 1, "503": 2}
# Of an answer that is no success, what another model may have better luck with.
_FALLS_BACK: Final = frozenset(("account", "5xx", "429", "model_not_found"))

# Answers of these are JSON or a stream of events; whatever else comes under a status of success was not said by a model.
_JSON_OR_EVENTS: Final = frozenset((Dialect.CHAT, Dialect.RESPONSES, Dialect.EVENTS))
_BODILESS: Final = frozenset((204, 205))


class RetryBudget:
    """Allows retries for a tenth of the requests, and ten at once: the rule of the SRE book against retry storms.

    `full`: there is nothing to earn.
    """

    def __init__(self, ratio: float = 0.1, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._burst = burst
        self._left = burst
        self.full = True

    def earn(self) -> None:
        """A first attempt earns its share of a retry."""
        self._left = min(self._burst, self._left + self._ratio)
        self.full = self._left == self._burst

    def spend(self) -> bool:
        """Whether one more retry is allowed; it is counted if so."""
        if self._left < 1:
            return False
        self._left -= 1
        self.full = False
        return True


class _Asking(msgspec.Struct):
    """What is sent, to whichever model: everything but the call itself."""

    lines: bytes
    patience: Timeouts
    on_sent: Callable[[], None]
    on_failed: Callable[[], None]
    upload: Upload | None


class Forward:
    """Opens answers of one provider. `routes` are the routes whose patience is not the usual one.

    A kept connection is asked at once, and an answer that came whole then is read in one pass. Without `usual` every request
    is sent in the general way, and its answer read by the parser: tests compare both.
    """

    def __init__(
        self,
        provider: Provider,
        budget: RetryBudget,
        patience: Timeouts,
        routes: Mapping[str, Timeouts],
        fallbacks: Fallbacks,
        *,
        usual: bool = True,
    ) -> None:
        self._usual = usual
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
        on_failed: Callable[[], None],
        upload: Upload | None = None,
    ) -> Reply:
        """The provider's answer to `call`, its body still arriving; its `origin` names the model, where that is another one.

        `on_sent` is called as soon as the provider may have begun to work, `on_failed` as soon as it has answered an attempt by
        no success. `upload` is sent in place of the call's body. Raises UpstreamError, or what the upload raises.
        """
        lines = headers.upstream(
            request_headers, hold.request_id, self._provider.key, hold.caller.external_id, call.trace, call.coding
        )
        if hold.output_capped or call.cap_unheeded:
            call = wire.capped(call, hold.output_tokens // call.choices, self._provider.chat_cap)
        patience = self._routes.get(call.route, self._patience)
        if not self._budget.full:
            self._budget.earn()
        asked = None
        if upload is None and self._usual:
            asked = self._provider.ask(call.method, call.path, call.query, lines, call.body, patience)
        if asked is not None:
            on_sent()
            # No coroutine waits in between: the usual answer is here then, and its connection given back.
            try:
                whole = await asked.came
            except BaseException:
                self._provider.drop(asked)
                raise
            if whole is not None:
                metrics.UPSTREAM["2xx"] += 1
                fits = is_usual(whole.body) is not None
                plain = Plain(whole, whole.body, fits)
                return plain if fits and call.dialect is Dialect.CHAT else await self._as_it_is(call, plain, hold.request_id)
        asking = _Asking(lines, patience, on_sent, on_failed, upload)
        attempt = await self._persist(call, asking, asked)
        if isinstance(attempt, UpstreamError) or attempt.status >= 300:
            call, attempt = await self._after_failure(call, asking, attempt, hold)
            if call.model != hold.model:
                attempt.origin = Origin(model=call.model)
        return await self._as_it_is(call, attempt, hold.request_id)

    async def _as_it_is(self, call: Call, attempt: Opened, request_id: str) -> Reply:
        """The attempt under the label it deserves, looked into where it may be an error."""
        if attempt.status >= 300 or (attempt.status in _BODILESS and call.dialect not in _JSON_OR_EVENTS):
            return attempt if attempt.ready else await begin(attempt)
        if call.dialect not in _JSON_OR_EVENTS:
            attempt = recognised(await begin(attempt)) if call.dialect is Dialect.MEDIA else attempt
            # What a caller has stored is nobody's error.
            if (attempt.kind is Kind.JSON or call.dialect is Dialect.MEDIA) and not call.path.endswith("/content"):
                return await looked_at(attempt, self._provider.key, request_id)
            return attempt if attempt.ready else await begin(attempt)
        # Who asked for events is told at once that they come; the body is the stream's own matter then.
        usual = attempt.fits and (call.stream or attempt.kind is not Kind.EVENTS)
        if usual and (call.dialect is Dialect.CHAT or attempt.kind is not Kind.JSON):
            return attempt
        # Responses and runs that failed are objects with an error in them.
        if usual:
            return await looked_at(attempt, self._provider.key, request_id)
        return await told(attempt, self._provider.key, request_id, streams=call.stream)

    async def _after_failure(self, call: Call, asking: _Asking, attempt: Attempt, hold: Hold) -> tuple[Call, Opened]:
        """The call that was asked last and its answer, after an attempt that was no success: of the first model that is
        available, if one is. Raises what the client is told where it cannot have that answer.
        """
        fallbacks = iter(self._fallbacks.after(call) if asking.upload is None else ())
        while True:
            attempt, why = await reason_of(attempt, self._provider.key)
            if isinstance(attempt, UpstreamError):
                raise attempt
            if why in {"key", "account"}:
                code = account_errors.refusal(attempt.beginning) if isinstance(attempt, Failed) else ""
                tell_refused(why, hold.request_id, attempt.status, code)
            model = next(fallbacks, "") if why in _FALLS_BACK else ""
            if not model:
                return call, shown(attempt, why, hold.request_id)
            attempt.close()
            metrics.FALLBACKS[why] += 1
            _log.warning("model unavailable", request_id=hold.request_id, model=call.model, reason=why, fallback=model)
            call = models.asking(call, model)
            attempt = await self._persist(call, asking)

    async def _persist(self, call: Call, asking: _Asking, asked: Asked | None = None) -> Attempt:
        """Attempts until one is final: by the retry rule, by the budget, or since an upload cannot be sent again. The first may
        be `asked` already.
        """
        upload = asking.upload
        body = call.body if upload is None else upload
        attempt: Attempt
        tries = 0
        while True:
            try:
                if asked is not None:
                    attempt = await self._provider.answered(asked)
                else:
                    attempt = await self._provider.send(
                        call.method, call.path, call.query, asking.lines, body, asking.on_sent, asking.patience
                    )
            except UpstreamError as error:
                metrics.UPSTREAM[error.code] += 1
                if error.code != "upstream_unreachable":
                    raise
                attempt = error
            else:
                metrics.UPSTREAM[f"{attempt.status // 100}xx"] += 1
                if attempt.status < 300:
                    return attempt
                asking.on_failed()
            consumed = upload is not None and upload.consumed
            if consumed or tries >= _RETRIES_MAX.get(_reason(attempt), 0) or not self._budget.spend():
                return attempt
            await _back_off(attempt, tries)
            asked = None
            tries += 1


def _reason(attempt: Attempt) -> str:
    """Why an attempt may be worth another one, "" where it is not."""
    if isinstance(attempt, UpstreamError):
        return "unreachable"
    return str(attempt.status) if attempt.status in RETRIED else ""


async def _back_off(attempt: Attempt, tries: int) -> None:
    """Wait before the next attempt; what is left of this one is read meanwhile, for the connection's sake."""
    if not isinstance(attempt, UpstreamError):
        try:
            await attempt.drain(_BACKOFF_S)
        finally:
            # Also where the client leaves meanwhile: an open reply holds a connection.
            attempt.close()
    metrics.UPSTREAM_RETRIES[_reason(attempt)] += 1
    # Jittered, so that callers who failed together do not come back together.
    await asyncio.sleep(_BACKOFF_S * 2**tries * random.uniform(0.5, 1.0))
