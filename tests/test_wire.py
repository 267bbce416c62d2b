"""protocol.wire: what is read of a request, and how it is refused."""

import json
import re
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import BadRequestError, OverLimitError, SentinelError
from sentinel.protocol import wire
from sentinel.records import Call, ChatPrompt, TextPrompt

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}
READ_BY_CHAT = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "tools",
    "functions",
}

# No lone surrogates: JSON can spell them, UTF-8 cannot, and they are refused (H12, below).
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


def read(body: bytes | dict[str, Any], route: str = "chat_completions") -> Call:
    """The call a body becomes."""
    given_bytes = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = "/chat/completions" if route == "chat_completions" else "/completions"
    return wire.read_call(route, "POST", path, b"", given_bytes)


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
UNPARSABLE = {
    "empty": b"",
    "blank": b" \n",
    "truncated": VALID[:-1],
    "truncated in a string": VALID[:20],
    "trailing": VALID + b"x",
    "two values": VALID + VALID,
    "bom": b"\xef\xbb\xbf" + VALID,
    "utf-16": VALID.decode().encode("utf-16"),
    "single quotes": VALID.replace(b'"', b"'"),
    "trailing comma": VALID[:-1] + b",}",
    "nul": VALID + b"\0",
    "form": b"model=gpt-4o&messages=hi",
    "nan alone": b"NaN",
    "number out of range inside": INSIDE % b"1e400",
    "huge integer inside": INSIDE % (b"9" * 5000),
    "deep arrays inside": INSIDE % (b"[" * 100_000),
    "deep and closed inside": INSIDE % (b"[" * 5000 + b"]" * 5000),
    "deep and closed outside": OUTSIDE % (b"[" * 5000 + b"]" * 5000),
    "deep objects": b'{"a":' * 1_000_000,
    "10 MB of [ inside": INSIDE % (b"[" * 10_000_000),
    **{
        f"{what} {where}": body % text
        for where, body in (("inside", INSIDE), ("outside", OUTSIDE))
        for what, text in {
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
        }.items()
    },
}


class TestUnparsable:
    """wire.md H12: whatever msgspec raises is OpenAI's 400, never a 500."""

    @pytest.mark.parametrize("body", UNPARSABLE.values(), ids=UNPARSABLE.keys())
    def test_each_raiser(self, body: bytes) -> None:
        """H12, G7: the message is OpenAI's, and no parameter is blamed."""
        error = refused(body)
        assert (error.status, error.message, error.param, error.code) == (400, wire.PARSE_MESSAGE, None, None)

    @pytest.mark.parametrize("body", [b"", b'{"model":"m","prompt":"\\ud83d"}', b'{"model":"m","prompt":"\xff"}'])
    def test_completions(self, body: bytes) -> None:
        """H12: both routes read with the same care."""
        assert refused(body, "completions").message == wire.PARSE_MESSAGE

    def test_ten_megabytes_of_brackets(self) -> None:
        """G7: 10 MB of [ neither crashes nor stalls the worker."""
        begun = time.perf_counter()
        assert refused(b"[" * 10_000_000).status == 400
        assert refused(b'{"model":"m","x":' + b"[" * 10_000_000).status == 400
        assert time.perf_counter() - begun < 2

    def test_low_surrogate_alone(self) -> None:
        """H12: a low surrogate without its high one never becomes a str that cannot be encoded."""
        for text in (b'"\\ude00"', b'"x\\udfff"'):
            error = refused(INSIDE % text)
            assert error.message == wire.PARSE_MESSAGE

    @pytest.mark.parametrize("prefix", ["", '"stream":true,', '"stream":true,"stream_options":{"a":1,"include_usage":false},'])
    def test_nesting_at_the_edge(self, prefix: str) -> None:
        """H12: at every depth the body is read or refused, also where only a later step meets the limit of recursion."""
        outcomes = set()
        for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 5):
            body = f'{{"model":"m",{prefix}"messages":[{{}}],"x":{"[" * depth}{"]" * depth}}}'.encode()
            try:
                outcomes.add(read(body).model)
            except BadRequestError as error:
                outcomes.add(error.message)
        assert wire.PARSE_MESSAGE in outcomes

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
    ("chat_completions", {"messages": []}, "messages", "empty_array", "length >= 1"),
    (
        "chat_completions",
        {"messages": [{}, 1]},
        "messages[1]",
        "invalid_type",
        "expected an object, but got an integer instead",
    ),
    ("chat_completions", {"stream": 1}, "stream", "invalid_type", "expected a boolean, but got an integer instead"),
    ("chat_completions", {"stream": "true"}, "stream", "invalid_type", "expected a boolean, but got a string instead"),
    ("chat_completions", {"n": 0}, "n", "integer_below_min_value", "a value >= 1"),
    ("chat_completions", {"n": -1}, "n", "integer_below_min_value", "a value >= 1"),
    ("chat_completions", {"n": 129}, "n", "integer_above_max_value", "a value <= 128"),
    ("chat_completions", {"n": 10**30}, "n", "integer_above_max_value", "a value <= 128"),
    ("chat_completions", {"n": 1.5}, "n", "invalid_type", "expected an integer, but got a decimal number instead"),
    ("chat_completions", {"n": True}, "n", "invalid_type", "expected an integer, but got a boolean instead"),
    ("chat_completions", {"n": "2"}, "n", "invalid_type", "expected an integer, but got a string instead"),
    ("chat_completions", {"max_tokens": 0}, "max_tokens", "integer_below_min_value", "a value >= 1"),
    ("chat_completions", {"max_tokens": BIG}, "max_tokens", "integer_above_max_value", "a value <= 2147483648"),
    ("chat_completions", {"max_completion_tokens": -5}, "max_completion_tokens", "integer_below_min_value", "a value >= 1"),
    ("chat_completions", {"max_completion_tokens": []}, "max_completion_tokens", "invalid_type", "but got an array instead"),
    ("chat_completions", {"max_output_tokens": "9"}, "max_output_tokens", "invalid_type", "but got a string instead"),
    ("chat_completions", {"tools": {}}, "tools", "invalid_type", "expected an array, but got an object instead"),
    ("chat_completions", {"functions": "f"}, "functions", "invalid_type", "expected an array, but got a string instead"),
    ("completions", {"prompt": {}}, "prompt", "invalid_type", "expected a string or an array, but got an object instead"),
    ("completions", {"prompt": 1}, "prompt", "invalid_type", "but got an integer instead"),
    ("completions", {"prompt": []}, "prompt", "empty_array", "length >= 1"),
    ("completions", {"prompt": ["a", 1]}, "prompt", "invalid_type", "mixed array"),
    ("completions", {"prompt": [[1], 1]}, "prompt", "invalid_type", "mixed array"),
    ("completions", {"prompt": [None]}, "prompt[0]", "invalid_type", "but got null instead"),
    ("completions", {"prompt": [1.5]}, "prompt[0]", "invalid_type", "but got a decimal number instead"),
    ("completions", {"prompt": [[1, "a"]]}, "prompt[0][1]", "invalid_type", "expected an integer, but got a string instead"),
    ("completions", {"best_of": 0}, "best_of", "integer_below_min_value", "a value >= 1"),
    ("completions", {"best_of": 10**6}, "best_of", "integer_above_max_value", "a value <= 128"),
    ("completions", {"max_tokens": -1}, "max_tokens", "integer_below_min_value", "a value >= 0"),
]


