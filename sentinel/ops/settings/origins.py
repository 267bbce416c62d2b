"""Web origins in one text. A text that cannot be read raises ValueError, in words for the operator."""

import re
from typing import Final

# As browsers write them (RFC 6454 §6.2): lower case, no path, no default port.
_WEB: Final = re.compile(r"https?://[a-z0-9._\[\]:-]+")
_DEFAULT_PORT: Final = re.compile(r"http://.*:80|https://.*:443")
# Of desktop apps and extensions. Each app chooses its own scheme, so there can be no list of them; the host is opaque, and not
# put into lower case (WHATWG URL §3.5). Where it is empty, all origins of the scheme are meant. The schemes left out have no
# origin of their own: what is loaded by one sends 'null', or that of the page it is loaded from.
_APP: Final = re.compile(
    r"(?!(?:https?|wss?|javascript|vbscript|data|blob|about|mailto|view-source):)[a-z][a-z0-9+.-]*://[A-Za-z0-9._~%-]*(?::[0-9]{1,5})?"
)


def origins(text: str) -> frozenset[str]:
    """`https://app.example.com,http://localhost:3000,app://obsidian.md,moz-extension://`, or `*` alone for any.

    A scheme alone names all its origins: browsers make up the host of an extension at each installation. Raises ValueError.
    """
    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    if found == {"*"}:
        return found
    for origin in sorted(found):
        if origin == "null":
            raise ValueError("names 'null', which pages of every site can send (from a sandboxed frame); write * to allow all")
        if not (_WEB.fullmatch(origin) or _APP.fullmatch(origin)) or _DEFAULT_PORT.fullmatch(origin):
            raise ValueError(f"names {origin!r}, which no browser sends as its origin (scheme://host[:port], in lower case)")
    return found
