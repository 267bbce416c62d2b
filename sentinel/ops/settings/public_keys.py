"""Public keys in one text of PEM blocks, and what each may be used for. What cannot be used raises ValueError, in words for the
operator.

`cryptography` (of the extra `signatures`) is imported only where there is a key: it costs a worker 9 MiB.
"""

import importlib.util
import re
from typing import Any, Final

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_RSA_BITS: Final = range(2048, 8192 + 1)  # RFC 7518 §3.3; above it a signature costs too much to check
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# Asymmetric ones only: whoever can check a signature must not be able to make one.
ALGORITHMS: Final = _RSA | {*_CURVES.values(), "EdDSA"}


def missing() -> str:
    """Why signatures cannot be checked here, in words for the operator; "" where they can."""
    if all(importlib.util.find_spec(name) for name in ("jwt", "cryptography")):
        return ""
    return "needs the extra signatures (pip install sentinel-gateway[signatures])"


def public_keys(text: str) -> list[Any]:
    """Each key of `text`; line ends may be written as `\\n`, since not every environment can hold them. Raises ValueError."""
    if absent := missing():
        raise ValueError(absent)
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    blocks = list(_BLOCK.finditer(text.replace("\\n", "\n")))
    if not blocks:
        raise ValueError("holds no PEM block (-----BEGIN PUBLIC KEY-----)")
    for block in blocks:
        if block[1] not in {"PUBLIC KEY", "RSA PUBLIC KEY"}:
            raise ValueError(f"holds a block of {block[1]!r}, where only public keys belong")
    try:
        keys = [load_pem_public_key(block[0].encode()) for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("holds a key that cannot be read") from error
    for key in keys:
        algorithms_of(key)
    return keys


def algorithms_of(key: object) -> frozenset[str]:
    """What a key of this kind may be used with (RFC 7518 §3.1, RFC 8037). Raises ValueError where that is nothing."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415 - see above

    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return frozenset({_CURVES[key.curve.name]})
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    raise ValueError("holds a key that is neither RSA of 2048 to 8192 bits, nor P-256, P-384, P-521 or Ed25519")
