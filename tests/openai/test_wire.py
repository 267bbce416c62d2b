"""openai.wire: what is read of a request, and how it is refused."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.openai import wire
from sentinel.openai.request import formats, validation_errors
from sentinel.openai.request.id_paths import BY_ROUTE
from sentinel.openai.tokens import prompts
from sentinel.ops.errors import BadRequestError, OverLimitError, SentinelError, UnsupportedMediaTypeError
from sentinel.ops.records import NO_IDS, Call, ChatPrompt, Dialect, Ids, Reads, ResponsesPrompt, Route, TextPrompt

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}
RESPONSE: dict[str, Any] = {"model": "gpt-4o", "input": "hi"}
GOOD = {"chat_completions": CHAT, "completions": COMPLETION, "responses": RESPONSE, "embeddings": RESPONSE}
ROUTES = {
    "chat_completions": Route("POST", "/chat/completions", "chat_completions", Reads.CHAT, Dialect.CHAT),
    "completions": Route("POST", "/completions", "completions", Reads.COMPLETIONS, Dialect.CHAT),
    "embeddings": Route("POST", "/embeddings", "embeddings", Reads.EMBEDDINGS, Dialect.EVENTS),
    "responses": Route("POST", "/responses", "responses", Reads.RESPONSES, Dialect.RESPONSES),
    "images": Route("POST", "/images/generations", "images", Reads.OBJECT, Dialect.EVENTS),
    "audio": Route("POST", "/audio/translations", "audio", Reads.ANY, Dialect.EVENTS),
    "cancel": Route("POST", "/batches/{batch_id}/cancel", "batch_cancel", Reads.OBJECT, Dialect.NONE),
    "eval_runs": Route("POST", "/evals/{eval_id}/runs", "evals", Reads.WORK, Dialect.EVENTS),
    "videos": Route("POST", "/videos", "videos", Reads.FORM, Dialect.EVENTS),
    "model": Route("GET", "/models/{model}", "model", Reads.NOTHING, Dialect.NONE),
}
ROUTES = {label: msgspec.structs.replace(route, names=BY_ROUTE.get(route.template, ())) for label, route in ROUTES.items()}
READS_JSON = ["chat_completions", "completions", "embeddings", "responses", "images", "videos"]
READ_BY_CHAT = {"messages", "stream_options", "n", "max_tokens", "max_completion_tokens", "max_output_tokens", "tools"}
READ_BY_CHAT |= {"model", "stream", "store", "functions", "response_format", "tool_choice", "function_call", "prediction"}

RATES = prompts.rates("gpt-4o", "o200k_base")

# No lone surrogates: JSON can spell them, UTF-8 cannot, and they are refused (H12, below).
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
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


def refusal_of(body: bytes) -> BadRequestError | None:
    """The refusal of a body that may be fine."""
    try:
        read(body)
    except BadRequestError as error:
        return error
    return None


VALID = json.dumps(CHAT).encode()
INSIDE = b'{"model":"m","messages":[{"content":%s}]}'
OUTSIDE = b'{"model":"m","messages":[{}],"metadata":%s}'
EVERY = b'{"model":"m","messages":[{}],"input":"x","metadata":%s}'
NOT_JSON = {
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "lone high surrogate": b'"\\ud83d"',
    "surrogate and text": b'"\\ud83dx"',
    "invalid utf-8": b'"\xff"',
    "overlong utf-8": b'"\xc0\x80"',
    "encoded surrogate": b'"\xed\xa0\xbd"',
    "control character": b'"\x01"',
    "bad escape": b'"\\x41"',
    "leading zero": b"01",
}
UNPARSABLE = {
    "empty": b"",
    "blank": b" \n",
    "truncated": VALID[:-1],
    "truncated in a string": VALID[:20],
    "trailing": VALID + b"x",
    "two values": VALID + VALID,
    "two boms": b"\xef\xbb\xbf" * 2 + VALID,
    "utf-16": VALID.decode().encode("utf-16"),
    "single quotes": VALID.replace(b'"', b"'"),
    "trailing comma": VALID[:-1] + b",}",
    "nul": VALID + b"\0",
    "form": b"model=gpt-4o&messages=hi",
    "nan alone": b"NaN",
    "number out of range inside": INSIDE % b"1e400",
    "huge integer inside": INSIDE % (b"9" * 5000),
    **{
        f"{what} {where}": body % text
        for where, body in (("inside", INSIDE), ("outside", OUTSIDE))
        for what, text in NOT_JSON.items()
    },
}


class TestUnparsable:
    """Rule H12: whatever msgspec raises is OpenAI's 400, never a 500."""

    @pytest.mark.parametrize("body", UNPARSABLE.values(), ids=UNPARSABLE.keys())
    def test_each_raiser(self, body: bytes) -> None:
        """H12, Y7: the message is OpenAI's, and no parameter is blamed."""
        error = refused(body)
        assert (error.status, error.message, error.param, error.code) == (400, validation_errors.PARSE_MESSAGE, None, None)

    @pytest.mark.parametrize("route", READS_JSON)
    @pytest.mark.parametrize("text", [b"[", b'{"a":'])
    def test_ten_megabytes_of_brackets(self, route: str, text: bytes) -> None:
        """Y7, H12: neither 10 MB of [ nor as deep an object reaches the parser, whose recursion it would exhaust."""
        for body in (text * 2_000_000, b'{"model":"m","x":' + text * 2_000_000, INSIDE % (b"[" * 5000 + b"]" * 5000)):
            error = refused(body, route)
            assert (error.code, error.message) == ("invalid_body", "The body is nested too deeply: at most 64 levels are read.")

    def test_low_surrogate_alone(self) -> None:
        """H12: a low surrogate without its high one never becomes a str that cannot be encoded."""
        for text in (b'"\\ude00"', b'"x\\udfff"'):
            error = refused(INSIDE % text)
            assert error.message == validation_errors.PARSE_MESSAGE

    @pytest.mark.parametrize(
        ("around", "levels"),
        [
            ('{"model":"m","messages":[{}],"x":%s}', 1),
            ('{"model":"m","messages":[{"x":%s}]}', 3),
            ('{"model":"m","stream":true,"messages":[{}],"stream_options":{"x":%s}}', 2),
        ],
    )
    def test_nesting_at_the_edge(self, around: str, levels: int) -> None:
        """Y7: 64 levels are read, 65 are not, wherever they are."""
        assert read((around % ("[" * (64 - levels) + "]" * (64 - levels))).encode()).model == "m"
        assert refused((around % ("[" * (65 - levels) + "]" * (65 - levels))).encode()).code == "invalid_body"

    @pytest.mark.parametrize("route", READS_JSON)
    def test_every_reader(self, route: str) -> None:
        """H12: what is no JSON is none for any route, also where it stands in parts that nobody reads."""
        valid = EVERY % b'"x"'
        assert read(valid, route).body == valid
        for text in NOT_JSON.values():
            assert refused(EVERY % text, route).message == validation_errors.PARSE_MESSAGE
        for body in (
            valid[:-1],
            valid + b"x",
            b"\xef\xbb\xbf" * 2 + valid,
            valid.decode().encode("utf-16"),
            valid.replace(b'"', b"'"),
        ):
            assert refused(body, route).message == validation_errors.PARSE_MESSAGE

    @given(st.binary(max_size=60), st.integers(0, 200))
    def test_any_bytes(self, noise: bytes, at: int) -> None:
        """H12: bytes put anywhere into a body never raise anything but BadRequestError."""
        body = json.dumps(CHAT | {"stream": True, "stream_options": {"include_usage": False}}).encode()
        for mutant in (noise, body[:at] + noise + body[at:], body[:at] + noise + body[at + len(noise) :]):
            error = refusal_of(mutant)
            assert error is None or json.loads(wire.error_body(error))["error"]["message"] == error.message

    @given(values, st.sampled_from(sorted(READ_BY_CHAT)))
    def test_any_value(self, value: Any, name: str) -> None:
        """E3: a wrong value of any parameter is refused by name, a right one is read."""
        error = refusal_of(json.dumps(CHAT | {"stream": True} | {name: value}).encode())
        assert error is None or error.param is None or error.param.startswith(name)


