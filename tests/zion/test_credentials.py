"""zion.credentials: the bearer token of a request (RFC 6750, rule H15, rule Y3)."""

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai import headers, wire
from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import INVALID_KEY_MESSAGE, UnauthorizedError
from sentinel.zion import credentials


@pytest.mark.parametrize("value", [b"Bearer a.b.c", b"bearer a.b.c", b"BEARER a.b.c", b"bEaReR a.b.c", b"Bearer   a.b.c"])
def test_scheme_in_any_case(value: bytes) -> None:
    """RFC 9110 §11.1: the scheme's case is free, and any number of blanks follows it."""
    assert credentials.bearer_token(Fields.of([(b"host", b"h"), (b"authorization", value)])) == "a.b.c"


@pytest.mark.parametrize("length", [1, 8_192, 8_193, 32_767, 32_768])
def test_a_long_token_is_taken(length: int) -> None:
    """Y3: 32 KiB is the bound, and is itself allowed; blanks before it do not count."""
    for blanks in (b" ", b" " * 10):
        fields = Fields.of([(b"authorization", b"Bearer" + blanks + b"x" * length)])
        assert credentials.bearer_token(fields) == "x" * length


@pytest.mark.parametrize("length", [32_769, 65_536, 2**20])
def test_a_token_that_is_too_long_is_told(length: int) -> None:
    """Y3: its text says so, with the bound; class, code and headers are those of any other wrong key."""
    with pytest.raises(UnauthorizedError, match=r"too long.* 32768 characters") as caught:
        credentials.bearer_token(Fields.of([(b"authorization", b"Bearer " + b"x" * length)]))
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("value", [b"Basic ", b"", b"Bearer\t", b"Bearer \xff", b"Bearer a b"])
def test_only_a_token_is_too_long(value: bytes) -> None:
    """Y3: what is no token at any length stays a wrong key."""
    with pytest.raises(UnauthorizedError) as caught:
        credentials.bearer_token(Fields.of([(b"authorization", value + b"x" * 40_000)]))
    assert caught.value.message == INVALID_KEY_MESSAGE


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer\ta"],
        [b"Basic a"],
        [b"Bearera"],
        [b" Bearer a"],
        [b"a.b.c"],
        [b"Bearer a b"],
        [b"Bearer a, Bearer b"],
        [b"Bearer a\n"],
        [b"Bearer a\x00b"],
        [b"Bearer \xc3\xa9"],
        [b"Bearer a\x7f"],
        [b"Bearer a", b"Bearer a"],
        [b"Bearer a", b"Bearer b"],
        [b"Bearer a", b""],
    ],
    ids=lambda values: repr(values)[:40],
)
def test_everything_else_is_refused_alike(values: list[bytes]) -> None:
    """Y3, H15, X17: each wrong credential gets the same 401, byte for byte."""
    with pytest.raises(UnauthorizedError) as caught:
        credentials.bearer_token(Fields.of([(b"authorization", value) for value in values]))
    expected = {"message": INVALID_KEY_MESSAGE, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert json.loads(wire.error_body(caught.value)) == {"error": expected}
    assert (b"www-authenticate", b"Bearer") in headers.error(caught.value)


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key"]), st.binary(max_size=50)), max_size=3))
def test_any_bytes(given_headers: list[tuple[bytes, bytes]]) -> None:
    """Y3: a token is visible ASCII, whatever is sent."""
    try:
        token = credentials.bearer_token(Fields.of(given_headers))
    except UnauthorizedError:
        return
    assert re.fullmatch(r"[!-~]+", token)


def written(*parts: object) -> str:
    """A token of these parts: bytes as they are, anything else as JSON."""
    plain = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in plain)


HEAD = {"alg": "HS256"}
NO_JWT = [
    "sk-something",
    "a.b.c",
    "",
    "..",
    written(HEAD, {}),
    written(HEAD, {}, b"s", b"t"),
    written(HEAD, {}, b""),
    written(HEAD, b"", b"s"),
    written({}, {}, b"s"),
    written({"alg": 1}, {}, b"s"),
    written([], {}, b"s"),
    written(b"no JSON", {}, b"s"),
    written(HEAD, [], b"s"),
    written(HEAD, "claims", b"s"),
    written(HEAD, {"exp": "soon"}, b"s"),
    written(HEAD, b'{"exp":1e400}', b"s"),
    written(HEAD, b"[" * 100_000, b"s"),
    written(b"[" * 100_000, {}, b"s"),
    written(HEAD, {}, b"s") + "\n",
    written(HEAD, {}, b"s").replace(".", "!."),
    written(HEAD, {}) + ".x",
    "\u0661" + written(HEAD, {}, b"s"),
]


@pytest.mark.parametrize("token", NO_JWT)
def test_what_is_no_jwt(token: str) -> None:
    """RFC 7515 §3.1 and RFC 7519 §3: three parts in base64url, two of them JSON objects, an `alg`, a number as `exp`."""
    with pytest.raises(UnauthorizedError, match=re.escape(INVALID_KEY_MESSAGE)):
        credentials.read_jwt(token)


@given(
    st.text(),
    st.text() | st.none(),
    st.integers(0, 2**40) | st.floats(0, 1e12) | st.none(),
    st.binary(min_size=1),
    st.booleans(),
)
def test_what_a_jwt_says_of_itself(alg: str, kid: str | None, exp: float | None, signature: bytes, padded: bool) -> None:
    """Its head and its end, whatever it is signed with; padding is not minded."""
    claims = {"sub": "ada", **({} if exp is None else {"exp": exp})}
    token = written({"alg": alg, "typ": "JWT", **({} if kid is None else {"kid": kid})}, claims, signature)
    if padded:
        token = ".".join(part + "=" * (-len(part) % 4) for part in token.split("."))
    assert credentials.read_jwt(token) == (credentials.Head(alg, kid), float("inf") if exp is None else exp)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_any_text_is_read_or_refused(token: str) -> None:
    """No token raises anything else."""
    try:
        credentials.read_jwt(token)
    except UnauthorizedError as refused:
        assert refused.message == INVALID_KEY_MESSAGE
