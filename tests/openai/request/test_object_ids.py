"""openai.request.object_ids, places and forms: which objects of the provider a body names, and what only looks like one."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.openai import objects, routes
from sentinel.openai.request import form_ids, id_paths, json_edit, object_ids
from sentinel.ops.errors import BadRequestError
from sentinel.ops.records import NO_IDS, Ids, Reads

CHAT, RESPONSES = id_paths.BY_ROUTE["/chat/completions"], id_paths.BY_ROUTE["/responses"]


def ids(objects: set[str] | frozenset[str] = frozenset(), alike: set[str] | frozenset[str] = frozenset()) -> Ids:
    """What a body names, and what in it only looks so."""
    return Ids(frozenset(objects), frozenset(alike))


def built(place: str, value: Any) -> Any:
    """The smallest body that has `value` at `place`."""
    for name in reversed(place.split(".")):
        value = {name.removesuffix("[]").replace("*", "any"): [value] if name.endswith("[]") else value}
    return value


EACH_PLACE = [(template, place) for template, given in id_paths.BY_ROUTE.items() for place in given]


@pytest.mark.parametrize(("template", "place"), EACH_PLACE, ids=lambda value: value)
@pytest.mark.parametrize("value", ["any", "call_1", "file-1", "x" * 256], ids=lambda value: value[:6])
def test_what_stands_at_a_place_of_the_api_is_an_object(template: str, place: str, value: str) -> None:
    """Whatever it looks like, on the route itself and however the route is read; longer than any id it is refused."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **built(place, value)}
    raw = json.dumps(body).encode()
    assert object_ids.in_json(raw, id_paths.BY_ROUTE[template]) == ids({value})
    if template in ("/chat/completions", "/responses"):
        reader = object_ids.in_chat if template == "/chat/completions" else object_ids.in_response
        assert reader(raw, id_paths.BY_ROUTE[template]) == ids({value})
    with pytest.raises(BadRequestError):
        object_ids.in_json(json.dumps(built(place, "x" * 257)).encode(), id_paths.BY_ROUTE[template])


def test_every_place_is_of_a_route_that_reads_its_body() -> None:
    """The table speaks of routes that exist, each with a body that is looked through, and every route has its row."""
    rows = {route.template: route for route in routes.ROUTES if route.method == "POST"}
    assert id_paths.BY_ROUTE.keys() <= rows.keys()
    for template, route in rows.items():
        assert route.names == id_paths.BY_ROUTE.get(template, ())
        assert not route.names or route.reads not in (Reads.ANY, Reads.NOTHING)
    assert not any(route.names for route in routes.ROUTES if route.method != "POST")


# What applications write of their own, where the API takes no object's id.
OWN: list[tuple[Any, set[str]]] = [
    ({"thread_id": "lg-7", "assistant_id": "mine"}, {"mine"}),
    ({"session_id": "conv_1", "user_id": "batch_7", "trace_id": "resp_9"}, {"conv_1", "batch_7", "resp_9"}),
    ({"session_id": "lg-7", "user_id": "u-1", "trace_id": "9"}, set()),
    ({"file_id": "x", "file_ids": ["a", "b", 1]}, {"x", "a", "b"}),
    ({"a": [{"conversation": {"id": "mine"}}]}, {"mine"}),
    ({"other_file": "c", "my_file": "file-b"}, {"file-b"}),
    ({"video": {"id": "video_1"}, "file": "file_2", "id": "batch_3"}, {"video_1", "file_2", "batch_3"}),
    ({"audio": {"voice": "voice_3"}}, {"voice_3"}),
    ({"audio": {"voice": "alloy"}, "consent": "yes", "character": "Hamlet"}, set()),
    ({"client_metadata": {"session_id": "conv_1", "thread_id": "thread_1"}}, set()),
    ({"metadata": {"file_id": "file-1", "thread_id": "t"}}, set()),
    ({"user": {"id": "file-1"}, "safety_identifier": "file-1", "prompt_cache_key": "resp_1"}, set()),
    ({"tools": [{"function": {"parameters": {"properties": {"x": {"examples": [{"thread_id": "12"}]}}}}}]}, set()),
    ({"messages": [{"content": '{"file_id": "file-1"}'}]}, set()),
    ({"id": "msg_1", "file": "a.txt", "input": "file-1", "file_id": "", "assistant_id": None}, set()),
    ({"file_id": "y" * 257, "my_id": "file-" + "1" * 252}, set()),
]


