"""Every failure Sentinel can answer, with whose fault it is, its status and whether a retry helps.

Mapped once at the edge that owns the failing library, answered once in `app.py`. An exception that is not one of these
is a defect and becomes a 500 without detail.
"""

from enum import Enum
from typing import Final


class Source(Enum):
    """Whose fault a failure is: it decides the log level and who is to be called at night."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    ZION = "zion"
    INTERNAL = "internal"


class SentinelError(Exception):
    """A failure with an answer, in OpenAI's error shape (rule E1).

    `retry` is None where the client's own status rule is right, False where a retry cannot help (`x-should-retry: false`,
    rule R2). `retry_after_s` becomes `Retry-After` and `retry-after-ms`. `headers` go out as they are.
    """

    source: Source = Source.INTERNAL
    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry: bool | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers
        if code is not None:
            self.code = code
        if retry is not None:
            self.retry = retry


class BadRequestError(SentinelError):
    """400: the request itself is wrong; the same bytes will always be refused."""

    source = Source.DOWNSTREAM
    status = 400
    type = "invalid_request_error"
    code = None


class UnauthorizedError(SentinelError):
    """401: no usable credential, or Zion refused it. The text is the same for every wrong key (rule X17)."""

    source = Source.DOWNSTREAM
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(SentinelError):
    """403: known to Zion, but not permitted here."""

    source = Source.DOWNSTREAM
    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class NotFoundError(SentinelError):
    """404: no such object for this caller, in the provider's words."""

    source = Source.DOWNSTREAM
    status = 404
    type = "invalid_request_error"
    code = None


class UnknownPathError(SentinelError):
    """404: no such route (rule E4)."""

    source = Source.DOWNSTREAM
    status = 404
    type = "invalid_request_error"
    code = None


class WrongMethodError(SentinelError):
    """405: the route exists, the method does not (rule E4); carries `Allow`."""

    source = Source.DOWNSTREAM
    status = 405
    type = "invalid_request_error"
    code = None


class BodyTimeoutError(SentinelError):
    """408: the body did not arrive within its deadline."""

    source = Source.DOWNSTREAM
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLargeError(SentinelError):
    """413: the body is over its bound, by its declared length or by counted bytes."""

    source = Source.DOWNSTREAM
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaTypeError(SentinelError):
    """415: a content type that the route does not read (rule H11), or a content coding; then carries `Accept-Encoding`."""

    source = Source.DOWNSTREAM
    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_type"


class WebSocketRefusedError(SentinelError):
    """426: a WebSocket was asked for, where only plain HTTP is spoken; carries `Upgrade`."""

    source = Source.DOWNSTREAM
    status = 426
    type = "invalid_request_error"
    code = "websocket_not_supported"
    retry = False


class OverLimitError(SentinelError):
    """429: a limit of the caller is used up; the message names it."""

    source = Source.DOWNSTREAM
    status = 429
    type = "rate_limit_exceeded"
    code = "rate_limit_exceeded"


class UpstreamError(SentinelError):
    """502: the provider could not be reached, broke off, or refused Sentinel's own credentials.

    `sent` is False only where nothing was sent, so that the provider cannot have worked and a retry is free.
    """

    source = Source.UPSTREAM
    status = 502
    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry: bool | None = None,
        retry_after_s: float | None = None,
        sent: bool = True,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message, code=code, retry=retry, retry_after_s=retry_after_s, headers=headers)
        self.sent = sent


class UpstreamUnavailableError(UpstreamError):
    """503: the provider says it is overloaded."""

    status = 503
    code = "upstream_unavailable"


class UpstreamTimeoutError(UpstreamError):
    """504: the provider did not answer in time. Whether it worked is unknown, so no retry (rule R4)."""

    status = 504
    code = "upstream_timeout"
    retry = False


class ZionUnavailableError(SentinelError):
    """503: Zion does not answer, and nothing known is fresh enough to go on."""

    source = Source.ZION
    status = 503
    code = "governance_unavailable"


class LedgerUnavailableError(SentinelError):
    """503: Redis does not answer, so nothing can be held.

    `sent` is False only where nothing was sent to it, so that it cannot have held anything.
    """

    status = 503
    code = "ledger_unavailable"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        sent: bool = True,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, headers=headers)
        self.sent = sent


class JournalFullError(SentinelError):
    """503: the journal cannot be written, and new work is refused rather than done without it."""

    status = 503
    code = "journal_full"


class DrainingError(SentinelError):
    """503: this worker is shutting down and admits nothing new."""

    status = 503
    code = "draining"

    def __init__(self, message: str = "This gateway is restarting.") -> None:
        super().__init__(message, retry_after_s=1)


class OverloadedError(SentinelError):
    """503: this worker has no room for one more request of this size."""

    status = 503
    code = "overloaded"


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


INVALID_KEY_MESSAGE: Final = "Incorrect API key provided. Use the token that Zion issued as the API key."
