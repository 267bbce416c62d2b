"""answer: the framing of answers, at every split, by properties, and against every lie that we know of."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.upstream.http1.answer import FIELDS_MAX, HEAD_BYTES_MAX, Answer
from sentinel.upstream.http1.failures import BrokenError

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"

WELL = {
    "length": (HELLO, b"hello", True),
    "empty": (OK + b"content-length: 0\r\n\r\n", b"", True),
    "chunks": (CHUNKED + b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n", b"hello!", True),
    "no chunk": (CHUNKED + b"0\r\n\r\n", b"", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx: y\r\nz:\r\n\r\n", b"hello", True),
    "blank lines in chunks": (CHUNKED + b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n", True),
    "204": (b"HTTP/1.1 204 None\r\n\r\n", b"", True),
    "304 with the length of another": (b"HTTP/1.1 304 Same\r\ncontent-length: 5\r\n\r\n", b"", True),
    "205": (b"HTTP/1.1 205 Reset\r\n\r\n", b"", False),
    "205 with a length of nothing": (b"HTTP/1.1 205 Reset\r\ncontent-length: 0\r\n\r\n", b"", False),
    "205 with a length": (b"HTTP/1.1 205 Reset\r\ncontent-length: 5\r\n\r\n", b"", False),
    "interim of length 0": (b"HTTP/1.1 199 Odd\r\ncontent-length: 0\r\n\r\n" + HELLO, b"hello", True),
    "to be closed": (OK + b"Connection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, b"hello", True),
    "hints": (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 3 + HELLO, b"hello", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
    "empty field": (OK + b"x:\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
}
LIES = {
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "one length twice": OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": OK + b"content-length: 5, 5\r\n\r\nhello",
    "signed length": OK + b"content-length: +5\r\n\r\nhello",
    "negative length": OK + b"content-length: -5\r\n\r\nhello",
    "endless length": OK + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "length, then chunks": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunks, then length": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "gzip, chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "gzip": OK + b"transfer-encoding: gzip\r\n\r\nhello",
    "chunked twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "length after chunks": CHUNKED + b"5\r\nhello\r\n0\r\ncontent-length: 9\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "no HTTP": b"ICY 200 OK\r\n\r\n",
    "garbage": b"\x00\x01 this is not HTTP\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x50",
    "status 099": b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 Odd\r\n\r\n",
    "interim with a body": b"HTTP/1.1 199 Odd\r\ncontent-length: 5\r\n\r\nhello" + HELLO,
    "interim with chunks": b"HTTP/1.1 199 Odd\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + HELLO,
    "continue with a body": b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\nhello" + HELLO,
    "hints with chunks": b"HTTP/1.1 103 Hints\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + HELLO,
    "upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
    "bare LF in chunks": CHUNKED + b"5\nhello\n0\n\n",
    "folded": OK + b"x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello",
    "space before colon": OK + b"content-length : 5\r\n\r\nhello",
    "NUL": OK + b"x: a\x00b\r\ncontent-length: 5\r\n\r\nhello",
    "CR": OK + b"x: a\rb\r\ncontent-length: 5\r\n\r\nhello",
    "no size": CHUNKED + b"zz\r\nhello\r\n",
    "size with a sign": CHUNKED + b"-5\r\nhello\r\n",
    "endless size": CHUNKED + b"fffffffffffffffff\r\nhello\r\n",
    "chunk longer than it says": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "huge field": OK + b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n",
    "many fields": OK + b"x: y\r\n" * (FIELDS_MAX + 1) + b"\r\n",
    "many interim answers": b"HTTP/1.1 103 Hints\r\nx: y\r\n\r\n" * 40_000,
    "endless head": OK + b"x" * (HEAD_BYTES_MAX + 1),
    "endless trailer": CHUNKED + b"0\r\nx: " + b"y" * (HEAD_BYTES_MAX + 1),
    "endless extension": CHUNKED + b"5;" + b"y" * (HEAD_BYTES_MAX + 1),
}
AFTER = {"blank line": b"\r\n", "garbage": b"x", "another answer": HELLO, "half an answer": b"HTTP/1.1 2"}


def taken(answer: Answer) -> bytes:
    """All that waits."""
    buffered, said = answer.buffered, b""
    while answer.arrivals:
        said += answer.take()
    assert (answer.buffered, len(said)) == (0, buffered)
    return said


def fed(*arrivals: bytes) -> tuple[Answer, bytes]:
    """An answer and its body."""
    answer = Answer()
    said = b""
    for arrived in arrivals:
        answer.feed(arrived)
        said += taken(answer)
    return answer, said


@pytest.mark.parametrize("name", WELL)
def test_answers_at_every_split(name: str) -> None:
    """Rule H19: an answer is the same in one arrival, in two at every place, and byte by byte."""
    said, body, keeps = WELL[name]
    ways = [[said], *([said[:at], said[at:]] for at in range(1, len(said))), [said[at : at + 1] for at in range(len(said))]]
    for way in ways:
        answer, read = fed(*way)
        assert (answer.whole, answer.keeps, read) == (True, keeps, body), way
        assert 200 <= answer.status < 400
        assert (b"x", b"y") not in answer.headers


@pytest.mark.parametrize("name", WELL)
def test_what_is_not_whole_is_never_taken_for_it(name: str) -> None:
    """Rule X13: the connection's end before the answer's is a failure, wherever it comes."""
    said, _, _ = WELL[name]
    for at in range(len(said)):
        answer, _ = fed(said[:at]) if at else fed()
        assert not answer.whole
        with pytest.raises(BrokenError):
            answer.end()


@pytest.mark.parametrize("name", LIES)
def test_lies_are_broken(name: str) -> None:
    """Rules V5, X4: what two readers could read in two ways is no answer, in one arrival or in many small ones."""
    said = LIES[name]
    step = 1 if len(said) < 1000 else 4096
    for way in ([said], [said[at : at + step] for at in range(0, len(said), step)]):
        with pytest.raises(BrokenError):
            fed(*way)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("name", [name for name in WELL if WELL[name][2]])
def test_bytes_after_the_end_cost_the_connection(name: str, after: str) -> None:
    """Rule X4: they belong to no request, in the same arrival or in the next; the answer itself is unharmed."""
    said, body, _ = WELL[name]
    for way in ([said + AFTER[after]], [said, AFTER[after]], [said[:-3], said[-3:] + AFTER[after]]):
        answer, read = fed(*way)
        assert (answer.whole, answer.keeps, read) == (True, False, body), way


def shown(answer: Answer) -> tuple[object, ...]:
    """All that an answer says of itself."""
    told = (
        answer.status,
        answer.headers,
        answer.media,
        answer.codings,
        answer.begun,
        answer.whole,
        answer.keeps,
        answer.keep_s,
    )
    return *told, taken(answer)


@pytest.mark.parametrize("name", [name for name in WELL if WELL[name][2]])
def test_nothing_of_an_answer_reaches_the_next(name: str) -> None:
    """Rules X4, V5: what one connection brings next is read as over a connection of its own, well or broken."""
    first = WELL[name][0]
    for second in (*(said for said, _, _ in WELL.values()), *LIES.values()):
        alone, after = Answer(), Answer()
        after.feed(first)
        after.begin()
        assert shown(after) == shown(alone)
        for piece in (second[:20], second[20:]):
            outcomes = []
            for answer in (alone, after):
                try:
                    answer.feed(piece)
                    outcomes.append(shown(answer))
                except BrokenError as error:
                    outcomes.append((str(error),))
            assert outcomes[0] == outcomes[1]
            if len(outcomes[0]) == 1:
                break


def test_empty_lines_are_told_apart_where_they_can_be() -> None:
    """Rule X4: a body of nothing but empty lines comes whole; in doubt its connection is not used again."""
    said = OK + b"content-length: 4\r\n\r\n\r\n\r\n"
    for way, keeps in (([said], False), ([said[:-4], said[-4:]], True), ([said + b"\r\n"], False)):
        answer, read = fed(*way)
        assert (answer.whole, answer.keeps, read) == (True, keeps, b"\r\n\r\n")


def test_an_answer_without_a_length_lasts_until_the_end() -> None:
    """RFC 9112 §6.3: the end of the connection is the end of such an answer, and nobody can use it again."""
    for way in ([OK + b"\r\n", b"hello"], [OK + b"\r\nhello"], [OK + b"\r\nhel", b"lo", b""]):
        answer, read = fed(*way)
        assert not answer.whole
        answer.end()
        assert (answer.whole, answer.keeps, read) == (True, False, b"hello")


@pytest.mark.parametrize("said", [OK + b"content-length: 5\r\n\r\n", CHUNKED, OK + b"content-length: 5\r\n\r\nhello"])
def test_the_answer_of_head_has_no_body(said: bytes) -> None:
    """Rule H16: its length is that of another answer, whatever comes after the head is not read, nor is it used again."""
    answer = Answer(bodiless=True)
    answer.feed(said)
    assert (answer.begun, answer.whole, answer.keeps, taken(answer)) == (True, True, False, b"")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"timeout=5", 5.0), (b"max=100, Timeout=5", 5.0), (b"max=100", None), (b"timeout=-1", None), (b"timeout=x", None)],
)
def test_how_long_a_connection_is_kept_there(value: bytes, seconds: float | None) -> None:
    """Rule V2: the other side may say after how long it closes what is idle."""
    answer, _ = fed(OK + b"keep-alive: " + value + b"\r\ncontent-length: 0\r\n\r\n")
    assert (answer.keep_s, answer.keeps) == (seconds, True)


def test_what_came_in_one_arrival_is_read_at_once() -> None:
    """Rule D6: chunks of one arrival are one piece, those of two are two; what is content alone, and much, is not copied."""
    answer = Answer()
    answer.feed(CHUNKED + b"1\r\na\r\n1\r\nb\r\n")
    answer.feed(b"1\r\nc\r\n0\r\n\r\n")
    assert answer.buffered == 3
    assert list(answer.arrivals) == [b"ab", b"c"]
    answer = Answer()
    answer.feed(OK + b"content-length: 40000\r\n\r\n")
    content = b"hello" * 8000
    answer.feed(content)
    assert answer.arrivals[0] is content


FRAMES = st.sampled_from(["length", "chunks", "close"])


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6), FRAMES, st.booleans(), st.lists(st.integers(0, 400), max_size=8)
)
def test_any_body_comes_as_it_is(parts: list[bytes], frame: str, interim: bool, cuts: list[int]) -> None:
    """Rule H19: whatever the bytes, their framing, and where the network cuts them."""
    body = b"".join(parts)
    head = b"HTTP/1.1 102 Wait\r\n\r\n" * interim + OK
    if frame == "length":
        said = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    elif frame == "chunks":
        chunks = b"".join(b"%X\r\n%s\r\n" % (len(part), part) for part in parts)
        said = head + b"transfer-encoding: Chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    else:
        said = head + b"\r\n" + body
    places = [0, *sorted({cut for cut in cuts if cut < len(said)}), len(said)]
    answer, read = fed(*(said[at:to] for at, to in itertools.pairwise(places) if to > at))
    if frame == "close":
        answer.end()
    doubtful = frame == "length" and body and not body.strip(b"\r\n")
    assert (answer.status, answer.whole, read) == (200, True, body)
    assert doubtful or answer.keeps is (frame != "close")


@given(st.sampled_from([said for said, _, _ in WELL.values()]), st.integers(0, 200), st.binary(max_size=6), st.integers(1, 200))
def test_no_bytes_do_more_than_break(said: bytes, at: int, odd: bytes, step: int) -> None:
    """Rule V5: any damage to any answer is BrokenError or another answer; nothing more than came is ever held."""
    damaged = said[:at] + odd + said[at + len(odd) :]
    answer = Answer()
    try:
        for start in range(0, len(damaged), step):
            answer.feed(damaged[start : start + step])
    except BrokenError:
        return
    assert len(taken(answer)) <= len(damaged)
    assert 200 <= answer.status <= 599 or not answer.begun
