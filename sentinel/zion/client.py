"""Zion, the governance service: who a token belongs to, what its owner may use, and where usage is reported (zion.md).

Reads tolerantly (unknown fields ignored, envelope optional), writes exactly. A refusal of the caller is `UnauthorizedError` or
`ForbiddenError`; everything else that keeps Zion from answering is `ZionUnavailableError`, and never cached. Reports get an
Answer whatever happens. A 401 on an external endpoint is a fault of this deployment's key: `accepts_key` turns false, and
readiness goes off until a call succeeds. docs/zion.md says what follows from each failure.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, Protocol, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from sentinel.ops import metrics
from sentinel.ops.errors import INVALID_KEY_MESSAGE, ForbiddenError, UnauthorizedError, ZionUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Caller

_T = TypeVar("_T")

_log: Final = Log("zion")
_NOBODY: Final = "sentinel-key-check"
_RECHECK_S: Final = 5.0
_ANSWER_BYTES_MAX: Final = 4 * 2**20
RETRY_AFTER_S: Final = 2.0


class _Profile(msgspec.Struct, rename="camel"):
    id: str | int | None = None
    external_id: str | None = None
    email: str | None = None


class _Envelope(msgspec.Struct):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct, frozen=True):
    """A status and the body of an answer. Status 0: there was none, and with `lost` Zion may have done what it was asked.

    `broken_off`: its connection ended before any answer.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None
    lost: bool = False
    broken_off: bool = False


class Turns(Protocol):
    """Who says when a call that a caller waits for may go: the gate that the whole fleet shares."""

    async def turn(self, kind: Literal["known", "new"], *, first: bool) -> None:
        """Wait for the turn of a call for a known caller, or of a new token; `first` before others.

        Raises ZionUnavailableError.
        """

    async def shut(self, retry_after_s: float) -> None:
        """Zion wants no call before that."""


_read_profile: Final = msgspec.json.Decoder(_Profile).decode
_read_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_read_envelope: Final = msgspec.json.Decoder(_Envelope).decode