@pytest.mark.parametrize(("value", "alike"), OWN, ids=lambda value: "" if isinstance(value, set) else str(value)[:60])
def test_what_an_application_says_of_its_own_is_at_most_looked_up(value: Any, alike: set[str]) -> None:
    """Outside the places of the API nothing is named; what looks like an id is told apart, but not in maps of its own."""
    raw = json.dumps(value).encode()
    assert object_ids.in_json(raw, ()) == ids(alike=alike)
    assert object_ids.in_json(raw, CHAT) == ids(alike=alike)
    assert object_ids.in_chat(raw, CHAT).alike <= alike


PREFIXES = sorted(object_ids.OBJECT_PREFIXES)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("reader", [object_ids.in_chat, object_ids.in_response, object_ids.in_json])
def test_ids_of_tool_calls_are_nobodys(reader: Any, prefix: str) -> None:
    """They are made of the names of functions (`file_read-1758`), and are not even looked up."""
    name = f"{prefix}read-1758"
    chat = [{"role": "assistant", "tool_calls": [{"id": name, "function": {}}]}, {"role": "tool", "tool_call_id": name}]
    items = [{"type": "function_call", "call_id": name}, {"type": "function_call_output", "call_id": name, "output": "x"}]
    for body in ({"messages": chat}, {"input": items}):
        assert reader(json.dumps(body).encode(), ()) is NO_IDS


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", ["my_id", "my_ids", "my_file", "id"])
def test_each_prefix_is_seen(prefix: str, key: str) -> None:
    """Under any key that ends as ids do, what begins as an id looks like one."""
    body = json.dumps({"x": [{key: f"{prefix}1"}]}).encode()
    assert object_ids.in_json(body, ()) == object_ids.in_response(body, RESPONSES) == ids(alike={f"{prefix}1"})
    assert key == "id" or object_ids.in_chat(body, CHAT) == ids(alike={f"{prefix}1"})
    assert object_ids.in_response(json.dumps({"x": [{key: f"x{prefix}1"}]}).encode(), RESPONSES) == NO_IDS


@pytest.mark.parametrize("key", sorted(object_ids.ID_KEYS))
@pytest.mark.parametrize("layout", ['{"a":[{"%s":%s}]}', '{ "a" : [ { "%s"\n:\t%s } ] }'])
def test_each_key_is_seen_in_a_response(key: str, layout: str) -> None:
    """A look at the bytes does not overlook a key, however it is set apart, listed or nested."""
    for value in ('"any"', '["any"]', '[ "any" ]', '{"id":"conv_any"}', '{"b":"c", "id" : "conv_any"}'):
        found = object_ids.in_response((layout % (key, value)).encode(), RESPONSES)
        assert found in (ids(alike={"any"}), ids(alike={"conv_any"}))


@pytest.mark.parametrize("voice", ['{"id":"voice_1"}', '{ "id" : "voice_1" }', '{"id":"\\u0076oice_1"}'])
def test_a_voice_is_seen_in_a_chat(voice: str) -> None:
    """A chat that speaks may name a voice that somebody made."""
    assert object_ids.in_chat(f'{{"audio":{{"voice":{voice}}}}}'.encode(), CHAT) == ids({"voice_1"})
    assert object_ids.in_chat(b'{"audio":{"voice":"alloy"}}', CHAT) is NO_IDS


def test_every_kind_with_an_owner_is_seen() -> None:
    """What is guarded in paths is guarded in bodies; a chat's own id is nowhere named in one."""
    prefixes = {prefix for kind in objects.KINDS.values() for prefix in kind.prefixes}
    assert prefixes - {"chatcmpl-"} <= object_ids.OBJECT_PREFIXES


