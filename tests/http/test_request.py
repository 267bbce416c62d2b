"""request: the head of what goes up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.edges.http.request import USER_AGENT, head, opening
from sentinel.errors import BadRequestError


def test_a_head_is_written_in_full() -> None:
    """wire.md H2: host first, the caller's headers in their order, our name where there is none, and one framing."""
    said = head(opening("POST", "/v1/x?y=1", "api.test:81"), ["a: b", "c: é"], 7)
    expected = (
        f"POST /v1/x?y=1 HTTP/1.1\r\nhost: api.test:81\r\na: b\r\nc: é\r\nuser-agent: {USER_AGENT}\r\ncontent-length: 7\r\n\r\n"
    )
    assert said == expected.encode()


@pytest.mark.parametrize(
    ("method", "length", "framing"),
    [
        ("POST", 0, b"content-length: 0\r\n"),
        ("DELETE", 0, b"content-length: 0\r\n"),
        ("GET", 0, b""),
        ("HEAD", 0, b""),
        ("GET", 2, b"content-length: 2\r\n"),
        ("POST", None, b"transfer-encoding: chunked\r\n"),
    ],
)
def test_there_is_one_framing(method: str, length: int | None, framing: bytes) -> None:
    """wire.md H18: by length or in chunks, never both, and none where there is no body to speak of."""
    said = head(opening(method, "/x", "h"), ["user-agent: me"], length)
    assert said == method.encode() + b" /x HTTP/1.1\r\nhost: h\r\nuser-agent: me\r\n" + framing + b"\r\n"


@pytest.mark.parametrize("line", ["a: b\r\nc: d", "a: b\n", "a: b\r", "a: b\0", "a\r\nb: c", ""])
def test_no_header_brings_another(line: str) -> None:
    """reliability.md A11, A4: what could end a line is refused, not repaired."""
    with pytest.raises(BadRequestError):
        head(opening("GET", "/x", "h"), [line], 0)


def test_a_name_within_a_value_is_none() -> None:
    """wire.md H2: only a line of its own names the client."""
    said = head(opening("GET", "/x", "h"), ["a: user-agent: me"], 0)
    assert said.endswith(f"\r\na: user-agent: me\r\nuser-agent: {USER_AGENT}\r\n\r\n".encode())


@pytest.mark.parametrize(("method", "target"), [("GET", "/x\r\n"), ("GET", "/x HTTP/1.1"), ("GET\n", "/x"), ("GET", "/\0")])
def test_no_target_ends_the_request_line(method: str, target: str) -> None:
    """reliability.md A11: nor does a path, a query or a method."""
    with pytest.raises(BadRequestError):
        opening(method, target, "h")


@given(st.lists(st.text(max_size=28), max_size=4), st.text(max_size=20))
def test_whatever_goes_in_is_one_head(headers: list[str], target: str) -> None:
    """reliability.md A11: either it is refused, or there are as many lines as there are headers."""
    try:
        said = head(opening("GET", target, "h"), headers, 0)
    except BadRequestError:
        return
    lines = said.split(b"\r\n")
    assert len(lines) == 2 + len(headers) + (not any(line.startswith("user-agent: ") for line in headers)) + 2
    assert lines[-2:] == [b"", b""]
    assert not any(byte in line for line in lines for byte in (b"\r", b"\n", b"\0"))
