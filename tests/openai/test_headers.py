"""openai.headers: framing, what passes in either direction, limits and retry advice."""

import re
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.openai import headers
from sentinel.openai.durations import go_duration
from sentinel.openai.header_fields import Fields
from sentinel.openai.headers import USER_AGENT
from sentinel.ops.errors import BadRequestError, OverLimitError, SentinelError, UpstreamTimeoutError
from sentinel.ops.records import Caller, Hold, Origin, Remaining
from sentinel.zion import credentials

KEY = "sk-upstream-canary"
TENANT = b"Bearer tenant.canary.token"
UNLIMITED = Remaining(None, None, None)
NEVER_UP = """
    authorization api-key x-api-key cookie host content-length expect accept-encoding openai-organization openai-project
    forwarded x-forwarded-for x-forwarded-host x-real-ip x-sentinel-debug x-request-id connection keep-alive
    proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade traceparent tracestate
    x-portkey-custom-host range if-range if-none-match x-stainless x-stainless- origin access-control-request-method
    content-encoding x-canary
"""
DOWN = """
    content-type content-disposition content-encoding x-upstream-request-id openai-processing-ms openai-version openai-model
    retry-after retry-after-ms x-should-retry cache-control
"""
NEVER_DOWN = """
    alt-svc strict-transport-security cf-ray cf-cache-status server via x-envoy-upstream-service-time set-cookie
    access-control-allow-origin x-ratelimit-limit-requests x-ratelimit-remaining-tokens openai-organization
    openai-project content-length transfer-encoding connection keep-alive trailer upgrade proxy-authenticate location
    x-upstream-request-id x-sentinel-cache www-authenticate date accept-ranges content-range etag last-modified vary
    traceparent x-canary
"""


def hold(
    *,
    requests: Remaining = UNLIMITED,
    tokens_input: Remaining = UNLIMITED,
    tokens_output: Remaining = UNLIMITED,
    rate: Remaining = UNLIMITED,
) -> Hold:
    """A hold of which only the limits matter."""
    return Hold("r", Caller("u", "e"), "m", 1, 1, requests, tokens_input, tokens_output, rate)


def pairs(lines: bytes) -> list[tuple[str, str]]:
    """Header lines as names and values; each has its end."""
    *whole, rest = lines.decode().split("\r\n")
    assert rest == ""
    return [(name, value) for name, _, value in (line.partition(": ") for line in whole)]


def sent_up(*given_headers: tuple[bytes, bytes]) -> dict[str, str]:
    """What goes to the provider beside Sentinel's own three headers, and its name."""
    sent = dict(pairs(headers.upstream(Fields.of(given_headers), request_id="req-1", key=KEY)))
    if sent["user-agent"] == USER_AGENT:
        del sent["user-agent"]
    assert sent.pop("authorization") == f"Bearer {KEY}"
    assert sent.pop("accept-encoding") == "identity"
    assert sent.pop("x-request-id") == "req-1"
    return sent


