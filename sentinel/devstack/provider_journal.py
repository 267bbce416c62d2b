"""What the provider's simulator served, one row a request, so that a test can reconcile it with what Zion booked. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any


class Row:
    """One request; `input_tokens` and `output_tokens` are what was reported, or produced so far where nothing was reported."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        lower = {name.lower(): value for name, value in headers.items()}
        self.request_id = lower.get("x-request-id", "")
        self.user: Any = None
        self.model = ""
        self.input_tokens = 0
        self.output_tokens = 0
        self.status = 0
        self.complete = False
        self.stream = False
        self.client_gone = False
        self.authorization_seen = "authorization" in lower
        self.headers = {name: "(hidden)" if name == "authorization" else value for name, value in lower.items()}
        self.body_sha256 = hashlib.sha256(body).hexdigest()

    def shown(self) -> dict[str, Any]:
        """The row as JSON."""
        return dict(vars(self))
