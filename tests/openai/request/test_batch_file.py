"""openai.request.batch_file: what the lines of an input file ask for, however they arrive."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.request import batch_file
from sentinel.openai.request.batch_file import Asked, Lines, Tally
from sentinel.ops.errors import BadRequestError

CHATS = "/v1/chat/completions"


def line(body: Any, **more: Any) -> bytes:
    """One request."""
    return json.dumps({"custom_id": "1", "method": "POST", "url": CHATS, "body": body} | more).encode()


def chat(**more: Any) -> dict[str, Any]:
    """A chat of 12 characters."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 12}]} | more


def asked(*lines: bytes, endpoint: str = CHATS) -> Asked:
    """What these lines ask for."""
    tally = Tally(endpoint)
    tally.add(lines)
    return tally.asked()


ONE = asked(line(chat())).input_tokens


@pytest.mark.parametrize(
    ("body", "output_tokens", "uncapped"),
    [
        (chat(), 0, 1),
        (chat(n=3), 0, 3),
        (chat(max_tokens=7), 7, 0),
        (chat(max_tokens=7, max_completion_tokens=9, n=2), 18, 0),
        (chat(max_output_tokens=7), 0, 1),
        (chat(max_tokens="7"), 0, 1),
        ({"model": "gpt-4o"}, 0, 1),
        (None, 0, 1),
        ("x", 0, 1),
    ],
)
def test_output_is_what_is_capped_and_what_is_not(body: Any, output_tokens: int, uncapped: int) -> None:
    """Caps that are heeded count, times choices; what the provider may refuse counts as one without."""
    found = asked(line(body))
    assert (found.output_tokens, found.uncapped, found.models) == (output_tokens, uncapped, frozenset())
    assert found.input_tokens >= 1