BIG = 2**31 + 1
WRONG = [
    ("chat_completions", {"model": 1}, "model", "invalid_type", "expected a string, but got an integer instead"),
    ("chat_completions", {"model": None}, "model", "invalid_type", "expected a string, but got null instead"),
    ("chat_completions", {"model": ["m"]}, "model", "invalid_type", "expected a string, but got an array instead"),
    ("chat_completions", {"model": ""}, "model", "empty_string", "length >= 1"),
    ("chat_completions", {"model": "m" * 257}, "model", "string_above_max_length", "length <= 256"),
    ("chat_completions", {"model": "m\nx"}, "model", "invalid_value", "characters"),
    ("chat_completions", {"model": "m\u0000"}, "model", "invalid_value", "characters"),
    ("chat_completions", {"messages": "hi"}, "messages", "invalid_type", "expected an array, but got a string instead"),
    ("chat_completions", {"messages": {}}, "messages", "invalid_type", "expected an array, but got an object instead"),
    ("chat_completions", {"messages": None}, "messages", "invalid_type", "expected an array, but got null instead"),
    ("chat_completions", {"messages": []}, "messages", "empty_array", "empty array. Expected an array with minimum length 1"),
    (
        "chat_completions",
        {"messages": [{}, 1]},
        "messages[1]",
        "invalid_type",
        "expected an object, but got an integer instead",
    ),
    ("chat_completions", {"stream": 1}, "stream", "invalid_type", "expected a boolean, but got an integer instead"),
    ("chat_completions", {"stream": "true"}, "stream", "invalid_type", "expected a boolean, but got a string instead"),
    ("chat_completions", {"n": -1}, "n", "integer_below_min_value", "a value >= 0"),
    ("chat_completions", {"n": 129}, "n", "integer_above_max_value", "a value <= 128"),
    ("chat_completions", {"n": 10**30}, "n", "integer_above_max_value", "a value <= 128"),
    ("chat_completions", {"n": 1.5}, "n", "invalid_type", "expected an integer, but got a decimal number instead"),
    ("chat_completions", {"n": True}, "n", "invalid_type", "expected an integer, but got a boolean instead"),
    ("chat_completions", {"n": "2"}, "n", "invalid_type", "expected an integer, but got a string instead"),
    ("chat_completions", {"max_tokens": -1}, "max_tokens", "integer_below_min_value", "a value >= 0"),
    ("chat_completions", {"max_tokens": BIG}, "max_tokens", "integer_above_max_value", "a value <= 2147483648"),
    ("chat_completions", {"max_completion_tokens": -5}, "max_completion_tokens", "integer_below_min_value", "a value >= 0"),
    ("chat_completions", {"max_completion_tokens": []}, "max_completion_tokens", "invalid_type", "but got an array instead"),
    ("chat_completions", {"max_output_tokens": "9"}, "max_output_tokens", "invalid_type", "but got a string instead"),
    ("chat_completions", {"tools": {}}, "tools", "invalid_type", "expected an array, but got an object instead"),
    ("chat_completions", {"functions": "f"}, "functions", "invalid_type", "expected an array, but got a string instead"),
    ("completions", {"prompt": {}}, "prompt", "invalid_type", "expected a string or an array, but got an object instead"),
    ("completions", {"prompt": 1}, "prompt", "invalid_type", "but got an integer instead"),
    ("completions", {"prompt": []}, "prompt", "empty_array", "empty array. Expected an array with minimum length 1"),
    ("completions", {"prompt": ["a", 1]}, "prompt", "invalid_type", "mixed array"),
    ("completions", {"prompt": [[1], 1]}, "prompt", "invalid_type", "mixed array"),
    ("completions", {"prompt": [None]}, "prompt[0]", "invalid_type", "but got null instead"),
    ("completions", {"prompt": [1.5]}, "prompt[0]", "invalid_type", "but got a decimal number instead"),
    ("completions", {"prompt": [[1, "a"]]}, "prompt[0][1]", "invalid_type", "expected an integer, but got a string instead"),
    ("completions", {"best_of": -1}, "best_of", "integer_below_min_value", "a value >= 0"),
    ("completions", {"best_of": 10**6}, "best_of", "integer_above_max_value", "a value <= 128"),
    ("completions", {"max_tokens": -1}, "max_tokens", "integer_below_min_value", "a value >= 0"),
]


