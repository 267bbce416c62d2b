"""Others' fine-tuned models, wherever a body can name one, tried through real Granian: there are none.

Nor are others' objects in the lines of a batch.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers."""
    async with Stack(tmp_path_factory.mktemp("tuned"), settings={"SENTINEL_RATE_LIMIT_REQUESTS": "0"}) as running:
        yield running


class Asker:
    """One caller."""

    def __init__(self, stack: Stack, user: User) -> None:
        self.stack = stack
        self._headers = {"authorization": f"Bearer {user.token}"}

    async def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """Status and JSON of one request; a dict goes as JSON."""
        sent = {"data": content} if isinstance(content, aiohttp.FormData) else {"json": content}
        async with (
            aiohttp.ClientSession(headers=self._headers) as http,
            http.request(method, f"{self.stack.base_url}{path}", **sent) as response,
        ):
            return response.status, await response.json()

    async def made(self, path: str, content: Any) -> str:
        """The id of a new object."""
        status, answer = await self.ask("POST", path, content)
        assert status == 200, answer
        return str(answer["id"])

    async def uploaded(self, purpose: str, text: str) -> str:
        """The id of a new file."""
        form = aiohttp.FormData({"purpose": purpose})
        form.add_field("file", text.encode(), filename="a.jsonl")
        return await self.made("/files", form)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def anna(stack: Stack) -> Asker:
    """Who has a model."""
    return Asker(stack, await make_user(stack))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bert(stack: Stack) -> Asker:
    """Who would like to have it."""
    return Asker(stack, await make_user(stack))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def model(anna: Asker) -> str:
    """Anna's model."""
    file = await anna.uploaded("fine-tune", "{}")
    job = await anna.made("/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": file})
    async with asyncio.timeout(15):
        while not (shown := (await anna.ask("GET", f"/fine_tuning/jobs/{job}"))[1])["fine_tuned_model"]:
            await asyncio.sleep(0.1)
    return str(shown["fine_tuned_model"])


CHATS = "/v1/chat/completions"
GRADER = {"type": "score_model", "name": "g", "model": "MODEL", "input": HELLO}
ITEMS = {"type": "file_content", "content": [{"item": {"a": "b"}}]}
SOURCE = {"type": "custom", "item_schema": {"type": "object"}}
SPELLED = [
    ("/evals", {"data_source_config": SOURCE, "testing_criteria": [GRADER]}),
    ("/evals/EVAL/runs", {"data_source": {"type": "completions", "model": "MODEL", "source": ITEMS}}),
    ("/evals/EVAL/runs", {"model": "MODEL", "data_source": {"type": "completions", "model": "gpt-4o", "source": ITEMS}}),
    ("/fine_tuning/alpha/graders/run", {"grader": GRADER, "model_sample": "x"}),
    ("/fine_tuning/alpha/graders/run", {"grader": {"type": "multi", "graders": {"a": GRADER}}, "model_sample": "x"}),
    ("/fine_tuning/alpha/graders/validate", {"grader": GRADER}),
    ("/responses", {"model": "gpt-4o", "input": "x", "tools": [{"type": "image_generation", "model": "MODEL"}]}),
    ("/responses", {"model": "gpt-4o", "input": "x", "moderation": {"model": "MODEL"}}),
    ("/chat/completions", {"model": "gpt-4o", "messages": HELLO, "providerOptions": {"gateway": {"models": ["MODEL"]}}}),
    ("/chat/completions", {"model": "gpt-4o", "messages": HELLO, "anything": [{"new_model": "MODEL"}]}),
    ("/chat/completions", {"model": "vendor/MODEL", "messages": HELLO}),
    ("/assistants", {"model": "MODEL"}),
]


@pytest.mark.parametrize("ending", ["", ":ckpt-step-1"])
@pytest.mark.parametrize(("path", "body"), SPELLED, ids=lambda value: value if isinstance(value, str) else "")
async def test_anothers_model_is_none(anna: Asker, bert: Asker, model: str, path: str, body: Any, ending: str) -> None:
    """Whoever did not have it made is answered as if there were none, before the provider is asked."""
    if "EVAL" in path:
        path = path.replace("EVAL", await bert.made("/evals", {"data_source_config": SOURCE, "testing_criteria": []}))
    filled = json.loads(json.dumps(body).replace("MODEL", model + ending))
    before = len((await bert.stack.control("provider", "served"))["rows"])
    status, answer = await bert.ask("POST", path, filled)
    assert (status, answer["error"]["code"]) == (404, "model_not_found"), answer
    assert len((await bert.stack.control("provider", "served"))["rows"]) == before


async def test_anothers_model_is_none_in_a_form(anna: Asker, bert: Asker, model: str) -> None:
    """Where a form is searched, its fields that are called like a model are looked at too."""
    for asker, status in ((bert, 404), (anna, 200)):
        form = aiohttp.FormData({"model": model, "prompt": "a cat"})
        form.add_field("image", b"\x89PNG", filename="a.png", content_type="image/png")
        answered, answer = await asker.ask("POST", "/images/edits", form)
        assert answered == status, answer
        assert status == 200 or answer["error"]["code"] == "model_not_found"


