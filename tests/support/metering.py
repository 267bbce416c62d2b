"""Feeding meters: whole, in pieces, and everything they say afterwards."""

from itertools import pairwise
from typing import NamedTuple

from sentinel.openai.response.meter import Meter
from sentinel.ops.records import Usage


class Seen(NamedTuple):
    """All that a meter gives."""

    downstream: bytes
    usage: Usage | None
    texts: list[str]
    uncounted: int
    object_id: str
    terminated: bool
    finished: bool
    failed: bool
    unfinished: bool
    media_tokens: int = 0
    unread: int = 0


def run(meter: Meter, chunks: list[bytes]) -> Seen:
    """Feeds `chunks` and reads everything."""
    downstream = b"".join([meter.feed(chunk) for chunk in chunks]) + meter.finish()
    state = (meter.terminated, meter.finished, meter.failed, meter.unfinished)
    said = meter.produced()
    texts = (list(said.texts), said.bytes_uncounted)
    return Seen(downstream, meter.usage, *texts, meter.object_id, *state, said.media_tokens, said.unread_bytes)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream` in pieces, cut at the given offsets."""
    edges = sorted({0, len(stream), *(offset % (len(stream) + 1) for offset in cuts)})
    return [stream[start:end] for start, end in pairwise(edges)]


def ways(stream: bytes) -> list[list[bytes]]:
    """`stream` whole, byte by byte, and in two pieces at every place."""
    halves = [[stream[:at], stream[at:]] for at in range(1, len(stream))]
    return [[stream], [bytes([byte]) for byte in stream], *halves]
