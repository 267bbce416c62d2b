"""What an application says in words of its own is never refused for its spelling, and reaches no other caller's object."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from sentinel.openai.request.object_ids import OBJECT_PREFIXES
from tests.process.conftest import SETTINGS
from tests.support.running import HELLO, User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

# What each route is asked, beside which an application puts its own.
ASKED: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "gpt-4o", "messages": HELLO},
    "/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello"},
    "/embeddings": {"model": "text-embedding-3-small", "input": "Hello"},
    "/responses": {"model": "gpt-4o", "input": [{"role": "user", "content": "Hello"}]},
}
# Fields of an application's own, as coding agents and frameworks send them.
FIELDS: list[dict[str, Any]] = [
    {"client_metadata": {"session_id": "conv_1", "thread_id": "thread_1"}},
    {"client_metadata": {"session_id": "0199-ab", "thread_id": "0199-ab", "x-codex-turn-metadata": '{"turn_id":"resp_1"}'}},
    {"thread_id": "lg-7"},
    {"session_id": "conv_1"},
    {"user_id": "batch_7"},
    {"trace_id": "resp_9"},
    {"user": "file-1", "safety_identifier": "thread_9", "prompt_cache_key": "conv_7"},
    {"metadata": {"thread_id": "thread_1", "file_id": "file-1"}},
    {"extra": {"conversation": {"id": "lg-7"}, "assistant_id": "mine", "batch_ids": ["batch_1", "batch_2"]}},
]
# Ids of calls made of functions' names.
CALLS = sorted(f"{prefix}read-1758" for prefix in OBJECT_PREFIXES)


def turn(path: str, call_id: str) -> dict[str, Any]:
    """A conversation in which a tool was called under this id."""
    if path == "/chat/completions":
        call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": call_id, "content": "x"}]
        return {"model": "gpt-4o", "messages": [*HELLO, *messages]}
    called = {"type": "function_call", "id": call_id, "call_id": call_id, "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "id": call_id, "call_id": call_id, "output": "x"}
    return {"model": "gpt-4o", "input": [*HELLO, called, output]}


class Callers:
    """Two callers of one stack; `file` is an object of Anna's."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession, anna: User, bert: User) -> None:
        self._url = stack.base_url
        self._http = http
        self.anna, self.bert = anna, bert
        self.file = ""

    async def ask(self, user: User, path: str, body: Any) -> tuple[int, Any]:
        """(status, JSON) of a POST; a dict goes as JSON, a form as multipart."""
        given: Mapping[str, Any] = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        async with self._http.post(f"{self._url}{path}", headers={"authorization": f"Bearer {user.token}"}, **given) as answer:
            return answer.status, json.loads(await answer.read())


def form(fields: Mapping[str, str]) -> aiohttp.FormData:
    """A multipart form of texts."""
    made = aiohttp.FormData(quote_fields=False)
    for name, value in fields.items():
        made.add_field(name, value, content_type="text/plain")
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def callers(stack: Stack) -> AsyncIterator[Callers]:
    """Two callers in the default mode."""
    async with aiohttp.ClientSession() as http:
        made = Callers(stack, http, await make_user(stack), await make_user(stack))
        upload = aiohttp.FormData({"purpose": "assistants"})
        upload.add_field("file", b"some notes", filename="notes.txt")
        status, answer = await made.ask(made.anna, "/files", upload)
        assert status == 200, answer
        made.file = answer["id"]
        yield made


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("fields", FIELDS, ids=str)
async def test_fields_of_an_application_pass(callers: Callers, path: str, fields: dict[str, Any]) -> None:
    """No field is refused for its key or its spelling, whatever it looks like."""
    status, answer = await callers.ask(callers.anna, path, {**ASKED[path], **fields})
    assert status == 200, answer


