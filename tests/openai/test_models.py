"""models: which models may be asked for, and which are asked where one is unavailable."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai import models, routes, wire
from sentinel.openai.models import Fallbacks, Models
from sentinel.ops.errors import BadRequestError, ForbiddenError
from sentinel.ops.records import Call
from tests.support.liar import UNKNOWN_MODEL


def chat(model: str, body: bytes = b"{}") -> Call:
    """A call for `model`."""
    return Call("chat_completions", "POST", "/chat/completions", model=model, body=body)


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "anything", True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o",), "GPT-4O", False),
        (("gpt-4o",), "xgpt-4o", False),
        (("gpt-4o*", "o3-?ini"), "gpt-4o-mini", True),
        (("gpt-4o*", "o3-?ini"), "o3-mini", True),
        (("gpt-[45]",), "gpt-5", True),
        (("gpt-[45]",), "gpt-6", False),
        (("openai/*",), "openai/gpt-4o", True),
        (("gpt-4o",), "gpt-4o\n", False),
        (("*",), "a\nb", True),
        (("gpt.4o",), "gpt-4o", False),
    ],
)
def test_the_allow_list(patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    """Design §5, rule E3: a model that no pattern names is a 403 that names the parameter; letter by letter."""
    if allowed:
        assert Models(patterns).check(chat(model)) is None  # type: ignore[func-returns-value]
        return
    with pytest.raises(ForbiddenError) as caught:
        Models(patterns).check(chat(model))
    error = caught.value
    assert (error.status, error.type, error.code, error.param) == (403, "invalid_request_error", "model_not_allowed", "model")


def test_a_model_that_cannot_be_seen_is_not_allowed_where_one_is_needed() -> None:
    """Design §5: the provider's own choice of a model is nobody's permission; routes that need none pass."""
    Models(()).check(chat(""))
    Models(("*",)).check(chat(""), needed=False)
    Models(("gpt-4o",)).check(chat(""), needed=False)
    with pytest.raises(ForbiddenError):
        Models(("gpt-4o",)).check(chat(""))
    with pytest.raises(ForbiddenError):
        Models(("gpt-4o",)).check(chat("o3"), needed=False)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({}, True),
        ({"models": ["gpt-4o"]}, True),
        ({"models": ["gpt-4o", "o3"]}, False),
        ({"models": "o3"}, False),
        ({"models": [{"models": "o3"}, None, 7]}, False),
        ({"providerOptions": {"gateway": {"models": ["o3"]}}}, False),
        ({"provider_options": {"gateway": {"models": ["o3"]}}}, False),
        ({"providerOptions": {"gateway": {"order": ["azure"], "models": ["gpt-4o"]}}}, True),
        ({"metadata": {"models": ["o3"]}}, True),
    ],
)
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/images/generations", {"prompt": "x"}),
    ],
)
def test_models_to_be_asked_instead_must_be_allowed_too(
    route: str, body: dict[str, object], given: dict[str, object], allowed: bool
) -> None:
    """Design §5: fallbacks that a body names (Vercel: `providerOptions.gateway.models`) are no way past the list."""
    row = routes.match("POST", route).route
    text = json.dumps({"model": "gpt-4o"} | body | given).encode()
    call = wire.read_call(row, "POST", row.template, b"", text, b"")
    if allowed:
        assert Models(("gpt-4o",)).check(call) is None  # type: ignore[func-returns-value]
    else:
        with pytest.raises(ForbiddenError) as caught:
            Models(("gpt-4o",)).check(call)
        assert wire.error_body(caught.value)
    assert Models(()).check(call) is None  # type: ignore[func-returns-value]


def test_repeated_fallbacks_are_refused() -> None:
    """Rule H10: the provider could take the other list; below the top level all of them count."""
    row = routes.match("POST", "/v1/embeddings").route
    body = b'{"model":"gpt-4o","input":"x","models":["o3"],"models":[]}'
    with pytest.raises(BadRequestError):
        wire.read_call(row, "POST", "/embeddings", b"", body, b"")
    body = b'{"model":"gpt-4o","input":"x","providerOptions":{"gateway":{"models":["o3"],"models":[]},"gateway":{}}}'
    assert wire.read_call(row, "POST", "/embeddings", b"", body, b"").models == {"o3"}


@pytest.mark.parametrize(
    ("tools", "asked"),
    [
        ('[{"type":"image_generation","model":"gpt-image-1"}]', {"gpt-image-1"}),
        ('[{"type":"image_generation","model":"a","model":"b"},{"type":"web_search"}]', {"a", "b"}),
        ('[{"typ\\u0065":"image\\u005fgeneration","mod\\u0065l":"a"}]', {"a"}),
        ('[{"type":"image_generation"}]', set()),
        ('[{"type":"function","name":"image_generation","parameters":{"properties":{"model":{"type":"string"}}}}]', set()),
        ("null", set()),
        ("[]", set()),
    ],
)
def test_models_of_tools_are_asked_too(tools: str, asked: set[str]) -> None:
    """Design §5: the model that makes a response's images is asked for as any other, however it is spelled."""
    row = routes.match("POST", "/v1/responses").route
    body = f'{{"model":"gpt-4o","input":"x","tools":{tools}}}'.encode()
    assert wire.read_call(row, "POST", "/responses", b"", body, b"").models == asked


def test_fallbacks_are_for_json_that_names_its_model() -> None:
    """Design §5: nothing but the body's own `model` can be replaced."""
    fallbacks = Fallbacks({"a": ("b", "c")})
    assert fallbacks.after(chat("a", b' \n{"model":"a"}')) == ("b", "c")
    assert fallbacks.after(chat("b", b'{"model":"b"}')) == ()
    assert fallbacks.after(chat("a", b"")) == ()
    assert fallbacks.after(chat("a", b"--boundary\r\n")) == ()


@given(
    st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.none(), max_size=5),
    st.text(min_size=1, max_size=20),
    st.integers(0, 5),
)
def test_only_the_model_changes(members: dict[str, object], model: str, place: int) -> None:
    """Rule H9: a body for another model differs in that one value; every other byte stays, in its order."""
    pairs = [(name, value) for name, value in members.items() if name != "model"]
    pairs.insert(min(place, len(pairs)), ("model", "gpt-4o"))
    before = ",  ".join(f"{json.dumps(name)} : {json.dumps(value)}" for name, value in pairs)
    body = f"{{{before}}}".encode()
    asked = models.asking(chat("gpt-4o", body), model)
    assert asked.model == model
    assert json.loads(asked.body) == {**dict(pairs), "model": model}
    assert asked.body.replace(json.dumps(model, ensure_ascii=False).encode(), b'"gpt-4o"').count(b",  ") == body.count(b",  ")
    assert len(asked.body) - len(body) == len(asked.body[body.index(b'"model" : ') :]) - len(body[body.index(b'"model" : ') :])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (UNKNOWN_MODEL, True),
        (b'{"error":{"message":"x","type":"model_not_found"}}', True),
        (b'{"error":{"message":"model_not_found","type":"x","code":null}}', False),
        (b'{"error":"model_not_found"}', False),
        (b'{"code":"model_not_found"}', False),
        (b"[]", False),
        (b"", False),
        (b"<html>model_not_found", False),
        (UNKNOWN_MODEL[:-1], False),
    ],
)
def test_what_says_that_a_model_is_unknown(body: bytes, expected: bool) -> None:
    """Rule E3: OpenAI's code says it, its prose does not."""
    assert models.is_unknown(body) is expected
