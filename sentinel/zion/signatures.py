"""Whether Zion has signed a token, by its public keys, so that what somebody else wrote never reaches Zion. Optional.

Only asymmetric algorithms are taken, and of a key only those of its kind: no token chooses how it is verified (RFC 8725 §3.1).
Fails as UnauthorizedError for a token of somebody else, and as ZionUnavailableError where it may be signed by a key that is too
new. Where no keys can be had the token passes, and Zion decides. Imported only where keys are set: it needs an extra.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from sentinel.ops.errors import INVALID_KEY_MESSAGE, UnauthorizedError, ZionUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.settings.public_keys import ALGORITHMS, algorithms_of
from sentinel.zion.credentials import Head

_log: Final = Log("signatures")

# Keys that are tried at most: a token that names none is tried with each.
_KEYS_MAX: Final = 16
# How long keys count as fresh, and how soon they are fetched again at the earliest, whatever tokens say.
_FRESH_S: Final = 300.0
_FETCH_AGAIN_S: Final = 10.0


class Key(msgspec.Struct, frozen=True):
    """One public key: its name, where it has one, and the algorithms it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    public: Any


# What of a key is public, by its kind (RFC 7518 §6, RFC 8037 §2).
_PARTS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


_read_key_set: Final = msgspec.json.Decoder(_KeySet).decode


def own_keys(publics: Iterable[Any]) -> list[Key]:
    """The keys of this deployment, which have no names."""
    return [Key(None, algorithms_of(public), public) for public in publics]


def read_keys(text: bytes) -> list[Key]:
    """The usable keys of a JWK set; others are left out, as RFC 7517 §5 says. Raises ValueError where none is left."""
    try:
        keys = [key for key in map(_read_key, _read_key_set(text).keys) if key is not None]
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not keys:
        raise ValueError("no usable key")
    if len(keys) > _KEYS_MAX:
        _log.warning("keys left out", taken=_KEYS_MAX, given=len(keys))
    return keys[:_KEYS_MAX]


def _read_key(given: dict[str, Any]) -> Key | None:
    kid, kind, alg = given.get("kid"), given.get("kty"), given.get("alg")
    # Symmetric keys have no place in a public set, and others are for something else.
    if kind not in _PARTS or given.get("use", "sig") != "sig" or not isinstance(kid, str | None):
        return None
    try:
        # Without the private part, should somebody publish that.
        parts = {name: given[name] for name in _PARTS[kind]}
        public = jwt.PyJWK({"kty": kind, **parts}).key
        algorithms = algorithms_of(public)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("a key cannot be used", kid=kid, error=str(error))
        return None
    algorithms = algorithms if alg is None else algorithms & {alg}
    return Key(kid, algorithms, public) if algorithms else None


def verdict(keys: Iterable[Key], token: str, head: Head) -> bool | None:
    """Whether one of `keys` has signed `token`; None where it may be signed by a key that is not among them."""
    if head.alg not in ALGORITHMS:
        return False
    named = False
    for key in keys:
        if head.kid is not None and key.kid not in {None, head.kid}:
            continue
        named = named or (head.kid is not None and key.kid == head.kid)
        if head.alg in key.algorithms and _signed(token, key.public, head.alg):
            return True
    return False if named else None


def _signed(token: str, public: Any, algorithm: str) -> bool:
    try:
        jwt.PyJWS(algorithms=[algorithm]).decode_complete(token, public, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError):
        return False
    return True


class OwnKeys:
    """Keys that the operator has set, ZION_JWT_PUBLIC_KEY: there are no others."""

    def __init__(self, keys: list[Key]) -> None:
        self._keys = keys

    async def check(self, token: str, head: Head) -> None:
        """Raises UnauthorizedError for a token that none of the keys has signed."""
        if not verdict(self._keys, token, head):
            raise UnauthorizedError(INVALID_KEY_MESSAGE)

    async def close(self) -> None:
        """There is nothing to close."""


class FetchedKeys:
    """Keys that are fetched, ZION_JWKS_URL: when the first token comes, when they age, and when a token names one that is not
    among them. The last good ones stay where that fails. `fetch` gives a JWK set, and raises ZionUnavailableError.
    """

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._now_s = now_s
        self._keys: list[Key] = []
        self._tried_s = self._fetched_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def check(self, token: str, head: Head) -> None:
        """Raises UnauthorizedError for a token that nobody with one of the keys has signed, or ZionUnavailableError."""
        aged = self._now_s() - self._fetched_s >= _FRESH_S
        fetching = self._renew() if aged else self._fetching
        if fetching is not None and not self._keys:
            await asyncio.shield(fetching)
        said = verdict(self._keys, token, head)
        fetching = self._renew() if said is None else None
        if fetching is not None:
            await asyncio.shield(fetching)
            said = verdict(self._keys, token, head)
            # The newest keys do not know it.
            said = False if said is None and self._fetched_s == self._tried_s else said
        if said is False:
            raise UnauthorizedError(INVALID_KEY_MESSAGE)
        if said is None and self._fetched_s == self._tried_s:
            wait_s = self._tried_s + _FETCH_AGAIN_S - self._now_s()
            raise ZionUnavailableError("The key of this token is not known yet.", retry_after_s=max(1.0, wait_s))
        # Signed, or there is no way to tell: Zion decides.

    async def close(self) -> None:
        """Fetch no more."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _renew(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, a new one, or None where the last one is too recent."""
        if self._fetching is None and self._now_s() - self._tried_s >= _FETCH_AGAIN_S:
            self._fetching = asyncio.create_task(self._fetch_keys())
        return self._fetching

    async def _fetch_keys(self) -> None:
        try:
            keys = read_keys(await self._fetch())
        except (ZionUnavailableError, ValueError) as error:
            self._tried_s = self._now_s()
            _log.error("keys not renewed: the last ones stay", keys=len(self._keys), error=str(error))
        else:
            if {key.kid for key in keys} != {key.kid for key in self._keys}:
                _log.info("new keys", kids=[key.kid for key in keys])
            self._keys, self._tried_s = keys, self._now_s()
            self._fetched_s = self._tried_s
        finally:
            self._fetching = None
