"""What the provider's simulator served, one row a request, so that a test can reconcile it with what Zion booked. Pure."""

from collections.abc import Mapping
from typing import Any


class Row:
    """One request; `input_tokens` and `output_tokens` are what was reported, or produced so far where nothing was reported.

    Work that goes on after its answer (background responses, runs, batches) writes its tokens into the row of the request that
    began it, when it is complete. `path` and `query` are raw. `body_sha256` is that of the raw body, empty until it was read.
    """

    def __init__(self, headers: Mapping[str, str], method: str, path: str, query: str) -> None:
        lower = {name.lower(): value for name, value in headers.items()}
        self.request_id = lower.get("x-request-id", "")
        self.method = method
        self.path = path
        self.query = query
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
        self.body_sha256 = ""

    def shown(self) -> dict[str, Any]:
        """The row as JSON."""
        return dict(vars(self))
