"""protocol.named and protocol.forms: which objects of the provider a body names, however it spells them."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.errors import BadRequestError
from sentinel.protocol import forms, named, routes

CASES: list[tuple[Any, set[str]]] = [
    ({"file_id": "x"}, {"x"}),
    ({"file_ids": ["a", "b", 1]}, {"a", "b"}),
    ({"previous_response_id": "resp_1"}, {"resp_1"}),
    ({"conversation": "mine"}, {"mine"}),
    ({"conversation": {"id": "mine"}}, {"mine"}),
    ({"training_file": "a", "validation_file": "file-b", "other_file": "c"}, {"a", "file-b"}),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, {"vs_1"}),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]}, {"file-1"}),
    ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, {"cntr_1"}),
    ({"tool_resources": {"code_interpreter": {"file_ids": ["file-1"]}}}, {"file-1"}),
    ({"data_source": {"source": {"type": "file_id", "id": "file-1"}}}, {"file-1"}),
    (
        {"video": {"id": "video_1"}, "file": "file_2", "id": "batch_3", "my_id": "eval_4"},
        {"video_1", "file_2", "batch_3", "eval_4"},
    ),
    ({"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, {"file-1"}),
    ({"prompt": {"variables": {"metadata": {"type": "input_file", "file_id": "file-1"}}}}, {"file-1"}),
    ({"prompt": {"variables": {"parameters": {"type": "input_file", "file_id": "file-1"}}}}, {"file-1"}),
    ({"consent": "cons_1", "characters": [{"id": "char_2"}], "voice": "voice_3"}, {"cons_1", "char_2", "voice_3"}),
    ({"voice": "alloy", "consent": "yes", "character": "Hamlet"}, set()),
    ({"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "file-1"}]}, set()),
    ({"metadata": {"file_id": "file-1", "thread_id": "t"}}, set()),
    ({"tools": [{"function": {"parameters": {"properties": {"x": {"examples": [{"thread_id": "12"}]}}}}}]}, set()),
    ({"messages": [{"content": '{"file_id": "file-1"}'}]}, set()),
    ({"id": "msg_1", "file": "a.txt", "input": "file-1", "file_id": "", "assistant_id": None}, set()),
]


@pytest.mark.parametrize(("value", "ids"), CASES, ids=lambda value: "ids" if isinstance(value, set) else str(value))
def test_what_is_named(value: Any, ids: set[str]) -> None:
    """G6: texts under keys of ids are named at any depth; metadata, schemas and message texts name nothing."""
    assert named.in_json(json.dumps(value).encode()) == ids
    nowhere_in_responses = {"video_1", "file_2", "batch_3", "eval_4", "cons_1"}
    assert named.in_response(json.dumps(value).encode()) in (ids, ids - nowhere_in_responses)


@pytest.mark.parametrize("voice", ['{"id":"voice_1"}', '{ "id" : "voice_1" }', '"voice_1"', '"\\u0076oice_1"'])
def test_a_voice_is_seen_in_a_chat(voice: str) -> None:
    """G6: a chat that speaks may name a voice that somebody made."""
    assert named.in_chat(f'{{"audio":{{"voice":{voice}}}}}'.encode()) == {"voice_1"}
    assert named.in_chat(b'{"audio":{"voice":"alloy"}}') == frozenset()


@pytest.mark.parametrize("key", sorted(named.ID_KEYS))
@pytest.mark.parametrize("layout", ['{"a":[{"%s":%s}]}', '{ "a" : [ { "%s"\n:\t%s } ] }'])
def test_each_key_is_seen_in_a_response(key: str, layout: str) -> None:
    """G6: a look at the bytes does not overlook a key, however it is set apart, listed or nested."""
    for value in ('"any"', '["any"]', '[ "any" ]', '{"id":"conv_any"}', '{"b":"c", "id" : "conv_any"}'):
        assert named.in_response((layout % (key, value)).encode()) in ({"any"}, {"conv_any"})


@pytest.mark.parametrize("prefix", sorted(named.OBJECT_PREFIXES))
@pytest.mark.parametrize("key", ["my_id", "my_ids", "my_file", "id"])
def test_each_prefix_is_seen(prefix: str, key: str) -> None:
    """G6: under any key that ends as ids do, what begins as an id is one."""
    body = json.dumps({"x": [{key: f"{prefix}1"}]}).encode()
    assert named.in_json(body) == named.in_response(body) == {f"{prefix}1"}
    assert key == "id" or named.in_chat(body) == {f"{prefix}1"}
    assert named.in_response(json.dumps({"x": [{key: f"x{prefix}1"}]}).encode()) == frozenset()


def test_every_kind_with_an_owner_is_seen() -> None:
    """G6: what is guarded in paths is guarded in bodies; a chat's own id is nowhere named in one."""
    prefixes = {prefix for kind in routes.KINDS.values() for prefix in kind.prefixes}
    assert prefixes - {"chatcmpl-"} <= named.OBJECT_PREFIXES


