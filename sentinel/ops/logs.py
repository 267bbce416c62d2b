"""Structured logs: one JSON object a line on standard error, a closed list of fields, never a prompt, a token or a key.

A log line that cannot be encoded is a defect of the caller, and raises in tests; logging never stops a request.
"""

import json
import logging
import os
import sys
import time
from contextlib import suppress
from typing import Any, Final

import msgspec

LEVELS: Final = ("debug", "info", "warning", "error")
_TELLING_INFO: Final = ("debug", "info")

_encoder: Final = msgspec.json.Encoder(enc_hook=str)
_encode_line: Final = msgspec.json.Encoder().encode


class Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The line of one request. The first five fields, those of every line, are set by the log; the last two may be missing."""

    time: str = ""
    level: str = ""
    event: str = ""
    logger: str = ""
    pid: int = 0
    request_id: str
    client_request_id: str
    trace_id: str
    span_id: str
    upstream_request_id: str
    external_id: str
    route: str
    model: str
    fallback: bool
    cache: str
    stream: bool
    status: int
    ending: str
    input_tokens: int
    output_tokens: int
    estimated: str
    bytes_down: int
    milliseconds: float
    parent_id: str = ""
    retry_count: int | None = None


class _Clock:
    """The time of a line. What does not change within a second is written once in it."""

    def __init__(self) -> None:
        self._last = (0, "")  # of one piece: threads write lines too

    def written(self, at_ns: int) -> str:
        """Such a Unix time as a line has it, in UTC."""
        second, rest = divmod(at_ns, 1_000_000_000)
        known, text = self._last
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._last = (second, text)
        return f"{text}.{rest // 1_000_000:03d}Z"


_clock: Final = _Clock()


class JsonFormatter(logging.Formatter):
    """One record as one JSON object: time, level, event, then the fields given by `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, Any] = {
            "time": _clock.written(int(record.created * 1000) * 1_000_000),
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


_logs: Final[list["Log"]] = []


class Log:
    """A named log whose extra values are fields, not text: `log.info("redis is back", run_id="…")`."""

    __slots__ = ("_logger", "_name", "info_enabled")

    def __init__(self, name: str) -> None:
        self._name = f"sentinel.{name}"
        self._logger = logging.getLogger(self._name)
        # Whether `info` writes anything, for lines whose fields cost something to gather.
        self.info_enabled = False
        _logs.append(self)

    def debug(self, event: str, **fields: Any) -> None:
        """Detail for somebody who is looking for a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Start, stop, and what changes in between."""
        self._write(logging.INFO, event, fields)

    def request(self, line: Line) -> None:
        """The one line of a request, at the level `info`.

        It goes to standard error at once, past `logging`, whose record costs many times as much as the line itself.
        """
        line.time, line.level, line.event = _clock.written(time.time_ns()), "info", "request"
        line.logger, line.pid = self._name, os.getpid()
        try:
            written = _encode_line(line)
        except UnicodeEncodeError:  # a lone surrogate in a name, which UTF-8 cannot say
            written = json.dumps(msgspec.to_builtins(line)).encode()
        with suppress(OSError):  # nobody reads the log any more, which is no reason to stop a request
            sys.stderr.buffer.write(written + b"\n")
            sys.stderr.buffer.flush()

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
    for log in _logs:
        log.info_enabled = level in _TELLING_INFO
