"""Answers under wrong labels, through real Granian: the same bytes, the right label and bill, or a 502 that costs nothing."""

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import openai
import pytest

from sentinel.devstack.stack import Stack
from tests.process.test_streams import Town
from tests.stages.relay.test_endings import CREATED, said
from tests.support.liar import PAGE
from tests.support.running import User, make_user, sdk
from tests.support.scripted import DONE, Asked, Scripted, event, usage

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

JSON, EVENTS = "application/json", "text/event-stream; charset=utf-8"
WRONG = ("text/plain; charset=utf-8", "text/html", "application/octet-stream", "")
MEDIA = {"/audio/speech", "/images/generations"}
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": MESSAGES},
    "/completions": {"prompt": "hi"},
    "/responses": {"input": "hi"},
    "/embeddings": {"input": "hi"},
    "/audio/speech": {"input": "hi", "voice": "alloy"},
    "/images/generations": {"prompt": "hi"},
    "/moderations": {"input": "hi"},
    "/threads/runs": {"thread": {"messages": MESSAGES}},
}

WORDS = event("a") + event("b", finish="stop")
CHAT_STREAM = WORDS + usage(227, 4) + DONE
SHOWN = WORDS + DONE
CHAT = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"content": "a" * 400}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 115, "completion_tokens": 4, "total_tokens": 119},
    }
).encode()
TEXT = CHAT.replace(b'"message": {"content": "', b'"text": "').replace(b'"}, "finish_reason"', b'", "finish_reason"')
VECTORS = b'{"object":"list","data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":5,"total_tokens":5}}'
RESPONSE = b'{"id":"resp_1","object":"response","status":"completed","output":[],"usage":{"input_tokens":9,"output_tokens":2}}'
RESPONSE_STREAM = CREATED + said("response.completed", 9)
RUN = (
    b'{"id":"run_1","object":"thread.run","thread_id":"thread_1","status":"completed","usage":'
    b'{"prompt_tokens":6,"completion_tokens":2,"total_tokens":8}}'
)
RUN_STREAM = b"event: thread.run.completed\ndata: " + RUN + b"\n\nevent: done\ndata: [DONE]\n\n"
ERROR = b'{"error":{"message":"It broke.","type":"server_error","param":null,"code":null}}'
BOM = b"\xef\xbb\xbf"


@pytest.fixture(scope="module")
def town(scripted: tuple[Stack, Scripted]) -> Town:
    """The stack whose provider is scripted, without what other files wrote for it."""
    scripted[1].acts.clear()
    return Town(*scripted)


