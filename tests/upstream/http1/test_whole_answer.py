"""whole: the strict pass takes nothing that the parser refuses, and reads the same from what it takes."""

from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.openai import headers
from sentinel.openai.response.select_meter import values
from sentinel.upstream.http1 import whole_answer
from sentinel.upstream.http1.answer import Answer
from sentinel.upstream.http1.failures import BrokenError

# As OpenAI, a gateway before it and a server of Node.js write them.
BODY: Final = b'{"id":"chatcmpl-1","usage":{"prompt_tokens":9,"completion_tokens":3}}'
OPENAI: Final = (
    b"HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: keep-alive\r\naccess-control-expose-headers: X-Request-ID\r\nopenai-organization: org-x\r\n"
    b"openai-processing-ms: 412\r\nopenai-project: proj_x\r\nopenai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\nx-request-id: req_0af3\r\nCF-Cache-Status: DYNAMIC\r\n"
    b'Set-Cookie: __cf_bm=a.b; path=/; HttpOnly\r\nServer: cloudflare\r\nalt-svc: h3=":443"; ma=86400\r\n\r\n%b'
) % (len(BODY), BODY)
NODE: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\nx-should-retry: false\r\ncache-control: no-store\r\n"
    b"Keep-Alive: timeout=5, max=100\r\ncontent-length: %d\r\n\r\n%b"
) % (len(BODY), BODY)
BARE: Final = b"HTTP/1.1 200 \r\ncontent-type:application/json\r\ncontent-length:\t2\r\n\r\n{}"
PLAIN: Final = (OPENAI, NODE, BARE)

# What may stand between two lines, or in the place of a part of one.
LINES: Final = (
    b"content-length: 2",
    b"Content-Length: 70",
    b"content-length: 0",
    b"content-length: +2",
    b"content-length: 2, 2",
    b"content-length: 02",
    b"content-length : 2",
    b"transfer-encoding: chunked",
    b"Transfer-Encoding: identity",
    b"content-type: text/html",
    b"content-type: application/json;charset=x",
    b"content-type: Application/JSON",
    b"content-encoding: gzip",
    b"content-encoding: identity",
    b"connection: close",
    b"connection: keep-alive, x-request-id",
    b"connection: Keep-Alive",
    b"connection: x-request-id",
    b"proxy-connection: close",
    b"keep-alive: timeout=9",
    b"keep-alive: timeout=x",
    b"upgrade: h2c",
    b"connection: upgrade",
    b"retry-after-ms: 99999999999",
    b"retry-after: 3",
    b"x-request-id: two",
    b"x-request-id: \xc3\xa9\ttab",
    b"x-empty:",
    b"x-empty: ",
    b"x-blank: a ",
    b"x-tab:\ta\t",
    b" folded",
    b"\tfolded",
    b"no colon",
    b": no name",
    b"x y: blank",
    b"x\x00y: nul",
    b"x: n\x00ul",
    b"x: del\x7f",
    b"x: bell\x07",
    b"x: c\rr",
    b"x: l\nf",
    b"",
    b"trailer: x",
    b"openai-model: m",
    b"content-disposition: attachment",
)
BEGINS: Final = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200  two  blanks ",
    b"HTTP/1.1 200 caf\xc3\xa9",
    b"HTTP/1.1 200 t\tab",
    b"HTTP/1.1 201 Created",
    b"HTTP/1.1 204 None",
    b"HTTP/1.1 205 Reset",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1  200 OK",
    b"http/1.1 200 OK",
    b"HTTP/1.1 2000 OK",
    b"\r\nHTTP/1.1 200 OK",
    b" HTTP/1.1 200 OK",
)


def agrees(data: bytes) -> bool:
    """Whether the strict pass takes `data`; where it does, the parser has read the same and would keep the connection."""
    taken = whole_answer.read(data)
    if taken is None:
        return False
    answer = Answer()
    answer.feed(data)
    assert (answer.status, answer.begun, answer.whole, answer.keeps) == (200, True, True, True)
    assert (b"".join(answer.arrivals), answer.media, answer.codings) == (taken.body, b"application/json", None)
    assert (answer.headers, answer.keep_s) == (taken.lines(), taken.keep_s)
    lengths = [(b"content-length", value) for value in values(answer.headers, b"content-length")]
    assert headers.downstream(answer.headers) + lengths == taken.down
    assert b"".join(values(answer.headers, b"x-request-id")[:1]) == taken.request_id
    return True


