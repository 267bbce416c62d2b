"""Requests for another protocol on the same connection (RFC 9110 §7.8).

A WebSocket is refused: no route speaks it, and a client that is told so in other words tries again for seconds. Any other
protocol is ignored, as RFC 9110 allows: the request is answered as it stands. Cannot fail.
"""

from typing import Final

from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import WebSocketRefusedError

HEADER: Final = b"upgrade"


def asks_websocket(fields: Fields, http_version: str) -> bool:
    """Whether a WebSocket is asked for. HTTP/1.0 cannot ask for any protocol."""
    if http_version != "1.1":
        return False
    listed = [name for value in fields.every(HEADER) for name in value.split(b",")]
    # A protocol may have a version behind its name.
    return any(name.partition(b"/")[0].strip().lower() == b"websocket" for name in listed)


def websocket_refused() -> WebSocketRefusedError:
    """The 426 that says what is spoken instead (RFC 9110 §15.5.22); Connection, since Upgrade is about this hop alone."""
    return WebSocketRefusedError(
        "This gateway does not speak WebSocket. Send the same request over plain HTTP instead: with POST, and 'stream' set to "
        "true for events as they come.",
        headers=((HEADER, b"HTTP/1.1"), (b"connection", b"Upgrade")),
    )