class TestWrongTypes:
    """Rule E3: a wrong parameter is named, in OpenAI's wording and codes."""

    @pytest.mark.parametrize(("route", "members", "param", "code", "text"), WRONG, ids=str)
    def test_each_parameter(self, route: str, members: dict[str, Any], param: str, code: str, text: str) -> None:
        """E3: param, code and message say what is wrong and where."""
        error = refused((CHAT if route == "chat_completions" else COMPLETION) | members, route)
        assert (400, "invalid_request_error", param, code) == (error.status, error.type, error.param, error.code)
        assert text in error.message
        assert f"'{param}'" in error.message

    @pytest.mark.parametrize(
        ("route", "name"), [("chat_completions", "model"), ("chat_completions", "messages"), ("completions", "model")]
    )
    def test_missing(self, route: str, name: str) -> None:
        """E3: a missing parameter is named."""
        members = {key: value for key, value in (CHAT | COMPLETION).items() if key != name}
        error = refused(members, route)
        assert (f"Missing required parameter: '{name}'.", name) == (error.message, error.param)
        assert error.code == "missing_required_parameter"

    @pytest.mark.parametrize(
        ("body", "got"),
        [
            (b"[]", "an array"),
            (b"1", "an integer"),
            (b"1.5", "a decimal number"),
            (b'"x"', "a string"),
            (b"null", "null"),
            (b"true", "a boolean"),
        ],
    )
    def test_top_level_must_be_an_object(self, body: bytes, got: str) -> None:
        """E3: any other JSON value is refused."""
        error = refused(body)
        assert (f"Invalid type for the request body: expected an object, but got {got} instead.", None) == (
            error.message,
            error.param,
        )

    @pytest.mark.parametrize(
        "name",
        ["stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "max_output_tokens", "tools", "functions"],
    )
    def test_null_is_absent(self, name: str) -> None:
        """SPEC: optional parameters are nullable."""
        assert read(CHAT).prompt == read(CHAT | {name: None}).prompt


class TestRead:
    """What a Call says of a request."""

    def test_chat(self) -> None:
        """The parts that are priced, and the raw parts that are forwarded."""
        body = json.dumps(
            CHAT | {"n": 3, "max_tokens": 10, "max_completion_tokens": 20, "tools": [{"type": "function"}]}
        ).encode()
        call = wire.read_call(
            ROUTES["chat_completions"], "POST", "/chat/completions", b"a[]=1&a[]=%2F", body, b"application/json"
        )
        assert call == Call(
            route="chat_completions",
            method="POST",
            path="/chat/completions",
            query=b"a[]=1&a[]=%2F",
            model="gpt-4o",
            body=body,
            prompt=ChatPrompt(CHAT["messages"], [{"type": "function"}]),
            output_tokens_declared=60,
            choices=3,
        )

    def test_functions_become_tools(self) -> None:
        """The older `functions` cost tokens as well, beside `tools`."""
        call = read(CHAT | {"tools": [{"type": "function", "function": {"name": "a"}}], "functions": [{"name": "b"}]})
        assert isinstance(call.prompt, ChatPrompt)
        assert [{"type": "function", "function": {"name": name}} for name in "ab"] == list(call.prompt.tools)

    @pytest.mark.parametrize(
        ("prompt", "expected", "prompts"),
        [
            ("hi", TextPrompt(("hi",)), 1),
            ("", TextPrompt(("",)), 1),
            (None, TextPrompt(("",)), 1),
            (["a", "b"], TextPrompt(["a", "b"]), 2),
            ([1, 2, 3], TextPrompt(tokens_given=3), 1),
            ([[1, 2], [3], []], TextPrompt(tokens_given=3), 3),
        ],
    )
    def test_prompts(self, prompt: Any, expected: TextPrompt, prompts: int) -> None:
        """T4: each shape of a prompt; integers count as tokens, and each prompt of a list is answered on its own."""
        call = read(COMPLETION | {"prompt": prompt, "n": 2, "best_of": 5, "max_tokens": 7}, "completions")
        assert (expected, 5 * prompts, 35 * prompts) == (call.prompt, call.choices, call.output_tokens_declared)

    def test_prompt_is_optional(self) -> None:
        """SPEC: a completion without a prompt begins a new document."""
        assert TextPrompt(("",)) == read({"model": "m"}, "completions").prompt

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({}, None),
            ({"n": 4}, None),
            ({"max_output_tokens": 9}, 9),
            ({"max_tokens": 3, "max_completion_tokens": 2, "n": 2}, 6),
            ({"max_completion_tokens": 2**31, "n": 128}, 2**38),
        ],
    )
    def test_declared_output(self, members: dict[str, Any], expected: int | None) -> None:
        """T4: the largest cap times n; none where the client declares none."""
        assert expected == read(CHAT | members).output_tokens_declared

    def test_declared_output_is_bounded(self) -> None:
        """No number of prompts makes a figure that Lua cannot add up exactly."""
        call = read(COMPLETION | {"prompt": ["a"] * 5000, "n": 128, "max_tokens": 2**31}, "completions")
        assert call.output_tokens_declared == formats.OUTPUT_TOKENS_DECLARED_MAX

    def test_cap_of_zero(self) -> None:
        """A completion with max_tokens 0 only scores its prompt; one token is held, since a hold is never empty."""
        assert read(COMPLETION | {"max_tokens": 0}, "completions").output_tokens_declared == 1

    @pytest.mark.parametrize(
        ("route", "members", "choices", "declared"),
        [
            ("chat_completions", {"n": 0}, 1, None),
            ("chat_completions", {"n": 0, "max_tokens": 5}, 1, 5),
            ("chat_completions", {"max_tokens": 0}, 1, None),
            ("chat_completions", {"max_completion_tokens": 0}, 1, None),
            ("chat_completions", {"max_output_tokens": 0, "n": 3}, 3, None),
            ("chat_completions", {"max_tokens": 0, "max_completion_tokens": 7}, 1, 7),
            ("completions", {"best_of": 0}, 1, None),
            ("completions", {"n": 0}, 1, None),
            ("completions", {"n": 0, "best_of": 0, "max_tokens": 0}, 1, 1),
            ("completions", {"n": 2, "best_of": 0, "max_tokens": 5}, 2, 10),
            ("responses", {"max_output_tokens": 0}, 1, None),
        ],
    )
    def test_zeros_go_up(self, route: str, members: dict[str, Any], choices: int, declared: int | None) -> None:
        """T4: whether 0 means something is the provider's to judge; it is held as one choice, and as no cap."""
        given = GOOD[route] | members
        call = read(given, route)
        assert (call.choices, call.output_tokens_declared, json.loads(call.body)) == (choices, declared, given)

    @pytest.mark.parametrize("route", READS_JSON)
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_byte_order_mark_is_ignored(self, route: str, stream: bool) -> None:
        """H12, RFC 8259 §8.1: a UTF-8 BOM before JSON is not read and not sent up, also where something is spliced in."""
        body = json.dumps(GOOD.get(route, CHAT) | {"stream": stream}).encode()
        assert read(b"\xef\xbb\xbf" + body, route) == read(body, route)

    @pytest.mark.parametrize(
        "mark", [b"\xef\xbb\xbf" * 2, b" \xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb", b"\x00\x00\xfe\xff"]
    )
    @pytest.mark.parametrize("route", READS_JSON)
    def test_other_marks_are_not(self, route: str, mark: bytes) -> None:
        """H12: one mark, at the beginning, of UTF-8; a second one is content, and other encodings are not read."""
        assert refused(mark + json.dumps(GOOD.get(route, CHAT)).encode(), route).status == 400

    def test_a_mark_alone_is_no_body(self) -> None:
        """H12: it is what an editor writes into an empty file: an action that needs no body has none, a chat is refused."""
        assert read(b"\xef\xbb\xbf", "cancel").body == b""
        assert refused(b"\xef\xbb\xbf").status == 400

    def test_a_file_keeps_its_mark(self) -> None:
        """H18: what is not JSON goes up as it came."""
        form = b'\xef\xbb\xbf--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
        call = wire.read_call(ROUTES["videos"], "POST", "/videos", b"", form, b"multipart/form-data; boundary=x")
        assert call.body == form

    def test_routes_without_a_body(self) -> None:
        """H8: path and query stay raw, and a body nobody asked for is not forwarded, whatever it says it is."""
        call = wire.read_call(ROUTES["model"], "GET", "/models/openai%2Fgpt-4o", b"a=+", b"{not json", b"x")
        assert Call("model", "GET", "/models/openai%2Fgpt-4o", b"a=+", dialect=Dialect.NONE) == call

    def test_model_is_not_normalised(self) -> None:
        """The model is the one the bytes say, in case and spelling."""
        assert read(CHAT | {"model": " GPT-4o\u00e9 "}).model == " GPT-4o\u00e9 "

    def test_emoji_pairs_are_read(self) -> None:
        """H12: a whole surrogate pair is legal and is one character."""
        call = read(INSIDE % b'"\\ud83d\\ude00"')
        assert isinstance(call.prompt, ChatPrompt)
        assert call.prompt.messages[0]["content"] == "\U0001f600"

    @pytest.mark.parametrize(("store", "stored"), [(True, True), (False, False), (None, False)])
    def test_a_stored_chat(self, store: bool | None, stored: bool) -> None:
        """P3: a chat stays with the provider only where it is asked to."""
        assert read(CHAT | {"store": store}).stored is stored
        assert not read(CHAT).stored

    def test_what_else_is_priced(self) -> None:
        """T2: members beside messages and tools that become tokens are kept by name."""
        rest = {"response_format": {"type": "json_object"}, "tool_choice": "auto", "prediction": {"content": "x"}}
        prompt = read(CHAT | rest | {"function_call": None, "web_search_options": {}, "seed": 1}).prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.rest == rest | {"web_search_options": {}}

    def test_ids_are_named(self) -> None:
        """The file of a chat is named; an agent's calls name nothing."""
        file = {"type": "file", "file": {"file_id": "file-1"}}
        messages = [{"role": "user", "content": [file]}, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]
        assert read(CHAT | {"messages": messages}).referenced_ids == Ids(frozenset({"file-1"}))
        assert read(CHAT | {"messages": messages[1:], "metadata": {"file_id": "file-1"}}).referenced_ids is NO_IDS

    def test_case_variants_pass(self) -> None:
        """H10: `Model` is another member than `model`, which is read; the provider sees both as they are."""
        assert read(CHAT | {"Model": "other", "STREAM": True}).model == "gpt-4o"


