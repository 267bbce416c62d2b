"""One account at the provider, many callers: what one makes, no other can read, list, change or delete, on any route."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from sentinel.openai import objects, routes
from sentinel.openai.objects import KINDS
from sentinel.openai.routes import ROUTES
from sentinel.ops.records import Reads, Route, Scope
from tests.process.conftest import SETTINGS
from tests.support.running import HELLO, User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

Answer = tuple[int, Any]
GUARDED = [route for route in ROUTES if any(f"{{{kind}}}" in route.template for kind in KINDS)]
LISTING = [route for route in ROUTES if route.scope is Scope.ACCOUNT]
# What is an input of a batch too.
FILE = {"purpose": "assistants", "file": ("notes.txt", b'{"custom_id":"notes"}')}


def form(fields: dict[str, Any]) -> aiohttp.FormData:
    """A multipart form; (name, bytes) is a file."""
    made = aiohttp.FormData(quote_fields=False)
    for name, value in fields.items():
        if isinstance(value, tuple):
            made.add_field(name, value[1], filename=value[0], content_type="application/octet-stream")
        else:
            # Without a second field aiohttp would send it URL-encoded.
            made.add_field(name, value, content_type="text/plain")
    return made


# How each kind is made: path, body; `{kind}` in a body is the caller's own. In an order in which each can be made.
MAKERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "file": ("/files", FILE, True),
    "upload": ("/uploads", {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}, False),
    "batch": (
        "/batches",
        {"input_file_id": "{file}", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        False,
    ),
    "response": ("/responses", {"model": "gpt-4o", "input": "Hello"}, False),
    "completion": ("/chat/completions", {"model": "gpt-4o", "messages": HELLO, "store": True}, False),
    "conversation": ("/conversations", {}, False),
    "vector_store": ("/vector_stores", {"name": "v"}, False),
    "assistant": ("/assistants", {"model": "gpt-4o"}, False),
    "thread": ("/threads", {}, False),
    "job": ("/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": "{file}"}, False),
    "container": ("/containers", {"name": "c"}, False),
    "video": ("/videos", {"model": "sora-2", "prompt": "A river"}, False),
    "character": ("/videos/characters", {"name": "c", "video": ("c.mp4", b"0000")}, True),
    "eval": (
        "/evals",
        {"data_source_config": {"type": "custom", "item_schema": {}}, "testing_criteria": [], "name": "e"},
        False,
    ),
    "skill": ("/skills", {"files": ("SKILL.md", b"# skill")}, True),
    "voice": ("/audio/voices", {"name": "v", "consent": "{consent}", "audio_sample": ("v.wav", b"0000")}, True),
    "consent": ("/audio/voice_consents", {"name": "v", "language": "en", "recording": ("v.wav", b"0000")}, True),
}
# Bodies that name another's object: path, and the body around the id.
NAMING: list[tuple[str, str, dict[str, Any]]] = [
    ("file", "/batches", {"input_file_id": "ID", "endpoint": "/v1/responses", "completion_window": "24h"}),
    ("file", "/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": "ID"}),
    ("file", "/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": "{file}", "validation_file": "ID"}),
    ("file", "/vector_stores", {"file_ids": ["{file}", "ID"]}),
    ("file", "/vector_stores/{vector_store}/files", {"file_id": "ID"}),
    ("file", "/vector_stores/{vector_store}/file_batches", {"file_ids": ["ID"]}),
    ("file", "/containers", {"name": "c", "file_ids": ["ID"]}),
    ("file", "/containers/{container}/files", {"file_id": "ID"}),
    (
        "file",
        "/chat/completions",
        {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "ID"}}]}]},
    ),
    (
        "file",
        "/responses",
        {"model": "gpt-4o", "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "ID"}]}]},
    ),
    (
        "file",
        "/threads",
        {"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "ID", "tools": []}]}]},
    ),
    ("response", "/responses", {"model": "gpt-4o", "input": "x", "previous_response_id": "ID"}),
    ("conversation", "/responses", {"model": "gpt-4o", "input": "x", "conversation": "ID"}),
    ("conversation", "/responses", {"model": "gpt-4o", "input": "x", "conversation": {"id": "ID"}}),
    (
        "vector_store",
        "/responses",
        {"model": "gpt-4o", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["ID"]}]},
    ),
    (
        "container",
        "/responses",
        {"model": "gpt-4o", "input": "x", "tools": [{"type": "code_interpreter", "container": "ID"}]},
    ),
    ("vector_store", "/threads", {"tool_resources": {"file_search": {"vector_store_ids": ["ID"]}}}),
    ("assistant", "/threads/{thread}/runs", {"assistant_id": "ID"}),
    ("assistant", "/threads/runs", {"assistant_id": "ID"}),
    ("voice", "/audio/speech", {"model": "gpt-4o-mini-tts", "input": "x", "voice": {"id": "ID"}}),
    ("voice", "/chat/completions", {"model": "gpt-4o", "messages": HELLO, "audio": {"voice": {"id": "ID"}, "format": "wav"}}),
    ("consent", "/audio/voices", {"name": "v", "type": "prompt", "consent": "ID"}),
    ("character", "/videos", {"model": "sora-2", "prompt": "A river", "characters": [{"id": "ID"}]}),
    ("video", "/videos/edits", {"prompt": "A river", "video": {"id": "ID"}}),
]


@dataclass
class Caller:
    """A user, and one object of each kind that it made."""

    user: User
    objects: dict[str, str]


class Town:
    """The stack as two callers see it."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.http = http

    async def ask(self, user: User, method: str, path: str, body: Any = None) -> Answer:
        """(status, JSON or bytes) of one request; a dict goes as JSON, a form as multipart."""
        url = f"{self.stack.base_url}{path}"
        given = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body} if body is not None else {}
        headers = {"authorization": f"Bearer {user.token}"}
        async with self.http.request(method, url, headers=headers, **given) as response:
            raw = await response.read()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, raw

    async def caller(self) -> Caller:
        """A new user with one object of each kind."""
        caller = Caller(await make_user(self.stack), {})
        for kind in sorted(MAKERS, key=lambda name: name == "voice"):
            path, body, multipart = MAKERS[kind]
            own = {name: filled(value, caller.objects) for name, value in body.items()}
            status, answer = await self.ask(caller.user, "POST", path, form(own) if multipart else own)
            assert status < 300, (kind, answer)
            caller.objects[kind] = answer["id"]
        return caller

    async def reached(self, method: str, path: str) -> int:
        """How often the provider was asked this."""
        rows = (await self.stack.control("provider", "served"))["rows"]
        return sum(row["method"] == method and row["path"] == f"/v1{path}" for row in rows)


