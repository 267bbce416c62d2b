"""Structured logs: one JSON object a line on standard error, a closed list of fields, never a prompt, a token or a key.

A log line that cannot be encoded is a defect of the caller, and raises in tests; logging never stops a request.
"""

import logging
import sys
import time
from typing import Any, Final

import msgspec

LEVELS: Final = ("debug", "info", "warning", "error")

_encoder: Final = msgspec.json.Encoder(enc_hook=str)


class JsonFormatter(logging.Formatter):
    """One record as one JSON object: time, level, event, then the fields given by `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            "pid": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoder.encode(line).decode()


# For Granian, whose supervisor and workers configure their own logger: the same lines, to the same place.
GRANIAN: Final[dict[str, Any]] = {
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "loggers": {"_granian": {"handlers": ["console"], "propagate": False}},
}


class Log:
    """A named log whose extra values are fields, not text: `log.info("request", status=200)`."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"sentinel.{name}")

    @property
    def tells_info(self) -> bool:
        """Whether `info` writes anything, for lines whose fields cost something to gather."""
        return self._logger.isEnabledFor(logging.INFO)

    def debug(self, event: str, **fields: Any) -> None:
        """Detail for somebody who is looking for a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Start, stop, and one line a request."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something failed and was recovered from."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, exception: BaseException | None = None, **fields: Any) -> None:
        """Something was not handled, or an operator must act."""
        self._write(logging.ERROR, event, fields, exception)

    def _write(self, level: int, event: str, fields: dict[str, Any], exception: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields}, exc_info=exception)


def start(level: str) -> None:
    """Send all logs of this process, Granian's included, to standard error at `level` (one of LEVELS)."""
    sink = logging.StreamHandler(sys.stderr)
    sink.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [sink]
    root.setLevel(logging.WARNING)
    logging.getLogger("sentinel").setLevel(level.upper())