class TestEmbeddings:
    """POST /v1/embeddings."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("hi", TextPrompt(("hi",))),
            (["a", "b"], TextPrompt(["a", "b"])),
            ([1, 2, 3], TextPrompt(tokens_given=3)),
            ([[1, 2], [3]], TextPrompt(tokens_given=3)),
        ],
    )
    def test_inputs(self, given: Any, expected: TextPrompt) -> None:
        """T4: each shape of an input; nothing is produced, so that no output is held and none is capped."""
        body = {"model": "text-embedding-3-small", "input": given, "stream": True}
        call = read(body, "embeddings")
        assert (expected, 0, False) == (call.prompt, call.output_tokens_declared, call.stream)
        assert json.loads(call.body) == body

    @pytest.mark.parametrize("given", [[], [[]], [[1], []]])
    def test_empty_inputs(self, given: Any) -> None:
        """T4: an empty array embeds nothing."""
        error = refused({"model": "m", "input": given}, "embeddings")
        assert (error.param, error.code) == ("input", "empty_array")


class TestResponses:
    """POST /v1/responses."""

    def test_what_is_read(self) -> None:
        """P1, P3, T4: what is priced, capped, stored and named; the bytes stay, also of a stream (U3)."""
        body = {
            "model": "gpt-4o",
            "instructions": "be brief",
            "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}],
            "tools": [{"type": "function", "name": "f"}, {"type": "file_search", "vector_store_ids": ["vs_1"]}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
            "prompt": {"id": "pmpt_1", "variables": {"a": "b"}},
            "previous_response_id": "resp_1",
            "conversation": {"id": "conv_1"},
            "stream": True,
            "background": True,
            "max_output_tokens": 99,
        }
        call = read(body, "responses")
        rest = {"format": body["text"]["format"], "tool_choice": body["tool_choice"], "variables": {"a": "b"}}  # type: ignore[index]
        assert call.prompt == ResponsesPrompt(body["input"], "be brief", body["tools"], rest)  # type: ignore[arg-type]
        assert (call.model, call.stream, call.usage_hidden, call.background, call.stored) == ("gpt-4o", True, False, True, True)
        assert (call.output_tokens_declared, call.choices, call.dialect) == (99, 1, Dialect.RESPONSES)
        assert call.referenced_ids == Ids(frozenset({"file-1", "vs_1", "resp_1", "conv_1"}))
        assert call.body == json.dumps(body).encode()

    @pytest.mark.parametrize(("store", "stored"), [(True, True), (False, False), (None, True)])
    def test_stored_unless_told_otherwise(self, store: bool | None, stored: bool) -> None:
        """P3: responses are kept by default."""
        assert read(RESPONSE | {"store": store}, "responses").stored is stored

    @pytest.mark.parametrize(
        "members",
        [
            {"prompt": {"id": "pmpt_1"}},
            {"model": "m", "previous_response_id": "resp_1"},
            {"model": "m", "conversation": "conv_1"},
            {"model": "m", "input": []},
        ],
    )
    def test_what_may_be_missing(self, members: dict[str, Any]) -> None:
        """SPEC: a template brings model and input, an earlier response or a conversation the input."""
        call = read(members, "responses")
        assert call.prompt == ResponsesPrompt()
        assert call.model == members.get("model", "")

    @pytest.mark.parametrize(
        ("members", "param", "code"),
        [
            ({"input": "hi"}, "model", "missing_required_parameter"),
            ({"model": "m"}, "input", "missing_required_parameter"),
            ({"model": "m", "input": {}}, "input", "invalid_type"),
            ({"model": "m\n", "input": "hi"}, "model", "invalid_value"),
            (RESPONSE | {"max_output_tokens": -1}, "max_output_tokens", "integer_below_min_value"),
            (RESPONSE | {"stream": "yes"}, "stream", "invalid_type"),
            (RESPONSE | {"store": 1}, "store", "invalid_type"),
            (RESPONSE | {"background": "true"}, "background", "invalid_type"),
            (RESPONSE | {"conversation": 5}, "conversation", "invalid_type"),
            (RESPONSE | {"previous_response_id": {}}, "previous_response_id", "invalid_type"),
            (RESPONSE | {"tools": {}}, "tools", "invalid_type"),
        ],
    )
    def test_refusals(self, members: dict[str, Any], param: str, code: str) -> None:
        """E3: a wrong parameter is named, in OpenAI's codes."""
        error = refused(members, "responses")
        assert (param, code) == (error.param, error.code)

    @pytest.mark.parametrize(
        "name", ["model", "input", "stream", "store", "background", "previous_response_id", "conversation"]
    )
    def test_repeats(self, name: str) -> None:
        """H10: a parameter that is read may be given once."""
        body = json.dumps(RESPONSE | {name: None})[:-1] + f',"{name[:-1]}\\u{ord(name[-1]):04x}":null}}'
        error = refused(body.encode(), "responses")
        assert (name, "duplicate_parameter") == (error.param, error.code)


