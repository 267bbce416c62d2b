"""downstream.cors: who may read across origins, and what a preflight grants (rule H16)."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream.cors import EXPOSED, REQUESTED_NAME_CHARACTERS_MAX, REQUESTED_NAMES_MAX, Cors
from sentinel.openai.header_fields import Fields
from sentinel.ops.settings import SettingsError, read
from sentinel.ops.settings.origins import origins

APP = b"https://app.example.test"
OTHER = b"https://other.example.test"
ROOT = Path(__file__).parents[2]


def preflight(origin: bytes, *asked: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a preflight for POST."""
    lists = [(b"access-control-request-headers", names) for names in asked]
    return [(b"origin", origin), (b"access-control-request-method", b"POST"), *lists]


def test_off_is_silent() -> None:
    """H16: without the setting nothing of CORS is ever said."""
    cors = Cors(origins(""))
    assert cors.answer(Fields.of([(b"origin", APP)])) == ()
    assert cors.preflight(Fields.of(preflight(APP))) is None


def test_a_named_origin_may_read() -> None:
    """H16: its own name comes back, with what it may read, and caches are told that the answer depends on it."""
    answer = dict(Cors({APP.decode()}).answer(Fields.of([(b"origin", APP)])))
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
    assert cors.answer(Fields.of([(b"origin", origin)])) == ((b"vary", b"Origin"),)
    assert cors.preflight(Fields.of(preflight(origin))) is None


def test_two_origins_are_none() -> None:
    """H16: which of two would be meant nobody knows."""
    assert dict(Cors({APP.decode()}).answer(Fields.of([(b"origin", APP), (b"origin", OTHER)]))) == {b"vary": b"Origin"}


def test_any_origin() -> None:
    """H16: `*` answers every origin with `*`, which depends on nothing."""
    cors = Cors({"*"})
    assert dict(cors.answer(Fields.of([(b"origin", OTHER)])))[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in dict(cors.answer(Fields.of([(b"origin", OTHER)])))
    assert cors.answer(Fields.of([])) == ()


def granted(*asked: bytes) -> str:
    """The header names that a preflight which asks for these is granted."""
    answer = dict(Cors({APP.decode()}).preflight(Fields.of(preflight(APP, *asked))) or [])
    return answer.get(b"access-control-allow-headers", b"").decode()


def test_a_preflight_is_answered_for_its_origin_and_its_question() -> None:
    """H16: methods, the time it holds, and what a cache must know beside the origin."""
    answer = dict(Cors({APP.decode()}).preflight(Fields.of(preflight(APP, b"authorization"))) or [])
    assert answer[b"access-control-allow-methods"] == b"GET, HEAD, POST, DELETE"
    assert answer[b"access-control-max-age"] == b"7200"
    assert answer[b"vary"].startswith(b"Origin, ")


# What clients are known to send from a browser, beside names that nobody knows yet.
SENT_BY_CLIENTS = (
    *("authorization", "content-type", "accept", "user-agent", "idempotency-key", "x-client-request-id", "x-request-id"),
    *(f"x-stainless-{what}" for what in ("arch", "async", "custom-poll-interval", "helper-method", "lang", "os")),
    *(f"x-stainless-{what}" for what in ("package-version", "poll-helper", "retry-count", "runtime", "runtime-version")),
    *("x-stainless-timeout", "x-stainless-read-timeout", "openai-beta", "openai-organization", "openai-project"),
    *("dangerously-allow-browser", "anthropic-dangerous-direct-browser-access", "anthropic-version", "x-api-key", "api-key"),
    *("http-referer", "x-title", "x-requested-with", "x-session-id", "x-goog-api-client", "ms-azureml-model-error-message"),
    *("traceparent", "tracestate", "sentry-trace", "baggage", "x-datadog-trace-id", "b3", "uber-trace-id", "x-b3-traceid"),
    *("cache-control", "pragma", "if-none-match", "range", "x-vercel-ai-gateway", "ai-sdk", "x-of-an-app.of_its-own"),
)


@pytest.mark.parametrize("name", SENT_BY_CLIENTS)
def test_a_preflight_is_granted_what_clients_send(name: str) -> None:
    """H16: whatever an SDK, a tracer or an application adds in a browser, in any case, its request is not stopped for it."""
    assert granted(name.upper().encode()) == name


# By why they are not granted.
REFUSED = (
    # Of one connection, and of framing (RFC 9110 §7.6.1, §8.6).
    *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection", "content-length"),
    *("host", "expect", "via"),
    # Of the browser, which says by them whose page asks, or of credentials that are not the caller's token (Fetch §2.2.2).
    *("origin", "referer", "cookie", "cookie2", "set-cookie", "sec-fetch-site", "sec-websocket-key", "proxy-authorization"),
    *("access-control-request-method", "access-control-allow-origin", "accept-encoding", "accept-charset", "date", "dnt"),
    # Of what stands in front of Sentinel.
    *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "true-client-ip"),
    *("cf-connecting-ip", "x-client-ip", "x-original-url", "x-rewrite-url", "x-http-method", "x-http-method-override"),
    *("x-method-override", "x-original-host"),
    # No names, or more than a name: `*` would mean every one.
    *("*", "", "-x", "a b", "a:b", 'a"b', "x-\xff", "a/b", "(x)", "x" * (REQUESTED_NAME_CHARACTERS_MAX + 1)),
)


