"""openai.response.account_errors: what an error says about the provider's account is hidden, and nothing else is touched."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.response.account_errors import (
    HELD_BYTES_MAX,
    IDS_MAX,
    NEUTRAL,
    REFUSED_MESSAGE,
    UNPAID,
    Disclosed,
    Hiding,
    refusal,
)
from sentinel.openai.response.error_fields import (
    ERROR_BYTES_MAX,
    LONG_MESSAGE,
    LOOKED_BYTES_MAX,
    hide_in_body,
    hide_in_events,
    may_err,
)
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect

KEY = "a-key-of-no-known-shape"
IDS = (
    *("org-8k1NKQgoSqBcuRs0", "proj_K9f0wq1NSbQ4aTzE", "user-8bDpTq0Xk2vN4mRs6wYz1cLe"),
    *("team_GcNnvGv1HR62xqaolnXc8vQg", "prj_XLKmu1DyR1eY7zq8UgeRKbA7yVLA", "acct_1032D82eZvKYlo2C"),
    *("wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ", "org_2abcDEFghiJKLmnoPQRstuVWXyz", "org-aBcDeFgHiJkLmNoPqRsTuVwX"),
)
KEYS = (
    *(
        "sk-proj-abcdef0123456789",
        "sk-...wxyz",
        "sk-ab****************wxyz",
        "sk-proj-****abcd",
        "sk-\u2026abcd",
        "sk-None-xyz",
    ),
    *("vck_0123456789abcdef", "abcd********wxyz", KEY),
)
# What looks a little like it, and is not: words, the caller's own names, text that is emphasised.
WORDS = (
    *("user-agent", "user-provided", "team_members", "prj_list", "task-based", "my-org-model", "organization", "an_org-x"),
    *("org-chart", "org-acme", "org-abc123", "org-of-8k1NKQgoSqBcuRs0LqkUOrOp", "proj_x", "proj_apollo11", "user-defined1"),
    *("user-5f4dcc3b-5aa7-65d6-1d83-27deb882cf99", "user-5f4dcc3b5aa765d61d8327deb882cf99", "acct_1", "org_chart_2026"),
    *("team_memberNotificationSettings", "org-aBcDeFgHiJkLmNoPqRsTuVw", "org-8k1NKQgoSqBcuRs0-draft"),
    *("**bold**", "***", "2 * 3 ** 4", "disk-full", "proj", "org", "reorg-7", "sk", "risk-free"),
)


def hidden(said: bytes, *cuts: int) -> tuple[bytes, list[str]]:
    """What goes down of an error that arrives in pieces, and which ids the operator is told."""
    hiding = Hiding(KEY)
    places = [0, *sorted(cuts), len(said)]
    passed = b"".join(hiding.feed(said[start:end]) for start, end in pairwise(places))
    return passed + hiding.finish() + hiding.finish(), hiding.disclosed.ids


SURROUNDINGS = (
    "Rate limit reached for gpt-4o in organization {} on tokens per min (TPM): Limit 30000, Used 29870. Try again in 1.74s.",
    "Project `{}` does not have access to model `gpt-4o`",
    '{{"error":{{"message":"of {}, and of \\"{}\\"","code":null}}}}',
    "first line\\n{}\\tsecond \\u00e9{}, C:\\\\{}",
    "{}",
    "{} begins, ends {}.",
    "<html><b>{}</b>\u00e9 {}</html>",
    "a=/{}/b?c={}&d",
)


@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("name", IDS)
def test_an_id_becomes_a_neutral_word(name: str, around: str) -> None:
    """Wherever it stands, at every split; every other byte stays, and the operator is told the id."""
    said = around.format(name, name, name).encode()
    expected = said.replace(name.encode(), NEUTRAL)
    for cut in range(len(said) + 1):
        assert hidden(said, cut) == (expected, [name] * around.replace("{{", "").count("{}"))


@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_hidden_and_told_to_nobody(key: str, around: str) -> None:
    """Whole or in what is left of it; not even the log has it."""
    said = around.format(key, key, key).encode()
    for cut in range(len(said) + 1):
        assert hidden(said, cut) == (said.replace(key.encode(), NEUTRAL), [])


@pytest.mark.parametrize("word", WORDS)
def test_words_stay(word: str) -> None:
    """What only begins like an id, or contains one's beginning, is no id."""
    said = f'{{"error":{{"message":"Unknown: \'{word}\' in {word}.","param":"{word}"}}}}'.encode()
    for cut in range(len(said) + 1):
        assert hidden(said, cut) == (said, [])