def lines(*bodies: Any) -> str:
    """The input file of a batch."""
    return "\n".join(json.dumps({"custom_id": "1", "method": "POST", "url": CHATS, "body": body}) for body in bodies)


async def batched(asker: Asker, text: str, *, parts: bool = False) -> tuple[int, Any]:
    """What is answered to a batch of these lines, in a file or one that comes in parts, cut in the middle."""
    if parts:
        size = len(text.encode())
        upload = {"filename": "a.jsonl", "purpose": "batch", "bytes": size, "mime_type": "application/jsonl"}
        name = await asker.made("/uploads", upload)
        ids = []
        for piece in (text[: size // 2], text[size // 2 :]):
            form = aiohttp.FormData()
            form.add_field("data", piece.encode(), filename="part")
            ids.append(await asker.made(f"/uploads/{name}/parts", form))
        file = (await asker.ask("POST", f"/uploads/{name}/complete", {"part_ids": ids}))[1]["file"]["id"]
    else:
        file = await asker.uploaded("batch", text)
    return await asker.ask("POST", "/batches", {"input_file_id": file, "endpoint": CHATS, "completion_window": "24h"})


@pytest.mark.parametrize("parts", [False, True])
async def test_a_line_of_a_batch_names_no_others_model(anna: Asker, bert: Asker, model: str, parts: bool) -> None:
    """However its file came, a batch with another's model in one of its lines is none, and goes nowhere."""

    async def reached() -> int:
        rows = (await bert.stack.control("provider", "served"))["rows"]
        return sum((row["method"], row["path"]) == ("POST", "/v1/batches") for row in rows)

    plain, named = {"model": "gpt-4o", "messages": HELLO}, {"model": model, "messages": HELLO}
    before = await reached()
    status, answer = await batched(bert, lines(plain, named, plain), parts=parts)
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    status, answer = await batched(bert, lines(plain) + "\nnothing", parts=parts)
    assert (status, answer["error"]["param"]) == (400, "input_file_id")
    assert await reached() == before
    assert (await batched(anna, lines(plain, named, plain), parts=parts))[0] == 200
    assert (await batched(bert, lines(plain), parts=parts))[0] == 200
    assert await reached() == before + 2


async def test_a_line_of_a_batch_names_no_others_object(anna: Asker, bert: Asker) -> None:
    """Another's file, or nobody's, in a line is none, as in the same request sent alone; one's own is read."""
    annas, berts = await anna.uploaded("user_data", "secret"), await bert.uploaded("user_data", "mine")

    def naming(name: str) -> str:
        content = [{"type": "file", "file": {"file_id": name}}]
        return lines(*({"model": "gpt-4o", "messages": said} for said in (HELLO, [{"role": "user", "content": content}])))

    for name, status in ((annas, 404), ("file-nobodys", 404), (berts, 200)):
        answered, answer = await batched(bert, naming(name))
        assert answered == status, answer
        assert status == 200 or name in answer["error"]["message"]


@pytest.mark.parametrize(("capped", "status"), [([300, 300, 300], 200), ([600, 300, 300], 429), ([300, None, None], 200)])
async def test_a_batch_holds_what_its_lines_cap(stack: Stack, capped: list[int | None], status: int) -> None:
    """With 1000 tokens left, a batch that may use more by its own caps is refused; what has none holds what is left."""
    asker = Asker(stack, await make_user(stack, output={"limit": 50_000, "used": 49_000}))
    bodies = [{"model": "gpt-4o", "messages": HELLO} | ({"max_tokens": cap} if cap else {}) for cap in capped]
    assert (await batched(asker, lines(*bodies)))[0] == status


async def test_ones_own_model_can_be_asked(anna: Asker, model: str) -> None:
    """The same places take the model for who had it made."""
    for path, body in SPELLED[:1]:
        filled = json.loads(json.dumps(body).replace("MODEL", model))
        assert (await anna.ask("POST", path, filled))[0] == 200


async def test_a_list_shows_ones_own_models(anna: Asker, bert: Asker, model: str) -> None:
    """`GET /v1/models` has the provider's own and the caller's, as the provider says it; others' are in none of it."""
    annas, berts = (await anna.ask("GET", "/models"))[1], (await bert.ask("GET", "/models"))[1]
    assert any(one["id"] == model for one in annas["data"])
    assert model not in json.dumps(berts)
    mine = [one for one in annas["data"] if model not in one["id"]]
    assert berts == {**annas, "data": mine}
    assert len(mine) > 5
    url = f"{bert.stack.provider_url}/v1/models"
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {bert.stack.provider_key}"}) as http:
        for asker, whole in ((anna, True), (bert, False)):
            async with http.get(url) as said, http.get(f"{asker.stack.base_url}/models", headers=asker._headers) as passed:
                assert (await said.read() == await passed.read()) is whole
                assert passed.headers["content-length"] == str(len(await passed.read()))
