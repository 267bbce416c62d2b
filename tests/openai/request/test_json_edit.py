"""openai.request.json_edit through openai.wire: which bytes of a request may change, and which repeats are refused."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai import wire
from sentinel.openai.request import json_edit
from sentinel.ops.errors import BadRequestError
from sentinel.ops.records import Call, Dialect, Reads, Route

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}
ROUTES = {
    "chat_completions": Route("POST", "/chat/completions", "chat_completions", Reads.CHAT, Dialect.CHAT),
    "completions": Route("POST", "/completions", "completions", Reads.COMPLETIONS, Dialect.CHAT),
}
READ_BY_CHAT = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "store",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "tools",
    "functions",
    "response_format",
    "tool_choice",
    "function_call",
    "prediction",
    "web_search_options",
}

# No lone surrogates: JSON can spell them, UTF-8 cannot, and they are refused (tests/openai/test_wire.py).
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
unread = st.dictionaries(texts.filter(lambda name: name not in READ_BY_CHAT), values, max_size=5)
layouts = st.fixed_dictionaries(
    {"indent": st.sampled_from([None, 0, 2, "\t"]), "ensure_ascii": st.booleans()},
    optional={"separators": st.sampled_from([(",", ":"), (" , ", " : "), (",\r\n", ":\t")])},
)
options = st.none() | st.builds(
    lambda rest, usage: rest | usage,
    st.dictionaries(texts.filter(lambda name: name != "include_usage"), values, max_size=3),
    st.sampled_from([{}, {"include_usage": False}, {"include_usage": None}]),
)


def read(body: bytes | dict[str, Any], route: str = "chat_completions") -> Call:
    """The call a body becomes."""
    given_bytes = body if isinstance(body, bytes) else json.dumps(body).encode()
    row = ROUTES[route]
    return wire.read_call(row, "POST", row.template, b"", given_bytes, b"application/json")


def refused(body: bytes | dict[str, Any], route: str = "chat_completions") -> BadRequestError:
    """The refusal of a body that must be refused."""
    with pytest.raises(BadRequestError) as caught:
        read(body, route)
    return caught.value


def shuffled(data: st.DataObject, members: dict[str, Any]) -> dict[str, Any]:
    """The members in an order of hypothesis's choice."""
    return dict(data.draw(st.permutations(list(members.items()))))