@pytest.mark.parametrize(
    "name",
    [
        *("organization", "organization_id", "organisation", "organizationId", "organization_name", "org", "org_id"),
        *("project", "project_id", "projectId", "project_name", "team", "team_id", "teamSlug", "account", "account_id"),
    ],
)
@pytest.mark.parametrize(
    "value", ["acme", "ACME Inc. (Europe)", "org-8k1NKQgoSqBcuRs0", "\u00e9", 'the "a" org-8k1NKQgoSqBcuRs0']
)
def test_a_member_that_names_it_is_hidden(name: str, value: str) -> None:
    """Whatever the value looks like, in JSON of any spacing, and in JSON that is quoted within JSON."""
    error = {"error": {"message": "m", name: value, "param": name, "code": None}}
    for said in (json.dumps(error), json.dumps(error, separators=(",", ":")), json.dumps(error, ensure_ascii=False, indent=1)):
        passed, ids = hidden(said.encode())
        assert json.loads(passed) == {"error": error["error"] | {name: NEUTRAL.decode()}}
        assert ids == [json.dumps(value, ensure_ascii="\\u00e9" in said)[1:-1]]
    quoted = json.dumps({"message": json.dumps({name: "acme"})}).encode()
    assert hidden(quoted) == (quoted.replace(b"acme", NEUTRAL), ["acme"])
    for other in (f'{{"{name}":null}}', f'{{"{name}":""}}', f'{{"x_{name}x":"acme"}}', f'{{"a":"{name}","b":"acme"}}'):
        assert hidden(other.encode()) == (other.encode(), [])


def test_an_escaped_separator_hides_nothing() -> None:
    """JSON may write - and _ as escapes."""
    assert hidden(rb'"org\u002d8k1NKQgoSqBcuRs0 proj\u005FK9f0wq1NSbQ4aTzE"')[0] == b'"%b %b"' % (NEUTRAL, NEUTRAL)


@pytest.mark.parametrize("name", ["project_id", "account", "organization", "workspace_id", "team"])
@pytest.mark.parametrize("value", [12345, -7, {}, {"id": "a", "name": 'Ac}me "x"'}, {"id": 7}])
def test_a_member_that_is_no_text_is_hidden_too(name: str, value: object) -> None:
    """A number, or an object of its own; what is nothing, a fraction or a list stays."""
    error = {"error": {"message": "m", name: value, "param": None}}
    for said in (json.dumps(error), json.dumps(error, separators=(",", ":"))):
        passed, ids = hidden(said.encode())
        assert json.loads(passed) == {"error": error["error"] | {name: NEUTRAL.decode()}}  # type: ignore[operator]
        assert ids == [json.dumps(value, separators=None if ": " in said else (",", ":"))]
    for other in (None, True, 1.5, [1], {"a": {"b": 1}}):
        said = json.dumps({"error": {name: other, "code": 3}})
        assert hidden(said.encode()) == (said.encode(), [])


@pytest.mark.parametrize("text", ["organization '{}'", "Organisation `{}`", 'the workspace "{}"', "account '{}'"])
def test_a_name_in_words_is_hidden(text: str) -> None:
    """A name in quotes behind the word; the caller's own words behind others stay, and so does JSON."""
    said = json.dumps({"error": {"message": f"This {text.format('Acme Corp')} is disabled."}}).encode()
    assert hidden(said) == (said.replace(b"Acme Corp", NEUTRAL), ["Acme Corp"])
    for other in ("parameter 'Acme Corp'", "organization Acme", "organization ", "organization '", "reorganization' '"):
        said = json.dumps({"error": {"message": f"Unknown {other}", "param": "of organization ", "code": " "}}).encode()
        assert hidden(said) == (said, [])


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes_pass_but_for_what_is_hidden(said: bytes, cuts: list[int]) -> None:
    """Bytes without a letter of any prefix are the very same, at any split."""
    harmless = re.sub(rb"[-_*\"]", b"+", said)
    assert hidden(harmless, *(cut % (len(harmless) + 1) for cut in cuts)) == (harmless, [])