class TestFraming:
    """Rule H15, rules X2, X3."""

    @pytest.mark.parametrize(
        "rest",
        [
            [],
            [(b"content-length", b"12")],
            [(b"transfer-encoding", b"chunked")],
            [(b"transfer-encoding", b"Chunked")],
            [(b"content-length", b"0"), (b"te", b"x")],
            [(b"content-type", b'multipart/form-data; boundary="a,b"')],
        ],
    )
    def test_plain_framing_passes(self, rest: list[tuple[bytes, bytes]]) -> None:
        """H15: one Host, and at most one kind of framing."""
        assert headers.check_framing(Fields.of([(b"host", b"example.test"), *rest])) is None  # type: ignore[func-returns-value]

    @pytest.mark.parametrize(
        "given_headers",
        [
            [],
            [(b"host", b"")],
            [(b"host", b"  ")],
            [(b"host", b"a"), (b"host", b"a")],
            [(b"host", b"a"), (b"host", b"b")],
            [(b"host", b"a"), (b"transfer-encoding", b"gzip, chunked")],
            [(b"host", b"a"), (b"transfer-encoding", b"identity")],
            [(b"host", b"a"), (b"transfer-encoding", b"xchunked")],
            [(b"host", b"a"), (b"transfer-encoding", b"chunked, chunked")],
            [(b"host", b"a"), (b"transfer-encoding", b"")],
            [(b"host", b"a"), (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
            [(b"host", b"a"), (b"content-length", b"1"), (b"content-length", b"1")],
            [(b"host", b"a"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
            [(b"host", b"a"), (b"content-length", b"+3")],
            [(b"host", b"a"), (b"content-length", b"-1")],
            [(b"host", b"a"), (b"content-length", b"1,1")],
            [(b"host", b"a"), (b"content-length", "٣".encode())],
            [(b"host", b"a"), (b"content-length", b"")],
            [(b"host", b"a"), (b"content-length", b"1" * 5000)],
            [(b"host", b"a"), (b"content-type", b"a/b"), (b"content-type", b"a/b")],
            [(b"host", b"a"), (b"content-type", b"application/json"), (b"content-type", b"multipart/form-data; boundary=x")],
            [(b"host", b"a"), (b"content-type", b"text/plain, application/json")],
        ],
        ids=repr,
    )
    def test_doubtful_framing_is_refused(self, given_headers: list[tuple[bytes, bytes]]) -> None:
        """H15, X2, X3: what two servers could read differently is a 400."""
        with pytest.raises(BadRequestError):
            headers.check_framing(Fields.of(given_headers))


class TestUpstream:
    """Rules H1, H2, H5, rules X11, Y5."""

    def test_allow_list(self) -> None:
        """H2: what the provider may see passes unchanged."""
        allowed = {
            "content-type": "application/json; charset=utf-8",
            "accept": "text/event-stream",
            "user-agent": "OpenAI/Python 3.52.0",
            "openai-beta": "assistants=v2",
            "x-client-request-id": "c",
            "x-stainless-retry-count": "1",
            "x-stainless-async": "async:asyncio",
            "http-referer": "https://app.test",
            "x-title": "App \xe9",
        }
        given_headers = [(name.encode(), value.encode("latin-1")) for name, value in allowed.items()]
        assert sent_up(*given_headers) == allowed

    def test_an_idempotency_key_is_its_callers_own(self) -> None:
        """The same again for the same caller, and no other caller's, whatever both choose."""

        def sent(caller: str, value: bytes) -> str:
            lines = headers.upstream(Fields.of([(b"idempotency-key", value)]), request_id="r", key=KEY, caller=caller)
            return dict(pairs(lines))["idempotency-key"]

        assert sent("anna", b"order-1") == sent("anna", b"order-1")
        assert (
            len({sent("anna", b"order-1"), sent("bert", b"order-1"), sent("anna", b"order-2"), sent("ann", b"aorder-1")}) == 4
        )
        assert sent("anna", b"\xff").isalnum()

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [
                        *(b"accept", b"user-agent", b"x-stainless-os", b"x-stainless-" + b"a" * 70, b"connection", b"cookie"),
                        *(b"authorization", b"idempotency-key", b"x-client-request-id", b"content-type"),
                    ]
                ),
                st.sampled_from([b"one", b"two", b"accept, user-agent", b"keep-alive", b"\xe9", b"a\x00b", b"x" * 1100]),
            ),
            max_size=6,
        )
    )
    def test_what_is_remembered_of_a_client_is_what_it_sent(self, lines: list[tuple[bytes, bytes]]) -> None:
        """Issue 12: asked again, the same lines go up, whoever has changed what was given; each caller's key is its own."""
        say = lambda caller: headers.upstream(Fields.of(lines), request_id="r", key=KEY, caller=caller)  # noqa: E731
        headers._known_lines.cache_clear()
        expected = say("anna")
        assert say("anna") == expected
        keys = [pair for pair in pairs(say("bert")) if pair[0] == "idempotency-key" and pair in pairs(expected)]
        assert keys == []

    @pytest.mark.parametrize(
        ("line", "kept"),
        [
            ((b"authorization", b"Bearer canary"), False),
            ((b"cookie", b"canary"), False),
            ((b"x-api-key", b"canary"), False),
            ((b"idempotency-key", b"canary"), False),
            ((b"x-client-request-id", b"canary"), False),
            ((b"user-agent", b"canary" * 200), False),
            ((b"user-agent", b"canary"), True),
        ],
    )
    def test_no_secret_is_remembered(self, line: tuple[bytes, bytes], *, kept: bool) -> None:
        """Issue 12: of a client that says something of its own, a credential, or at length, nothing of it stays in memory."""
        headers._known_lines.cache_clear()
        given_headers = Fields.of([(b"accept", b"*/*"), line])
        for _ in range(2):
            headers.upstream(given_headers, request_id="r", key=KEY)
        assert b"canary" in line[1]
        of_accept_alone = headers._known_lines(((b"accept", b"*/*"),))
        remembered = headers._known_lines.cache_info()
        alone = line[0] in {b"authorization", b"cookie", b"x-api-key"}
        assert remembered.currsize == 1 + kept
        assert remembered.hits == (2 if alone else 1 if kept else 0)
        assert pairs(of_accept_alone) == [("accept", "*/*"), ("user-agent", USER_AGENT)]

    @pytest.mark.parametrize("name", NEVER_UP.split())
    def test_default_is_deny(self, name: str) -> None:
        """H1, H2, Y4, Y5: credentials, hop-by-hop headers and unknown names stay here."""
        given_headers = Fields.of([(name.encode(), b"canary"), (b"authorization", TENANT)])
        sent = pairs(headers.upstream(given_headers, request_id="req-1", key=KEY))
        assert "canary" not in str([pair for pair in sent if pair != ("authorization", f"Bearer {KEY}")])
        assert sorted(key for key, _ in sent) == ["accept-encoding", "authorization", "user-agent", "x-request-id"]

    def test_connection_names_are_dropped(self) -> None:
        """H1: every name Connection lists is of this hop only, in any case, over several lines."""
        assert sent_up(
            (b"connection", b"keep-alive, OpenAI-Beta"),
            (b"openai-beta", b"x"),
            (b"connection", b"x-stainless-lang ,"),
            (b"x-stainless-lang", b"python"),
            (b"accept", b"*/*"),
        ) == {"accept": "*/*"}

    def test_connection_cannot_remove_our_own(self) -> None:
        """X11: Connection: authorization leaves Sentinel's own headers alone."""
        assert sent_up((b"connection", b"authorization, x-request-id, accept-encoding")) == {}

    @given(st.binary(max_size=30))
    def test_no_value_can_end_its_line(self, value: bytes) -> None:
        """Y10: a value with CR, LF, NUL or another control character is dropped, any other passes unchanged."""
        sent = sent_up((b"user-agent", value))
        passed = {name: text.encode() for name, text in sent.items()}
        try:
            wanted = value.decode("utf-8").encode()
        except UnicodeDecodeError:
            wanted = value.decode("latin-1").encode()  # the library writes UTF-8 only
        assert passed == ({} if re.search(rb"[\x00-\x08\n-\x1f\x7f]", value) else {"user-agent": wanted})

    @pytest.mark.parametrize("given", [[], [(b"user-agent", b"a\x00b")], [(b"x-title", b"user-agent: me")]])
    def test_who_says_no_name_goes_by_ours(self, given: list[tuple[bytes, bytes]]) -> None:
        """H2: there is one user agent, the client's or our own; a name within a value is none."""
        for more in ([], [(b"connection", b"user-agent"), (b"user-agent", b"me")]):
            sent = pairs(headers.upstream(Fields.of([*more, *given]), request_id="r", key=KEY))
            assert [value for name, value in sent if name == "user-agent"] == [USER_AGENT]
        assert sent_up((b"user-agent", b"me")) == {"user-agent": "me"}

    @pytest.mark.parametrize("odd", ["a\r\nb: c", "a\n", "a\r", "a\0", "\r\n"])
    def test_no_header_of_our_own_brings_another(self, odd: str) -> None:
        """X11, X4: what could end a line is refused, not repaired, wherever it comes from."""
        for own in ((odd, KEY), ("r", odd), ("r", KEY, "anna", (("tracestate", odd),)), ("r", KEY, "anna", (), odd)):
            with pytest.raises(BadRequestError):
                headers.upstream(Fields.of([]), *own)

    def test_codings_and_trace_stand_before_our_own(self) -> None:
        """H1, H20: what a body that streams by is coded in is said of it."""
        trace = (("traceparent", "00-ours"), ("tracestate", "a=b"))
        lines = headers.upstream(Fields.of([(b"accept", b"*/*")]), "r", KEY, "anna", trace, "gzip, br")
        assert [name for name, _ in pairs(lines)] == [
            *("accept", "user-agent", "traceparent", "tracestate", "content-encoding"),
            *("authorization", "accept-encoding", "x-request-id"),
        ]
        assert b"\r\ncontent-encoding: gzip, br\r\n" in lines

    def test_the_content_type_stays(self) -> None:
        """H1, X11: the type by which a body was read is the type under which it goes on, whatever Connection lists."""
        given_headers = [(b"connection", b"content-type, accept"), (b"content-type", b"a/b"), (b"accept", b"c/d")]
        assert sent_up(*given_headers) == {"content-type": "a/b"}

    def test_the_trace_goes_up_where_it_is_asked_for(self) -> None:
        """H20: what the client says of its trace stays here; what Sentinel says of it goes up."""
        given_headers = [(b"traceparent", b"00-canary"), (b"tracestate", b"canary")]
        trace = (("traceparent", "00-ours"),)
        sent = pairs(headers.upstream(Fields.of(given_headers), request_id="r", key=KEY, trace=trace))
        assert ("traceparent", "00-ours") in sent
        assert "canary" not in str([pair for pair in sent if pair[0] != "authorization"])

    @given(st.lists(st.tuples(st.from_regex(rb"[a-z-]{1,20}", fullmatch=True), st.just(b"canary")), max_size=20))
    def test_any_names(self, given_headers: list[tuple[bytes, bytes]]) -> None:
        """H2: no name outside the list ever passes."""
        allowed = {
            "content-type",
            "accept",
            "user-agent",
            "openai-beta",
            "idempotency-key",
            "x-client-request-id",
            "http-referer",
            "x-title",
        }
        assert all(name in allowed or name.startswith("x-stainless-") for name in sent_up(*given_headers))