def script(
    town: Town, label: str, segments: list[bytes], *, status: str = "200 OK", more: str = "", between_s: float = 0.003
) -> None:
    """The act "labelled": a head of its own segment with this label, then each part of the body in another."""
    head = f"HTTP/1.1 {status}\r\ncontent-length: {sum(map(len, segments))}\r\n{more}"
    head += f"content-type: {label}\r\n\r\n" if label else "\r\n"

    async def play(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(segments) == 1:
            writer.write(head.encode() + segments[0])
            return
        writer.write(head.encode())
        for segment in segments:
            await writer.drain()
            await asyncio.sleep(between_s)
            writer.write(segment)

    town.provider.acts["labelled"] = play


async def ask(
    town: Town, http: aiohttp.ClientSession, user: User, path: str, *, stream: bool, **more: Any
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one call to `path`."""
    asked = {"model": "gpt-4o", "act": "labelled", **BODIES[path], **({"stream": True} if stream else {}), **more}
    async with http.post(town.stack.base_url + path, json=asked, headers={"authorization": f"Bearer {user.token}"}) as response:
        return response.status, {name.lower(): value for name, value in response.headers.items()}, await response.read()


async def used(town: Town, http: aiohttp.ClientSession, user: User) -> list[int]:
    """What the ledger has charged (requests, input, output), once nothing of the user is held any more."""
    async with asyncio.timeout(20):
        while True:
            async with http.get(f"{town.stack.base_url}/usage", headers={"authorization": f"Bearer {user.token}"}) as response:
                limits = list((await response.json())["limits"].values())
            if not any(limit["held"] for limit in limits):
                return [limit["used"] for limit in limits]
            await asyncio.sleep(0.02)


# By name: the path, whether a stream is asked for, the labels, what comes, what goes down (None: the same), its label, the bill
# (where no usage came, the prompt's estimate).
Row = tuple[str, bool, tuple[str, ...], bytes, bytes | None, str, list[int]]
PICTURE = b'{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"input_tokens":50,"output_tokens":400,"total_tokens":450}}'
PICTURES = (
    b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"AAAA",'
    + PICTURE[-67:]
    + b"\n\n"
)
ROWS: dict[str, Row] = {
    "a stream, asked for": ("/chat/completions", True, (JSON, *WRONG), CHAT_STREAM, SHOWN, EVENTS, [1, 227, 4]),
    "a stream, not asked for": ("/chat/completions", False, (JSON, *WRONG), CHAT_STREAM, None, EVENTS, [1, 227, 4]),
    "a stream behind blank lines": (
        "/chat/completions",
        True,
        (JSON, ""),
        b"\n\r\n" + CHAT_STREAM,
        b"\n\r\n" + SHOWN,
        EVENTS,
        [1, 227, 4],
    ),
    "a stream behind a BOM": ("/chat/completions", True, (JSON, ""), BOM + CHAT_STREAM, BOM + SHOWN, EVENTS, [1, 227, 4]),
    "a stream behind a comment": (
        "/chat/completions",
        True,
        (JSON, ""),
        b": hi\n\n" + CHAT_STREAM,
        b": hi\n\n" + SHOWN,
        EVENTS,
        [1, 227, 4],
    ),
    "a stream of completions": ("/completions", True, (JSON, ""), CHAT_STREAM, SHOWN, EVENTS, [1, 227, 4]),
    "a stream of a response": ("/responses", True, (JSON, *WRONG), RESPONSE_STREAM, None, EVENTS, [1, 9, 1]),
    "JSON, none asked for": ("/chat/completions", False, ("text/event-stream", *WRONG), CHAT, None, JSON, [1, 115, 4]),
    "JSON, a stream asked for": ("/chat/completions", True, (JSON, *WRONG), CHAT, None, JSON, [1, 115, 4]),
    "JSON behind a BOM": ("/chat/completions", False, (JSON, *WRONG), BOM + CHAT, None, JSON, [1, 115, 4]),
    "JSON behind blank lines": ("/chat/completions", False, (JSON, *WRONG), b"\n\n  " + CHAT, None, JSON, [1, 115, 4]),
    "JSON of completions": ("/completions", False, WRONG, TEXT, None, JSON, [1, 115, 4]),
    "JSON of embeddings": ("/embeddings", False, WRONG, VECTORS, None, JSON, [1, 5, 0]),
    "JSON of a response": ("/responses", False, WRONG, RESPONSE, None, JSON, [1, 9, 2]),
    "JSON of moderations": ("/moderations", False, WRONG, b'{"results":[]}', None, JSON, [1, 1, 0]),
    "JSON of a run": ("/threads/runs", False, WRONG, RUN, None, JSON, [1, 6, 2]),
    "a stream of a run": ("/threads/runs", True, (JSON, *WRONG), RUN_STREAM, None, EVENTS, [1, 6, 2]),
    "an error as text": ("/chat/completions", True, WRONG, ERROR, None, JSON, [1, 0, 0]),
    "an error as a stream": (
        "/chat/completions",
        True,
        ("text/event-stream",),
        ERROR,
        b"data: " + ERROR + b"\n\n" + DONE,
        "text/event-stream",
        [1, 0, 0],
    ),
    "an error as a stream of a response": (
        "/responses",
        True,
        ("text/event-stream",),
        ERROR,
        b"data: " + ERROR + b"\n\n",
        "text/event-stream",
        [1, 0, 0],
    ),
    "JSON that is some other JSON": (
        "/chat/completions",
        False,
        ("application/vnd.x+json",),
        CHAT,
        None,
        "application/vnd.x+json",
        [1, 115, 4],
    ),
    "speech": ("/audio/speech", False, ("audio/mpeg", "", "text/html"), b"\xff\xfb<html>" * 9, None, "", [1, 1, 0]),
    "speech that looks like a stream": ("/audio/speech", False, ("audio/mpeg",), b"data: x\n\n", None, "", [1, 1, 0]),
    "speech that is a stream": ("/audio/speech", False, (JSON, "text/plain", ""), b"data: x\n\n", None, EVENTS, [1, 1, 0]),
    "speech that looks like JSON": ("/audio/speech", False, ("audio/mpeg",), PICTURE, None, "", [1, 1, 0]),
    "a transcript": ("/audio/speech", False, ("text/plain", ""), b"[Music] {and} data: more", None, "", [1, 1, 0]),
    "a picture in JSON": (
        "/images/generations",
        False,
        ("text/plain", "", "text/event-stream"),
        PICTURE,
        None,
        JSON,
        [1, 50, 400],
    ),
    "pictures in a stream": ("/images/generations", True, (JSON, "text/plain", ""), PICTURES, None, EVENTS, [1, 50, 400]),
    "a picture": ("/images/generations", False, ("image/png",), b"\x89PNG" * 9, None, "", [1, 1, 0]),
}


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, row in ROWS.items() for label in row[2]])
async def test_an_answer_is_what_it_is(town: Town, http: aiohttp.ClientSession, name: str, label: str) -> None:
    """Whatever the label, the bytes that come go down, under the right label, and what was served is booked."""
    path, stream, _, body, shown, expected, bill = ROWS[name]
    user = await make_user(town.stack)
    script(town, label, [body])
    status, headers, came = await ask(town, http, user, path, stream=stream)
    assert (status, came) == (200, body if shown is None else shown)
    assert headers.get("content-type", "") == (expected or label)
    if expected == EVENTS:
        assert (headers["cache-control"], headers.get("content-length")) == ("no-cache", None)
    elif expected == JSON:
        assert headers["content-length"] == str(len(body))
    assert await used(town, http, user) == bill
    assert list(await town.bill(user)) == bill


@pytest.mark.parametrize(
    ("label", "body", "shown", "expected", "bill"),
    [
        (JSON, CHAT_STREAM, SHOWN, EVENTS, [1, 227, 4]),
        ("", b"\n\n" + CHAT_STREAM, b"\n\n" + SHOWN, EVENTS, [1, 227, 4]),
        ("text/plain", BOM + CHAT, BOM + CHAT, JSON, [1, 115, 4]),
        (JSON, b" \n" + CHAT, b" \n" + CHAT, JSON, [1, 115, 4]),
    ],
)
async def test_the_first_bytes_may_come_one_by_one(
    town: Town, http: aiohttp.ClientSession, label: str, body: bytes, shown: bytes, expected: str, bill: list[int]
) -> None:
    """The first bytes tell the same in one segment, in two at every place of the first word, and one by one."""
    user = await make_user(town.stack)
    ways = [[body[:at], body[at:]] for at in range(1, 9)]
    ways.append([*(body[at : at + 1] for at in range(9)), body[9:]])
    for segments in ways:
        script(town, label, segments)
        status, headers, came = await ask(town, http, user, "/chat/completions", stream=True)
        assert (status, headers["content-type"], came) == (200, expected, shown)
    assert await used(town, http, user) == [len(ways) * figure for figure in bill]


@pytest.mark.parametrize("path", [path for path in BODIES if path not in MEDIA])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("label", [JSON, "text/html; charset=utf-8", ""])
@pytest.mark.parametrize("body", [PAGE, b"upstream is fine", b"", b"\n \n", b'"text"'])
async def test_what_no_model_said_costs_nothing(
    town: Town, http: aiohttp.ClientSession, path: str, label: str, body: bytes, stream: bool
) -> None:
    """Anything else under a status of success is 502 in OpenAI's shape, is not billed, and is in no usual log."""
    user = await make_user(town.stack)
    script(town, label, [body])
    status, headers, came = await ask(town, http, user, path, stream=stream)
    error = json.loads(came)["error"]
    assert (status, error["code"], error["type"], headers["x-should-retry"]) == (
        502,
        "upstream_not_json",
        "server_error",
        "false",
    )
    assert headers["content-type"].startswith(JSON)
    assert await used(town, http, user) == [0, 0, 0]
    assert "Please log in" not in town.stack.child("sentinel").output()


async def test_a_page_under_the_label_of_a_stream(town: Town, http: aiohttp.ClientSession) -> None:
    """A page that comes with its head is told also where events were announced, asked for or not."""
    user = await make_user(town.stack)
    script(town, "text/event-stream", [PAGE])
    for stream in (True, False):
        status, _, came = await ask(town, http, user, "/chat/completions", stream=stream)
        assert (status, json.loads(came)["error"]["code"]) == (502, "upstream_not_json")
    assert await used(town, http, user) == [0, 0, 0]


@pytest.mark.parametrize(
    ("label", "body", "shown", "bill"), [("text/plain", CHAT_STREAM, SHOWN, [1, 227, 4]), ("", CHAT, CHAT, [1, 115, 4])]
)
async def test_compressed_answers_under_wrong_labels(
    town: Town, http: aiohttp.ClientSession, label: str, body: bytes, shown: bytes, bill: list[int]
) -> None:
    """What came compressed goes down plain under the right label, and its usage is the bill."""
    user = await make_user(town.stack)
    script(town, label, [gzip.compress(body)], more="content-encoding: gzip\r\n")
    status, headers, came = await ask(town, http, user, "/chat/completions", stream=True)
    assert (status, came, headers.get("content-encoding")) == (200, shown, None)
    assert await used(town, http, user) == bill


@pytest.mark.parametrize("status", ["400 Bad", "404 Missing", "429 Slow", "502 Bad Gateway", "529 Busy"])
async def test_errors_keep_their_pages(town: Town, http: aiohttp.ClientSession, status: str) -> None:
    """Under a status of failure a page passes as it is, free of charge."""
    user = await make_user(town.stack)
    script(town, "text/html", [PAGE], status=status)
    got, headers, came = await ask(town, http, user, "/chat/completions", stream=False)
    assert (got, headers["content-type"], came) == (int(status[:3]), "text/html", PAGE)
    assert await used(town, http, user) == [0, 0, 0]


@pytest.mark.parametrize("path", [path for path in BODIES if path not in MEDIA])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("label", ["", JSON, "text/event-stream"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "205 Reset Content"])
async def test_an_answer_without_a_body_is_none_of_a_model(
    town: Town, http: aiohttp.ClientSession, path: str, label: str, status: str, stream: bool
) -> None:
    """Whoever asked a model and gets a success without a body is told so, free of charge, whatever its status."""
    user = await make_user(town.stack)
    script(town, label, [b""], status=status)
    got, _, came = await ask(town, http, user, path, stream=stream)
    assert (got, json.loads(came)["error"]["code"]) == (502, "upstream_not_json")
    assert await used(town, http, user) == [0, 0, 0]


# Told to be JSON by white space for longer than the label is waited for: what comes, the state, what goes down, the bill of a
# chat that asked for events, and of one that did not.
BLANK = b" \n" * 30
MISLABELLED = [
    (PAGE, 200, [0, 0, 0], [1, 0, 0]),
    (b"maintenance", 200, [0, 0, 0], [1, 0, 0]),
    (CHAT_STREAM, 200, [1, 227, 4], [1, 227, 4]),
    (CHAT, 200, [1, 115, 4], [1, 115, 4]),
]


@pytest.mark.parametrize(("body", "status", "of_stream", "of_plain"), MISLABELLED)
async def test_white_space_that_promised_json(
    town: Town, http: aiohttp.ClientSession, body: bytes, status: int, of_stream: list[int], of_plain: list[int]
) -> None:
    """White space keeps a plain answer alive, so it passes; but what comes behind is billed by what it is, and who
    asked for events gets none of it before that is known.
    """
    user, streaming = await make_user(town.stack), await make_user(town.stack)
    script(town, JSON, [BLANK, body], between_s=0.2)
    got, headers, came = await ask(town, http, user, "/chat/completions", stream=False)
    assert (got, headers["content-type"], came) == (status, JSON, BLANK + body)
    assert await used(town, http, user) == of_plain
    got, headers, came = await ask(town, http, streaming, "/chat/completions", stream=True)
    if of_stream == [0, 0, 0]:
        assert (got, json.loads(came)["error"]["code"]) == (502, "upstream_not_json")
    elif body is CHAT_STREAM:
        assert (got, headers["content-type"], came.lstrip()) == (200, EVENTS, SHOWN)
    else:
        assert (got, headers["content-type"], came) == (200, JSON, BLANK + body)
    assert await used(town, http, streaming) == of_stream


async def test_what_has_no_body_by_its_method_passes(town: Town, http: aiohttp.ClientSession) -> None:
    """HEAD has no first byte, and what no tokens are counted of is not judged."""
    user = await make_user(town.stack)

    async def page(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(PAGE)}\r\n\r\n".encode()
        writer.write(head if _asked.method == "HEAD" else head + PAGE)

    town.provider.acts["/v1/models"] = page
    for method, body in (("HEAD", b""), ("GET", PAGE)):
        async with http.request(
            method, f"{town.stack.base_url}/models", headers={"authorization": f"Bearer {user.token}"}
        ) as response:
            assert (response.status, await response.read()) == (200, body)


async def test_the_sdk_reads_what_was_labelled_wrongly(town: Town) -> None:
    """OpenAI's own SDK reads a stream under any label without the usage event, and raises on a bare error."""
    user = await make_user(town.stack)
    asked: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES, "extra_body": {"act": "labelled"}}
    async with sdk(town.stack, user.token) as client:
        script(town, JSON, [CHAT_STREAM])
        parts = [part async for part in await client.chat.completions.create(**asked, stream=True)]
        assert "".join(part.choices[0].delta.content or "" for part in parts) == "ab"
        script(town, "text/plain", [CHAT])
        answer = await client.chat.completions.create(**asked)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 115
        script(town, "text/event-stream", [ERROR])
        with pytest.raises(openai.APIError, match="It broke"):
            async for _ in await client.chat.completions.create(**asked, stream=True):
                pass
        script(town, "text/html", [PAGE])
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**asked, stream=True)
        assert caught.value.code == "upstream_not_json"
    async with asyncio.timeout(10):
        while await town.bill(user) != (3, 227 + 115, 8):
            await asyncio.sleep(0.02)