@given(st.lists(st.sampled_from([*IDS, *KEYS, *WORDS, "\u00e9", "in", "."]), max_size=20), st.lists(st.integers(0, 500)))
def test_no_id_passes_at_any_split(words: list[str], cuts: list[int]) -> None:
    """Whatever stands beside it, and however it arrives."""
    said = " ".join(words).encode()
    passed, ids = hidden(said, *(cut % (len(said) + 1) for cut in cuts))
    assert passed == b" ".join(NEUTRAL if word in IDS or word in KEYS else word.encode() for word in words)
    assert ids == [word for word in words if word in IDS][:IDS_MAX]


def test_what_is_held_up_has_a_bound() -> None:
    """A page without a blank is not kept: all but the last bytes pass at once."""
    hiding = Hiding(KEY)
    assert len(hiding.feed(b"x" * 100_000)) == 100_000 - HELD_BYTES_MAX
    assert len(hiding.feed(b"y" * 100_000)) == 100_000
    assert hiding.finish() == b"y" * HELD_BYTES_MAX


# ---- that it cannot pay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", UNPAID)
def test_a_refused_account_is_told_by_its_code(code: str) -> None:
    """In the code or the type, of OpenAI's shape or of a flat one; not in the words, nor in another member."""
    for said in (
        {"error": {"message": "m", "type": "t", "param": None, "code": code}},
        {"error": {"message": "m", "type": code}},
        {"error": {"message": "m", "type": code, "code": None}},
        {"error": {"message": "m", "code": 429, "type": code}},
        {"code": code, "message": "m"},
        {"type": code, "error": "m"},
        {"error": code},
        [{"error": {"message": "m", "code": code}}],
    ):
        text = json.dumps(said)
        for shaped in (
            text,
            "\ufeff" + text,
            f"data: {text}\n\n",
            f": x\r\n\r\nevent: error\r\ndata: {text}\r\n\r\ndata: [DONE]",
        ):
            assert refusal(shaped.encode()) == code
    for other in (
        {"error": {"message": code, "type": "t", "param": code, "code": "rate_limit_exceeded"}},
        {"error": {"message": "m", "type": "tokens", "code": [code]}},
        {"error": {"details": {"code": code}}},
        {"error": None},
        {"message": code},
        [code],
        [],
        [{"message": code}, {"error": {"code": code}}],
        code,
    ):
        assert refusal(f"data: {json.dumps(other)}\n\n".encode()) == ""
        assert refusal(json.dumps(other).encode()) == ""
    for text in (b"", b"<html>" + code.encode(), b"\xff", b'{"error":{"code":"' + code.encode()):
        assert refusal(text) == ""


# ---- events of a stream ------------------------------------------------------------------------------------------------------


def event(data: object, name: str = "") -> bytes:
    """One event with JSON in it."""
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