class Zion:
    """The client of one Zion. `session` is this object's own; `close` closes it. Reports have asked the gate already."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, timeout_s: float, turns: Turns) -> None:
        self._misconfigured = False
        self._recheck_at_s = 0.0
        self._session = session
        self._url = url.rstrip("/")
        self._key = key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._turns = turns

    async def profile(self, token: str, kind: Literal["known", "new"] = "new", *, first: bool = False) -> tuple[str, Caller]:
        """Zion's own id of the owner of `token`, which outlives other names, and the caller (GET /api/v1/users/me).

        The e-mail is "" where Zion has none. `kind` and `first` say whose turn it is.

        Raises UnauthorizedError, ForbiddenError (also `no_external_id`) or ZionUnavailableError.
        """
        answer = await self._asked(
            "me", f"{self._url}/api/v1/users/me", {"authorization": f"Bearer {token}"}, kind, first=first
        )
        if answer.status == 401:
            raise UnauthorizedError(INVALID_KEY_MESSAGE)
        if answer.status == 431:
            raise UnauthorizedError("The API key is too long for the governance service.")
        if answer.status == 403:
            raise ForbiddenError("This account is not permitted to use the service.")
        profile = self._decoded("me", answer, _read_profile)
        external_id, email = profile.external_id or "", profile.email or ""
        if not external_id.strip():
            raise ForbiddenError("This account has no external id, so its limits are unknown.", code="no_external_id")
        caller = Caller(external_id, email if email.strip() else "")
        return str(profile.id or external_id), caller

    async def limits(self, external_id: str, *, first: bool = True) -> bytes:
        """The `data` object of GET /api/v1/limits/external/{id}, as JSON; `first` where somebody waits for it.

        Raises ForbiddenError (`user_not_found`) or ZionUnavailableError.
        """
        url = f"{self._url}/api/v1/limits/external/{quote(external_id, safe='')}"
        answer = self._judged("limits", await self._asked("limits", url, {"x-api-key": self._key}, "known", first=first))
        if answer.status in {401, 403}:
            raise ZionUnavailableError("The governance service refuses this gateway.", retry_after_s=RETRY_AFTER_S)
        if answer.status == 404:
            raise ForbiddenError("The governance service knows no limits of this account.", code="user_not_found")
        return bytes(self._decoded("limits", answer, _read_raw))

    async def keys(self, url: str) -> bytes:
        """The JWK set at `url`, as Zion publishes it: a call to Zion like any other. Raises ZionUnavailableError."""
        answer = await self._asked("keys", url, {}, "known", first=True)
        if answer.status != 200:
            raise ZionUnavailableError("The keys of the governance service cannot be had.", retry_after_s=RETRY_AFTER_S)
        return answer.body

    async def accepts_key(self) -> bool:
        """Whether Zion takes this deployment's key, as far as is known; after a refusal it is asked anew, once in 5 s.

        Asked by readiness: a worker that is out of rotation has no traffic that would find out.
        """
        now_s = asyncio.get_running_loop().time()
        if self._misconfigured and now_s >= self._recheck_at_s:
            self._recheck_at_s = now_s + _RECHECK_S
            # Only the verdict on the key matters; that nobody has this id is the expected answer.
            with suppress(ForbiddenError, ZionUnavailableError):
                await self.limits(_NOBODY)
        return not self._misconfigured

    async def report(self, body: bytes, idempotency_key: str) -> Answer:
        """POST a batch of increments. Never raises."""
        return await self._post("report", "batch-increment", body, idempotency_key)

    async def report_one(self, body: bytes, idempotency_key: str) -> Answer:
        """POST one increment. Never raises."""
        return await self._post("report_one", "increment", body, idempotency_key)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def _asked(
        self, call: str, url: str, headers: dict[str, str], kind: Literal["known", "new"], *, first: bool
    ) -> Answer:
        """A call for a caller, each attempt in its turn. Raises ZionUnavailableError where Zion has nothing to say."""
        await self._turns.turn(kind, first=first)
        answer = await self._call(call, "GET", url, headers)
        if answer.broken_off:
            # Zion may close a kept connection just when it is used.
            await self._turns.turn(kind, first=True)
            answer = await self._call(call, "GET", url, headers)
        retry_after_s = answer.retry_after_s or RETRY_AFTER_S
        if answer.status == 429:
            await self._turns.shut(retry_after_s)
        if answer.status in {0, 429} or answer.status >= 500:
            raise ZionUnavailableError("The governance service does not answer.", retry_after_s=retry_after_s)
        return answer

    async def _post(self, call: str, endpoint: str, body: bytes, idempotency_key: str) -> Answer:
        headers = {"x-api-key": self._key, "content-type": "application/json", "idempotency-key": idempotency_key}
        return self._judged(
            call, await self._call(call, "POST", f"{self._url}/api/v1/usage/external/{endpoint}", headers, body)
        )

    def _judged(self, call: str, answer: Answer) -> Answer:
        """The answer to a call with Sentinel's own key; tells a wrong key apart from everything else."""
        if answer.status == 401:
            self._misconfigured = True
            _log.error("zion refuses the key of this deployment", call=call, status=answer.status)
        elif 0 < answer.status < 500 and answer.status != 429:
            self._misconfigured = False
        return answer

    async def _call(self, call: str, method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers={"accept-encoding": "identity", **headers},
                data=body,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                answer = Answer(response.status, await _content(response), _seconds(response.headers.get("retry-after")))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            metrics.ZION[call, "no_answer"] += 1
            _log.warning("zion does not answer", call=call, error=type(error).__name__)
            lost = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            late = isinstance(error, TimeoutError)
            return Answer(0, b"", lost=lost, broken_off=lost and not late and isinstance(error, aiohttp.ClientConnectionError))
        metrics.ZION[call, str(answer.status)] += 1
        if answer.status == 429 or answer.status >= 500:
            _log.warning("zion fails", call=call, status=answer.status)
        return answer

    def _decoded(self, call: str, answer: Answer, decode: Callable[[bytes], _T]) -> _T:
        """The `data` of an answer, enveloped or bare. Raises ZionUnavailableError where it is not what the contract says."""
        try:
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            envelope = _read_envelope(answer.body)
            return decode(answer.body if envelope.data is msgspec.UNSET else bytes(envelope.data))
        except (ValueError, RecursionError) as error:
            _log.error("zion answers against its contract", call=call, status=answer.status, error=str(error))
            raise ZionUnavailableError(
                "The governance service answered something unexpected.", retry_after_s=RETRY_AFTER_S
            ) from error


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises ValueError past its bound, since Zion's answers are small."""
    content = bytearray()
    while part := await response.content.readany():
        content += part
        if len(content) > _ANSWER_BYTES_MAX:
            raise ValueError("answer over its bound")
    return bytes(content)


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date or nonsense counts as absent."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return min(max(seconds, 0.0), 3600.0) if math.isfinite(seconds) else None