class TestAnything:
    """Routes whose JSON is only looked at."""

    @pytest.mark.parametrize(
        ("members", "prompt"),
        [
            ({"prompt": "a cat"}, TextPrompt(["a cat"])),
            ({"input": "say", "instructions": "slowly"}, TextPrompt(["slowly", "say"])),
            ({"input": ["a", "b"]}, TextPrompt(["a", "b"])),
            ({"input": [1, 2]}, TextPrompt([], 2)),
            ({"input": [[1, 2], [3]]}, TextPrompt([], 3)),
            (
                {"input": [{"role": "user", "content": "x"}], "instructions": "y"},
                ResponsesPrompt([{"role": "user", "content": "x"}], "y"),
            ),
            ({"prompt": ""}, TextPrompt(tokens_given=1)),
            ({"input": {"a": 1}, "prompt": 5}, TextPrompt(tokens_given=1)),
            ({}, TextPrompt(tokens_given=1)),
        ],
    )
    def test_prompts(self, members: dict[str, Any], prompt: Any) -> None:
        """T4: texts count; where nothing is known one token is held, so that an empty account is refused."""
        call = read(members, "images")
        assert (prompt, 1, members) == (call.prompt, call.output_tokens_declared, json.loads(call.body))

    @pytest.mark.parametrize(("model", "read_as"), [("m", "m"), ("m\n", ""), (5, ""), ("m" * 257, ""), (None, "")])
    def test_models(self, model: Any, read_as: str) -> None:
        """I2: a model that is none is the provider's to refuse, and is not logged."""
        assert read({"model": model}, "images").model == read_as

    @pytest.mark.parametrize(("route", "body"), [("cancel", b""), ("cancel", b" \r\n"), ("images", b""), ("videos", b"")])
    def test_without_a_body(self, route: str, body: bytes) -> None:
        """SPEC: many actions have no body."""
        call = read(body, route)
        assert (body, NO_IDS) == (call.body, call.referenced_ids)
        assert call.prompt == (None if route == "cancel" else TextPrompt(tokens_given=1))

    def test_what_is_never_billed_holds_nothing(self) -> None:
        """Where the answer's tokens were paid by another request, no tokens are held; ids are named all the same."""
        call = read({"input": "x", "file": {"id": "file-1"}}, "cancel")
        assert (None, {"file-1"}, 0) == (call.prompt, call.referenced_ids.alike, call.output_tokens_declared)

    def test_repeats(self) -> None:
        """H10: the model is named once."""
        assert refused(b'{"model":"a","model":"b"}', "images").param == "model"

    @pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
    def test_only_objects(self, body: bytes) -> None:
        """SPEC: every JSON body is an object."""
        assert refused(body, "images").code == "invalid_type"