@pytest.mark.parametrize("path", ASKED)
async def test_an_application_may_say_as_much_as_it_likes(callers: Callers, path: str) -> None:
    """Thousands of texts that look like ids are no reason to refuse; another's object is found among them all the same."""
    words = [{"session_id": f"conv_{number}"} for number in range(6000)]
    status, answer = await callers.ask(callers.bert, path, {**ASKED[path], "extra": words})
    assert status == 200, answer
    words[5000] = {"session_id": callers.file}
    assert (await callers.ask(callers.bert, path, {**ASKED[path], "extra": words}))[0] == 404


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
@pytest.mark.parametrize("call_id", CALLS)
async def test_ids_of_tool_calls_pass(callers: Callers, path: str, call_id: str) -> None:
    """A model names its calls as it likes: a function's name in front makes no object of it."""
    status, answer = await callers.ask(callers.anna, path, turn(path, call_id))
    assert status == 200, answer


@pytest.mark.parametrize("name", ["thread_id", "user_id", "mine[file_id]", "note"])
async def test_fields_of_a_form_pass(callers: Callers, name: str) -> None:
    """The same in a form that is searched."""
    for value in ("lg-7", "batch_7", "file-1"):
        fields = {"model": "sora-2", "prompt": "A river", name: value}
        status, answer = await callers.ask(callers.anna, "/videos", form(fields))
        assert status == 200, answer


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("key", ["file_id", "my_id", "new_file", "attached_ids"])
async def test_no_new_field_reaches_anothers_object(callers: Callers, path: str, key: str) -> None:
    """What another caller is known to own is refused wherever it stands, as if it did not exist; to its owner it is not."""
    body = {**ASKED[path], "extra": [{key: callers.file}]}
    status, answer = await callers.ask(callers.bert, path, body)
    assert (status, answer["error"]["message"]) == (404, f"No such File object: {callers.file}")
    body["extra"] = {"metadata": {key: callers.file}}
    assert (await callers.ask(callers.bert, path, body))[0] == 200
    body["extra"] = [{key: callers.file}, {key: "file-nobodys"}]
    assert (await callers.ask(callers.anna, path, body))[0] == 200


async def test_no_field_of_a_form_reaches_anothers_object(callers: Callers) -> None:
    """The same in a form that is searched."""
    fields = {"model": "sora-2", "prompt": "A river", "extra": callers.file}
    assert (await callers.ask(callers.bert, "/videos", form(fields)))[0] == 404
    assert (await callers.ask(callers.anna, "/videos", form(fields)))[0] == 200


@pytest.mark.parametrize("name", ["file-nobodys", "lg-7"])
async def test_at_a_place_of_the_api_nobodys_object_is_refused(callers: Callers, name: str) -> None:
    """Where the API takes an id, what nobody here has made is not found, whatever it looks like."""
    content = [{"type": "input_file", "file_id": name}]
    for fields in ({"previous_response_id": name}, {"conversation": name}, {"input": [{"role": "user", "content": content}]}):
        status, answer = await callers.ask(callers.anna, "/responses", {**ASKED["/responses"], **fields})
        assert status == 404, (fields, answer)


@pytest.mark.parametrize("mode", ["off", "stateless"])
async def test_without_objects_only_places_of_the_api_are_refused(tmp_path_factory: pytest.TempPathFactory, mode: str) -> None:
    """Where no objects are served, an application's own words pass all the same, and an object's id does not."""
    async with (
        Stack(tmp_path_factory.mktemp(mode), workers=1, settings=SETTINGS | {"SENTINEL_PASSTHROUGH": mode}) as stack,
        aiohttp.ClientSession() as http,
    ):
        callers = Callers(stack, http, await make_user(stack), await make_user(stack))
        for path, asked in ASKED.items():
            for fields in FIELDS:
                status, answer = await callers.ask(callers.anna, path, {**asked, **fields})
                assert status == 200, (path, fields, answer)
        for path in ("/chat/completions", "/responses"):
            for call_id in CALLS:
                assert (await callers.ask(callers.anna, path, turn(path, call_id)))[0] == 200
        status, _ = await callers.ask(callers.anna, "/responses", {**ASKED["/responses"], "previous_response_id": "resp_1"})
        assert status == 404