@pytest.mark.parametrize("data", PLAIN)
def test_plain_answers_are_taken_only_where_they_are_whole(data: bytes) -> None:
    """Split anywhere, or with anything behind it, an answer is the parser's."""
    assert agrees(data)
    assert not any(agrees(data[:at]) or agrees(data[at:]) for at in range(1, len(data)))
    assert not any(agrees(data + after) for after in (b" ", b"\r\n", b"\n", b"\0", data))


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("data", PLAIN)
def test_odd_lines_change_nothing_but_who_reads(data: bytes, line: bytes) -> None:
    """A line of any kind, in each place of a head, is read as the parser reads it, or left to it."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for at in range(1, len(lines) + 1):
        agrees(b"\r\n".join([*lines[:at], line, *lines[at:]]) + b"\r\n\r\n" + body)
        agrees(b"\r\n".join([*lines[:at], line, *lines[at + 1 :]]) + b"\r\n\r\n" + body)


@pytest.mark.parametrize("begin", BEGINS)
def test_odd_beginnings_are_left_to_the_parser(begin: bytes) -> None:
    """A status line of any kind is read as the parser reads it, or left to it."""
    assert agrees(begin + BARE[BARE.index(b"\r\n") :]) == (begin in BEGINS[:1] + BEGINS[2:3])


@pytest.mark.parametrize(
    "line",
    [
        b"connection: close",
        b"connection: x-request-id",
        b"content-encoding: gzip",
        b"transfer-encoding: chunked",
        b"content-type: application/json",
        b"content-length: 2",
        b"upgrade: h2c",
        b"proxy-connection: close",
        b"retry-after-ms: 1",
    ],
)
def test_what_the_general_case_is_for_is_not_taken(line: bytes) -> None:
    """Whatever a parser must weigh is left to it, also where it would take the answer."""
    assert not agrees(BARE.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n"))


def test_the_bounds_of_a_head_hold() -> None:
    """As many lines as the parser takes, and no more; a head of 16 KiB and more is the parser's."""
    for count in range(120, 130):
        assert agrees(BARE.replace(b"\r\n\r\n", b"\r\nx: y" * (count - 2) + b"\r\n\r\n")) == (count <= 128)
    assert agrees(BARE.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 16_000 + b"\r\n\r\n"))
    assert not agrees(BARE.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 16_384 + b"\r\n\r\n"))


@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4),
)
@example(BARE, [(13, 0, b"\xff")])
@settings(max_examples=500, deadline=None)
def test_no_mutation_is_read_otherwise_than_the_parser_reads_it(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    """Real heads with bytes cut out and put in anywhere: what is taken, the parser takes too, and reads the same."""
    for at, cut, odd in changes:
        place = at % len(data)
        data = data[:place] + odd + data[place + cut :]
    agrees(data)


@given(
    st.sampled_from(BEGINS),
    st.lists(st.sampled_from((*LINES, b"content-type: application/json", b"content-length: 2")), max_size=6),
    st.sampled_from((b"\r\n", b"\n", b"\r\n ", b"\r\r\n")),
    st.sampled_from((b"{}", b"{}\r\n", b"", b"[1]", b"2\r\n{}\r\n0\r\n\r\n")),
)
@settings(max_examples=500, deadline=None)
def test_no_head_of_odd_lines_is_read_otherwise(begin: bytes, lines: list[bytes], end: bytes, body: bytes) -> None:
    """Heads made of odd lines alone, with any line end and body: what is taken, the parser takes too, and reads the same."""
    agrees(end.join([begin, *lines]) + end + end + body)


def test_the_parser_refuses_what_it_should() -> None:
    """The measure itself: a lie that the parser breaks on is one here too."""
    lie = BARE.replace(b"\r\n\r\n", b"\r\ncontent-length : 2\r\n\r\n")
    with pytest.raises(BrokenError):
        Answer().feed(lie)
    assert whole_answer.read(lie) is None