class TestDownstream:
    """Rules H1, H3, I1, I6, I7, R5."""

    def test_allow_list(self) -> None:
        """H3, R5, I7: what a client may see passes, in lower case; the provider's id gets a name of its own (I1)."""
        allowed = (
            b"Content-Type Content-Disposition Content-Encoding OpenAI-Processing-Ms openai-version openai-model Retry-After "
            b"retry-after-ms x-should-retry Cache-Control"
        ).split()
        got = headers.downstream([(name, b"v") for name in [*allowed, b"X-Request-ID"]])
        assert got == [(name.lower(), b"v") for name in allowed] + [(b"x-upstream-request-id", b"v")]

    @pytest.mark.parametrize("name", NEVER_DOWN.split())
    @pytest.mark.parametrize("upper", [False, True])
    def test_default_is_deny(self, name: str, upper: bool) -> None:
        """H3, H6, I6: what names the provider's account, edge or framing stays here, in any case."""
        assert headers.downstream([((name.upper() if upper else name).encode(), b"canary")]) == []

    def test_connection_names_are_dropped(self) -> None:
        """H1: the same rule in this direction."""
        given_headers = [(b"Connection", b"close, OpenAI-Model"), (b"openai-model", b"m"), (b"content-type", b"a/b")]
        assert headers.downstream(given_headers) == [(b"content-type", b"a/b")]

    @pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb", b"a\x00"])
    def test_no_value_can_end_its_line(self, value: bytes) -> None:
        """Y10: response splitting through the provider's headers is impossible."""
        assert headers.downstream([(b"x-request-id", value), (b"content-type", value)]) == []