@pytest.mark.parametrize("name", REFUSED)
def test_a_preflight_is_not_granted_power(name: str) -> None:
    """H16: what says where a request ends, whose it is, or where it came from is left out, so that the browser refuses."""
    assert granted(name.encode("latin-1").upper()) == ""
    assert granted(b"x-first, " + name.encode("latin-1") + b" ,x-last") == "x-first, x-last"


def test_a_preflight_has_a_bound() -> None:
    """H16: so many names are granted and no more, each once, however many lines ask."""
    names = [f"x-{number}" for number in range(REQUESTED_NAMES_MAX + 10)]
    lists = [",".join(names[:40] * 3).encode(), ",".join(names[40:]).encode()]
    assert granted(*lists).split(", ") == names[:REQUESTED_NAMES_MAX]
    assert granted(b"x" * REQUESTED_NAME_CHARACTERS_MAX) == "x" * REQUESTED_NAME_CHARACTERS_MAX


def test_a_plain_options_is_no_preflight() -> None:
    """H16: without a method to ask for it is an ordinary request, and has its ordinary answer."""
    assert Cors({"*"}).preflight(Fields.of([(b"origin", APP)])) is None


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_names(asked: list[bytes]) -> None:
    """H16, Y10: whatever is asked for, what comes back is a list of plain names."""
    for _, value in Cors({"*"}).preflight(Fields.of(preflight(APP, *asked))) or []:
        assert re.fullmatch(rb"[A-Za-z0-9, ._-]+", value)


def test_every_header_of_our_own_may_be_read() -> None:
    """H16: what Sentinel says in headers of its own is exposed, whichever module says it."""
    sources = "\n".join(path.read_text() for path in (ROOT / "sentinel").rglob("*.py") if "devstack" not in path.parts)
    assert set(re.findall(r'b"(x-sentinel-[a-z-]+)"', sources)) <= set(EXPOSED)


# Of desktop apps and extensions, as their engines send them.
APPS = (
    *("app://obsidian.md", "app://-", "app://.", "chrome-extension://aapocclcgogkmnckokdopfmhonfmgoek"),
    *("moz-extension://0b8e9f5c-5d51-4a5e-9b4a-0d2c1f1b6c11", "safari-web-extension://7E8D2A10-0C3B-4F6E-8A54-1C0FD0A6A9B2"),
    *("vscode-webview://1u2p3h9s0q", "vscode-file://vscode-app", "tauri://localhost", "capacitor://localhost"),
    *("ionic://localhost", "capacitor-electron://-", "com.example.app+x://localhost:8100"),
)


@pytest.mark.parametrize("origin", APPS)
def test_an_app_may_read(origin: str) -> None:
    """H16: origins of apps and extensions are settings, and answered, like those of pages: exactly."""
    cors = Cors(origins(f"https://a.test,{origin}"))
    assert dict(cors.answer(Fields.of([(b"origin", origin.encode())])))[b"access-control-allow-origin"] == origin.encode()
    assert cors.preflight(Fields.of(preflight(origin.encode()))) is not None
    for other in (origin[:-1], origin + "x", origin + "/", f"x{origin}", "null"):
        assert cors.answer(Fields.of([(b"origin", other.encode())])) == ((b"vary", b"Origin"),)


@pytest.mark.parametrize("scheme", ["file", *(origin.partition("://")[0] for origin in APPS)])
def test_a_scheme_is_all_its_origins(scheme: str) -> None:
    """H16: the host of an extension or a webview is made up at each installation, so that its scheme alone can be named."""
    cors = Cors(origins(f"{scheme}://"))
    for host in ("", "a", "A-b.c_d~e", "1u2p3h9s0q", "localhost:8100"):
        origin = f"{scheme}://{host}".encode()
        assert dict(cors.answer(Fields.of([(b"origin", origin)])))[b"access-control-allow-origin"] == origin
    for other in (
        f"{scheme}:",
        f"{scheme}:/a",
        f"x{scheme}://a",
        f"{scheme}://a/b",
        f"{scheme}://a b",
        "https://a.test",
        "null",
    ):
        assert cors.answer(Fields.of([(b"origin", other.encode())])) == ((b"vary", b"Origin"),)


@pytest.mark.parametrize("text", ["https://a.test", "https://a.test, http://localhost:3000", "*", "http://[::1]:8080"])
def test_origins_are_read(text: str) -> None:
    """H16: a list of origins, or all."""
    assert origins(text) == frozenset(part.strip() for part in text.split(","))


@pytest.mark.parametrize(
    "text",
    [
        *("a.test", "https://a.test/", "https://A.test", "*,https://a.test", "https://a.test:443", "http://a.test:80", "null"),
        *("https://", "http://", "ws://a.test", "wss://a.test", "app:", "app:/a", "app://a/", "APP://a", "app://a b", "://a"),
        *(
            "app://*",
            "moz-extension://*",
            "app://a?b",
            "app://a#b",
            "app://u@a",
            "app://é",
            "https://é",
            "app://a:b",
            "null,app://a",
            *(
                f"{scheme}://{host}"
                for scheme in ("javascript", "vbscript", "data", "blob", "about", "mailto")
                for host in ("", "a")
            ),
        ),
    ],
)
def test_what_no_browser_sends_is_a_problem(text: str) -> None:
    """H16: an origin that could never match is told at the start, by the name of its variable."""
    environ = {"ZION_API_URL": "http://z", "ZION_API_KEY": "k", "OPENAI_API_KEY": "k", "SENTINEL_CORS_ORIGINS": text}
    with pytest.raises(SettingsError, match="SENTINEL_CORS_ORIGINS names"):
        read(environ, dotenv=None)
