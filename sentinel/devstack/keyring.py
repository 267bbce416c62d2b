"""The keys of Zion's simulator: one secret, for HS256, until it is told to sign by a public key (Ed25519) of its own.

`verify` answers None for every token it would not have issued itself, whatever is wrong with it. Public keys need the extra
`signatures`.
"""

import json
import time
from contextlib import suppress
from typing import Any

with suppress(ImportError):
    import jwt as pyjwt
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sentinel.devstack import jwt


class Keyring:
    """Signs by the newest key, verifies by all."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self._newest = ""

    def rotate(self, kid: str) -> None:
        """From now on sign by a new key of this name; "" is the secret again, and forgets the keys."""
        self._newest = kid
        if kid:
            self._keys[kid] = Ed25519PrivateKey.generate()
        else:
            self._keys.clear()

    def sign(self, claims: dict[str, Any]) -> str:
        """The token for `claims`."""
        if not self._newest:
            return jwt.sign(claims, self._secret)
        return str(pyjwt.encode(claims, self._keys[self._newest], "EdDSA", headers={"kid": self._newest}))

    def verify(self, token: str) -> dict[str, Any] | None:
        """The claims of `token`, or None if it is not one of ours, or has expired."""
        if not self._keys:
            return jwt.verify(token, self._secret, time.time())
        try:
            key = self._keys.get(str(pyjwt.get_unverified_header(token).get("kid")))
            if key is None:
                return jwt.verify(token, self._secret, time.time())
            return dict(pyjwt.decode(token, key.public_key(), ["EdDSA"], options={"require": ["exp"]}))
        except pyjwt.PyJWTError:
            return None

    def published(self) -> dict[str, Any]:
        """The public keys, as a JWK set (RFC 7517)."""
        publics = {kid: key.public_key() for kid, key in self._keys.items()}
        shown = {kid: json.loads(pyjwt.algorithms.OKPAlgorithm.to_jwk(public)) for kid, public in publics.items()}
        return {"keys": [{**one, "kid": kid, "alg": "EdDSA", "use": "sig"} for kid, one in shown.items()]}