def spelled(text: str, escaped: list[bool]) -> str:
    """A JSON string with some of its signs as escapes."""
    return '"' + "".join(f"\\u{ord(sign):04x}" if one else sign for sign, one in zip(text, escaped, strict=True)) + '"'


@given(st.data(), st.sampled_from(["file_id", "previous_response_id", "some_id"]), st.sampled_from(["file-abc", "resp_1"]))
def test_escapes_hide_nothing(data: st.DataObject, key: str, name: str) -> None:
    """G6, H10: an id is found however its key and itself are spelled."""
    flags = [data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text))) for text in (key, name)]
    body = f'{{"a":{{{spelled(key, flags[0])}:{spelled(name, flags[1])}}}}}'.encode()
    assert named.in_chat(body) == named.in_response(body) == {name}


@pytest.mark.parametrize(
    ("body", "over"),
    [
        ('{"data_source":{"type":"completions","source":{"type":"stored_completions","limit":5}}}', True),
        ('{"data_source":{"type":"responses","source":{"type":"responses"}}}', True),
        ('{"data_source":{"source":{"type":"whatever-comes"}}}', True),
        ('{"data_source":{"source":{"type":"stored_completions","type":"file_id"}}}', True),
        ('{"data_source":{"source":{"type":"responses"},"source":{"type":"file_id"}},"data_source":{}}', True),
        ('{"data_\\u0073ource":{"source":{"type":"respon\\u0073es"}}}', True),
        ('{"data_source":{"type":"responses","source":{"type":"file_id","id":"file-1"}}}', False),
        ('{"data_source":{"source":{"type":"file_content","content":[{"item":{"source":{"type":"web"}}}]}}}', False),
        ('{"data_source":["source"],"source":{"type":"responses"}}', False),
        ('{"input_file_id":"file-1"}', False),
    ],
)
def test_what_runs_over_the_account(body: str, over: bool) -> None:
    """G6: an eval over stored answers is over those of all callers, however it is spelled and whatever else is new there."""
    assert named.runs_over_account(body.encode()) is over


def test_repeats_hide_nothing() -> None:
    """H10: of a repeated member every value is named, since the provider may take any of them."""
    body = b'{"a":[{"file_id":"one","file_id":"two"}],"a":"x","b":{"file":{"file_id":"three"},"file":1}}'
    assert named.in_chat(body) == {"one", "two", "three"}


def test_numbers_do_not_break_it() -> None:
    """H12: thousands of digits, which Python makes no integer of, are the provider's to refuse."""
    assert named.in_json(b'{"seed":' + b"9" * 5000 + b',"x":1e999,"file_id":5}') == frozenset()


def test_there_are_bounds() -> None:
    """H13: so many ids cannot be meant, nor one so long."""
    assert len(named.in_json(json.dumps({"file_ids": [f"f{number}" for number in range(4096)]}).encode())) == 4096
    for value in ([f"f{number}" for number in range(4097)], ["x" * 257]):
        with pytest.raises(BadRequestError):
            named.in_json(json.dumps({"file_ids": value}).encode())


TYPE = b"multipart/form-data; boundary=----x1"
LONG = "file-" + "aB3" * 8


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """A form of parts, each given by its headers and its content."""
    return (
        b"".join(
            b"------x1\r\n%s\r\n\r\n%s\r\n" % (head.encode(), content if isinstance(content, bytes) else content.encode())
            for head, content in parts
        )
        + b"------x1--\r\n"
    )


def field(name: str) -> str:
    """The header of a field."""
    return f'Content-Disposition: form-data; name="{name}"'