class TestClientRequestId:
    """Rule I2."""

    @pytest.mark.parametrize(
        ("given_headers", "expected"),
        [
            ([], ""),
            ([(b"x-request-id", b"abc-1")], "abc-1"),
            ([(b"x-request-id", b"b"), (b"x-client-request-id", b"a")], "a"),
            ([(b"x-client-request-id", b"bad\n"), (b"x-request-id", b"good")], "good"),
            ([(b"x-request-id", b"x" * 128)], "x" * 128),
            ([(b"x-request-id", b"x" * 129)], ""),
            ([(b"x-request-id", b"")], ""),
            ([(b"x-request-id", b" ")], ""),
            ([(b"x-request-id", b"a b")], "a b"),
            ([(b"x-request-id", b"a\r\nb: c")], ""),
            ([(b"x-request-id", b"a\x1b[31m")], ""),
            ([(b"x-request-id", "é".encode())], ""),
        ],
    )
    def test_only_fit_ids(self, given_headers: list[tuple[bytes, bytes]], expected: str) -> None:
        """I2: printable ASCII of at most 128 characters, else none."""
        assert headers.client_request_id(Fields.of(given_headers)) == expected


class TestRetryCount:
    """Rule R4."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None), (b"0", 0), (b"2", 2), (b"99", 99), (b"100", None),
            (b"-1", None), (b"", None), (b"1 ", None), (b"1.0", None), (b"x", None), ("٣".encode(), None),
            (b"1" * 10_000, None),
        ],
    )  # fmt: skip
    def test_only_small_numbers(self, value: bytes | None, expected: dict[str, int]) -> None:
        """R4: the count the SDK sends is logged where it is one, 0 to 99."""
        given_headers = [] if value is None else [(b"x-stainless-retry-count", value)]
        assert headers.retry_count(Fields.of(given_headers)) == expected


NASTY_NAMES = [
    name.encode()
    for name in f"{NEVER_UP} {NEVER_DOWN} content-type accept user-agent x-stainless-lang x-request-id retry-after".split()
]
NASTY_VALUES = [
    b"", b" ", b"\r\nset-cookie: a=b", b"a\nb", b"a\rb", b"a\x00b", b"a\x7f", b"\xff\xfe", b"\xc2\x85", b"close, authorization",
    b"Bearer canary", b"bearer  canary\r\n", b"chunked, chunked", b"+1", b"1" * 5000,
    b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00",
]  # fmt: skip
ANY_HEADERS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(NASTY_NAMES), st.binary(max_size=30), st.binary(max_size=9).map(lambda x: b"x-stainless-" + x)
        ),
        st.one_of(st.sampled_from(NASTY_VALUES), st.binary(max_size=60)),
    ),
    max_size=12,
)


class TestAnyHeaders:
    """Rules Y10, Y3, Y5, X11: what holds for every list of headers there can be."""

    @settings(max_examples=400)
    @given(ANY_HEADERS)
    @example([(b"x-stainless-a\r\nb", b"c"), (b"x-stainless-\xff", b"c")])
    @example([(b"connection", b"\xff, ,,authorization"), (b"authorization", b"Bearer canary")])
    @example([(b"content-length", b"1" * 5000), (b"host", b"a")])
    @example([(b"user-agent", b"\xed\xa0\x80"), (b"x-title", b"\xc2\x85")])
    def test_requests(self, given_headers: list[tuple[bytes, bytes]]) -> None:
        """H2, H15, Y10: nothing but a refusal is ever raised; no line is broken, and no credential but Sentinel's goes up."""
        for check in (headers.check_framing, credentials.bearer_token, headers.client_request_id, headers.retry_count):
            with suppress(SentinelError):
                check(Fields.of(given_headers))
        wire_form = headers.upstream(Fields.of(given_headers), request_id="r", key=KEY)
        sent = pairs(wire_form)
        assert wire_form.count(b"\r") == wire_form.count(b"\n") == len(sent)
        assert b"\x00" not in wire_form
        assert [value for name, value in sent if name == "authorization"] == [f"Bearer {KEY}"]
        assert not {name for name, _ in sent} & {"api-key", "x-api-key", "cookie", "proxy-authorization", "host", "connection"}
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name, _ in sent)

    @settings(max_examples=400)
    @given(ANY_HEADERS)
    @example([(b"Connection", b"\xff\x00"), (b"SET-COOKIE", b"a=b"), (b"Content-Type", b"a/b\r\nx: y")])
    def test_answers(self, given_headers: list[tuple[bytes, bytes]]) -> None:
        """H3, I6, Y10: whatever the provider sends, its cookies, its account and broken lines stay here."""
        sent = headers.downstream(given_headers)
        wire_form = b"".join(name + b": " + value + b"\r\n" for name, value in sent)
        assert wire_form.count(b"\r") == wire_form.count(b"\n") == len(sent)
        assert b"\x00" not in wire_form
        assert {name for name, _ in sent} <= set(DOWN.encode().split())


