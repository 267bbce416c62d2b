"""intake: a compressed body is read within the budget, or streams by as it came."""

import asyncio
import gzip
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.downstream import content_codings
from sentinel.downstream.body_budget import Bodies
from sentinel.downstream.exchange import Exchange
from sentinel.downstream.offload import Offload
from sentinel.openai import routes
from sentinel.openai.models import Models
from sentinel.openai.request.json_limits import decoded_bytes
from sentinel.ops.errors import BadRequestError, BodyTooLargeError, SentinelError
from sentinel.stages.intake import Intake
from tests.support.bodies import bodies

MB = 2**20
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na river\r\n--x--\r\n'
EMOJI = "\N{GRINNING FACE}"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def intake(shared: Bodies, *, searching: bool = True) -> Intake:
    """An intake of these bodies."""
    return Intake(shared, Offload(), Models(()), upload_bytes_max=4 * MB, searching=searching, trace_upstream=False)


def room(count: float) -> Bodies:
    """Room for so many bytes, in bodies of up to 4 MB."""
    return bodies(count, bytes_max=4 * MB)


def exchange(body: bytes, path: str, content_type: str, *, coding: str) -> Exchange:
    """A request with a body that has arrived."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        raise AssertionError

    lines = {"content-type": content_type, "content-length": str(len(body)), "content-encoding": coding}
    headers = [(name.encode(), value.encode()) for name, value in lines.items()]
    scope = {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    return Exchange(scope, receive, send, "req_1")


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/videos/edits", "/v1/audio/voices"])
@pytest.mark.parametrize("searching", [True, False])
async def test_a_form_is_read_or_streams_by(path: str, searching: bool) -> None:
    """Rule H18: where forms are looked through it is made plain; where they are not it keeps its coding."""
    packed = gzip.compress(PART)
    asked = exchange(packed, path, FORM, coding="gzip")
    call, upload = await intake(room(MB), searching=searching).read(asked, routes.match("POST", path).route, "a")
    if searching:
        assert (upload, call.body, call.coding) == (None, PART, "")
    else:
        assert upload is not None
        assert (b"".join([part async for part in upload]), call.body, call.coding) == (packed, b"", "gzip")
    asked.close()


@pytest.mark.parametrize("size", [0, 10, MB - 1, MB, 3 * MB])
async def test_what_comes_out_is_what_counts(size: int) -> None:
    """Rule H13: while it comes out both count, then what came out and what is decoded of it, then the former alone."""
    body = json.dumps(CHAT | {"padding": "x" * size}).encode()
    packed = gzip.compress(body)
    most = len(body) + max(len(packed), decoded_bytes(body))
    for count, enough in ((most, True), (most - 1, False), (len(packed), False)):
        shared = room(count)
        asked = exchange(packed, "/v1/chat/completions", "application/json", coding="gzip")
        reading = intake(shared).read(asked, routes.match("POST", "/v1/chat/completions").route, "a")
        if enough:
            call, _ = await reading
            assert asked.body is not None
            asked.body.keep(len(call.body))
            assert (call.body, shared.memory.taken) == (body, len(body))
        else:
            with pytest.raises(BodyTooLargeError):  # there is never so much
                await reading
        asked.close()
        assert shared.memory.taken == 0


@pytest.mark.parametrize(
    ("packed", "error"),
    [(gzip.compress(bytes(5 * MB)), BodyTooLargeError), (gzip.compress(b"{}")[:-2], BadRequestError), (b"{}", BadRequestError)],
    ids=["a bomb", "cut", "not packed"],
)
async def test_a_refused_body_gives_its_room_back(packed: bytes, error: type[SentinelError]) -> None:
    """Rule H13: whatever becomes of a body, all that it took comes back."""
    shared = room(16 * MB)
    asked = exchange(packed, "/v1/chat/completions", "application/json", coding="gzip")
    with pytest.raises(error):
        await intake(shared).read(asked, routes.match("POST", "/v1/chat/completions").route, "a")
    asked.close()
    assert shared.memory.taken == 0


async def test_others_are_served_meanwhile() -> None:
    """Rule H12: what takes long is done in a thread: the loop turns while it lasts."""
    body = json.dumps(CHAT | {"padding": "x" * 3 * MB}).encode()
    asked = exchange(gzip.compress(body), "/v1/chat/completions", "application/json", coding="gzip")
    reading = asyncio.ensure_future(intake(room(16 * MB)).read(asked, routes.match("POST", "/v1/chat/completions").route, "a"))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await reading)[0].body == body
    assert turns > 10
    asked.close()


async def test_a_caller_has_one_body_made_plain_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its compressed bodies have come; those of others are made plain beside them."""
    lock, at_a_time, most = threading.Lock(), Counter[int](), Counter[int]()
    real = content_codings.batch

    def counted(pieces: Iterator[bytes], bytes_min: int) -> bytes:
        piece = real(pieces, bytes_min)
        which = piece.count(b"b")
        with lock:
            at_a_time[which] += 1
            most[which] = max(most[which], at_a_time[which])
        time.sleep(0.005)
        with lock:
            at_a_time[which] -= 1
        return piece

    monkeypatch.setattr(content_codings, "batch", counted)
    shared, route = intake(room(64 * MB)), routes.match("POST", "/v1/chat/completions").route
    packed = {name: gzip.compress(json.dumps(CHAT | {"padding": name * 9}).encode()) for name in ("a", "b")}
    given = [(exchange(packed[name], "/v1/chat/completions", "application/json", coding="gzip"), name) for name in "aaaaabbbbb"]
    await asyncio.gather(*(shared.read(one, route, name) for one, name in given))
    for one, _ in given:
        one.close()
    assert set(most.values()) == {1}
    assert len(most) == 2


