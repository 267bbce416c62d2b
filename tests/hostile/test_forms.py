"""Forms that hide the id of another's object, sent through real Granian: none reaches the provider with it."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from sentinel.ledger.keys import key, partition_of
from tests.openai.request.test_multipart import PASSED
from tests.support.form_readers import Form
from tests.support.form_readers.spellings import HONEST, SPELLINGS, VICTIM
from tests.support.raw import RawAnswer, once, request
from tests.support.running import User, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

PATH = "/v1/images/edits"
PARTITIONS = 4
# Names nothing: a message in a part is a file.
HARMLESS = {"a message in a part"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers, and an object that is somebody's."""
    settings = {"SENTINEL_RATE_LIMIT_REQUESTS": "0", "SENTINEL_LEDGER_PARTITIONS": str(PARTITIONS)}
    async with Stack(tmp_path_factory.mktemp("forms"), settings=settings) as running:
        async with Redis.from_url(running.redis_url) as redis:
            await redis.set(key("o", partition_of(VICTIM, PARTITIONS), VICTIM), "somebody")
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def user(stack: Stack) -> User:
    """Somebody else."""
    return await make_user(stack)


async def send(stack: Stack, user: User, form: Form) -> RawAnswer:
    """What Sentinel answers to a form."""
    lines = (f"Authorization: Bearer {user.token}", f"Content-Type: {form[0].decode('latin-1')}")
    return await once(stack.port, request("POST", PATH, *lines, body=form[1]))


async def reached(stack: Stack) -> list[str]:
    """The digests of the forms that the provider has."""
    rows = (await stack.control("provider", "served"))["rows"]
    return [row["body_sha256"] for row in rows if row["path"] == PATH]


@pytest.mark.parametrize("name", SPELLINGS)
async def test_no_spelling_hides_anothers_object(stack: Stack, user: User, name: str) -> None:
    """However it is spelled, a form with another's id is refused, in OpenAI's shape, before the provider is asked."""
    before = await reached(stack)
    answer = await send(stack, user, SPELLINGS[name])
    if name in HARMLESS:
        assert answer.status < 300 or answer.status == 400
        return
    if name in PASSED:
        assert (answer.status, answer.error["param"]) == (404, "id")
    else:
        assert (answer.status, answer.error["code"]) == (400, "invalid_body")
    assert await reached(stack) == before


@pytest.mark.parametrize("name", HONEST)
async def test_forms_of_clients_arrive_as_they_are(stack: Stack, user: User, name: str) -> None:
    """H18: byte for byte; also one that the simulator reads no further than to the names without quotes."""
    before = await reached(stack)
    await send(stack, user, HONEST[name])
    *earlier, last = await reached(stack)
    assert earlier == before
    assert last == ("" if name == ".NET" else hashlib.sha256(HONEST[name][1]).hexdigest())


async def test_an_sdk_edits_an_image(stack: Stack, user: User) -> None:
    """H18: openai-python's own form, with several files, is taken and read by the provider."""
    files = [(f"{name}.png", b"\x89PNG\r\n--\r\n\r\n", "image/png") for name in ("a", "ä ; name=file_id")]
    async with sdk(stack, user.token) as client:
        answer = await client.images.edit(model="gpt-image-1", prompt="a cat\r\n--", image=files)
    assert answer.data


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_edits_an_image(stack: Stack, user: User, tmp_path: Path) -> None:
    """H18: so is curl's, whose files are called as they like."""
    image = tmp_path / 'a "b" 50%.png'
    image.write_bytes(b"\x89PNG\r\n--\r\n")
    fields = ["model=gpt-image-1", "prompt=a cat", f'image=@"{str(image).replace(chr(34), chr(92) + chr(34))}";type=image/png']
    command = ["curl", "-sS", "-w", "%{http_code}", "-o", "/dev/null", f"http://127.0.0.1:{stack.port}{PATH}"]
    command += ["-H", f"Authorization: Bearer {user.token}", *(word for field in fields for word in ("-F", field))]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"200"
