"""protocol.cors: who may read across origins, and what a preflight grants (wire.md H16)."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.protocol.cors import EXPOSED, Cors
from sentinel.protocol.fields import Fields
from sentinel.settings import SettingsError, read
from sentinel.settings.origins import origins

APP = b"https://app.example.test"
OTHER = b"https://other.example.test"
ROOT = Path(__file__).parents[1]


def preflight(origin: bytes, *asked: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a preflight for POST."""
    lists = [(b"access-control-request-headers", names) for names in asked]
    return [(b"origin", origin), (b"access-control-request-method", b"POST"), *lists]


def test_off_is_silent() -> None:
    """H16: without the setting nothing of CORS is ever said."""
    cors = Cors(origins(""))
    assert cors.answer(Fields([(b"origin", APP)])) == ()
    assert cors.preflight(Fields(preflight(APP))) is None


def test_a_named_origin_may_read() -> None:
    """H16: its own name comes back, with what it may read, and caches are told that the answer depends on it."""
    answer = dict(Cors({APP.decode()}).answer(Fields([(b"origin", APP)])))
    assert answer[b"access-control-allow-origin"] == APP
    assert answer[b"vary"] == b"Origin"
    exposed = answer[b"access-control-expose-headers"].decode().split(", ")
    assert {"x-request-id", "x-ratelimit-reset-tokens", "x-ratelimit-remaining", "retry-after", "retry-after-ms"} <= set(
        exposed
    )
    assert b"access-control-allow-credentials" not in answer


@pytest.mark.parametrize(
    "origin",
    [OTHER, b"null", b"", b"https://app.example.test.evil.test", b"https://app.example.test/", b"http://app.example.test",
     b"HTTPS://APP.EXAMPLE.TEST", b"https://app.example.test:444", b"*"],
)  # fmt: skip
def test_an_unknown_origin_gets_nothing(origin: bytes) -> None:
    """H16: exact or not at all; caches are still told that it depends."""
    cors = Cors({APP.decode()})
    assert cors.answer(Fields([(b"origin", origin)])) == ((b"vary", b"Origin"),)
    assert cors.preflight(Fields(preflight(origin))) is None


def test_two_origins_are_none() -> None:
    """H16: which of two would be meant nobody knows."""
    assert dict(Cors({APP.decode()}).answer(Fields([(b"origin", APP), (b"origin", OTHER)]))) == {b"vary": b"Origin"}


def test_any_origin() -> None:
    """H16: `*` answers every origin with `*`, which depends on nothing."""
    cors = Cors({"*"})
    assert dict(cors.answer(Fields([(b"origin", OTHER)])))[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in dict(cors.answer(Fields([(b"origin", OTHER)])))
    assert cors.answer(Fields([])) == ()


def test_a_preflight_is_granted_what_a_client_needs() -> None:
    """H16: of the names it asks for, those a client of OpenAI sends; others are left out, so that the browser refuses."""
    asked = b"authorization, Content-Type,openai-beta , x-stainless-os,cookie, x-evil, openai-, x-stainless-\xff"
    granted = dict(Cors({APP.decode()}).preflight(Fields(preflight(APP, asked, b"x-stainless-lang"))) or [])
    assert (
        granted[b"access-control-allow-headers"]
        == b"authorization, content-type, openai-beta, x-stainless-os, x-stainless-lang"
    )
    assert granted[b"access-control-allow-methods"] == b"GET, HEAD, POST, DELETE"
    assert granted[b"access-control-max-age"] == b"7200"
    assert granted[b"vary"].startswith(b"Origin, ")


def test_a_plain_options_is_no_preflight() -> None:
    """H16: without a method to ask for it is an ordinary request, and has its ordinary answer."""
    assert Cors({"*"}).preflight(Fields([(b"origin", APP)])) is None


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_names(asked: list[bytes]) -> None:
    """H16, G10: whatever is asked for, what comes back is a list of plain names."""
    for _, value in Cors({"*"}).preflight(Fields(preflight(APP, *asked))) or []:
        assert re.fullmatch(rb"[A-Za-z0-9, -]+", value)


def test_every_header_of_our_own_may_be_read() -> None:
    """H16: what Sentinel says in headers of its own is exposed, whichever module says it."""
    sources = "\n".join(path.read_text() for path in (ROOT / "sentinel").rglob("*.py") if "devstack" not in path.parts)
    assert set(re.findall(r'b"(x-sentinel-[a-z-]+)"', sources)) <= set(EXPOSED)


@pytest.mark.parametrize("text", ["https://a.test", "https://a.test, http://localhost:3000", "*", "http://[::1]:8080"])
def test_origins_are_read(text: str) -> None:
    """H16: a list of origins, or all."""
    assert origins(text) == frozenset(part.strip() for part in text.split(","))


@pytest.mark.parametrize(
    "text",
    ["a.test", "https://a.test/", "https://A.test", "*,https://a.test", "https://a.test:443", "http://a.test:80", "null"],
)
def test_what_no_browser_sends_is_a_problem(text: str) -> None:
    """H16: an origin that could never match is told at the start, by the name of its variable."""
    environ = {"ZION_API_URL": "http://z", "ZION_API_KEY": "k", "OPENAI_API_KEY": "k", "SENTINEL_CORS_ORIGINS": text}
    with pytest.raises(SettingsError, match="SENTINEL_CORS_ORIGINS names"):
        read(environ, dotenv=None)