class TestSplice:
    """Rule U2-U4, H9: usage is asked for by changing as few bytes as can be."""

    @given(st.data(), unread, layouts)
    def test_missing_options_are_inserted(self, data: st.DataObject, rest: dict[str, Any], layout: dict[str, Any]) -> None:
        """U2, H9: the spliced body means the same plus include_usage, and without the inserted bytes it is the client's."""
        members = shuffled(data, CHAT | rest | {"stream": True})
        body = json.dumps(members, **layout).encode()
        call = read(body)
        assert members | {"stream_options": {"include_usage": True}} == json.loads(call.body)
        assert body == call.body.replace(b'"stream_options":{"include_usage":true},', b"", 1)
        assert call.usage_hidden

    @given(st.data(), unread, options, layouts)
    def test_given_options_are_merged(
        self, data: st.DataObject, rest: dict[str, Any], chosen: dict[str, Any] | None, layout: dict[str, Any]
    ) -> None:
        """U4: sibling keys survive, null counts as absent, and one stretch of bytes is all that differs."""
        members = shuffled(data, CHAT | rest | {"stream": True, "stream_options": chosen})
        body = json.dumps(members, **layout).encode()
        call = read(body)
        expected = members | {"stream_options": (chosen or {}) | {"include_usage": True}}
        assert expected == json.loads(call.body)
        assert list(members) == list(json.loads(call.body))
        assert call.usage_hidden
        start = next(at for at in range(len(body)) if body[at] != call.body[at])
        kept = next(at for at in range(1, len(body)) if body[-at] != call.body[-at]) - 1
        assert len(body) - start - kept <= len(b"false")

    @given(st.data(), unread, layouts, st.sampled_from([{}, {"stream": False}, {"stream": None}]))
    def test_no_stream_is_untouched(
        self, data: st.DataObject, rest: dict[str, Any], layout: dict[str, Any], stream: dict[str, Any]
    ) -> None:
        """U3, H9: without a stream the body goes up byte for byte, whatever its options say."""
        members = shuffled(data, CHAT | rest | stream | data.draw(st.sampled_from([{}, {"stream_options": {"a": 1}}])))
        body = json.dumps(members, **layout).encode()
        call = read(body)
        assert body == call.body
        assert not call.stream
        assert not call.usage_hidden

    @pytest.mark.parametrize("kind", ["chat_completions", "completions"])
    @pytest.mark.parametrize("wrong", ["yes", "", 1, 0, 0.5, True, False, [], [{"include_usage": False}]])
    def test_wrong_options_are_replaced(self, wrong: Any, kind: str) -> None:
        """A provider that does not refuse options of a wrong type would tell no usage; PHP writes {} as []."""
        given = CHAT if kind == "chat_completions" else COMPLETION
        call = read(given | {"stream": True, "stream_options": wrong, "user": "a"}, kind)
        assert json.loads(call.body) == given | {"stream": True, "stream_options": {"include_usage": True}, "user": "a"}
        assert call.usage_hidden

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            *(
                (value, False)
                for value in (False, None, 0, 0.0, -1, 2, "", "false", "False", "0", "no", "off", "n", [], {}, [1])
            ),
            *((value, True) for value in (1, 1.0, "true", "True", "1", "yes", "on", "Y", "t")),
        ],
    )
    def test_usage_is_told_however_the_client_asks_for_it(self, value: Any, shown: bool) -> None:
        """The provider is asked for usage whatever the type of the value is; who asks as lenient readers take it sees
        it.
        """
        options = {"x": {"include_usage": False}, "include_usage": value, "include_obfuscation": False}
        call = read(CHAT | {"stream": True, "stream_options": options})
        assert json.loads(call.body)["stream_options"] == options | {"include_usage": True}
        assert call.usage_hidden is not shown

    def test_asking_client_is_untouched(self) -> None:
        """U6: a client that asks for usage itself sees it, and its bytes stay."""
        body = json.dumps(CHAT | {"stream": True, "stream_options": {"include_usage": True, "x": 1}}).encode()
        call = read(body)
        assert (body, True, False) == (call.body, call.stream, call.usage_hidden)

    def test_completions_are_spliced_too(self) -> None:
        """U2: /completions takes the same option."""
        call = read(COMPLETION | {"stream": True}, "completions")
        assert json.loads(call.body) == COMPLETION | {"stream": True, "stream_options": {"include_usage": True}}

    def test_decoys_do_not_move_the_splice(self) -> None:
        """H9: only the top-level member is changed, whatever strings, nested members and odd spellings look like it."""
        decoy = '\\"stream_options\\": null'
        body = (
            f' {{"a\\\\":"{decoy}" , "stream_options\\"":1,"x":{{"stream_options":null,"include_usage":false}},"model":"m",'
            '"messages":[{"stream_options":null}],"stream" :\ttrue,"stream_\\u006fptions" : {"y":{"include_usage":false},'
            '"include\\u005fusage"\n:\nfalse , "z":null} , "stream_option":null}'
        ).encode()
        at = body.index(b"\nfalse ") + 1
        assert body[:at] + b"true" + body[at + 5 :] == read(body).body

    def test_numbers_and_unread_repeats_survive(self) -> None:
        """H9: what is not read is forwarded as spelled: big integers, long fractions, exponents, repeated members."""
        rest = b'"model":"m","messages":[{"a":1.0}],"stream":true,"seed":12345678901234567890123,"t":1.00,"u":1E-2,"u":1e400}'
        assert b'{"stream_options":{"include_usage":true},' + rest == read(b"{" + rest).body


