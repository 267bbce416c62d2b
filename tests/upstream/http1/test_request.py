"""request: the head of what goes up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.ops.errors import BadRequestError
from sentinel.upstream.http1.request_head import head, opening


def test_a_head_is_written_in_full() -> None:
    """Rule H2: host first, the lines as they are, and one framing."""
    said = head(opening("POST", "/v1/x?y=1", "api.test:81"), "a: b\r\nc: é\r\n".encode(), 7)
    expected = "POST /v1/x?y=1 HTTP/1.1\r\nhost: api.test:81\r\na: b\r\nc: é\r\ncontent-length: 7\r\n\r\n"
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
    """Rule H18: by length or in chunks, never both, and none where there is no body to speak of."""
    said = head(opening(method, "/x", "h"), b"user-agent: me\r\n", length)
    assert said == method.encode() + b" /x HTTP/1.1\r\nhost: h\r\nuser-agent: me\r\n" + framing + b"\r\n"


@pytest.mark.parametrize(("method", "target"), [("GET", "/x\r\n"), ("GET", "/x HTTP/1.1"), ("GET\n", "/x"), ("GET", "/\0")])
def test_no_target_ends_the_request_line(method: str, target: str) -> None:
    """Rule X11: nor does a path, a query or a method."""
    with pytest.raises(BadRequestError):
        opening(method, target, "h")


@given(st.lists(st.from_regex(rb"[a-z]{1,3}: [^\r\n\0]{0,20}", fullmatch=True), max_size=4), st.text(max_size=20))
def test_whatever_goes_in_is_one_head(headers: list[bytes], target: str) -> None:
    """Rule X11: either it is refused, or there are as many lines as there are headers, and the head ends behind."""
    try:
        said = head(opening("GET", target, "h"), b"".join(b"%b\r\n" % line for line in headers), 0)
    except BadRequestError:
        return
    lines = said.split(b"\r\n")
    assert (lines[2:-2], lines[-2:]) == (headers, [b"", b""])
    assert not any(byte in line for line in lines for byte in (b"\r", b"\n", b"\0"))
