"""logs: the line of a request, which goes past `logging`, and is as its other lines are."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from sentinel.ops.logs import JsonFormatter, Line, Log

FIELDS: dict[str, Any] = {
    "request_id": "req_1",
    "client_request_id": "mine",
    "trace_id": "a" * 32,
    "span_id": "b" * 16,
    "upstream_request_id": "up_1",
    "external_id": "user",
    "route": "chat",
    "model": "gpt-4o",
    "fallback": False,
    "cache": "",
    "stream": True,
    "status": 200,
    "ending": "success",
    "input_tokens": 7,
    "output_tokens": 5,
    "estimated": "",
    "bytes_down": 321,
    "milliseconds": 12.5,
}


def lines(capsysbinary: pytest.CaptureFixture[bytes]) -> list[dict[str, object]]:
    """What was written to standard error, each line read."""
    return [json.loads(line) for line in capsysbinary.readouterr().err.splitlines()]


def test_a_line_has_its_fields_in_their_order(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """The head is that of every line; what is not known is not there; what is stands at the end."""
    log = Log("journey")
    log.request(Line(**FIELDS))
    log.request(Line(**FIELDS, parent_id="c" * 16, retry_count=2))
    plain, known = lines(capsysbinary)
    record = logging.LogRecord("sentinel.journey", logging.INFO, "", 0, "request", (), None)
    other = json.loads(JsonFormatter().format(record))
    assert list(plain)[:5] == list(other)
    assert {name: plain[name] for name in ("level", "event", "logger", "pid")} == {
        name: other[name] for name in ("level", "event", "logger", "pid")
    }
    assert list(plain.items())[5:] == list(FIELDS.items())
    assert list(known.items())[-2:] == [("parent_id", "c" * 16), ("retry_count", 2)]
    assert list(known) == list(Line.__struct_fields__)


def test_the_time_is_utc_with_ms(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Two lines of a second, and of two seconds, each have their own time."""
    before = datetime.now(UTC)
    Log("journey").request(Line(**FIELDS))
    (line,) = lines(capsysbinary)
    written = datetime.strptime(str(line["time"]), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert before.timestamp() - 0.001 <= written.timestamp() <= datetime.now(UTC).timestamp()


@pytest.mark.parametrize("name", ["\ud800", '"quoted"', "new\nline", "\u2028", "é"])
def test_no_name_breaks_a_line(capsysbinary: pytest.CaptureFixture[bytes], name: str) -> None:
    """Whatever a model or a caller is called, the line is one line of JSON that says so."""
    Log("journey").request(Line(**FIELDS | {"model": name}))
    (line,) = lines(capsysbinary)
    assert line["model"] == name


def test_a_log_that_nobody_reads_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken pipe is no failure of the request."""

    class Broken:
        """A standard error whose reader has gone."""

        wrote = 0

        @property
        def buffer(self) -> "Broken":
            return self

        def write(self, written: bytes) -> None:
            self.wrote += len(written)
            raise BrokenPipeError

    broken = Broken()
    monkeypatch.setattr("sys.stderr", broken)
    Log("journey").request(Line(**FIELDS))
    assert broken.wrote > 0
