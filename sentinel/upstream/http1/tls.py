"""TLS towards the provider: verified, its name asked for, its sessions resumed. Cannot fail but on a broken trust store."""

import ssl
from typing import Any


class ResumingContext(ssl.SSLContext):
    """A client's context that begins each connection with the session of an earlier one.

    asyncio has no way to hand a session over, so it is slipped in where it makes the connection's own object. One context
    serves one origin: a session stands for a certificate that was verified for that name.
    """

    session: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        if self.session is not None and named.get("session") is None:
            named["session"] = self.session
        return super().wrap_bio(*args, **named)


def open_context() -> ResumingContext:
    """A context that trusts what the system trusts (SSL_CERT_FILE and SSL_CERT_DIR name another store)."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs()
    return context