TEXTS = {
    "ascii": "x" * MB,
    "latin": "\N{LATIN SMALL LETTER E WITH ACUTE}" * MB,
    "emoji": "x" * MB + EMOJI,
    "code": '{[,"' * 9000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_what_is_decoded_counts_until_it_is_counted(text: str) -> None:
    """Beside the body counts what may be decoded of it, before it is; without room for that nothing is."""
    body = json.dumps(CHAT | {"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    decoded = decoded_bytes(body)
    assert decoded >= sys.getsizeof(text)
    for count, enough in ((len(body) + decoded, True), (len(body) + decoded - 1, False)):
        shared = room(count)
        asked = exchange(body, "/v1/chat/completions", "application/json", coding="")
        reading = intake(shared).read(asked, routes.match("POST", "/v1/chat/completions").route, "a")
        if enough:
            call, _ = await reading
            assert shared.memory.taken == count
            assert asked.body is not None
            asked.body.keep(len(call.body))
            assert shared.memory.taken == len(body)
        else:
            with pytest.raises(BodyTooLargeError):
                await reading
        asked.close()
        assert shared.memory.taken == 0


async def test_a_form_is_not_decoded() -> None:
    """What is no JSON counts as what it is, whatever its bytes are."""
    form = PART.replace(b"a river", bytes(range(128, 256)) * 1000)
    shared = room(len(form))
    asked = exchange(form, "/v1/images/edits", FORM, coding="")
    call, _ = await intake(shared).read(asked, routes.match("POST", "/v1/images/edits").route, "a")
    assert (call.body, shared.memory.taken) == (form, len(form))
    asked.close()


async def test_a_small_body_always_finds_room() -> None:
    """Who fills the memory for bodies keeps no usual request out, neither as one part nor in many."""
    body = json.dumps(CHAT).encode()
    full = bodies(0, small_bytes=len(body))
    asked = exchange(body, "/v1/chat/completions", "application/json", coding="")
    call, _ = await intake(full).read(asked, routes.match("POST", "/v1/chat/completions").route, "a")
    assert (call.body, full.memory.taken) == (body, 0)
    asked.close()
    asked = exchange(body + b" ", "/v1/chat/completions", "application/json", coding="")
    with pytest.raises(BodyTooLargeError):
        await intake(full).read(asked, routes.match("POST", "/v1/chat/completions").route, "a")
    asked.close()