class TestDuplicates:
    """Rule H10, rule Y7: a parameter that two readers could read differently is refused."""

    @pytest.mark.parametrize("name", sorted(READ_BY_CHAT))
    @pytest.mark.parametrize("escaped", [False, True])
    @pytest.mark.parametrize("first", [False, True])
    def test_each_read_name(self, name: str, escaped: bool, first: bool) -> None:
        """H10: the second spelling may be escaped, and its place does not matter."""
        valid = CHAT | {"stream": True, "stream_options": {}, "n": 1, "tools": [], "functions": []}
        valid |= dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), 5)
        valid |= dict.fromkeys(READ_BY_CHAT - valid.keys())
        spelled = f"\\u{ord(name[0]):04x}{name[1:]}" if escaped else name
        again = f'"{spelled}":{json.dumps(valid[name])}'
        inner = json.dumps(valid, separators=(",", ":"))[1:-1]
        error = refused(("{" + (f"{again},{inner}" if first else f"{inner},{again}") + "}").encode())
        assert ("duplicate_parameter", name) == (error.code, error.param)

    @pytest.mark.parametrize(
        "twice", ['"include_usage":true,"include_usage":false', '"include_usage":false, "include\\u005fusage":true']
    )
    def test_include_usage(self, twice: str) -> None:
        """Y7: the same inside stream_options."""
        error = refused((json.dumps(CHAT | {"stream": True})[:-1] + ',"stream_options":{' + twice + "}}").encode())
        assert (error.code, error.param) == ("duplicate_parameter", "include_usage")

    def test_padding_does_not_hide_a_repeat(self) -> None:
        """H10: blanks, escapes and multi-byte names make a body longer, never shorter, than its shortest spelling."""
        for padding in ("", " ", "\n\n\n"):
            for name in ("é", "\\u0061", "x" * 50):
                body = f'{{"{name}":1,{padding}"model":"a","messages":[{{}}],"model":"b"}}'.encode()
                assert refused(body).param == "model"

    @pytest.mark.parametrize(
        "rest",
        [
            b',"":1' * 2_000_000,
            b',"stream":true,"stream_options":null' + b',"":1' * 2_000_000,
            b"," + b",".join(b'"%d":1' % name for name in range(1024)),
            b"," + b" " * 20_000 + b'"a":1',
        ],
        ids=["repeats", "repeats to splice", "members", "blanks"],
    )
    def test_walks_are_bounded(self, rest: bytes) -> None:
        """H13: millions of small members are refused before they are walked one by one."""
        begun = time.perf_counter()
        assert refused(b'{"model":"m","messages":[{}]' + rest + b"}").code == "invalid_body"
        assert time.perf_counter() - begun < 3

    def test_indented_members_are_fine(self) -> None:
        """H13: the bound leaves room for any layout a person would write."""
        body = CHAT | {f"x{number}": {"y": [number]} for number in range(200)}
        assert read(json.dumps(body, indent=16).encode()).model == "gpt-4o"

    def test_same_names_below_are_allowed(self) -> None:
        """H10: only the top level is read, so members of the same name below it are no repeats."""
        body = {**CHAT, "tools": [{"model": 1, "stream": 2, "n": 3}], "metadata": {"model": "x"}}
        assert read(body).model == "gpt-4o"

    @pytest.mark.parametrize("layout", [(",", ":"), (", ", ": ")])
    def test_large_bodies_are_checked(self, layout: tuple[str, str]) -> None:
        """H10: the length of a body changes only how its check is done."""
        inner = json.dumps({"model": "a", "messages": [{"content": "x" * 50_000}]}, separators=layout)[1:-1]
        assert read(("{" + inner + "}").encode()).model == "a"
        assert refused(("{" + inner + ',"model":"b"}').encode()).param == "model"

    @given(st.lists(st.tuples(st.sampled_from(["a", "é", '"', "\\", "\n", "\x7f", "/"]), values), max_size=4), layouts)
    def test_whatever_is_given_once_passes_and_nothing_else(self, pairs: list[tuple[str, Any]], layout: dict[str, Any]) -> None:
        """H10: names of any characters, in any layout, are refused exactly where one comes again."""
        spelled = [json.dumps({name: value}, **layout).strip()[1:-1] for name, value in pairs]
        text = ("{" + ",".join(spelled) + "}").encode()
        names = [name for name, _ in pairs]
        try:
            members = json_edit.members(text)
            json_edit.check_once(text, members, json_edit.shortest(members), set(names))
        except BadRequestError as error:
            assert names.count(error.param or "") > 1
        else:
            assert len(set(names)) == len(names)


def test_members_keep_their_bytes() -> None:
    """H9: values come undecoded, without the blanks around them."""
    assert {name: bytes(value) for name, value in json_edit.members(b' { "a" : [ 1 ] , "\\u0062":1.00 }').items()} == {
        "a": b"[ 1 ]",
        "b": b"1.00",
    }
