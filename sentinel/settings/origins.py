"""Web origins in one text. A text that cannot be read raises ValueError, in words for the operator."""

import re
from typing import Final

# As browsers write them (RFC 6454 §6.2): lower case, no path, no default port.
_ORIGIN: Final = re.compile(r"https?://[a-z0-9._\[\]:-]+")
_DEFAULT_PORT: Final = re.compile(r"http://.*:80|https://.*:443")


def origins(text: str) -> frozenset[str]:
    """`https://app.example.com,http://localhost:3000`, or `*` alone for any. Raises ValueError."""
    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    if found == {"*"}:
        return found
    for origin in sorted(found):
        if not _ORIGIN.fullmatch(origin) or _DEFAULT_PORT.fullmatch(origin):
            raise ValueError(f"names {origin!r}, which no browser sends as its origin (scheme://host[:port], in lower case)")
    return found
