"""Base64 is told from text in one place: media are never billed as text, and honest text is never taken for media."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.openai.response.texts import Texts, read_choices, read_response
from sentinel.openai.tokens import base64_text

KINDS = ("image/png", "image/jpeg;name=a.jpg", "audio/wav", "application/pdf", "")
words = st.text(st.characters(codec="utf-8", exclude_characters="\\"), max_size=300)
unbroken = st.one_of(
    st.builds(lambda size, seed: random.Random(seed).randbytes(size).hex(), st.integers(0, 8000), st.integers(0, 9)),
    st.builds(lambda sign, size: sign * size, st.sampled_from("Aa0-=_/"), st.integers(0, 16_000)),
    st.builds(lambda size: "".join(map(str, range(size))), st.integers(0, 3000)),
    st.builds(lambda seed: base64.b64encode(random.Random(seed).randbytes(9000)).decode(), st.integers(0, 9)),
)


def picture(size_bytes: int, seed: int = 0) -> str:
    """Base64 of so many bytes of something that does not repeat."""
    return base64.b64encode(random.Random(seed).randbytes(size_bytes)).decode()


@given(words, words, st.sampled_from(KINDS), st.integers(768, 30_000), st.integers(0, 9))
@example("![it](", ")", "image/png", 768, 0)
def test_media_in_a_text_are_no_text(before: str, after: str, kind: str, size_bytes: int, seed: int) -> None:
    """A picture of any size within a text is taken out of it, to the sign, and what stands around it stays."""
    uri = f"data:{kind};base64,{picture(size_bytes, seed)}"
    text, media = base64_text.embedded(f"{before}\n{uri} {after}")
    assert text == f"{before}\n {after}"
    assert media == [(kind.split("/", maxsplit=1)[0], len(uri))]


@given(st.lists(st.one_of(words, unbroken), max_size=6), st.sampled_from([" ", ".", "\n", '"', ": ", "data:", "base64,", "é"]))
@example(["data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"], " ")
@example(["data:,", "x" * 900], "")
def test_honest_text_is_text(parts: list[str], between: str) -> None:
    """Words in any script, hashes, numbers, runs of a sign and even base64 of some length are text, all of it."""
    text = between.join(f"{part} " for part in parts)
    assert base64_text.embedded(text) == (text, [])


@pytest.mark.parametrize("size_bytes", [12_288, 50_000, 2_000_000])
def test_what_no_model_has_written_is_media(size_bytes: int) -> None:
    """16 384 signs without a blank are media also where nothing says so."""
    assert base64_text.embedded(f"Look: {picture(size_bytes)}") == ("Look: ", [("", len(picture(size_bytes)))])


def test_signs_are_found_in_linear_time() -> None:
    """Runs just short of the bound, one behind the other, are each looked at once."""
    text = ("A" * 16_383 + " ") * 500
    assert base64_text.embedded(text) == (text, [])


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_wrapped_media_are_media(head: str, end: str) -> None:
    """Base64 in lines of one length is media like any other; a list of names or of hashes is not."""
    signs = head + picture(200_000)
    lines = end.join(signs[at : at + 76] for at in range(0, len(signs), 76))
    assert base64_text.embedded(f"Look:{end}{lines}{end}Well done") == (
        f"Look:{end}{end}Well done",
        [("image" if head else "", len(lines))],
    )
    hashes = end.join(random.Random(at).randbytes(32).hex() for at in range(600))
    names = end.join("/usr/lib/python3/site-packages/" + "name_" * (1 + at % 9) for at in range(600))
    for honest in (hashes, names):
        assert base64_text.embedded(honest) == (honest, [])


@pytest.mark.parametrize("text", ["data:" * 400_000, ("A" * 30 + "\n") * 60_000, ("A" * 1023 + ",") * 2000, "data:," * 300_000])
def test_what_only_looks_like_media_is_text(text: str) -> None:
    """Two megabytes of what begins like media and is none are looked through once."""
    assert base64_text.embedded(text) == (text, [])


IMAGE = picture(30_000)
SHOWN: list[tuple[dict[str, Any], int]] = [
    ({"images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}]}, 765),
    ({"images": [{"image_url": {"url": f"data:image/png;base64,{IMAGE}"}}] * 2}, 1530),
    ({"image": {"b64_json": IMAGE}}, 765),
    ({"b64_json": picture(900)}, 765),
    ({"inline_data": {"mime_type": "image/webp", "data": picture(900)}}, 765),
    ({"inlineData": {"mimeType": "audio/L16", "data": picture(48_000)}}, 10),
    ({"audio": {"id": "audio_1", "data": picture(48_000)}}, 10),
    ({"x_vendor": {"deep": [[{"blob": IMAGE}]]}}, 765),
    ({"x_vendor": f"data:application/pdf;base64,{IMAGE}"}, 765),
    ({"content": f"Look: ![it](data:image/png;base64,{IMAGE})"}, 765),
    (
        {
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
            ]
        },
        765,
    ),
    ({"content": IMAGE}, 765),
    ({"x_vendor": {"short": picture(900)}}, 0),
    ({"images": [{"image_url": {"url": "https://example.org/" + "a" * 2000}}]}, 0),
    ({"thought_signature": IMAGE}, 0),
    ({"reasoning_details": [{"type": "reasoning.encrypted", "data": IMAGE, "format": "x"}]}, 0),
    ({"extra_content": {"google": {"thought_signature": IMAGE}}}, 0),
    ({"image": "data:none, of that"}, 0),
    ({"role": "assistant", "tool_calls": [{"function": {"arguments": '{"a": "' + picture(300) + '"}'}}]}, 0),
]


@pytest.mark.parametrize(("fields", "tokens"), SHOWN, ids=range(len(SHOWN)))
@pytest.mark.parametrize("where", ["delta", "message"])
def test_media_cost_constants_in_any_field(fields: dict[str, Any], tokens: int, where: str) -> None:
    """Base64 in any field of a chat costs what docs/tokens.md says, none of it as text; secrets cost nothing."""
    texts = Texts(1 << 20)
    read_choices({"choices": [{"index": 0, where: fields}]}, texts)
    assert texts.media_tokens == tokens
    said = "".join(texts.joined())
    assert IMAGE[:600] not in said
    assert len(said) < 2000


def test_media_beside_the_choices_count() -> None:
    """What a vendor shows beside the delta, or beside the choices, is media too; log probabilities are not."""
    texts = Texts(1 << 20)
    choice = {"index": 0, "images": [f"data:image/png;base64,{IMAGE}"], "logprobs": {"content": [{"token": IMAGE}]}}
    read_choices({"choices": [choice], "preview": {"b64_json": IMAGE}, "usage": {"x": IMAGE}}, texts)
    assert (texts.media_tokens, texts.joined()) == (2 * 765, [])


def test_an_image_of_a_response_counts_once() -> None:
    """Its partial images, its item and the last event show one image; another item is another."""
    texts = Texts(1 << 20)
    item = {"type": "image_generation_call", "result": IMAGE}
    for event in (
        {"type": "response.image_generation_call.partial_image", "output_index": 1, "partial_image_b64": IMAGE},
        {"type": "response.output_item.done", "output_index": 1, "item": item},
        {"type": "response.completed", "response": {"output": [{"type": "message", "content": []}, item, item]}},
        {"type": "response.output_audio.delta", "delta": picture(48_000)},
        {"type": "response.output_text.delta", "delta": f"data:image/png;base64,{IMAGE}"},
    ):
        read_response(event, texts)
    assert (texts.media_tokens, texts.joined()) == (3 * 765 + 10, [])
    body = Texts(1 << 20)
    shown = {"type": "output_image", "image_url": f"data:image/png;base64,{IMAGE}"}
    read_response({"output": [item, {"type": "message", "content": [{"type": "output_text", "text": "It."}, shown]}]}, body)
    assert (body.media_tokens, body.joined()) == (2 * 765, ["It."])


@pytest.mark.parametrize(
    ("block", "signs"),
    [
        (b"A" * 100, True),
        (picture(100).encode(), True),
        (json.dumps(picture(1000))[1:-1].replace("/", "\\/").replace("+", "\\u002b").replace("=", "\\u003D").encode(), True),
        (b"\\r\\n".join([b"A" * 76] * 20), True),
        (b"AAAA BBBB", False),
        (b'AAAA","BBBB', False),
        (b"AAAA\\", False),
        (b"AAAA\\u00", False),
        (b"AAAA\\u4e2d\\u6587", False),
        (b"one\\ntwo\\nthree\\nfour\\nfive", False),
        ("日本".encode(), False),
    ],
)
def test_signs_of_base64_in_json(block: bytes, signs: bool) -> None:
    """Base64 is known in JSON however its signs are escaped and its lines are wrapped; words are not."""
    assert base64_text.is_signs(block) is signs