TEXT = 'about org-8k1NKQgoSqBcuRs0, proj_K9f0wq1NSbQ4aTzE and sk-abcdef; {"error": {"message": "org-8k1NKQgoSqBcuRs0"}}'
TEXT += ', "code": "insufficient_quota"'
ERROR = {
    "message": "Rate limit in organization org-8k1NKQgoSqBcuRs0",
    "type": "tokens",
    "param": None,
    "code": "rate_limit_exceeded",
}
# An error, and what beside it is the answer, by the shapes in which streams tell one.
ERRING = {
    "chat": (Dialect.CHAT, event({"error": ERROR})),
    "chat, a text": (Dialect.CHAT, event({"error": "in organization org-8k1NKQgoSqBcuRs0"})),
    "chat, named": (Dialect.CHAT, event({"error": ERROR}, "error")),
    "chat, beside a choice": (Dialect.CHAT, event({"choices": [{"delta": {"content": ""}}], "error": ERROR})),
    "chat, not spaced": (Dialect.CHAT, b'data:{"error":{"message":"org-8k1NKQgoSqBcuRs0"}}\n\n'),
    "chat, over lines": (Dialect.CHAT, b'data: {"error": {\r\ndata: "message": "org-8k1NKQgoSqBcuRs0"\r\ndata: }}\r\n\r\n'),
    "chat, no JSON": (Dialect.CHAT, b"event: error\ndata: no more for org-8k1NKQgoSqBcuRs0\n\n"),
    "responses, error": (Dialect.RESPONSES, event(ERROR | {"type": "error", "sequence_number": 3}, "error")),
    "responses, error in an object": (Dialect.RESPONSES, event({"type": "error", "error": ERROR}, "error")),
    "responses, failed": (
        Dialect.RESPONSES,
        event({"type": "response.failed", "response": {"id": "resp_1", "status": "failed", "error": ERROR}}, "response.failed"),
    ),
    "thread": (Dialect.EVENTS, event(ERROR, "error")),
    "run": (
        Dialect.EVENTS,
        event({"object": "thread.run", "status": "failed", "last_error": ERROR, "usage": None}, "thread.run.failed"),
    ),
    "image": (Dialect.EVENTS, event({"type": "error", "error": ERROR})),
    "unmetered": (Dialect.NONE, event({"type": "response.failed", "response": {"error": ERROR}})),
}
SAYING = {
    Dialect.CHAT: event({"id": "c", "choices": [{"index": 0, "delta": {"content": TEXT}}]}),
    Dialect.RESPONSES: event({"type": "response.output_text.delta", "delta": TEXT}),
    Dialect.EVENTS: event({"object": "thread.message.delta", "delta": {"content": TEXT}}, "thread.message.delta"),
    Dialect.NONE: event({"type": "response.output_text.delta", "delta": TEXT}),
}


@pytest.mark.parametrize("shape", ERRING)
def test_an_error_in_a_stream_is_hidden_at_every_split(shape: str) -> None:
    """As first event, after text and before it; the text is the very same, whatever it mentions."""
    dialect, error = ERRING[shape]
    text = SAYING[dialect]
    for said in (error, text + error, error + text, text + text + error):
        expected = said.replace(error, error.replace(b"org-8k1NKQgoSqBcuRs0", NEUTRAL))
        for cut in range(len(said) + 1):
            meter = StreamMeter(dialect)
            assert meter.feed(said[:cut]) + meter.feed(said[cut:]) + meter.finish() == expected
            assert meter.hidden.disclosed == Disclosed(ids=["org-8k1NKQgoSqBcuRs0"])


@pytest.mark.parametrize("dialect", SAYING)
def test_what_is_no_error_passes_as_it_is(dialect: Dialect) -> None:
    """Texts, null errors, the word, and the whole of an answer: the very bytes, and nothing is told."""
    said = SAYING[dialect] + event({"type": "response.completed", "response": {"error": None, "output": [TEXT]}, "error": None})
    said += (
        event({"object": "thread.run", "last_error": None, "x": TEXT}) + b": error org-8k1NKQgoSqBcuRs0\n\n" + event("[DONE]")
    )
    for cut in range(0, len(said) + 1, 7):
        meter = StreamMeter(dialect)
        assert meter.feed(said[:cut]) + meter.feed(said[cut:]) + meter.finish() == said
        assert meter.hidden.disclosed is None


def test_a_failed_response_keeps_its_text() -> None:
    """Only its error is one; what the model said before it failed is the answer."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": TEXT}]}]
    for response in ({"output": output, "error": ERROR, "user": "org-8k1NKQgoSqBcuRs0"}, {"error": ERROR, "output": output}):
        said = event({"type": "response.failed", "response": response, "sequence_number": 9})
        passed = hide_in_events(said, Disclosed())
        found = json.loads(passed.removeprefix(b"data: "))
        assert found["response"] == response | {"error": ERROR | {"message": f"Rate limit in organization {NEUTRAL.decode()}"}}


@pytest.mark.parametrize("code", UNPAID)
@pytest.mark.parametrize("shape", ERRING)
def test_a_refused_account_in_a_stream_is_not_the_callers(shape: str, code: str) -> None:
    """Code, type and message are Sentinel's, in the shape the event had; every other member stays."""
    dialect, told = ERRING[shape]
    for other in ({"code": code}, {"type": code}, {"code": code, "type": code}):
        if b'"rate_limit_exceeded"' not in told or ("type" in other and b'"tokens"' not in told):
            continue
        said = told
        for name, value in other.items():
            said = said.replace(f'"{name}": "{ERROR[name]}"'.encode(), f'"{name}": "{value}"'.encode())
        expected = told.replace(ERROR["message"].encode(), REFUSED_MESSAGE.encode())  # type: ignore[union-attr]
        if "code" in other:
            expected = expected.replace(b'"rate_limit_exceeded"', b'"upstream_error"')
        if "type" in other:
            expected = expected.replace(b'"tokens"', b'"server_error"')
        meter = StreamMeter(dialect)
        assert meter.feed(said) + meter.finish() == expected
        assert meter.hidden.disclosed == Disclosed(refused=True)


