"""The usual case of a stage does what its general case does: the same requests to two gateways, one of which has no usual case.

Both share Redis, Zion and the provider. A request that goes to both is made by two callers who have the same limits.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.devstack.stack import Stack
from tests.conftest import GENERAL, USUAL
from tests.process.conftest import SETTINGS
from tests.support.raw import RawAnswer, once, request
from tests.support.running import User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTLED_S = 10.0
# What differs between any two requests: ids, times, and what is left of a window that moves.
RANDOM = re.compile(rb"\b(?:chatcmpl|cmpl|resp|msg|req|fc|call|rs)[-_][0-9A-Za-z_]+|\b1\d{9}\b|\"obfuscation\": \"[^\"]*\"")
# How long a limit stays used up, in Sentinel's own words: of any length, as its zeros are left out.
WAIT = re.compile(rb" Please try again in [0-9hms.]+\.")
CHANGING = re.compile(r"x-request-id|x-upstream-request-id|date|x-ratelimit-reset.*|retry-after(-ms)?")


class Usual(Stack):
    """A gateway as it is served, whatever way the others go."""

    module = USUAL


class General(Stack):
    """A gateway that has no usual case."""

    module = GENERAL


class Pair(NamedTuple):
    """Both gateways."""

    usual: Stack
    general: Stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """One stack, and a second gateway beside it."""
    async with Usual(tmp_path_factory.mktemp("usual"), workers=1, settings=SETTINGS) as usual:
        where = {"ZION_API_URL": usual.zion_url, "ZION_API_KEY": usual.zion_key, "REDIS_URL": usual.redis_url}
        where |= {"OPENAI_API_KEY": usual.provider_key, "OPENAI_API_URL": f"{usual.provider_url}/v1"}
        environ = {**os.environ, **where, "SENTINEL_PROVIDER": "openai"}
        directory = tmp_path_factory.mktemp("general")
        async with General(directory, workers=1, simulators=False, settings=SETTINGS, environ=environ) as other:
            yield Pair(usual, other)


TEXTS = st.text(max_size=40)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXTS},
        optional={"name": st.just("ada")},
    ),
    min_size=1,
    max_size=4,
)
FAULTS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from([400, 404, 429, 500, 503]),
        "times": st.integers(1, 2),
        "usage_offset": st.integers(0, 9),
        "no_usage": st.just(True),
        "cut_after_events": st.integers(0, 6),
        "error_first_event": st.just(True),
        "no_done": st.just(True),
        "headers": st.just({"openai-model": "gpt", "connection": "close"}),
    },
)
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(["gpt-4o-mini", "gpt-5", "gpt-3.5-turbo-instruct", "no-such-model", ""])},
    optional={
        "messages": MESSAGES,
        "prompt": TEXTS | st.lists(TEXTS, max_size=3),
        "input": TEXTS | st.lists(TEXTS, max_size=3),
        "stream": st.sampled_from([True, False, None, 1]),
        "stream_options": st.sampled_from([None, {}, {"include_usage": True}, {"include_usage": False}]),
        "n": st.integers(1, 3),
        "max_tokens": st.sampled_from([0, 1, 20, 10**9]),
        "store": st.booleans(),
        "tools": st.just([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]),
        "metadata": st.just({"user_id": "file-1"}),
        "simulate": FAULTS,
    },
)
USUAL_CHATS = st.builds(
    lambda messages, stream, fault: {"model": "gpt-4o-mini", "messages": messages, "stream": stream, "simulate": fault},
    MESSAGES,
    st.booleans(),
    FAULTS,
)
HEADERS = st.lists(
    st.sampled_from(
        [
            "User-Agent: OpenAI/Python 1.2.3",
            "Accept: application/json",
            "X-Request-Id: mine-1",
            "X-Stainless-Lang: python",
            "Connection: close",
            "Idempotency-Key: k-1",
            "Content-Type: text/plain",
        ]
    ),
    unique=True,
    max_size=4,
)
ROUTES = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models"])


def shown(answer: RawAnswer) -> tuple[int, list[tuple[str, str]], bytes]:
    """What of an answer must be the same both ways."""
    body, waits = WAIT.subn(b"", answer.body)
    changing = [name for name, _ in answer.headers if CHANGING.fullmatch(name) or (waits and name == "content-length")]
    lines = [(name, "any" if name in changing else value) for name, value in answer.headers]
    return answer.status, lines, RANDOM.sub(b"id", body)


def asked(caller: User, path: str, lines: list[str], body: dict[str, Any], way: str, *, broken: int) -> bytes:
    """One request; `broken` bytes of its body are left out at the end."""
    simulate = {**body.get("simulate", {}), "key": f"{id(body)}-{way}"}
    text = json.dumps({**body, "simulate": simulate} if body.get("simulate") else body).encode()
    own = [] if any(line.startswith("Content-Type") for line in lines) else ["Content-Type: application/json"]
    head = [f"Authorization: Bearer {caller.token}", *own, *lines]
    if path == "/v1/models":
        return request("GET", path, *head)
    return request("POST", path, *head, body=text[: len(text) - broken] or b" ")


async def answered(stack: Stack, content: bytes) -> tuple[Any, ...]:
    """What is shown of the answer; of one that is cut off, that it is."""
    try:
        return shown(await once(stack.port, content))
    except (asyncio.IncompleteReadError, ConnectionError):
        return ("cut off",)


async def account(stack: Stack, caller: User) -> dict[str, Any]:
    """The figures of a caller, once nothing is held."""
    async with asyncio.timeout(SETTLED_S):
        while True:
            page = await once(stack.port, request("GET", "/v1/usage", f"Authorization: Bearer {caller.token}"))
            limits: dict[str, Any] = json.loads(page.body)["limits"]
            if not any(limit["held"] for limit in limits.values()):
                return {name: (limit["used"], limit["remaining"]) for name, limit in limits.items()}
            await asyncio.sleep(0.01)


async def both(pair: Pair, path: str, lines: list[str], body: dict[str, Any], broken: int = 0) -> list[tuple[Any, ...]]:
    """What comes of the same request each way: the answer, and the account of its caller afterwards."""
    callers = await make_user(pair.usual), await make_user(pair.usual)
    ways = (pair.usual, "a", callers[0]), (pair.general, "b", callers[1])
    contents = [asked(caller, path, lines, body, way, broken=broken) for _, way, caller in ways]
    answers = await asyncio.gather(*(answered(stack, content) for (stack, *_), content in zip(ways, contents, strict=True)))
    accounts = await asyncio.gather(*(account(pair.usual, caller) for caller in callers))
    return list(zip(answers, accounts, strict=True))


EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@EXAMPLES
@given(lines=HEADERS, body=USUAL_CHATS)
async def test_a_chat_is_answered_and_billed_alike(pair: Pair, lines: list[str], body: dict[str, Any]) -> None:
    """Issue 12: whatever becomes of a chat, its status, headers, bytes and bill are those of the general way."""
    usual, general = await both(pair, "/v1/chat/completions", lines, body)
    assert usual == general


@EXAMPLES
@given(path=ROUTES, lines=HEADERS, body=BODIES, broken=st.sampled_from([0, 0, 0, 1, 10]))
async def test_any_request_is_answered_and_billed_alike(
    pair: Pair, path: str, lines: list[str], body: dict[str, Any], broken: int
) -> None:
    """Issue 12: so it is of requests that are not usual, or not even well formed."""
    usual, general = await both(pair, path, lines, body, broken)
    assert usual == general


async def test_the_shared_stack_goes_the_way_that_was_chosen(stack: Stack, request: pytest.FixtureRequest) -> None:
    """Issue 12: `--general` has the process tests run without usual cases, by what runs as Sentinel."""
    command = Path(f"/proc/{stack.child('sentinel').pid}/cmdline").read_bytes().split(b"\0")
    assert (GENERAL if request.config.getoption("general") else USUAL).encode() in command