class TestContentTypes:
    """Rule H11."""

    @pytest.mark.parametrize("route", ["chat_completions", "completions", "embeddings", "responses"])
    @pytest.mark.parametrize(
        "content_type", [b"text/plain", b"multipart/form-data; boundary=x", b"application/json; charset=utf-16"]
    )
    def test_json_routes(self, route: str, content_type: bytes) -> None:
        """H11: 415 for what is not JSON in UTF-8; with charset, as a JSON kind, or unsaid it is read."""
        body = EVERY % b"{}"
        with pytest.raises(UnsupportedMediaTypeError):
            wire.read_call(ROUTES[route], "POST", "/x", b"", body, content_type)
        for fine in (b"", b"application/json; charset=utf-8", b"application/x+json"):
            assert wire.read_call(ROUTES[route], "POST", "/x", b"", body, fine).body == body

    @pytest.mark.parametrize(
        "content_type", [b"multipart/form-data; boundary=x", b"application/octet-stream", b"application/sdp"]
    )
    def test_what_streams_by(self, content_type: bytes) -> None:
        """H18: what is not JSON is not read where anything may come."""
        call = wire.read_call(ROUTES["audio"], "POST", "/audio/translations", b"", b"", content_type)
        expected = Call("audio", "POST", "/audio/translations", prompt=TextPrompt(tokens_given=1), dialect=Dialect.EVENTS)
        assert call == msgspec.structs.replace(expected, output_tokens_declared=1)

    @pytest.mark.parametrize(
        "content_type", [b"multipart/form-data; boundary=x", b"application/octet-stream", b"image/png", b"application/jsonl"]
    )
    def test_where_no_file_belongs_nothing_goes_by_unread(self, content_type: bytes) -> None:
        """H11, H18: a provider may read JSON or fields in what names another type, so it is refused where objects are named."""
        with pytest.raises(UnsupportedMediaTypeError):
            wire.read_call(ROUTES["cancel"], "POST", "/batches", b"", b'{"input_file_id":"file-1"}', content_type)

    def test_a_model_beside_the_work_is_not_what_is_asked(self) -> None:
        """H9: what does the work stands elsewhere, so that no model at the top level may be taken for it."""
        call = read({"model": "allowed", "data_source": {"model": "other", "source": {"type": "responses"}}}, "eval_runs")
        assert (call.model, call.of_account) == ("", True)

    @pytest.mark.parametrize("route", ["audio", "videos"])
    @pytest.mark.parametrize("content_type", [b"application/x-www-form-urlencoded", b"text/plain", b"nonsense"])
    def test_what_might_be_json_is_refused(self, route: str, content_type: bytes) -> None:
        """H11: a lenient provider could read it, and with it ids that nobody has looked at."""
        with pytest.raises(UnsupportedMediaTypeError):
            wire.read_call(ROUTES[route], "POST", "/x", b"", b"{}", content_type)

    def test_forms_are_looked_through(self) -> None:
        """A form goes up as it came, and the ids in it are named."""
        body = b'--x\r\nContent-Disposition: form-data; name="input_reference[file_id]"\r\n\r\nfile-1\r\n--x--\r\n'
        call = wire.read_call(ROUTES["videos"], "POST", "/videos", b"", body, b"multipart/form-data; boundary=x")
        assert (body, {"file-1"}, TextPrompt(tokens_given=1)) == (call.body, call.referenced_ids.objects, call.prompt)
        with pytest.raises(UnsupportedMediaTypeError):
            wire.read_call(ROUTES["videos"], "POST", "/videos", b"", body, b"application/octet-stream")