def test_an_error_without_an_end_is_hidden_too() -> None:
    """A stream that stops behind its last event's data still has nothing of the account."""
    meter = StreamMeter(Dialect.CHAT)
    assert meter.feed(b'data: {"error":{"message":"org-8k1NKQgoSqBcuRs0"}}') == b""
    assert meter.finish() == b'data: {"error":{"message":"%b"}}\n\n' % NEUTRAL


TOLD = {"message": "tool says org-8k1NKQgoSqBcuRs0 is my customer", "type": "tokens", "code": "insufficient_quota"}
OF_A_TOOL = {
    "a call that failed": {"type": "response.mcp_call.failed", "item_id": "x", "error": TOLD},
    "its words": {"type": "response.mcp_call.failed", "error": "tool failed: " + TOLD["message"], "item_id": "x"},
    "an item": {"type": "response.output_item.done", "item": {"type": "mcp_call", "error": TOLD}},
    "an answer": {"type": "response.completed", "response": {"error": None, "output": [{"type": "mcp_call", "error": TOLD}]}},
    "a choice": {"choices": [{"index": 0, "delta": {"tool_calls": [{"error": TOLD}], "error": TOLD}}]},
    "a field": {"choices": [], "x": {"error": TOLD, "response": {"error": TOLD}}, "response": [{"error": TOLD}]},
    "a type": {"type": "x", "item": {"type": "error", "message": TOLD["message"]}},
}


@pytest.mark.parametrize("shape", OF_A_TOOL)
def test_an_error_of_a_tool_is_not_the_providers(shape: str) -> None:
    """At any other depth an error is the application's, whatever it says, also beside one of the provider's."""
    said = event(OF_A_TOOL[shape])
    meter = StreamMeter(Dialect.RESPONSES)
    assert (meter.feed(said) + meter.finish(), meter.hidden.disclosed) == (said, None)
    failed = OF_A_TOOL[shape] | {"response": {"output": [{"error": TOLD}], "error": ERROR}}
    disclosed = Disclosed()
    passed = json.loads(hide_in_events(event(failed), disclosed).removeprefix(b"data: "))
    hidden_error = ERROR | {"message": f"Rate limit in organization {NEUTRAL.decode()}"}
    assert passed == failed | {"response": {"output": [{"error": TOLD}], "error": hidden_error}}
    assert disclosed == Disclosed(ids=["org-8k1NKQgoSqBcuRs0"])


def test_a_choice_may_have_the_error() -> None:
    """Some gateways tell in the choice what went wrong at the provider."""
    said = event({"choices": [{"index": 0, "delta": {"content": TEXT}, "error": ERROR}, {"error": None}]})
    place = json.dumps(ERROR).encode()
    expected = said.replace(place, place.replace(b"org-8k1NKQgoSqBcuRs0", NEUTRAL))
    assert hide_in_events(said, Disclosed()) == expected != said


# Longer than any that is written, by what is said before it is too long.
ORG = "org-8k1NKQgoSqBcuRs0"
LONG = {
    "an object": {"error": {"message": ORG, "code": "insufficient_quota", "x": "y" * ERROR_BYTES_MAX}},
    "a text": {"error": ORG + " y" * ERROR_BYTES_MAX},
    "escapes": {"error": ORG + ' "' * ERROR_BYTES_MAX},
    "a response's": {"type": "response.failed", "response": {"id": "r", "error": {"message": ORG + " y" * ERROR_BYTES_MAX}}},
    "an event": {"type": "error", "code": "insufficient_quota", "message": ORG + " y" * ERROR_BYTES_MAX},
    "members": {"error": {"message": ORG, "x": [{"error": {}}] * ERROR_BYTES_MAX}},
}


