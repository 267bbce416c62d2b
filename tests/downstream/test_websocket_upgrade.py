"""upgrades: what counts as asking for a WebSocket."""

import pytest

from sentinel.downstream import websocket_upgrade
from sentinel.openai.header_fields import Fields


@pytest.mark.parametrize(
    ("values", "version", "asked"),
    [
        ([b"websocket"], "1.1", True),
        ([b"WebSocket"], "1.1", True),
        ([b" websocket "], "1.1", True),
        ([b"websocket/13"], "1.1", True),
        ([b"h2c, websocket"], "1.1", True),
        ([b"h2c", b"websocket"], "1.1", True),
        ([b"websocket"], "1", False),
        ([b"websocket"], "1.0", False),
        ([b"h2c"], "1.1", False),
        ([b"TLS/1.2, HTTP/3.0"], "1.1", False),
        ([b"websockets"], "1.1", False),
        ([b"x/websocket"], "1.1", False),
        ([b""], "1.1", False),
        ([], "1.1", False),
    ],
)
def test_a_websocket_is_asked_for(values: list[bytes], version: str, asked: bool) -> None:
    """Rule H21, RFC 9110 §7.8: one protocol of a list, in any case, of any version; HTTP/1.0 asks for none."""
    assert websocket_upgrade.asks_websocket(Fields.of([(b"upgrade", value) for value in values]), version) is asked


def test_the_refusal_says_what_is_spoken() -> None:
    """RFC 9110 §15.5.22: 426 names the protocol that is needed, and trying again is useless."""
    refusal = websocket_upgrade.websocket_refused()
    assert (refusal.status, refusal.code, refusal.retry) == (426, "websocket_not_supported", False)
    assert dict(refusal.headers) == {b"upgrade": b"HTTP/1.1", b"connection": b"Upgrade"}