members = st.dictionaries(
    st.sampled_from(
        ["model", "messages", "input", "prompt", "stream", "stream_options", "tools", "file_id", "conversation", "store"]
    )
    | st.sampled_from(["max_tokens", "max_output_tokens", "n", "instructions", "text", "metadata", "previous_response_id"])
    | texts,
    values | st.just([{"role": "user", "content": "x"}]) | st.just("gpt-4o"),
    max_size=8,
)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
content_types = st.sampled_from([b"", b"application/json", b"multipart/form-data; boundary=x", b"text/plain"]) | st.binary(
    max_size=40
)


class TestFuzz:
    """Rules H9, H12: any bytes, any JSON, on any route."""

    @given(st.sampled_from(sorted(ROUTES)), st.binary(max_size=200), content_types)
    @example("videos", b'{"a":{"_id":[]}}', b"")
    @example("images", b'{"\\ud83d":1}', b"application/json")
    @example("responses", b'\xef\xbb\xbf{"model":"m","input":"x"}', b"application/json")
    @example("chat_completions", b'{"model":"m","messages":[{}],"stream":true,"stream_options":{"\\ud83d":1}}', b"")
    @example("images", b'{"file_id":' + b"9" * 5000 + b"}", b"")
    @example("videos", b"--x\r\n\r\n", b"multipart/form-data; boundary=x")
    def test_any_bytes(self, route: str, body: bytes, content_type: bytes) -> None:
        """H12: there is a call or a refusal, never another error, and unread bodies go up as they came."""
        try:
            call = wire.read_call(ROUTES[route], "POST", "/x", b"", body, content_type)
        except SentinelError as error:
            assert error.status in {400, 415}
        else:
            assert call.body in (body, body.removeprefix(b"\xef\xbb\xbf"), b"") or call.usage_hidden

    @given(st.sampled_from(sorted(ROUTES)), members, layouts)
    @example("completions", {"model": "m", "prompt": [], "stream": True}, {})
    def test_any_json(self, route: str, given_members: dict[str, Any], layout: dict[str, Any]) -> None:
        """H9, H12: what goes up is what came, except for usage that is asked for; every prompt has a count."""
        body = json.dumps(given_members, **layout).encode()
        try:
            call = wire.read_call(ROUTES[route], "POST", "/x", b"", body, b"application/json")
        except SentinelError as error:
            assert error.status == 400
            return
        if call.usage_hidden:
            options = given_members.get("stream_options")
            asked = (options if isinstance(options, dict) else {}) | {"include_usage": True}
            assert json.loads(call.body) == given_members | {"stream_options": asked}
        else:
            assert call.body == (b"" if route == "model" else body)
        assert call.prompt is None or all(isinstance(piece, str | int) for piece in prompts.pieces(call.prompt, RATES))