def parsed_ms(text: str) -> float:
    """A Go duration in ms, as a client reads it."""
    units = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    assert re.fullmatch(r"(\d+h)?(\d+m)?(\d+(\.\d{1,3})?s)?|\d+ms", text)
    return sum(float(figure) * units[unit] for figure, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))


class TestGoDuration:
    """Rule I4."""

    @pytest.mark.parametrize(
        ("ms", "expected"),
        [
            (-5, "0s"), (0, "0s"), (1, "1ms"), (12, "12ms"), (600, "600ms"), (999, "999ms"), (1000, "1s"), (8640, "8.64s"),
            (1001, "1.001s"), (59_999, "59.999s"), (60_000, "1m0s"), (60_500, "1m0.5s"), (360_000, "6m0s"),
            (3_600_000, "1h0m0s"), (90_061_001, "25h1m1.001s"),
        ],
    )  # fmt: skip
    def test_grammar(self, ms: int, expected: str) -> None:
        """I4: the values OpenAI's guide and recordings show, and what lies between them."""
        assert go_duration(ms) == expected

    @given(st.integers(0, 10**10))
    def test_exact(self, ms: int) -> None:
        """I4: reading what was written gives the same within 1 ms."""
        assert abs(parsed_ms(go_duration(ms)) - ms) < 1

    @given(st.integers(0, 10**8), st.integers(0, 10**8))
    def test_monotone(self, one: int, other: int) -> None:
        """I4: a longer duration never reads as a shorter one."""
        low, high = sorted((one, other))
        assert parsed_ms(go_duration(low)) <= parsed_ms(go_duration(high))