def filled(value: Any, objects: dict[str, str], foreign: str = "") -> Any:
    """A body with ids in it: `{kind}` is the caller's own, ID the other's."""
    text = json.dumps(value) if not isinstance(value, tuple) else None
    if text is None:
        return value
    for kind, name in objects.items():
        text = text.replace(f"{{{kind}}}", name)
    return json.loads(text.replace('"ID"', json.dumps(foreign)))


def path_of(route: Route, objects: dict[str, str]) -> str:
    """The path of `route` with these objects in it."""
    path = route.template
    for kind, name in objects.items():
        path = path.replace(f"{{{kind}}}", name)
    return routes._PLACEHOLDER.sub("some-name", path)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(stack: Stack) -> AsyncIterator[Town]:
    """The shared stack."""
    async with aiohttp.ClientSession() as http:
        yield Town(stack, http)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def anna(town: Town) -> Caller:
    """A caller who has something of each kind."""
    return await town.caller()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bert(town: Town) -> Caller:
    """Another one."""
    return await town.caller()


async def test_every_kind_can_be_made() -> None:
    """The table of these tests has every kind that has an owner."""
    assert MAKERS.keys() == KINDS.keys()


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.method} {route.template}")
async def test_nobody_reaches_anothers_object(town: Town, anna: Caller, bert: Caller, route: Route) -> None:
    """Another's object is answered like one that does not exist, in the same words, and the provider is not asked."""
    body = {} if route.reads is not Reads.NOTHING else None
    path = path_of(route, anna.objects)
    before = await town.reached(route.method, path)
    status, foreign = await town.ask(bert.user, route.method, path, body)
    # Ids of the same form that nobody has.
    nobodys = {kind: name[:-4] + "0000" for kind, name in anna.objects.items()}
    _, missing = await town.ask(bert.user, route.method, path_of(route, nobodys), body)
    assert status == 404
    assert set(foreign["error"]) == {"message", "type", "param", "code"}
    words = json.dumps(missing)
    for kind, name in nobodys.items():
        words = words.replace(name, anna.objects[kind])
    assert foreign == json.loads(words)
    assert await town.reached(route.method, path) == before


