"""openai.request.media_types: which content types are read as JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.request import media_types
from sentinel.ops.errors import UnsupportedMediaTypeError


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
        b"application/json ; foo=bar; charset = utf8",
        b"application/vnd.api+json",
        b"application/merge-patch+json; charset=utf-8",
    ],
)
def test_json_is_read(content_type: bytes) -> None:
    """H11: JSON by any name, with parameters, or by default."""
    assert media_types.is_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain",
        b"application/jsonp",
        b"application/json, text/plain",
        b"application/json-seq",
        b"application/+jsonx",
        b"json",
        b"text/json",
        b"multipart/form-data; boundary=x",
        b"application/x-www-form-urlencoded",
        b"\xff",
    ],
)
def test_other_types_are_not(content_type: bytes) -> None:
    """H11: nothing else is taken for JSON."""
    assert not media_types.is_json(content_type)


@pytest.mark.parametrize("charset", [b"utf-16", b"UTF-7", b"iso-8859-1", b"", b"utf-8; charset=utf-16"])
def test_only_utf8(charset: bytes) -> None:
    """H11: another encoding could say something else to the provider."""
    with pytest.raises(UnsupportedMediaTypeError):
        media_types.is_json(b"application/json; charset=" + charset)


@pytest.mark.parametrize(
    "content_type", [b"application/octet-stream", b"multipart/form-data; boundary=x", b"application/sdp", b"audio/wav"]
)
def test_what_streams_by(content_type: bytes) -> None:
    """H18: files, forms and the like are not looked into."""
    media_types.check_opaque(content_type)
    assert media_types.is_form(content_type) == content_type.startswith(b"multipart")


@pytest.mark.parametrize(
    "content_type", [b"application/x-www-form-urlencoded", b"text/plain", b"TEXT/JSON", b"json", b"", b"\xff"]
)
def test_what_might_be_taken_for_json(content_type: bytes) -> None:
    """H11: what a lenient provider could read as JSON does not go on unread."""
    with pytest.raises(UnsupportedMediaTypeError):
        media_types.check_opaque(content_type)


@given(st.binary(max_size=300))
def test_the_refusal_is_openais(content_type: bytes) -> None:
    """H11, I2: OpenAI's message and code, with the type as bounded printable ASCII."""
    error = media_types.unsupported(content_type)
    assert (error.status, error.type, error.code) == (415, "invalid_request_error", "unsupported_content_type")
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(error.message) < 600