class TestLimits:
    """Rules I0, I3, I4, I6."""

    def test_both_families(self) -> None:
        """I0, I3: the tightest request rule in Unix seconds, and OpenAI's headers in durations."""
        got = headers.limits(
            hold(
                rate=Remaining(100, 7, 1500),
                requests=Remaining(1000, 999, 86_400_000),
                tokens_input=Remaining(50_000, 40_000, 3_600_000),
                tokens_output=Remaining(9000, 8000, 60_000),
            ),
            1_800_000_000,
        )
        assert dict(got) == {
            b"x-ratelimit-limit": b"100",
            b"x-ratelimit-remaining": b"7",
            b"x-ratelimit-reset": b"1800000002",
            b"x-ratelimit-limit-requests": b"100",
            b"x-ratelimit-remaining-requests": b"7",
            b"x-ratelimit-reset-requests": b"1.5s",
            b"x-ratelimit-limit-tokens": b"9000",
            b"x-ratelimit-remaining-tokens": b"8000",
            b"x-ratelimit-reset-tokens": b"1m0s",
        }
        assert len(got) == len(dict(got))

    def test_quota_tighter_than_rate(self) -> None:
        """I0: the rule that leaves least is shown, whichever it is."""
        got = dict(headers.limits(hold(rate=Remaining(100, 50, 1), requests=Remaining(10, 0, None)), 5))
        assert (got[b"x-ratelimit-limit"], got[b"x-ratelimit-remaining"]) == (b"10", b"0")
        assert b"x-ratelimit-reset" not in got
        assert b"x-ratelimit-reset-requests" not in got

    def test_unlimited_has_no_header(self) -> None:
        """I5: what has no limit is not made up."""
        assert headers.limits(hold(), 5) == []
        assert {name for name, _ in headers.limits(hold(tokens_output=Remaining(5, 2, 0)), 5)} == {
            b"x-ratelimit-limit-tokens",
            b"x-ratelimit-remaining-tokens",
            b"x-ratelimit-reset-tokens",
        }

    def test_never_negative(self) -> None:
        """I3: an overdrawn limit leaves nothing, and a reset in the past is now."""
        got = dict(headers.limits(hold(rate=Remaining(10, -3, -50)), 5))
        assert (got[b"x-ratelimit-remaining"], got[b"x-ratelimit-reset"]) == (b"0", b"5")
        assert got[b"x-ratelimit-reset-requests"] == b"0s"