class TestForms:
    """What a form names."""

    @pytest.mark.parametrize(
        ("parts", "ids"),
        [
            ([(field("model"), "sora"), (field("prompt"), "a cat")], set()),
            ([(field("file_id"), "x"), (field("prompt"), "y")], {"x"}),
            ([("content-disposition: form-data; name=file_id", " x ")], {"x"}),
            ([(field("file_ids[]"), "a"), (field("file_ids[]"), "b")], {"a", "b"}),
            ([(field("input_reference[file_id]"), "x")], {"x"}),
            ([(field("anything"), '{"id": "video_1", "x": ["\\u0066ile-2"]}')], {"video_1", "file-2"}),
            ([(field("prompt"), f"see profile_1, my-file-2, file_name, and {LONG}.")], {LONG}),
            ([(field("input_reference"), "file-2")], {"file-2"}),
            ([(field("file") + '; filename="a.py"', f"import thread_pool\n{LONG}\n")], {LONG}),
            ([(field("file") + '; filename="file_id"', b"\0\xff" * 5 + b"file_path, batch_size, Xfile-" + b"a" * 30)], set()),
            ([(field("file_id") + '; filename="a"', "x")], {"x"}),
        ],
        ids=lambda value: "ids" if isinstance(value, set) else str(value),
    )
    def test_what_is_named(self, parts: list[tuple[str, str | bytes]], ids: set[str]) -> None:
        """G6, H18: fields of ids, and elsewhere what is an id alone, in quotes, or by its length."""
        assert forms.ids(form(*parts), TYPE) == ids
        assert forms.ids(form(*parts).replace(b"\r\n", b"\n"), b'MULTIPART/form-data; charset=utf-8; Boundary="----x1"') == ids

    @pytest.mark.parametrize(
        "head",
        [
            field("file_id") + "\r\nContent-Transfer-Encoding: base64",
            field("file_id") + "\r\ncontent-transfer-encoding:quoted-printable",
            field("file_id") + "\r\nContent-Type: text/plain; charset=utf-16",
            field("_charset_"),
            field("x") + "\r\nX: " + "y" * 20_000,
        ],
        ids=lambda head: head[-40:],
    )
    def test_encodings_are_refused(self, head: str) -> None:
        """G6: a part that does not say its text as it is could hide an id."""
        with pytest.raises(BadRequestError):
            forms.ids(form((head, "x")), TYPE)

    @pytest.mark.parametrize(
        "head",
        ["Content-Transfer-Encoding: binary", "Content-Type: text/plain; charset=UTF-8", "content-transfer-encoding: 8bit"],
    )
    def test_plain_encodings_pass(self, head: str) -> None:
        """RFC 7578: what clients write of themselves is fine."""
        assert forms.ids(form((f"{field('file_id')}\r\n{head}", "x")), TYPE) == {"x"}

    @pytest.mark.parametrize(
        "content_type",
        [b"multipart/form-data", b"multipart/form-data; boundary=a; boundary=----x1", b'multipart/form-data; boundary="a\\"b"'],
    )
    def test_one_boundary(self, content_type: bytes) -> None:
        """G6: two readers must not take a form apart in two ways."""
        with pytest.raises(BadRequestError):
            forms.ids(form((field("file_id"), "x")), content_type)

    def test_parts_are_bounded(self) -> None:
        """H13: so many parts cannot be meant."""
        with pytest.raises(BadRequestError):
            forms.ids(form(*[(field("a"), "b")] * 1025), TYPE)

    @given(st.integers(0, 40), st.sampled_from(sorted(named.OBJECT_PREFIXES)))
    @example(0, "ftjob-")
    def test_an_id_at_a_seam(self, shift: int, prefix: str) -> None:
        """G6: a long file is looked through in slices, whose seams hide nothing."""
        name = prefix + "a1" * 12
        content = b"." * (256 * 1024 - shift) + name.encode() + b"."
        assert forms.ids(form((field("file") + "; filename=a", content)), TYPE) == {name}

    @given(st.binary(max_size=200), st.binary(max_size=60))
    def test_any_bytes(self, noise: bytes, content_type: bytes) -> None:
        """H12, H18: whatever the bytes, there are ids or a refusal."""
        for body, given_type in (
            (noise, TYPE),
            (b"------x1" + noise, TYPE),
            (form((field("a"), noise)), TYPE),
            (noise, content_type),
        ):
            try:
                assert all(isinstance(one, str) for one in forms.ids(body, given_type))
            except BadRequestError as error:
                assert error.code