@pytest.mark.parametrize(
    "route", [route for route in GUARDED if route.method == "GET"], ids=lambda route: f"{route.method} {route.template}"
)
async def test_everybody_reaches_their_own(town: Town, anna: Caller, route: Route) -> None:
    """The owner's request goes on to the provider, whatever that answers."""
    path = path_of(route, anna.objects)
    before = await town.reached("GET", path)
    await town.ask(anna.user, "GET", path)
    assert await town.reached("GET", path) > before


@pytest.mark.parametrize("route", LISTING, ids=lambda route: f"{route.method} {route.template}")
async def test_nobody_sees_or_changes_the_whole_account(town: Town, anna: Caller, route: Route) -> None:
    """What lists the objects of all callers, or changes what all use, is a clear 403."""
    path = path_of(route, anna.objects)
    status, answer = await town.ask(anna.user, route.method, path)
    assert (status, answer["error"]["code"]) == (403, "route_not_available")
    assert await town.reached(route.method, path) == 0


@pytest.mark.parametrize(("kind", "path", "body"), NAMING, ids=lambda value: value if isinstance(value, str) else "")
async def test_nobody_names_anothers_object(
    town: Town, anna: Caller, bert: Caller, kind: str, path: str, body: dict[str, Any]
) -> None:
    """An id in a body is guarded as one in a path is, also where JSON escapes hide it; one's own passes."""
    path = filled(path, bert.objects)
    before = await town.reached("POST", path)
    status, answer = await town.ask(bert.user, "POST", path, filled(body, bert.objects, anna.objects[kind]))
    assert (status, answer["error"]["message"]) == (404, objects.not_found(kind, anna.objects[kind]).message)
    escaped = json.dumps(filled(body, bert.objects, "ID?")).replace(
        "ID?", "".join(f"\\u{ord(c):04x}" for c in anna.objects[kind])
    )
    headers = {"authorization": f"Bearer {bert.user.token}", "content-type": "application/json"}
    async with town.http.post(f"{town.stack.base_url}{path}", data=escaped, headers=headers) as response:
        assert response.status == 404
    assert await town.reached("POST", path) == before
    await town.ask(bert.user, "POST", path, filled(body, bert.objects, bert.objects[kind]))
    assert await town.reached("POST", path) == before + 1