class TestError:
    """Rules E1, R2, R3."""

    def test_plain(self) -> None:
        """E1: JSON, and no advice where there is none."""
        assert headers.error(BadRequestError("x")) == [(b"content-type", b"application/json")]

    @pytest.mark.parametrize(
        ("retry_after_s", "seconds", "milliseconds", "advised"),
        [
            (0, b"1", b"1", True),
            (0.0001, b"1", b"1", True),
            (0.5, b"1", b"500", True),
            (1.001, b"2", b"1001", True),
            (60, b"60", b"60000", True),
            (60.5, b"61", b"60500", False),
            (86_400, b"86400", b"86400000", False),
        ],
    )
    def test_retry_after(self, retry_after_s: float, seconds: bytes, milliseconds: bytes, advised: bool) -> None:
        """R3: whole seconds rounded up and milliseconds that agree, neither 0; above 60 s no retry is asked for."""
        got = dict(headers.error(OverLimitError("x", retry_after_s=retry_after_s)))
        assert (got[b"retry-after"], got[b"retry-after-ms"]) == (seconds, milliseconds)
        assert got.get(b"x-should-retry") == (None if advised else b"false")

    @given(st.floats(0, 10**7))
    def test_retry_never_comes_early(self, retry_after_s: float) -> None:
        """R3: neither header asks a client back before the limiter would let it in."""
        got = dict(headers.error(OverLimitError("x", retry_after_s=retry_after_s)))
        wait_ms = int(got.get(b"retry-after-ms", 10**12))
        assert int(got[b"retry-after"]) * 1000 >= min(wait_ms, retry_after_s * 1000)
        assert wait_ms >= max(1, retry_after_s * 1000)

    @pytest.mark.parametrize(
        ("retry_after_s", "seconds", "milliseconds"),
        [
            (2_147_483.5, b"2147484", b"2147483500"),
            (2_147_483.647, b"2147484", b"2147483647"),
            (2_147_483.6471, b"2147484", None),
            (2_147_483.648, b"2147484", None),
            (2_147_484, b"2147484", None),
            (31 * 86_400, b"2678400", None),
            (366 * 86_400, b"31622400", None),
            (10**12, b"1000000000000", None),
        ],
    )
    def test_a_wait_that_no_timer_takes(self, retry_after_s: float, seconds: bytes, milliseconds: bytes | None) -> None:
        """R3: a timer of JavaScript fires at once beyond 2 147 483 647 ms, so that only the seconds are told."""
        got = dict(headers.error(OverLimitError("x", retry_after_s=retry_after_s)))
        assert (got[b"retry-after"], got.get(b"retry-after-ms")) == (seconds, milliseconds)
        assert got[b"x-should-retry"] == b"false"

    @pytest.mark.parametrize("name", [b"retry-after-ms", b"Retry-After-Ms", b"RETRY-AFTER-MS"])
    @pytest.mark.parametrize(
        ("value", "passes"),
        [
            *((value, True) for value in (b"0", b"20", b"1.5", b"2147483647", b"2147483647.0", b"0002147483647", b"-1", b"")),
            *((value, True) for value in (b"-2147483648", b"2e9", b"1e-400", b".5", b"soon", b"v")),
            *((value, False) for value in (b"2147483648", b"2147483647.5", b"2678400000", b"+2678400000", b" 2678400000")),
            *((value, False) for value in (b"9" * 30, b"9" * 400, b"1e10", b"1E400", b".5e11", b"Infinity", b"2678400000 ms")),
        ],
    )
    def test_the_providers_wait_that_no_timer_takes(self, name: bytes, value: bytes, passes: bool) -> None:
        """R3, R5: nor does the provider's pass, however it is written; its seconds do, and so does what is no wait at all."""
        advice = [(b"retry-after", b"2678400"), *([(b"retry-after-ms", value)] if passes else [])]
        given_headers = [(b"Retry-After", b"2678400"), (name, value)]
        assert headers.downstream(given_headers) == advice
        assert headers.retry_advice(given_headers) == tuple(advice)

    def test_retry_advice(self) -> None:
        """R5: the provider's own advice passes, in lower case; nothing else of its headers does, and no broken value."""
        given = [(b"Retry-After", b"7"), (b"X-Should-Retry", b"true"), (b"retry-after-ms", b"7\r\nx: y"), (b"server", b"x")]
        assert headers.retry_advice(given) == ((b"retry-after", b"7"), (b"x-should-retry", b"true"))

    def test_origin(self) -> None:
        """Design §5: an answer of another model or from the cache says so; a plain one says nothing."""
        assert headers.origin(Origin()) == []
        assert headers.origin(Origin("gpt-4o-mini", "miss")) == [
            (b"x-sentinel-model", b"gpt-4o-mini"),
            (b"x-sentinel-cache", b"miss"),
        ]
        assert headers.origin(Origin("a\r\nb")) == []

    def test_no_retry(self) -> None:
        """R2, R4: where a retry cannot help, or might be billed twice, the client is told so."""
        for failure in (OverLimitError("x", retry=False), UpstreamTimeoutError("x")):
            assert (b"x-should-retry", b"false") in headers.error(failure)

    def test_own_headers_go_along(self) -> None:
        """E4: an error's own headers, like Allow, follow the others."""
        assert headers.error(SentinelError("x", headers=((b"allow", b"GET"),)))[-1] == (b"allow", b"GET")