async def test_a_page_is_counted(town: Town, http: aiohttp.ClientSession) -> None:
    """An operator sees pages in the metric of the provider's answers, and a warning that names their type."""
    script(town, "text/html", [PAGE])
    await ask(town, http, await make_user(town.stack), "/chat/completions", stream=False)
    async with asyncio.timeout(5):
        while True:
            async with http.get(f"{town.stack.admin_url}/metrics") as response:
                if 'sentinel_upstream_answers_total{answer="upstream_not_json"}' in await response.text():
                    break
            await asyncio.sleep(0.1)
    lines = [json.loads(line) for line in town.stack.child("sentinel").output().splitlines() if "content_type" in line]
    assert {(line["event"], line["level"]) for line in lines} == {("provider answers with neither JSON nor events", "warning")}
    assert "text/html" in {line["content_type"] for line in lines}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [[b"Please log in."], [b"Please ", b"log in."], [b"\n", b"<html>" * 900], [b": still here\n\n"], [b"\n\n"], [b""]],
    ids=["a text", "a text in pieces", "a page behind a line", "comments alone", "lines alone", "nothing"],
)
async def test_a_stream_in_which_no_event_came_costs_nothing(
    town: Town, http: aiohttp.ClientSession, pieces: list[bytes], *, stream: bool
) -> None:
    """A page under the label of a stream is no answer of a model, however late that shows."""
    user = await make_user(town.stack)
    script(town, "text/event-stream", pieces)
    status, _, came = await ask(town, http, user, "/chat/completions", stream=stream)
    assert status in (200, 502)
    assert b"upstream_not_json" in came
    assert await used(town, http, user) == [0, 0, 0]
