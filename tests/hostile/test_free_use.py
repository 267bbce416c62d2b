"""What was used free, tried through real Granian: what is booked is at least what the provider charges."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User, booked, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

# So rarely that whoever deletes at once comes first.
SETTINGS = {"SENTINEL_RATE_LIMIT_REQUESTS": "0", "SENTINEL_REPORT_INTERVAL_MS": "20", "SENTINEL_BACKGROUND_POLL_SECONDS": "1"}
PRODUCED = 9000
CAP = 700
WORK_S = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers; the provider's simulator says what it would charge."""
    async with Stack(tmp_path_factory.mktemp("free"), settings=SETTINGS) as running:
        yield running


class Attacker:
    """One caller, what it is booked, and what the provider charges for it. Others are silent meanwhile."""

    def __init__(self, stack: Stack, user: User, known: int) -> None:
        self.stack = stack
        self.user = user
        self._known = known
        self._requests = 0
        self._session = aiohttp.ClientSession(headers={"authorization": f"Bearer {user.token}"})

    async def ask(self, method: str, path: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        """What Sentinel answers, which must be a success."""
        self._requests += 1
        async with self._session.request(method, f"{self.stack.base_url}{path}", json=fields) as response:
            assert response.status < 300, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def upload(self, path: str, form: aiohttp.FormData) -> dict[str, Any]:
        """What Sentinel answers to a form, which must be a success."""
        self._requests += 1
        async with self._session.post(f"{self.stack.base_url}{path}", data=form) as response:
            assert response.status < 300, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    def count(self, requests: int) -> None:
        """So many more were served."""
        self._requests += requests

    async def charged(self) -> tuple[int, int]:
        """Input and output tokens that the provider has counted so far."""
        rows = (await self.stack.control("provider", "served"))["rows"][self._known :]
        return sum(row["input_tokens"] for row in rows), sum(row["output_tokens"] for row in rows)

    async def worked(self) -> None:
        """Wait until the provider has done the work."""
        async with asyncio.timeout(20):
            while not (await self.charged())[1]:
                await asyncio.sleep(0.02)

    async def bill(self) -> tuple[int, int]:
        """Input and output as booked, once every request is."""
        async with asyncio.timeout(30):
            while (sums := await booked(self.stack)).get(self.user.email, (0,))[0] < self._requests:
                await asyncio.sleep(0.05)
        requests, given, produced = sums[self.user.email]
        assert requests == self._requests
        return given, produced

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


@pytest_asyncio.fixture(loop_scope="session")
async def attacker(stack: Stack) -> AsyncIterator[Attacker]:
    """A new caller, before whom nothing counts."""
    known = len((await stack.control("provider", "served"))["rows"])
    one = Attacker(stack, await make_user(stack), known)
    yield one
    await one.close()


# ---- A1: what is deleted -----------------------------------------------------------------------------------------------


async def begin(attacker: Attacker, kind: str, *, work_s: float) -> tuple[str, str]:
    """Start work of a kind: its path, and the path of what holds it."""
    simulate = {"background_s": work_s, "output_tokens": PRODUCED}
    if kind == "response":
        fields = {"model": "gpt-4o", "input": "Think.", "background": True, "simulate": simulate}
        made = await attacker.ask("POST", "/responses", fields)
        return (f"/responses/{made['id']}",) * 2
    if kind == "run":
        assistant = await attacker.ask("POST", "/assistants", {"model": "gpt-4o"})
        thread = await attacker.ask("POST", "/threads", {"messages": [{"role": "user", "content": "Think."}]})
        above = f"/threads/{thread['id']}"
        run = await attacker.ask("POST", f"{above}/runs", {"assistant_id": assistant["id"], "simulate": simulate})
        return f"{above}/runs/{run['id']}", above
    config = {"type": "custom", "item_schema": {"type": "object"}}
    made = await attacker.ask("POST", "/evals", {"data_source_config": config, "testing_criteria": []})
    above = f"/evals/{made['id']}"
    source = {"type": "file_content", "content": [{"item": {"a": "b"}}]}
    fields = {"data_source": {"type": "completions", "model": "gpt-4o", "source": source}, "simulate": simulate}
    run = await attacker.ask("POST", f"{above}/runs", fields)
    return f"{above}/runs/{run['id']}", above


@pytest.mark.parametrize(("kind", "whole"), [("response", True), ("run", True), ("eval", False), ("eval", True)])
async def test_deleted_work_is_paid(attacker: Attacker, kind: str, whole: bool) -> None:
    """Work that is done, and deleted before Sentinel looks at it, costs what the provider charged, once."""
    path, above = await begin(attacker, kind, work_s=WORK_S)
    await attacker.worked()
    await attacker.ask("DELETE", above if whole else path)
    assert await attacker.bill() == await attacker.charged()
    assert (await attacker.charged())[1] == PRODUCED


@pytest.mark.parametrize("kind", ["response", "run", "eval"])
async def test_work_deleted_too_early_is_paid(attacker: Attacker, kind: str) -> None:
    """Work that is deleted while it goes on is ended, and never costs less than it has cost."""
    _, above = await begin(attacker, kind, work_s=2.0)
    await attacker.ask("DELETE", above)
    given, produced = await attacker.bill()
    charged = await attacker.charged()
    assert produced >= max(1, charged[1])
    assert given >= max(1, charged[0])


async def test_work_that_is_gone_is_paid_by_its_hold(attacker: Attacker) -> None:
    """What was deleted past Sentinel, so that nobody saw its cost, is charged what was held for it."""
    simulate = {"background_s": WORK_S, "output_tokens": PRODUCED}
    fields = {"model": "gpt-4o", "input": "Think.", "background": True, "max_output_tokens": CAP, "simulate": simulate}
    made = await attacker.ask("POST", "/responses", fields)
    await attacker.worked()
    path = f"{attacker.stack.provider_url}/v1/responses/{made['id']}"
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {attacker.stack.provider_key}"}) as http,
        http.delete(path) as response,
    ):
        assert response.status == 200
    assert (await attacker.bill())[1] == (await attacker.charged())[1] == CAP


