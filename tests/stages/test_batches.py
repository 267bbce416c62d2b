"""stages.batches: input files are read once, within bounds, and what cannot be read makes no batch."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from sentinel.ops.errors import (
    BadRequestError,
    DrainingError,
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    SentinelError,
    UpstreamError,
    UpstreamUnavailableError,
)
from sentinel.ops.records import Call, Caller, Ids, Origin, TextPrompt
from sentinel.stages.batches import Batches
from sentinel.upstream.provider import Provider, Whole

ANNA, BERT = Caller("anna", "a@example.test"), Caller("bert", "b@example.test")
CHATS = "/v1/chat/completions"
DEFAULT = 100


def file(*bodies: Any) -> bytes:
    """An input file."""
    return b"\n".join(json.dumps({"custom_id": "1", "body": body}).encode() for body in bodies)


def batch(*names: str, endpoint: str = CHATS) -> Call:
    """A call that makes a batch of these files."""
    body = json.dumps({"input_file_id": list(names), "endpoint": endpoint}).encode()
    return Call("batches", "POST", "/batches", body=body, referenced_ids=Ids(frozenset(names)), detached=True)


class _Shows:
    """A provider that shows files, each only when it may."""

    key = "key"

    def __init__(self, files: dict[str, bytes], *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._files = files
        self._status = status
        self._headers = tuple(headers)
        self.asked: list[str] = []
        self.may = asyncio.Event()
        self.may.set()

    async def send(self, method: str, path: str, *_: Any) -> Whole:
        self.asked.append(f"{method} {path}")
        await self.may.wait()
        reply = Whole(self._headers, self._files.get(path.split("/")[2], b""), Origin())
        reply.status = self._status
        return reply


def reading(provider: _Shows, *, how: str = "read", file_bytes_max: int = 10_000, line_bytes_max: int = 5000) -> Batches:
    """The stage."""
    return Batches(
        cast("Provider", provider),
        how=how,
        file_bytes_max=file_bytes_max,
        line_bytes_max=line_bytes_max,
        output_tokens_default=DEFAULT,
    )


async def test_a_batch_holds_what_its_lines_ask_for() -> None:
    """Caps whole, the default for each line without one, which may shrink; and its models are known."""
    provider = _Shows({"file-1": file({"model": "ft:b", "max_tokens": 7, "messages": [{"role": "user", "content": "x"}]}, {})})
    call = await reading(provider).read(ANNA, batch("file-1"), "req")
    assert (call.output_tokens_declared, call.output_tokens_least, call.models) == (7 + DEFAULT, 8, {"ft:b"})
    assert isinstance(call.prompt, TextPrompt)
    assert call.prompt.tokens_given > 1
    assert provider.asked == ["GET /files/file-1/content"]


async def test_what_lines_name_is_to_be_looked_up() -> None:
    """Beside the file itself; what a file with many ids asks for is not kept, so that memory is bounded."""
    content = [{"type": "file", "file": {"file_id": f"file-{number}"}} for number in range(513)]
    files = {
        f"file-{name}": file({"file_id": "a", "messages": [{"content": content[:size]}]})
        for name, size in [("x", 2), ("y", 513)]
    }
    provider = _Shows(files)
    stage = reading(provider, file_bytes_max=100_000, line_bytes_max=100_000)
    for _ in range(2):
        call = await stage.read(ANNA, batch("file-x"), "req")
        assert (call.referenced_ids.objects, call.referenced_ids.alike) == ({"file-x", "file-0", "file-1"}, {"a"})
        assert len((await stage.read(ANNA, batch("file-y"), "req")).referenced_ids.objects) == 514
    assert len(provider.asked) == 3


async def test_a_file_is_read_once() -> None:
    """However many wait for it, and however often it is asked for again; for each endpoint."""
    provider = _Shows({"file-1": file({}, {})})
    stage = reading(provider)
    provider.may.clear()
    waiting = [asyncio.create_task(stage.read(caller, batch("file-1"), "req")) for caller in (ANNA, BERT, ANNA)]
    await asyncio.sleep(0)
    provider.may.set()
    found = await asyncio.gather(*waiting)
    found.append(await stage.read(ANNA, batch("file-1"), "req"))
    assert {call.output_tokens_declared for call in found} == {2 * DEFAULT}
    assert len(provider.asked) == 1
    await stage.read(ANNA, batch("file-1", endpoint="/v1/embeddings"), "req")
    assert len(provider.asked) == 2


async def test_who_leaves_does_not_end_it_for_others() -> None:
    """A file is read on for whoever else waits for it, and what it asks for is remembered."""
    provider = _Shows({"file-1": file({})})
    stage = reading(provider)
    provider.may.clear()
    gone, stays = (asyncio.create_task(stage.read(ANNA, batch("file-1"), "req")) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    provider.may.set()
    assert (await stays).output_tokens_declared == DEFAULT
    assert gone.cancelled()


async def test_few_are_read_at_a_time() -> None:
    """One caller has two files under way, all together sixteen; what waits is ended with the worker."""
    provider = _Shows({})
    stage = reading(provider)
    provider.may.clear()
    callers = [Caller(f"user-{number // 2}", "a@b") for number in range(16)]
    tasks = [asyncio.create_task(stage.read(caller, batch(f"file-{number}"), "req")) for number, caller in enumerate(callers)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for caller in (callers[0], ANNA):
        with pytest.raises(OverloadedError):
            await stage.read(caller, batch("file-x"), "req")
    await stage.close()
    assert all(isinstance(one, DrainingError) for one in await asyncio.gather(*tasks, return_exceptions=True))


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (404, NotFoundError),
        (429, UpstreamUnavailableError),
        (500, UpstreamUnavailableError),
        (503, UpstreamUnavailableError),
        (400, UpstreamError),
        (401, UpstreamError),
        (403, UpstreamError),
        (302, UpstreamError),
        (206, UpstreamError),
    ],
)
async def test_what_is_not_shown_makes_no_batch(status: int, raised: type[SentinelError]) -> None:
    """A file that the provider does not show could name anything; it is asked for again the next time."""
    provider = _Shows({"file-1": file({})}, status=status)
    stage = reading(provider)
    for _ in range(2):
        with pytest.raises(raised):
            await stage.read(ANNA, batch("file-1"), "req")
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: (_Shows({"file-1": b"x"}), BadRequestError),
        lambda: (_Shows({"file-1": b"{}\n" * 4000}), BadRequestError),
        lambda: (_Shows({"file-1": b'{"a":"' + b"x" * 5000 + b'"}'}), BadRequestError),
        lambda: (_Shows({"file-1": file({})}, headers=[(b"Content-Encoding", b"gzip")]), UpstreamError),
    ],
    ids=["no lines", "too large", "a long line", "compressed"],
)
async def test_what_cannot_be_read_makes_no_batch(make: Callable[[], tuple[_Shows, type[SentinelError]]]) -> None:
    """Nor does one that is no input of a batch, or larger than the bounds."""
    provider, raised = make()
    with pytest.raises(raised):
        await reading(provider).read(ANNA, batch("file-1"), "req")


async def test_a_batch_has_one_file() -> None:
    """H10: of several the provider could take any; of none it speaks itself."""
    provider = _Shows({})
    with pytest.raises(BadRequestError):
        await reading(provider).read(ANNA, batch("file-1", "file-2"), "req")
    none = replace(batch(), referenced_ids=Ids())
    assert await reading(provider).read(ANNA, none, "req") is none
    assert provider.asked == []


@pytest.mark.parametrize("how", ["unread", "off"])
async def test_an_operator_chooses(how: str) -> None:
    """SENTINEL_BATCH_INPUT: batches go unread and hold a default, or there are none."""
    provider, call = _Shows({}), batch("file-1")
    if how == "unread":
        assert await reading(provider, how=how).read(ANNA, call, "req") is call
    else:
        with pytest.raises(ForbiddenError):
            await reading(provider, how=how).read(ANNA, call, "req")
    assert provider.asked == []