SPECIAL = [*sorted(object_ids.ID_KEYS), "id", "my_id", "tool_calls", "metadata", "voice", "prompt", "items"]
KEYS = st.sampled_from(SPECIAL) | st.text(max_size=8)
WORDS = st.builds(str.__add__, st.sampled_from(PREFIXES), st.text(max_size=8)) | st.text(max_size=12)
FIELDS = st.recursive(
    WORDS | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


def texts(value: Any) -> Iterator[str]:
    """Every text in `value`."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inner)


@given(st.dictionaries(st.text(max_size=6).map("app_".__add__), FIELDS, max_size=4), st.sampled_from(EACH_PLACE))
def test_no_field_of_an_application_names_an_object(fields: dict[str, Any], at: tuple[str, str]) -> None:
    """Whatever an application adds beside what the API knows, only the place of the API is an object."""
    template, place = at
    raw = json.dumps({**fields, **built(place, "file-taken")}).encode()
    found = object_ids.in_json(raw, id_paths.BY_ROUTE[template])
    assert found.objects == {"file-taken"}
    assert found.alike <= set(texts(fields))


def spelled(text: str, escaped: list[bool]) -> str:
    """A JSON string with some of its signs as escapes."""
    return '"' + "".join(f"\\u{ord(sign):04x}" if one else sign for sign, one in zip(text, escaped, strict=True)) + '"'


@given(st.data(), st.sampled_from(["file_id", "previous_response_id", "some_id"]), st.sampled_from(["file-abc", "resp_1"]))
def test_escapes_hide_nothing(data: st.DataObject, key: str, name: str) -> None:
    """An id is found however its key and itself are spelled."""
    flags = [data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text))) for text in (key, name)]
    body = f'{{"a":{{{spelled(key, flags[0])}:{spelled(name, flags[1])}}}}}'.encode()
    assert object_ids.in_chat(body, CHAT) == object_ids.in_response(body, RESPONSES) == ids(alike={name})


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
    """An eval over stored answers is over those of all callers, however it is spelled and whatever else is new there."""
    assert object_ids.runs_over_account(body.encode()) is over


TUNED = "ft:gpt-4o:org::id"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"data_source":{"type":"completions","model":"ft:gpt-4o:org::id"}}', {TUNED}),
        ('{"testing_criteria":[{"type":"label_model","model":"ft:gpt-4o:org::id"}]}', {TUNED}),
        ('{"grader":{"graders":{"a":{"model":"ft:gpt-4o:org::id"}}}}', {TUNED}),
        ('{"a":{"judge_model":"ft:gpt-4o:org::id","fineTunedModel":"ft:b"}}', {TUNED, "ft:b"}),
        ('{"a":{"models":["gpt-4o","ft:gpt-4o:org::id"]}}', {TUNED}),
        ('{"a":{"model":"openai/ft:gpt-4o:org::id"}}', {f"openai/{TUNED}"}),
        ('{"a":{"model":"openai\\/ft:b"}}', {"openai/ft:b"}),
        ('{"a":{"\\u006dodel":"\\u0066\\u0074\\u003ab"}}', {"ft:b"}),
        ('{"a":{"model":"ft:one","model":"ft:two"}}', {"ft:one", "ft:two"}),
        ('{"model":"ft:top","tools":[{"model":"ft:b"}]}', {"ft:top", "ft:b"}),
        ('{"model":"ft:top"}', set()),
        ('{"model":"gpt-4o","messages":[{"content":"ft:b"},{"content":"\\"model\\":\\"ft:b\\""}]}', set()),
        ('{"metadata":{"model":"ft:b"},"item":{"model":"ft:b"},"a":{"model":"left: b"}}', set()),
    ],
)
def test_fine_tuned_models_are_seen_at_any_depth(body: str, found: set[str]) -> None:
    """Under whatever is called like a model, however spelled; not in texts nor in an application's own maps."""
    top = json.loads(body).get("model", "")
    assert object_ids.models(json_edit.members(body), body.encode(), top) == found


@pytest.mark.parametrize("names", [0, 1, object_ids.MODELS_MAX, object_ids.MODELS_MAX + 1, 600])
def test_models_are_read_no_further_than_to_one_too_many(names: int) -> None:
    """Reading stops where it is known that there are too many, however many follow; the same name counts once."""
    texts = [str(at) for at in range(names) for _ in range(2)] * 2
    read = 0

    def each() -> Iterator[str]:
        nonlocal read
        for text in texts:
            read += 1
            yield text

    if len(set(texts)) <= object_ids.MODELS_MAX:
        assert object_ids._few(each()) == set(texts)
        return
    with pytest.raises(BadRequestError, match="too many models"):
        object_ids._few(each())
    assert len(set(texts[:read])) == object_ids.MODELS_MAX + 1


def test_tools_name_few_models() -> None:
    """The models that make images for a response are bounded as well."""
    tools = ",".join(f'{{"type":"image_generation","model":"m{at}"}}' for at in range(object_ids.MODELS_MAX + 1))
    few = json_edit.members(f'{{"tools":[{tools.rpartition(",{")[0]}]}}')
    assert len(object_ids.models_of_tools(few)) == object_ids.MODELS_MAX
    with pytest.raises(BadRequestError, match="too many models"):
        object_ids.models_of_tools(json_edit.members(f'{{"tools":[{tools}]}}'))


@pytest.mark.parametrize(
    ("shape", "begins"),
    [
        ('{"tools":[{"model":[%s]}]}', "ft:"),
        ('{"tools":[{"model":[%s]}]}', "\\u0066t:"),
        ('{"models":[%s]}', "ft:"),
        ('{"models":[%s]}', "gpt-"),
        ('{"providerOptions":{"gateway":{"models":[%s]}}}', "gpt-"),
    ],
)
def test_a_body_names_few_models(shape: str, begins: str) -> None:
    """Each fine-tuned model is looked up, and each is held against what is allowed: there are few, wherever they
    stand.
    """
    most, more = (
        (shape % ",".join(f'"{begins}{number}"' for number in range(count))).encode()
        for count in (object_ids.MODELS_MAX, object_ids.MODELS_MAX + 1)
    )
    assert len(object_ids.models(json_edit.members(most), most, "")) == object_ids.MODELS_MAX
    with pytest.raises(BadRequestError, match="too many models"):
        object_ids.models(json_edit.members(more), more, "")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (TUNED, TUNED),
        (f"{TUNED}:ckpt-step-88", TUNED),
        (f"openai/{TUNED}", TUNED),
        ("ft:gpt-4o:org/team::id", "ft:gpt-4o:org/team::id"),
        ("gpt-4o", ""),
        ("a:ft:b", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_fine_tuned_model(model: str, name: str) -> None:
    """Its owner is known under its own name, whatever vendor stands before it and whichever state is meant."""
    assert object_ids.tuned_name(model) == name


def test_repeats_hide_nothing() -> None:
    """H10: of a repeated member every value is named, since the provider may take any of them."""
    body = b'{"a":[{"file_id":"one","file_id":"two"}],"a":"x","b":{"file":{"file_id":"three"},"file":1}}'
    assert object_ids.in_chat(body, ()).alike == {"one", "two", "three"}
    body = b'{"input":[{"content":{"file_id":"one","file_id":"two"}}],"input":{"content":[{"file_id":"three"}]}}'
    assert object_ids.in_response(body, RESPONSES).objects == {"one", "two", "three"}


def test_numbers_do_not_break_it() -> None:
    """H12: thousands of digits, which Python makes no integer of, are the provider's to refuse."""
    assert object_ids.in_json(b'{"seed":' + b"9" * 5000 + b',"x":1e999,"file_id":5}', ()) is NO_IDS


def test_there_are_bounds() -> None:
    """H13: so many objects cannot be meant; an application's own texts are as many as it likes."""
    many = json.dumps({"file_ids": [f"f{number}" for number in range(4097)]}).encode()
    assert len(object_ids.in_json(many, ()).alike) == 4097
    with pytest.raises(BadRequestError):
        object_ids.in_json(many, ("file_ids[]",))
    assert len(object_ids.in_json(many.replace(b'"f4096"', b'"f0"'), ("file_ids[]",)).objects) == 4096


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


FIELDS_TAKEN: id_paths.Places = ("file_id", "file_ids[]", "input_reference.file_id", "characters[].id")


class TestForms:
    """What a form names."""

    @pytest.mark.parametrize(
        ("parts", "objects", "alike"),
        [
            ([(field("model"), "sora"), (field("prompt"), "a cat")], set(), set()),
            ([(field("file_id"), "x"), (field("prompt"), "y")], {"x"}, set()),
            ([("content-disposition: form-data; name=file_id", " x ")], {"x"}, set()),
            ([(field("file_ids[]"), "a"), (field("file_ids[]"), "b")], {"a", "b"}, set()),
            ([(field("input_reference[file_id]"), "x")], {"x"}, set()),
            ([(field("characters[0][id]"), "x"), (field("characters[][id]"), "y")], {"x", "y"}, set()),
            ([(field("mine[file_id]"), "x"), (field("thread_id"), "lg-7")], set(), {"x"}),
            ([(field("file_id[mine]"), "x")], set(), {"x"}),
            ([(field("file_id"), "file-2"), (field("prompt"), "file-2")], {"file-2"}, set()),
            ([(field("anything"), '{"id": "video_1", "x": ["\\u0066ile-2"]}')], set(), {"video_1", "file-2"}),
            ([(field("prompt"), f"see profile_1, my-file-2, file_name, and {LONG}.")], set(), {LONG}),
            ([(field("input_reference"), "file-2")], set(), {"file-2"}),
            ([(field("file") + '; filename="a.py"', f"import thread_pool\n{LONG}\n")], set(), {LONG}),
            (
                [(field("file") + '; filename="file_id"', b"\0\xff" * 5 + b"file_path, batch_size, Xfile-" + b"a" * 30)],
                set(),
                set(),
            ),
            ([(field("file_id") + '; filename="a"', "x")], {"x"}, set()),
            ([(field("model"), " openai/ft:gpt-4o:org::id:ckpt-step-1 ")], set(), {"ft:gpt-4o:org::id"}),
            (
                [(field("a[judge_model]"), "ft:b"), (field("models[]"), "ft:c"), (field("prompt"), "ft:d")],
                set(),
                {"ft:b", "ft:c"},
            ),
        ],
        ids=lambda value: "" if isinstance(value, set) else str(value),
    )
    def test_what_is_named(self, parts: list[tuple[str, str | bytes]], objects: set[str], alike: set[str]) -> None:
        """Fields at places of the API, and elsewhere what looks like an id alone, in quotes, or by its length."""
        assert form_ids.ids(form(*parts), TYPE, FIELDS_TAKEN) == ids(objects, alike)
        spelled = form(*parts).replace(b"\r\n", b"\n")
        assert form_ids.ids(spelled, b'MULTIPART/form-data; charset=utf-8; Boundary="----x1"', FIELDS_TAKEN) == ids(
            objects, alike
        )

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
        """A part that does not say its text as it is could hide an id."""
        with pytest.raises(BadRequestError):
            form_ids.ids(form((head, "x")), TYPE, FIELDS_TAKEN)

    @pytest.mark.parametrize(
        "head",
        ["Content-Transfer-Encoding: binary", "Content-Type: text/plain; charset=UTF-8", "content-transfer-encoding: 8bit"],
    )
    def test_plain_encodings_pass(self, head: str) -> None:
        """RFC 7578: what clients write of themselves is fine."""
        assert form_ids.ids(form((f"{field('file_id')}\r\n{head}", "x")), TYPE, FIELDS_TAKEN) == ids({"x"})

    @pytest.mark.parametrize(
        "content_type",
        [
            b"multipart/form-data",
            b"multipart/form-data; boundary=a; boundary=----x1",
            b'multipart/form-data; a="; boundary=a"; boundary=----x1',
            b"multipart/form-data; boundary*0=----; boundary*1=x1",
            b"multipart/form-data; boundary=----x1; boundary*=utf-8''a",
            b"multipart/form-data; boundary=----x1; Boundary\t=a",
            b"multipart/form-data; boundary=----x1boundary=a",
            b'multipart/form-data; boundary="a\\"b"',
        ],
    )
    def test_one_boundary(self, content_type: bytes) -> None:
        """Two readers must not take a form apart in two ways."""
        with pytest.raises(BadRequestError):
            form_ids.ids(form((field("file_id"), "x")), content_type, FIELDS_TAKEN)

    @pytest.mark.parametrize(
        "boundary", ["----WebKitFormBoundary7MA4YWxkTrZu0gW", "boundary", "a-boundary", "Boundary-1_boundary"]
    )
    @pytest.mark.parametrize("quote", ["", '"'])
    def test_a_boundary_may_hold_the_word(self, boundary: str, quote: str) -> None:
        """As those of browsers do; it is what stands before a sign of equality that must be there once."""
        body = form((field("file_id"), "x")).replace(b"----x1", boundary.encode())
        content_type = f"multipart/form-data; boundary={quote}{boundary}{quote}".encode()
        assert form_ids.ids(body, content_type, FIELDS_TAKEN) == ids({"x"})

    def test_parts_are_bounded(self) -> None:
        """H13: so many parts cannot be meant."""
        with pytest.raises(BadRequestError):
            form_ids.ids(form(*[(field("a"), "b")] * 1025), TYPE, ())

    @given(st.integers(0, 40), st.sampled_from(sorted(object_ids.OBJECT_PREFIXES)))
    @example(0, "ftjob-")
    def test_an_id_at_a_seam(self, shift: int, prefix: str) -> None:
        """A long file is looked through in slices, whose seams hide nothing."""
        name = prefix + "a1" * 12
        content = b"." * (256 * 1024 - shift) + name.encode() + b"."
        assert form_ids.ids(form((field("file") + "; filename=a", content)), TYPE, ()) == ids(alike={name})

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
                found = form_ids.ids(body, given_type, FIELDS_TAKEN)
                assert all(isinstance(one, str) for one in [*found.objects, *found.alike])
            except BadRequestError as error:
                assert error.code


@pytest.mark.parametrize("value", [b'{"a":"b"}', b"{}", b"1", b"1.5"])
def test_others_run_while_many_values_are_read(value: bytes) -> None:
    """Python runs at each object and number of a long body, where the interpreter goes to who waits for it."""
    calls = Counter[str]()
    sys.setprofile(lambda _frame, event, _argument: calls.update((event,)))
    try:
        object_ids.decoded(b'{"x":[' + b",".join([value] * 1000) + b"]}")
    finally:
        sys.setprofile(None)
    assert calls["call"] >= 1000