# ---- A3: work whose size is unknown ------------------------------------------------------------------------------------

LEFT = 1000
AT_ONCE = 20


async def statuses(stack: Stack, user: User, path: str, fields: dict[str, Any]) -> list[int]:
    """What AT_ONCE requests of one caller are answered."""

    async def one(http: aiohttp.ClientSession) -> int:
        async with http.post(f"{stack.base_url}{path}", json=fields) as response:
            await response.read()
            return response.status

    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {user.token}"}) as http:
        return await asyncio.gather(*(one(http) for _ in range(AT_ONCE)))


@pytest.mark.parametrize("kind", ["run", "batch", "eval", "chat"])
async def test_little_that_is_left_admits_little(stack: Stack, kind: str) -> None:
    """With 1000 tokens left, 20 at once of unknown size use what is held for one, not 20 times a model's most."""
    user = await make_user(stack, output={"limit": 50_000, "used": 50_000 - LEFT})
    known = len((await stack.control("provider", "served"))["rows"])
    attacker = Attacker(stack, user, known)
    simulate = {"background_s": WORK_S, "output_tokens": PRODUCED}
    path, fields = "/chat/completions", {"model": "gpt-4o", "messages": HELLO, "max_output_tokens": 900, "simulate": simulate}
    if kind == "run":
        assistant = await attacker.ask("POST", "/assistants", {"model": "gpt-4o"})
        thread = await attacker.ask("POST", "/threads", {"messages": HELLO})
        path, fields = f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"], "simulate": simulate}
    elif kind == "batch":
        form = aiohttp.FormData({"purpose": "batch"})
        line = {
            "custom_id": "1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o", "messages": HELLO},
        }
        form.add_field("file", json.dumps(line).encode(), filename="a.jsonl")
        file = await attacker.upload("/files", form)
        path = "/batches"
        fields = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        fields |= {"simulate": simulate}
    elif kind == "eval":
        config = {"type": "custom", "item_schema": {"type": "object"}}
        made = await attacker.ask("POST", "/evals", {"data_source_config": config, "testing_criteria": []})
        source = {"type": "file_content", "content": [{"item": {"a": "b"}}]}
        path = f"/evals/{made['id']}/runs"
        fields = {"data_source": {"type": "completions", "model": "gpt-4o", "source": source}, "simulate": simulate}
    answered = await statuses(stack, user, path, fields)
    assert sorted(answered) == [200] + [429] * (AT_ONCE - 1)
    await attacker.worked()
    attacker.count(1)
    assert (await attacker.bill())[1] == (await attacker.charged())[1]
    # Runs and chats are told what is left; batches and runs of evals heed no cap: one of them may use more.
    assert (await attacker.charged())[1] <= (LEFT if kind in {"run", "chat"} else PRODUCED)
    await attacker.close()


async def test_unfinished_work_has_a_bound(attacker: Attacker) -> None:
    """A caller has so much unfinished work at a time; it is told which limit that is; others are not touched."""
    simulate = {"background_s": 60, "output_tokens": 1}
    fields = {"model": "gpt-4o", "input": "Think.", "background": True, "simulate": simulate}
    answered = await statuses(attacker.stack, attacker.user, "/responses", fields)
    assert answered == [200] * AT_ONCE
    headers, url = {"authorization": f"Bearer {attacker.user.token}"}, f"{attacker.stack.base_url}/responses"
    async with aiohttp.ClientSession(headers=headers) as http, http.post(url, json=fields) as response:
        assert response.status == 429
        assert (await response.json())["error"]["code"] == "unfinished_work_limit_exceeded"
        assert response.headers["retry-after"] == "10"
    await attacker.ask("POST", "/chat/completions", {"model": "gpt-4o", "messages": HELLO})
