"""What an attempt is, and whether the client may have it. Raises what the client is told instead."""

from typing import Final

from sentinel.openai import headers, models
from sentinel.openai.response import account_errors
from sentinel.openai.response.content_kind import errs
from sentinel.openai.response.error_fields import may_err
from sentinel.ops import metrics
from sentinel.ops.errors import UpstreamError, UpstreamUnavailableError
from sentinel.ops.logs import Log
from sentinel.upstream.provider import (
    Failed,
    Opened,
    Reply,
    begin,
    judged,
    looked_into,
    tell_disclosed,
    tell_refused,
    without_account,
)

_log: Final = Log("forward")

RETRIED: Final = frozenset((500, 503))

# What comes of an attempt: a reply, or the failure of one that did not reach the provider.
Attempt = Opened | UpstreamError


async def told(attempt: Opened, key: str, request_id: str, *, streams: bool) -> Reply:
    """The attempt as what it is, and looked at."""
    try:
        begun = await judged(attempt, streams=streams)
    except UpstreamError as error:
        metrics.UPSTREAM[error.code] += 1
        raise
    return await looked_at(begun, key, request_id)


async def looked_at(reply: Opened, key: str, request_id: str) -> Reply:
    """An answer in which an error, under whatever status, says nothing of the provider's account."""
    begun = await begin(reply)
    if not errs(begun.first):
        return await without_account(begun, request_id) if may_err(begun.first) else begun
    failed = await looked_into(begun, key)
    code = account_errors.refusal(failed.beginning)
    if code:
        tell_refused("account", request_id, failed.status, code)
    return shown(failed, "account" if code else "", request_id)


async def reason_of(attempt: Attempt, key: str) -> tuple[Attempt, str]:
    """The attempt, and what it is where it is no success: "key" or "account" where the provider refuses this deployment,
    "redirect", "5xx", "429", "model_not_found", or "" for an error about what was asked.
    """
    if isinstance(attempt, UpstreamError) or attempt.status < 300:
        return attempt, ""
    status = attempt.status
    if status < 400 or status == 401:
        return attempt, "redirect" if status < 400 else "key"
    if status in RETRIED:
        return attempt, "5xx"
    failed = await looked_into(attempt, key)
    if status == 402 or account_errors.refusal(failed.beginning):
        return failed, "account"
    if status in {403, 429}:
        return failed, "key" if status == 403 else "429"
    if status >= 500:
        return failed, "5xx"
    return failed, "model_not_found" if status == 404 and models.is_unknown(failed.beginning) else ""


def shown(attempt: Opened, why: str, request_id: str) -> Opened:
    """The attempt, if the client may have it. Raises what it is told instead: nothing was served, so nothing is owed."""
    if isinstance(attempt, Failed) and why not in {"key", "account"}:
        tell_disclosed(attempt.disclosed, request_id, attempt.status)
        if attempt.broken is None or attempt.beginning:
            return attempt
        attempt.close()
        attempt.broken.sent = False  # it refused, and served nothing
        raise attempt.broken
    if attempt.status < 300 and not why:
        return attempt
    attempt.close()
    if why == "key":
        raise UpstreamError("The provider refused this gateway's credentials.", retry=False, sent=False)
    if why == "account":
        raise UpstreamError(account_errors.REFUSED_MESSAGE, retry=False, sent=False)
    if why == "redirect":
        _log.error("provider answers with a redirect", request_id=request_id, status=attempt.status)
        raise UpstreamError("The provider answered with a redirect.", retry=False, sent=False)
    advice = headers.retry_advice(attempt.headers)
    if attempt.status == 503:
        wait_s = None if any(name.startswith(b"retry-after") for name, _ in advice) else 1.0
        raise UpstreamUnavailableError("The provider is overloaded.", retry_after_s=wait_s, sent=False, headers=advice)
    raise UpstreamError("The provider failed.", sent=False, headers=advice)