@pytest.mark.parametrize(
    ("endpoint", "body", "found"),
    [
        ("/v1/embeddings", {"model": "e", "input": "x" * 40}, Asked(input_tokens=10)),
        ("/v1/completions", {"model": "m", "prompt": "x" * 40, "max_tokens": 5}, Asked(input_tokens=10, output_tokens=5)),
        ("/v1/moderations", {"model": "m", "input": "x"}, Asked(input_tokens=1, output_tokens=1)),
        ("/v1/nothing", {"model": "m"}, Asked(input_tokens=1 + len('{"model": "m"}') // 4, uncapped=1)),
        ("", {"model": "m"}, Asked(input_tokens=1 + len('{"model": "m"}') // 4, uncapped=1)),
    ],
)
def test_each_endpoint_is_read_as_its_route(endpoint: str, body: Any, found: Asked) -> None:
    """As the same request would be that is sent alone; of an unknown endpoint by its bytes."""
    assert asked(line(body, url=endpoint), endpoint=endpoint) == found


def test_media_are_no_texts() -> None:
    """T3: an image in a line costs what an image costs, not its base64."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    found = asked(line(chat(messages=[{"role": "user", "content": [image]}])))
    assert found.input_tokens < 2000


@pytest.mark.parametrize("model", ["ft:b", "openai/ft:b", "ft:b:ckpt-step-1"])
@pytest.mark.parametrize("body", ['{"model":"M"}', '{"tools":[{"model":"M"}]}', '{"a":{"b":[{"grader_model":"M"}]}}'])
def test_fine_tuned_models_are_seen(model: str, body: str) -> None:
    """At the top of a body and anywhere below it, escaped or not."""
    for spelled in (model, model.replace("ft:", "\\u0066t\\u003a")):
        assert asked(f'{{"custom_id":"1","body":{body.replace("M", spelled)}}}'.encode()).models == {model}


FILE = {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-v"}}]}
IN_RESPONSE = {"role": "user", "content": [{"type": "input_file", "file_id": "file-v"}]}


@pytest.mark.parametrize(
    ("endpoint", "body", "objects", "alike"),
    [
        (CHATS, chat(messages=[FILE]), {"file-v"}, set()),
        (CHATS, chat(messages=[FILE], n="odd", max_tokens=-1), {"file-v"}, set()),
        (CHATS, chat(metadata={"file_id": "file-v"}), set(), set()),
        (CHATS, chat(file_id="file-v"), set(), {"file-v"}),
        ("/v1/responses", {"input": [IN_RESPONSE], "previous_response_id": "resp_v"}, {"file-v", "resp_v"}, set()),
        ("/v1/responses", {"conversation": {"id": "conv_v"}, "input": 5}, {"conv_v"}, set()),
        ("/v1/responses", {"tools": [{"vector_store_ids": ["vs_v"]}, {"container": "cntr_v"}]}, {"vs_v", "cntr_v"}, set()),
        ("/v1/images/edits", {"images": [{"file_id": "file-v"}]}, {"file-v"}, set()),
        ("/v1/nothing", {"file_id": "file-v"}, set(), {"file-v"}),
        ("", {"input": [IN_RESPONSE]}, set(), {"file-v"}),
    ],
)
def test_objects_are_seen(endpoint: str, body: Any, objects: set[str], alike: set[str]) -> None:
    """Where the endpoint takes the id of an object it is one, also in a line that is odd otherwise, however it is spelled."""
    plain = line(body, url=endpoint)
    for spelled in (plain, plain.replace(b"file_id", b"file\\u005fid"), plain.replace(b"file-v", b"\\u0066ile-v")):
        found = asked(spelled, line({}, url=endpoint), endpoint=endpoint).named
        assert (found.objects, found.alike) == (objects, alike)


@pytest.mark.parametrize(
    "bad",
    [
        b"some notes",
        b"[]",
        b"{",
        b'{"body":{}}x',
        b'{"body":{}}{"body":{}}',
        b'{"body":{"model":"a"},"body":{"model":"ft:b"}}',
        b'{"url":"/v1/chat/completions","url":"/v1/responses"}',
        b'{"url":"/v1/responses"}',
        b'{"url":7}',
        b'{"body":"\xff"}',
        b"{'body':{}}",
        b'{"body":' + b"[" * 100 + b"]" * 100 + b"}",
        b"\xef\xbb\xbf{}",
        b'{"body":{"messages":[{"content":[{"file":{"file_id":"' + b"x" * 257 + b'"}}]}]}}',
    ],
    ids=lambda bad: bad[:40],
)
def test_what_is_no_request_is_told_by_its_line(bad: bytes) -> None:
    """Another reader could find in it what was not seen; the caller learns where it is."""
    with pytest.raises(BadRequestError) as raised:
        asked(line(chat()), b"", bad)
    assert raised.value.param == "input_file_id"
    assert "Line 3" in raised.value.message


def test_a_mark_before_the_first_line_is_none() -> None:
    """Some editors write it."""
    assert asked(b"\xef\xbb\xbf" + line(chat()), b" \r").uncapped == 1


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """H13: lines, their length, their ids and their fine-tuned models are bounded."""
    monkeypatch.setattr(batch_file, "LINES_MAX", 3)
    monkeypatch.setattr(batch_file, "IDS_MAX", 2)
    monkeypatch.setattr(batch_file, "TUNED_MAX", 2)
    assert Lines(5).feed(b"12345\n1234\n\n123") == [b"12345", b"1234", b""]
    with pytest.raises(BadRequestError):
        Lines(5).feed(b"\n\n\n\n")
    for chunks in ([b"123456"], [b"123", b"456"], [b"\n123", b"456\n"]):
        lines = Lines(5)
        with pytest.raises(BadRequestError):
            for chunk in chunks:
                lines.feed(chunk)
    with pytest.raises(BadRequestError):
        asked(*(line(chat(model=f"ft:{number}")) for number in range(3)))
    for place in ({"a": "file_id"}, {"file_id": "a"}):
        asked(*(line(chat(**place)) for _ in range(3)))
    with pytest.raises(BadRequestError, match="objects"):
        asked(*(line(chat(file_id=f"file-{number}")) for number in range(3)))


@given(st.lists(st.sampled_from([line(chat()), line(chat(max_tokens=5)), b"", b"\r"]), max_size=6), st.data())
def test_it_is_the_same_at_every_split(lines: list[bytes], data: st.DataObject) -> None:
    """However a file arrives, its lines are the same."""
    file = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(file)), max_size=5)))
    splitter, found = Lines(10_000), []
    for start, end in zip([0, *cuts], [*cuts, len(file)], strict=True):
        found += splitter.feed(file[start:end])
    assert [*found, *splitter.finish()] == (lines or [b""])
    assert asked(*lines) == Asked(
        input_tokens=ONE * sum(b"gpt-4o" in one for one in lines),
        output_tokens=5 * sum(b"max_tokens" in one for one in lines),
        uncapped=sum(b"gpt-4o" in one and b"max_tokens" not in one for one in lines),
    )
