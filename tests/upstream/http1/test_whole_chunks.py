"""chunks: what is taken off without the parser is what the parser reads, and an answer stays the same at every split."""

import itertools
from typing import Final

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.upstream.http1 import whole_chunks
from sentinel.upstream.http1.answer import Answer
from sentinel.upstream.http1.failures import BrokenError
from tests.upstream.http1.test_answer import CHUNKED, taken

EVENT: Final = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
# What stands between two chunks, and what only looks so.
ODD: Final = (
    b"",
    b"0\r\n",
    b"0\r\n\r\n",
    b"05\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"5_0\r\n" + b"x" * 50 + b"\r\n",
    b"5\nhello\n",
    b"5\r\nhello",
    b"5\r\nhello\r",
    b"5\r\nhello\n\n",
    b"4\r\nhello\r\n",
    b"6\r\nhello\r\n",
    b"5\r\nhello\r\n\r\n",
    b"\r\n5\r\nhello\r\n",
    b"g\r\nhello\r\n",
    b"\xd9\xa5\r\nhello\r\n",
    b"fffffff\r\nhello\r\n",
    b"ffffffff\r\nhello\r\n",
    b"10000000000000005\r\nhello\r\n",
)


def chunk(body: bytes) -> bytes:
    """`body` as one chunk, of a size in either case."""
    return (b"%X" if len(body) % 2 else b"%x") % len(body) + b"\r\n" + body + b"\r\n"


class Parsed:
    """What llhttp says of the chunks that it is given."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.between = self.ended = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(CHUNKED)
        parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_chunk_header(self) -> None:
        self.between = False

    def on_chunk_complete(self) -> None:
        self.between = True

    def on_message_complete(self) -> None:
        self.ended = True


def agrees(data: bytes) -> bool:
    """Whether `data` is taken; the parser reads the same from it then, and waits for the next chunk."""
    content = whole_chunks.content(data)
    if content is None:
        return False
    parsed = Parsed(data)
    assert (parsed.body, parsed.between, parsed.ended) == (content, True, False)
    return True


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_whole_chunks_are_taken(parts: list[bytes]) -> None:
    """Any number of whole chunks, of any content, are what they hold; cut anywhere else they are not taken."""
    data = b"".join(map(chunk, parts))
    assert agrees(data)
    assert whole_chunks.content(data) == b"".join(parts)
    ends = {len(b"".join(map(chunk, parts[:count]))) for count in range(len(parts) + 1)}
    for at in range(1, len(data)):
        assert agrees(data[:at]) or at not in ends


@pytest.mark.parametrize("odd", ODD)
def test_odd_chunks_are_left_to_the_parser(odd: bytes) -> None:
    """Alone, before and behind a whole chunk, what is no plain chunk is not taken."""
    assert not agrees(odd)
    if odd:
        assert not agrees(chunk(EVENT) + odd)
        assert not agrees(odd + chunk(EVENT))


@given(
    st.lists(st.one_of(st.sampled_from(ODD), st.builds(chunk, st.binary(min_size=1, max_size=20))), min_size=1, max_size=4),
    st.integers(0, 200),
    st.binary(max_size=2),
)
@example([chunk(EVENT)], 0, b"0")
@settings(max_examples=400, deadline=None)
def test_no_mutation_is_taken_that_the_parser_reads_otherwise(parts: list[bytes], at: int, odd: bytes) -> None:
    """Whole and odd chunks with bytes written over anywhere: what is taken, the parser takes too, and reads the same."""
    data = b"".join(parts)
    place = at % (len(data) + 1)
    agrees(data[:place] + odd + data[place + len(odd) :])


def read(*arrivals: bytes) -> tuple[bytes, bool, bool, bool]:
    """The body of an answer that came so, whether it is whole and keeps its connection, and whether it was broken."""
    answer = Answer()
    said, broken = b"", False
    try:
        for arrived in arrivals:
            answer.feed(arrived)
            said += taken(answer)
    except BrokenError:
        broken = True
    return said, answer.whole, answer.keeps, broken


@given(
    st.lists(st.one_of(st.sampled_from(ODD), st.builds(chunk, st.binary(min_size=1, max_size=20))), min_size=1, max_size=4),
    st.lists(st.integers(0, 160), max_size=6),
)
@settings(max_examples=400, deadline=None)
def test_an_answer_is_the_same_at_every_split(parts: list[bytes], cuts: list[int]) -> None:
    """However chunks, good and bad, are cut into reads, an answer says the same bytes, ends or breaks as byte by byte."""
    data = b"".join(parts)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    bytewise = read(CHUNKED, *(data[at : at + 1] for at in range(len(data))))
    said = read(CHUNKED, *pieces)
    if bytewise[3] or said[3]:
        # What came before a lie may have gone down or not, as it was cut; that it is one is told in any case.
        assert (said[3] or not said[2], bytewise[3] or not bytewise[2]) == (True, True)
    else:
        assert said == bytewise


@pytest.mark.parametrize("at", range(1, len(chunk(EVENT))))
def test_a_stream_that_was_cut_once_is_taken_again(at: int) -> None:
    """Where a chunk came in two reads, the parser reads it, and the next whole one needs no parser again."""
    answer = Answer()
    event = chunk(EVENT)
    answer.feed(CHUNKED)
    answer.feed(event)
    assert answer.between
    answer.feed(event[:at])
    assert not answer.between
    answer.feed(event[at:])
    assert answer.between is (at < len(event) - 1)
    answer.feed(event * 2)
    assert answer.between
    assert taken(answer) == EVENT * 4
    answer.feed(b"0\r\n\r\n")
    assert (answer.whole, answer.keeps) == (True, True)