class TestWrongTypes:
    """wire.md E3: a wrong parameter is named, in OpenAI's wording and codes."""

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
        call = wire.read_call("chat_completions", "POST", "/chat/completions", b"a[]=1&a[]=%2F", body)
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
        """G12: no number of prompts makes a figure that Lua cannot add up exactly."""
        call = read(COMPLETION | {"prompt": ["a"] * 5000, "n": 128, "max_tokens": 2**31}, "completions")
        assert call.output_tokens_declared == wire.OUTPUT_TOKENS_DECLARED_MAX

    def test_cap_of_zero(self) -> None:
        """A completion with max_tokens 0 only scores its prompt; one token is held, since a hold is never empty."""
        assert read(COMPLETION | {"max_tokens": 0}, "completions").output_tokens_declared == 1

    @pytest.mark.parametrize("route", ["models", "model"])
    def test_model_routes_have_no_body(self, route: str) -> None:
        """H8: path and query stay raw, and a body nobody asked for is not forwarded."""
        call = wire.read_call(route, "GET", "/models/openai%2Fgpt-4o", b"a=+", b"{not json")
        assert Call(route, "GET", "/models/openai%2Fgpt-4o", b"a=+") == call

    def test_model_is_not_normalised(self) -> None:
        """R12: the model is the one the bytes say, in case and spelling."""
        assert read(CHAT | {"model": " GPT-4o\u00e9 "}).model == " GPT-4o\u00e9 "

    def test_emoji_pairs_are_read(self) -> None:
        """H12: a whole surrogate pair is legal and is one character."""
        call = read(INSIDE % b'"\\ud83d\\ude00"')
        assert isinstance(call.prompt, ChatPrompt)
        assert call.prompt.messages[0]["content"] == "\U0001f600"


class TestErrors:
    """wire.md E1, E4."""

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

    def test_a_completion_gets_max_tokens(self) -> None:
        """The older API has one name for it, and at least one token is asked for."""
        call = read({"model": "m", "prompt": "x"}, "completions")
        assert json.loads(wire.capped(call, 0, "max_completion_tokens").body) == {"model": "m", "prompt": "x", "max_tokens": 1}
