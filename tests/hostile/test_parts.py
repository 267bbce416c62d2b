"""What lies within another's object, asked for below one's own, and the other way round, through real Granian."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

EVAL = {"data_source_config": {"type": "custom", "item_schema": {"type": "object"}}, "testing_criteria": []}
RUN = {"data_source": {"type": "completions", "model": "gpt-4o", "source": {"type": "file_content", "content": []}}}
ITEM = {"items": [{"type": "message", "role": "user", "content": "x"}]}
# Kind, parent, its body, what is made in it, with which body; None is a form with a file.
MADE: dict[str, tuple[str, Any, str, Any]] = {
    "message": ("/threads", {}, "messages", {"role": "user", "content": "x"}),
    "run": ("/threads", {"messages": HELLO}, "runs", {"assistant_id": "ASSISTANT"}),
    "item": ("/conversations", {}, "items", ITEM),
    "file batch": ("/vector_stores", {"name": "v"}, "file_batches", {"file_ids": ["FILE"]}),
    "file": ("/containers", {"name": "c"}, "files", None),
    "eval run": ("/evals", EVAL, "runs", RUN),
}


@dataclass
class Owner:
    """A caller, with a parent and something in it, of each kind."""

    stack: Stack
    user: User
    parents: dict[str, str]
    parts: dict[str, str]

    async def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """Status and JSON of one request."""
        sent = {"data": content} if isinstance(content, aiohttp.FormData) else {"json": content}
        async with (
            aiohttp.ClientSession(headers={"authorization": f"Bearer {self.user.token}"}) as http,
            http.request(method, f"{self.stack.base_url}{path}", **sent) as response,
        ):
            return response.status, await response.json()

    async def made(self, path: str, content: Any) -> str:
        """The id of something new."""
        status, answer = await self.ask("POST", path, content)
        assert status == 200, answer
        return str(answer["data"][0]["id"] if "data" in answer else answer["id"])


def a_file() -> aiohttp.FormData:
    """A form with one."""
    form = aiohttp.FormData({"purpose": "assistants"})
    form.add_field("file", b"some notes", filename="a.txt")
    return form


async def settle(stack: Stack) -> Owner:
    """A new caller who has everything."""
    owner = Owner(stack, await make_user(stack), {}, {})
    assistant = await owner.made("/assistants", {"model": "gpt-4o"})
    file = await owner.made("/files", a_file())
    for kind, (parent, body, within, part) in MADE.items():
        above = f"{parent}/{await owner.made(parent, body)}/{within}"
        filled = json.loads(json.dumps(part).replace("ASSISTANT", assistant).replace("FILE", file)) if part else a_file()
        owner.parents[kind], owner.parts[kind] = above, await owner.made(above, filled)
    return owner


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers."""
    async with Stack(tmp_path_factory.mktemp("parts"), settings={"SENTINEL_RATE_LIMIT_REQUESTS": "0"}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def anna(stack: Stack) -> Owner:
    """One who has everything."""
    return await settle(stack)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bert(stack: Stack) -> Owner:
    """Another one."""
    return await settle(stack)


async def reached(stack: Stack, path: str) -> int:
    """How often the provider was asked for it."""
    rows = (await stack.control("provider", "served"))["rows"]
    return sum(row["path"] == f"/v1{path}" for row in rows)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("mine", ["parent", "part"])
async def test_both_must_be_ones_own(anna: Owner, bert: Owner, kind: str, mine: str) -> None:
    """Another's part below one's own object, or one's own below another's, is none; a sloppy provider is not even asked."""
    below, part = (bert, anna) if mine == "parent" else (anna, bert)
    path = f"{below.parents[kind]}/{part.parts[kind]}"
    status, answer = await bert.ask("GET", path)
    assert status == 404
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert await reached(bert.stack, path) == 0
    if mine == "parent":
        # Nobody can tell another's from none: of that the provider speaks.
        name = anna.parts[kind]
        unknown = name[:-4] + ("0000" if not name.endswith("0000") else "1111")
        status, none = await bert.ask("GET", f"{below.parents[kind]}/{unknown}")
        assert (status, json.loads(json.dumps(none).replace(unknown, name))) == (404, answer)


@pytest.mark.parametrize("kind", MADE)
async def test_ones_own_is_found(anna: Owner, kind: str) -> None:
    """Below one's own object one's own part is there."""
    assert (await anna.ask("GET", f"{anna.parents[kind]}/{anna.parts[kind]}"))[0] == 200


@pytest.mark.parametrize("kind", ["message", "run", "eval run"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_nobody_changes_what_is_anothers(anna: Owner, bert: Owner, kind: str, method: str) -> None:
    """The same for what changes or deletes it."""
    path = f"{bert.parents[kind]}/{anna.parts[kind]}"
    status, _ = await bert.ask(method, path, {} if method == "POST" else None)
    assert status == (405 if (kind, method) == ("run", "DELETE") else 404)
    assert await reached(bert.stack, path) == 0


async def test_what_the_provider_made_is_its_objects(anna: Owner) -> None:
    """The answer of an assistant was made by no request: it is whose thread it is in."""
    path = anna.parents["run"].removesuffix("/runs") + "/messages"
    status, listed = await anna.ask("GET", path)
    assert status == 200
    assert (await anna.ask("GET", f"{path}/{listed['data'][-1]['id']}"))[0] == 200