async def test_a_form_that_names_anothers_file_is_refused(town: Town, anna: Caller, bert: Caller) -> None:
    """Where a form may name objects it is searched: another's id in it is a 404, one's own goes on."""
    path = f"/containers/{bert.objects['container']}/files"
    before = await town.reached("POST", path)
    for owner, reached in ((anna, 0), (bert, 1)):
        content = form({"file_id": owner.objects["file"], "file": ("a.txt", b"some notes")})
        status, answer = await town.ask(bert.user, "POST", path, content)
        assert status == (200 if reached else 404), answer
        assert await town.reached("POST", path) == before + reached


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=b", "application/octet-stream", "image/png"])
async def test_no_content_type_hides_a_name(town: Town, anna: Caller, bert: Caller, content_type: str) -> None:
    """Rule H11: where no file belongs, another's object cannot be named in what is not read as JSON."""
    name = anna.objects["file"]
    fields = {"input_file_id": name, "endpoint": "/v1/responses", "completion_window": "24h"}
    parts = [f'--b\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    body = f"{''.join(parts)}--b--\r\n" if content_type.startswith("multipart") else json.dumps(fields)
    headers = {"authorization": f"Bearer {bert.user.token}", "content-type": content_type}
    before = await town.reached("POST", "/batches")
    async with town.http.post(f"{town.stack.base_url}/batches", data=body, headers=headers) as response:
        assert response.status == 415
    assert await town.reached("POST", "/batches") == before


@pytest.mark.parametrize("source", ["stored_completions", "responses"])
async def test_nobody_runs_an_eval_over_what_others_stored(town: Town, anna: Caller, source: str) -> None:
    """The account's stored completions and responses are those of all callers; a run over them shows their texts."""
    path = f"/evals/{anna.objects['eval']}/runs"
    before = await town.reached("POST", path)
    body = {"data_source": {"type": "completions", "model": "gpt-4o", "source": {"type": source}}}
    status, answer = await town.ask(anna.user, "POST", path, body)
    assert (status, answer["error"]["code"]) == (403, "route_not_available")
    assert await town.reached("POST", path) == before
    body["data_source"]["source"] = {"type": "file_id", "id": anna.objects["file"]}
    assert (await town.ask(anna.user, "POST", path, body))[0] == 200


async def test_what_work_leaves_belongs_to_who_asked_for_it(town: Town, anna: Caller, bert: Caller) -> None:
    """The files a batch writes and the file an upload becomes are their caller's, and nobody else's."""
    status, upload = await town.ask(
        anna.user, "POST", "/uploads", {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}
    )
    assert status == 200
    _, part = await town.ask(anna.user, "POST", f"/uploads/{upload['id']}/parts", form({"data": ("part", b"abcd")}))
    _, whole = await town.ask(anna.user, "POST", f"/uploads/{upload['id']}/complete", {"part_ids": [part["id"]]})
    left = [whole["file"]["id"]]
    async with asyncio.timeout(15):
        while not (batch := (await town.ask(anna.user, "GET", f"/batches/{anna.objects['batch']}"))[1]).get("output_file_id"):
            await asyncio.sleep(0.1)
    left.append(batch["output_file_id"])
    for name in left:
        assert (await town.ask(anna.user, "GET", f"/files/{name}"))[0] == 200
        assert (await town.ask(bert.user, "GET", f"/files/{name}"))[0] == 404


async def test_a_fine_tuned_model_is_its_makers(town: Town, anna: Caller, bert: Caller) -> None:
    """Who has a model tuned can ask it and look at it, also at its earlier states; for all others there is none."""
    async with asyncio.timeout(15):
        while not (job := (await town.ask(anna.user, "GET", f"/fine_tuning/jobs/{anna.objects['job']}"))[1])[
            "fine_tuned_model"
        ]:
            await asyncio.sleep(0.1)
    model = job["fine_tuned_model"]
    for name in (model, f"{model}:ckpt-step-1"):
        for method, path, body in (
            ("POST", "/chat/completions", {"model": name, "messages": HELLO}),
            ("POST", "/responses", {"model": name, "input": "x"}),
            ("GET", f"/models/{name}", None),
            ("GET", f"/models/{name.replace(':', '%3A')}", None),
        ):
            status, answer = await town.ask(bert.user, method, path, body)
            assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert (await town.ask(anna.user, "POST", "/chat/completions", {"model": model, "messages": HELLO}))[0] == 200
    assert (await town.ask(anna.user, "GET", f"/models/{model}"))[0] == 200


@pytest.mark.parametrize("mode", ["off", "stateless", "all"])
async def test_the_mode_says_what_passes(tmp_path_factory: pytest.TempPathFactory, mode: str) -> None:
    """off: what chats, completes, embeds and responds; stateless: also what leaves nothing; all: everything, unguarded."""
    settings = SETTINGS | {"SENTINEL_PASSTHROUGH": mode}
    async with (
        Stack(tmp_path_factory.mktemp(mode), workers=1, settings=settings) as stack,
        aiohttp.ClientSession() as http,
    ):
        town = Town(stack, http)
        anna, bert = await make_user(stack), await make_user(stack)
        codes = {}
        for name, method, path, body in (
            ("chat", "POST", "/chat/completions", {"model": "gpt-4o", "messages": HELLO}),
            ("moderation", "POST", "/moderations", {"input": "x"}),
            ("files", "GET", "/files", None),
            ("conversation", "POST", "/conversations", {}),
        ):
            codes[name], answer = await town.ask(anna, method, path, body)
        status, answer = await town.ask(anna, "POST", "/responses", {"model": "gpt-4o", "input": "x"})
        assert status == 200
        if mode == "all":
            assert set(codes.values()) == {200}
            assert (await town.ask(bert, "GET", f"/responses/{answer['id']}"))[0] == 200
            return
        assert codes == {"chat": 200, "moderation": 200 if mode == "stateless" else 403, "files": 403, "conversation": 403}
        # Nothing may be left behind, neither by default nor on request.
        assert answer["store"] is False
        status, answer = await town.ask(anna, "POST", "/responses", {"model": "gpt-4o", "input": "x", "background": True})
        assert (status, answer["error"]["code"]) == (403, "route_not_available")
        status, answer = await town.ask(anna, "GET", f"/responses/{'resp_x'}")
        assert (status, answer["error"]["code"]) == (403, "route_not_available")
