"""zion.signatures: which tokens are Zion's, by keys of every kind, and what becomes of them while keys change or are away."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sentinel.ops import settings
from sentinel.ops.errors import UnauthorizedError, ZionUnavailableError
from sentinel.ops.settings.public_keys import ALGORITHMS, public_keys
from sentinel.worker import parts
from sentinel.zion.credentials import read_jwt
from sentinel.zion.signatures import FetchedKeys, OwnKeys, own_keys, read_keys, verdict

RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
KEYS: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHERS: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), OTHER_RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(key: Any) -> str:
    """The public key, as an operator has it."""
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def token(key: Any, algorithm: str, kid: str | None = None) -> str:
    """One that `key` has signed."""
    return str(jwt.encode({"sub": "ada", "exp": 2**33}, key, algorithm, headers={"kid": kid} if kid is not None else None))


def jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    """The public key, as it is published."""
    return {**jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True), **more}


def key_set(*keys: Any) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": keys}).encode()


def judged(keys: Any, text: str) -> bool | None:
    """What these keys say of a token."""
    return verdict(keys, text, read_jwt(text)[0])


def test_the_algorithms_are_these() -> None:
    """Asymmetric ones, and no other: with a public key in hand, anybody could sign by a symmetric one (RFC 8725 §2.1)."""
    assert set(KEYS) == ALGORITHMS


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("published", [True, False], ids=["fetched", "own"])
def test_what_zion_has_signed(algorithm: str, *, published: bool) -> None:
    """Its token is taken, and no other: not of another key, not with other claims, not with another signature."""
    mine, other = KEYS[algorithm], OTHERS[algorithm]
    keys = read_keys(key_set(jwk(mine, algorithm, kid="a"))) if published else own_keys(public_keys(pem(mine)))
    good = token(mine, algorithm, "a")
    assert judged(keys, good) is True
    bad = False if published else None
    assert judged(keys, token(other, algorithm, "a")) is bad
    head, claims, signature = good.split(".")
    stranger = base64.urlsafe_b64encode(b'{"sub":"eve"}').decode().rstrip("=")
    for forged in (f"{head}.{stranger}.{signature}", f"{head}.{claims}.{signature[:-8]}AAAAAAAA", f"{head}.{claims}.AA"):
        assert judged(keys, forged) is bad


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("said", ["HS256", "HS512", "none", "RS256", "ES256", "EdDSA", "ES256K", "", "hs256", "RS256 "])
def test_no_token_chooses_how_it_is_verified(algorithm: str, said: str) -> None:
    """A public key as a secret, no signature, a key of another kind: RFC 8725 §2.1, whatever `alg` says."""
    if said in ALGORITHMS and KEYS[said] is KEYS[algorithm]:
        return
    public = pem(KEYS[algorithm])
    keys = own_keys(public_keys(public))
    claims = token(KEYS[algorithm], algorithm).split(".")[1]
    encoded = jwt.utils.base64url_encode(json.dumps({"alg": said, "typ": "JWT"}).encode()).decode()
    signing = f"{encoded}.{claims}".encode()
    secret = jwt.utils.base64url_encode(
        jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing, public.encode())
    )
    for forged in (f"{encoded}.{claims}.{secret.decode()}", f"{encoded}.{claims}.AA"):
        assert not judged(keys, forged)


@pytest.mark.parametrize(
    "text", ["", "nonsense", pem(RSA)[:-40], pem(RSA).replace("A", "!"), "ssh-ed25519 AAAA", "-----BEGIN PUBLIC KEY-----"]
)
def test_what_is_no_public_key(text: str) -> None:
    """An operator is told before anything starts."""
    with pytest.raises(ValueError, match="holds"):
        public_keys(text)


UNFIT = {
    "short": rsa.generate_private_key(65537, 1024),
    "dsa": dsa.generate_private_key(1024),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "ed448": ed448.Ed448PrivateKey.generate(),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_keys(name: str) -> None:
    """Too short, or of a kind whose signatures nobody here would take."""
    with pytest.raises(ValueError, match="neither RSA"):
        public_keys(pem(RSA) + pem(UNFIT[name]))


def test_a_private_key_is_not_for_here() -> None:
    """It is refused, and not shown."""
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ValueError, match="only public keys") as refused:
        public_keys(pem(RSA) + private)
    assert private[40:60] not in str(refused.value)


def test_several_keys_in_one_text() -> None:
    """Old and new beside each other, with line ends in either way."""
    text = (pem(RSA) + pem(KEYS["ES256"])).replace("\n", "\\n") + "\n# a remark\n" + pem(KEYS["EdDSA"])
    keys = own_keys(public_keys(text))
    for algorithm in ("RS256", "ES256", "EdDSA"):
        assert judged(keys, token(KEYS[algorithm], algorithm, "any")) is True
        assert not judged(keys, token(OTHERS[algorithm], algorithm, "any"))


def test_a_set_is_read_for_what_it_has() -> None:
    """Keys for other uses, symmetric ones, broken ones and unknown kinds are left out; a private part is left out of a key."""
    private = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(KEYS["EdDSA"]))
    assert "d" in private
    keys = read_keys(
        key_set(
            {"kty": "oct", "k": "AAAA", "kid": "secret"},
            {"kty": "new"},
            {},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "x": 1, "y": None},
            {"kty": "OKP"},
            jwk(RSA, "RS256", use="enc", kid="enc"),
            jwk(RSA, "RS256", kid=7),
            jwk(RSA, "RS256", kid="wrong", alg="ES256"),
            jwk(UNFIT["secp256k1"], "ES256K", kid="k"),
            jwk(RSA, "RS256", kid="one", alg="PS256"),
            {**private, "kid": "private"},
        )
    )
    assert [(key.kid, key.algorithms) for key in keys] == [("one", {"PS256"}), ("private", {"EdDSA"})]
    assert not hasattr(keys[1].public, "sign")
    assert judged(keys, token(RSA, "PS256", "one")) is True
    assert judged(keys, token(RSA, "RS256", "one")) is False


def test_a_set_has_a_bound() -> None:
    """A token that names no key is tried with each, so there are not many."""
    assert len(read_keys(key_set(*[jwk(KEYS["EdDSA"], "EdDSA", kid=str(at)) for at in range(40)]))) == 16


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,  # there are many of them in a set
)
_parts = st.fixed_dictionaries(
    {"kty": st.sampled_from(["RSA", "EC", "OKP"])},
    optional=dict.fromkeys(["n", "e", "x", "y", "crv", "kid", "alg", "use"], _json),
)


@given(st.lists(_parts | _json).map(lambda keys: json.dumps({"keys": keys}).encode()) | st.binary())
def test_any_set_is_read_or_refused(text: bytes) -> None:
    """No set raises anything but ValueError."""
    try:
        read_keys(text)
    except ValueError:
        return


class Published:
    """Where keys are published, and a clock in s."""

    def __init__(self, *kids: str) -> None:
        self.now_s = 1_000.0
        self.fetched = 0
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.private: dict[str, Any] = {}
        self.publish(*kids)
        self.keys = FetchedKeys(self.fetch, now_s=lambda: self.now_s)

    def publish(self, *kids: str) -> None:
        """These keys, of which those that are new are made."""
        self.kids = kids
        for kid in kids:
            self.private.setdefault(kid, ed25519.Ed25519PrivateKey.generate())

    async def fetch(self) -> bytes:
        """The set as it is."""
        self.fetched += 1
        await self.answers.wait()
        if self.away:
            raise ZionUnavailableError("away")
        return key_set(*[jwk(self.private[kid], "EdDSA", kid=kid) for kid in self.kids])

    async def says(self, kid: str | None, key: Any = None) -> str:
        """What becomes of a token that says to be signed by `kid`, and is by `key` (else by that of its name)."""
        text = token(key or self.private.get(kid or "") or OTHERS["EdDSA"], "EdDSA", kid)
        try:
            await self.keys.check(text, read_jwt(text)[0])
        except UnauthorizedError:
            return "refused"
        except ZionUnavailableError as error:
            assert error.retry_after_s is not None
            assert 1 <= error.retry_after_s <= 10
            return "later"
        return "passes"


async def test_keys_are_fetched_once_for_all() -> None:
    """When the first token comes, and again when they have aged; meanwhile the old ones are used."""
    one = Published("a")
    assert await asyncio.gather(*(one.says("a") for _ in range(9))) == ["passes"] * 9
    assert await one.says("a", OTHERS["EdDSA"]) == "refused"
    assert one.fetched == 1
    one.now_s += 299
    assert await one.says("a") == "passes"
    assert one.fetched == 1
    one.now_s += 1
    one.answers.clear()
    assert await one.says("a") == "passes"
    assert await one.says("a", OTHERS["EdDSA"]) == "refused"
    one.answers.set()
    await asyncio.sleep(0)
    assert one.fetched == 2
    await one.keys.close()


async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    """Rotation: its first token waits for the fetch; an old key that is not published any more signs nothing."""
    one = Published("a")
    assert await one.says("a") == "passes"
    one.publish("a", "b")
    one.now_s += 10
    assert await asyncio.gather(*(one.says("b") for _ in range(9))) == ["passes"] * 9
    assert one.fetched == 2
    one.publish("b")
    one.now_s += 300
    assert await one.says("b") == "passes"
    await asyncio.sleep(0)
    assert await one.says("a") == "later"
    one.now_s += 10
    assert await one.says("a") == "refused"


@pytest.mark.parametrize("kid", ["made up", None])
async def test_a_key_that_nobody_has_is_asked_for_seldom(kid: str | None) -> None:
    """Forged tokens that name keys by chance, or none: one fetch in 10 s, and none of them passes."""
    one = Published("a")
    assert await one.says("a") == "passes"
    seen = set()
    for _ in range(300):
        seen.add(await one.says(kid))
        one.now_s += 0.1
    assert seen == {"later", "refused"}
    assert one.fetched <= 4
    # A key that is new within these 10 s is not refused for good.
    one.publish("a", "b")
    assert await one.says("b") in {"later", "passes"}
    one.now_s += 10
    assert await one.says("b") == "passes"


async def test_the_last_good_keys_stay() -> None:
    """While none can be had: known keys judge as before, a token of another key is for Zion; it is tried every 10 s."""
    one = Published("a")
    assert await one.says("a") == "passes"
    one.away = True
    for _ in range(100):
        one.now_s += 10
        assert await one.says("a") == "passes"
        assert await one.says("a", OTHERS["EdDSA"]) == "refused"
        assert await one.says("b") == "passes"
    assert one.fetched <= 102
    one.away = False
    one.now_s += 10
    assert await one.says("b") == "refused"


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b'{"keys":[]}', b'{"keys":[{"kty":"oct","k":"AAAA"}]}', b"<html>", b"[" * 100_000]
)
async def test_a_set_without_keys_takes_none_away(answer: bytes) -> None:
    """What cannot be used is as good as no answer."""
    one = Published("a")
    assert await one.says("a") == "passes"

    async def fetch() -> bytes:
        return answer

    one.keys._fetch = fetch
    one.now_s += 300
    for _ in range(3):
        assert await one.says("a") == "passes"
        assert await one.says("a", OTHERS["EdDSA"]) == "refused"
        await asyncio.sleep(0)


async def test_where_there_never_were_keys_zion_decides() -> None:
    """But no token by a symmetric algorithm passes: keys of this kind are never published."""
    one = Published("a")
    one.away = True
    assert await one.says("a") == "passes"
    assert await one.says("b") == "passes"
    text = str(jwt.encode({"sub": "ada"}, "s" * 64, "HS256"))
    with pytest.raises(UnauthorizedError):
        await one.keys.check(text, read_jwt(text)[0])
    one.away = False
    one.now_s += 10
    assert await one.says("a") == "passes"
    assert await one.says("b", one.private["a"]) == "later"


async def test_own_keys_judge_alone() -> None:
    """There are no others to wait for, whatever key a token names."""
    keys = OwnKeys(own_keys(public_keys(pem(KEYS["ES256"]))))
    check: Callable[[str], Any] = lambda text: keys.check(text, read_jwt(text)[0])  # noqa: E731
    await check(token(KEYS["ES256"], "ES256", "any"))
    for text in (token(OTHERS["ES256"], "ES256"), token(RSA, "RS256"), str(jwt.encode({}, "s" * 64, "HS256"))):
        with pytest.raises(UnauthorizedError):
            await check(text)
    await keys.close()


async def test_a_worker_checks_by_what_is_set() -> None:
    """Keys of its own, keys that it fetches from where they are published, or none."""
    required = {"ZION_API_URL": "http://zion.test", "ZION_API_KEY": "zk", "OPENAI_API_KEY": "sk"}
    asked: list[str] = []

    class Zion:
        async def keys(self, url: str) -> bytes:
            asked.append(url)
            return key_set(jwk(KEYS["ES256"], "ES256"))

    async def made(**environ: str) -> Any:
        return parts.signatures(settings.read(required | environ, dotenv=None), cast("Any", Zion()))

    assert await made() is None
    good, bad = (token(keys["ES256"], "ES256") for keys in (KEYS, OTHERS))
    for environ in ({"ZION_JWT_PUBLIC_KEY": pem(KEYS["ES256"])}, {"ZION_JWKS_URL": "http://zion.test/keys"}):
        check = (await made(**environ)).check
        await check(good, read_jwt(good)[0])
        with pytest.raises((UnauthorizedError, ZionUnavailableError)):
            await check(bad, read_jwt(bad)[0])
    assert asked == ["http://zion.test/keys"]
