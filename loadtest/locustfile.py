"""Scenarios for people to watch in a browser: `locust -f loadtest/locustfile.py` against `./run_dev.sh`, with nothing to set.

- `Steady`: plain chats, one after the other, with a second's thought between them
- `Streams`: streamed chats, read to their end; the first event has a row of its own
- `OverLimit`: a caller who has used up the limits, for whom 429 is the right answer
- `Leavers`: streams whose client leaves after a few events

Choose some of them by name behind the command: `locust -f loadtest/locustfile.py Steady Streams`. What is not the right answer
counts as a failure.

Zion's simulator is found by its log in SENTINEL_DIRECTORY (.sentinel). It gives the token of the demo user `spent`, and makes a
caller for every other user of locust: one alone would meet the 100 requests a minute of the demo stack. Where it is not, or to
try a deployment (SENTINEL_URL), SENTINEL_TOKEN_PRO and SENTINEL_TOKEN_SPENT are used for all of them.
"""

import json
import os
import re
import secrets
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from locust import HttpUser, between, events, task

_CHAT: Final = "/v1/chat/completions"
_EVENTS_UNTIL_GONE: Final = 5
_LIMITS: Final = dict.fromkeys(("ai_requests", "ai_input_tokens", "ai_output_tokens"), 10**9)
_tokens: dict[str, str] = {}
_zion: list[str] = []


@events.init.add_listener
def _read_tokens(**_named: Any) -> None:
    """The tokens of the demo users, once a process. Ends locust with one sentence where there are none."""
    _tokens.update({name: os.environ.get(f"SENTINEL_TOKEN_{name.upper()}", "") for name in ("pro", "spent")})
    if all(_tokens.values()):
        return
    log = Path(os.environ.get("SENTINEL_DIRECTORY", ".sentinel")) / "logs" / "zion.log"
    found = re.findall(r"^listening on (http://\S+)$", log.read_text() if log.exists() else "", re.MULTILINE)
    try:
        _tokens.update(_simulator(found[-1]))
    except (IndexError, OSError) as error:
        raise SystemExit("locust: no demo tokens; start ./run_dev.sh first, or set SENTINEL_TOKEN_PRO and _SPENT.") from error
    _zion.append(found[-1])


def _simulator(url: str, user: dict[str, Any] | None = None) -> Any:
    """The demo users' tokens by name, or what Zion's simulator says of a new user. OSError where it does not answer."""
    sent = None if user is None else json.dumps(user).encode()
    with urllib.request.urlopen(f"{url}/simulator/users", data=sent, timeout=5) as answer:
        return json.load(answer)


class _Caller(HttpUser):
    """Somebody with a token."""

    abstract = True
    host = os.environ.get("SENTINEL_URL", "http://127.0.0.1:8080")
    wait_time = between(0.5, 1.5)
    who = "pro"

    def on_start(self) -> None:
        """A caller of its own, where one can be made."""
        self.token = _tokens[self.who]
        if _zion and self.who == "pro":
            name = f"locust-{secrets.token_hex(6)}"
            user = {"externalId": name, "email": f"{name}@demo.test", "limits": _LIMITS}
            self.token = _simulator(_zion[0], user)["jwt"]

    def _ask(self, name: str, **more: Any) -> Any:
        """One chat, to be judged by the caller of this; `more` goes into its body."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Tell me of rivers."}], **more}
        headers = {"authorization": f"Bearer {self.token}"}
        streams = bool(more.get("stream"))
        return self.client.post(
            _CHAT, json=body, headers=headers, name=name, catch_response=True, stream=streams, timeout=60, allow_redirects=False
        )

    def _first_token(self, name: str, begun_s: float) -> None:
        """A row of its own for the time until something was said."""
        latency_ms = (time.perf_counter() - begun_s) * 1000
        self.environment.events.request.fire(
            request_type="SSE", name=f"{name}: first event", response_time=latency_ms, response_length=0, exception=None
        )


def _events(response: Any) -> Iterator[bytes]:
    """The events of a stream, as they come."""
    held = b""
    for read in response.iter_content(chunk_size=None):
        held += read
        *whole, held = held.split(b"\n\n")
        yield from whole


class Steady(_Caller):
    """Plain chats."""

    weight = 5

    @task
    def chat(self) -> None:
        """One answer, which must be whole."""
        with self._ask("plain") as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif not response.json()["choices"][0]["message"]["content"]:
                response.failure("an empty answer")


class Streams(_Caller):
    """Streamed chats."""

    weight = 5

    @task
    def chat(self) -> None:
        """One stream, which must end with `[DONE]`."""
        begun_s, last = time.perf_counter(), b""
        with self._ask("stream", stream=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            for event in _events(response):
                if not last:
                    self._first_token("stream", begun_s)
                last = event
            if last != b"data: [DONE]":
                response.failure("the stream broke off")


class OverLimit(_Caller):
    """A caller with nothing left."""

    weight = 1
    who = "spent"

    @task
    def chat(self) -> None:
        """429, with what is used up."""
        with self._ask("over the limit") as response:
            if response.status_code == 429 and response.json()["error"]["code"]:
                response.success()
            else:
                response.failure(f"status {response.status_code}, not 429")


class Leavers(_Caller):
    """Clients that leave."""

    weight = 1

    @task
    def chat(self) -> None:
        """A stream that is left after a few events."""
        with self._ask("left early", stream=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            for count, _ in enumerate(_events(response), start=1):
                if count == _EVENTS_UNTIL_GONE:
                    break
            response.success()
            response.close()