@pytest.mark.parametrize("held_bytes", [1 << 24, 1 << 16, 1 << 17])
@pytest.mark.parametrize("shape", LONG)
def test_an_error_without_an_end_in_sight_is_replaced(shape: str, held_bytes: int) -> None:
    """In Sentinel's words, where the event is held and where it is not; the next event is whole again."""
    said, text = event(LONG[shape]), event({"choices": [{"index": 0, "delta": {"content": TEXT}}]})
    for size in (1 << 12, 1 << 16, len(said) * 2):
        meter = StreamMeter(Dialect.CHAT, tail_bytes_max=held_bytes)
        stream = text + said + text
        passed = b"".join(meter.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + meter.finish()
        assert passed.startswith(text)
        assert passed.endswith(b"\n\n" + text)
        told = passed.removeprefix(text).removesuffix(text)
        assert len(told) < 1000
        assert LONG_MESSAGE.encode() in told
        assert isinstance(json.loads(told[told.index(b"data: ") + 6 :]), dict)
        assert meter.hidden.disclosed is not None
        refused = "code" in json.dumps(LONG[shape])
        assert meter.hidden.disclosed == Disclosed(ids=[] if shape == "an object" else [ORG], refused=refused)


def test_an_error_far_into_an_answer_is_found() -> None:
    """Behind more than is looked into, an error of the provider is still hidden, and nothing else is."""
    for output in ([{"text": "x" * LOOKED_BYTES_MAX}], [[]] * 60_000):
        response = {"output": [*output, {"error": TOLD}], "error": ERROR}  # type: ignore[misc]
        disclosed = Disclosed()
        passed = hide_in_events(event({"type": "response.failed", "response": response}), disclosed)
        hidden_error = ERROR | {"message": f"Rate limit in organization {NEUTRAL.decode()}"}
        assert json.loads(passed.removeprefix(b"data: "))["response"] == response | {"error": hidden_error}
        assert disclosed.ids == [ORG]


@pytest.mark.parametrize("whole", [True, False])
def test_a_plain_answer_may_tell_a_failure(whole: bool) -> None:
    """Of a failed response or run only its error is changed, also where no more than its beginning is here."""
    said = json.dumps({"id": "r", "status": "failed", "last_error": ERROR, "output": [{"error": TOLD}], "x": TEXT})
    shown = (said if whole else said[:-30]).encode()
    disclosed = Disclosed()
    place = json.dumps(ERROR).encode()
    assert hide_in_body(shown, disclosed) == shown.replace(place, place.replace(ORG.encode(), NEUTRAL))
    assert disclosed.ids == [ORG]
    assert may_err(shown)
    for other in (b'{"error": null}', b'[{"error": {}}]', b"", b"data: x", b'"error": {}', b'{"x": "\\"error\\": {"}'):
        assert not may_err(other)


@given(st.lists(st.sampled_from([*'{}[]":,\\', '"error":', '"response":', '"choices":', ORG]), max_size=60), st.booleans())
def test_any_json_passes(parts: list[str], named: bool) -> None:
    """Whatever the order of the signs of JSON, nothing fails, and nothing but an id is changed."""
    said = ("event: error\n" if named else "").encode() + b"data: " + "".join(parts).encode() + b"\n\n"
    assert hide_in_events(said, Disclosed()).replace(NEUTRAL, ORG.encode()) == said


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_stream_passes(said: bytes, cut: int) -> None:
    """Whatever the bytes are, nothing fails; without a name that is hidden, nothing changes."""
    harmless = re.sub(rb"[-_*\"]", b"+", said).replace(b"data", b"event: error\n\n")
    assert hide_in_events(harmless, Disclosed()) == harmless
    meter = StreamMeter(Dialect.EVENTS)
    meter.feed(b"event: error\ndata: " + said[:cut])
    meter.feed(said[cut:])
    meter.finish()