class TestErrors:
    """Rules E1, E4."""

    @pytest.mark.parametrize(
        "error",
        [SentinelError("a"), BadRequestError('"q" \u2028 é', param="n", code="c"), OverLimitError("b", retry_after_s=1)],
    )
    def test_body_has_all_keys(self, error: SentinelError) -> None:
        """E1: message, type, param and code are always there."""
        expected = {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
        assert expected == json.loads(wire.error_body(error))

    def test_unknown_path(self) -> None:
        """E4: OpenAI's 404."""
        error = wire.unknown_path("POST", "/v1/foo")
        assert (error.status, error.message, error.type) == (404, "Invalid URL (POST /v1/foo)", "invalid_request_error")
        assert (error.param, error.code) == (None, None)

    def test_wrong_method(self) -> None:
        """E4: OpenAI's 405, with Allow."""
        error = wire.wrong_method("GET", "/v1/chat/completions", "POST")
        hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
        assert (405, f"Not allowed to GET on /v1/chat/completions {hint}") == (error.status, error.message)
        assert error.headers == ((b"allow", b"POST"),)

    @given(st.text(max_size=600), st.text(max_size=600))
    def test_echo_is_bounded_ascii(self, method: str, path: str) -> None:
        """I2: what a client wrote is echoed as bounded printable ASCII."""
        for error in (wire.unknown_path(method, path), wire.wrong_method(method, path, "GET")):
            assert re.fullmatch(r"[ -~]{1,620}", error.message)


class TestCapped:
    """A cap the ledger imposed is told to the provider; the client's own bytes stay around it."""

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ('{"model":"m","messages":[{"role":"user"}]}', "max_completion_tokens"),
            (' { "model" : "m", "messages":[{"role":"user"}], "x": 1e5 }', "max_completion_tokens"),
            ('{"max_completion_tokens":null,"model":"m","messages":[{"role":"user"}]}', "max_completion_tokens"),
            ('{"model":"m","stream":true,"messages":[{"role":"user"}]}', "max_completion_tokens"),
        ],
    )
    def test_a_chat_gets_the_providers_parameter(self, given: str, name: str) -> None:
        """Inserted, or put in the place of a null; everything else is unchanged."""
        call = read(given.encode())
        capped = wire.capped(call, 17, name)
        assert json.loads(capped.body) == json.loads(call.body) | {name: 17}
        rest = re.sub(rf'"{name}":(17|null),?'.encode(), b"", capped.body)
        assert rest == re.sub(rf'"{name}":null,?'.encode(), b"", call.body)

    @pytest.mark.parametrize("route", GOOD)
    def test_a_prompt_is_not_needed_once_it_is_counted(self, route: str) -> None:
        """Without what was decoded, a call is capped and priced as before."""
        call = read(GOOD[route], route)
        counted = msgspec.structs.replace(call, prompt=wire.COUNTED[type(call.prompt)])
        assert isinstance(counted.prompt, type(call.prompt))
        assert not any(getattr(counted.prompt, name) for name in counted.prompt.__struct_fields__)  # type: ignore[union-attr]
        assert wire.capped(counted, 99, "max_tokens").body == wire.capped(call, 99, "max_tokens").body
        assert wire.output_min(counted) == wire.output_min(call)
        bare = wire.read_call(ROUTES["model"], "GET", "/models/m", b"", b"", b"")
        assert wire.COUNTED[type(bare.prompt)] is None

    @pytest.mark.parametrize(("echo", "known"), [(True, True), (False, False), (None, False)])
    def test_texts_that_are_said_again_are_known(self, echo: bool | None, known: bool) -> None:
        """Which prompts a completion repeats outlives them, as hashes."""
        call = read({"model": "m", "prompt": ["a", "b"], "echo": echo}, "completions")
        assert call.echoed == ({hash("a"), hash("b")} if known else frozenset())

    def test_a_completion_gets_max_tokens(self) -> None:
        """The older API has one name for it, and at least one token is asked for."""
        call = read({"model": "m", "prompt": "x"}, "completions")
        assert json.loads(wire.capped(call, 0, "max_completion_tokens").body) == {"model": "m", "prompt": "x", "max_tokens": 1}

    def test_a_response_gets_max_output_tokens(self) -> None:
        """SPEC: a response has its own name for it, and OpenAI takes no less than 16, which is held at least."""
        call = read(RESPONSE, "responses")
        assert json.loads(wire.capped(call, 99, "max_tokens").body) == RESPONSE | {"max_output_tokens": 99}
        assert json.loads(wire.capped(call, 3, "max_tokens").body) == RESPONSE | {"max_output_tokens": 16}
        assert wire.output_min(call) == 16
        assert wire.output_min(read(CHAT | {"n": 3})) == 3


@pytest.mark.parametrize(
    ("body", "long"),
    [
        (b"[" + b"0," * 8000 + b"0]", False),
        (b"[" + b"0," * 9000 + b"0]", True),
        (b"[" + b"{}" * 9000 + b"]", True),
        (b"[" * 9000, True),
        (b'"' + b"x" * (wire.INLINE_BYTES_MAX - 2) + b'"', False),
        (b'"' + b"x" * (wire.INLINE_BYTES_MAX - 1) + b'"', True),
    ],
)
def test_what_is_long(body: bytes, long: bool) -> None:
    """A body is for a thread by its bytes, or by its values: each has a comma before it, or begins what holds others."""
    assert wire.is_long(body) is long
