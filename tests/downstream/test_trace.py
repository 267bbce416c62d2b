"""downstream.trace: W3C Trace Context, continued or begun (rule H20)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream import trace
from sentinel.openai.header_fields import Fields

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01".encode()


def test_a_valid_context_is_continued() -> None:
    """H20: the same trace, a new span whose parent is the client's, and its sampling."""
    begun = trace.begin(Fields.of([(b"traceparent", VALID), (b"tracestate", b"a=1"), (b"tracestate", b" b=2 ")]))
    assert (begun.trace_id, begun.parent_id, begun.sampled, begun.state) == (TRACE, PARENT, True, "a=1,b=2")
    assert re.fullmatch("[0-9a-f]{16}", begun.span_id)
    assert begun.span_id != PARENT
    assert begun.sent() == (("traceparent", f"00-{TRACE}-{begun.span_id}-01"), ("tracestate", "a=1,b=2"))
    assert (begun.trace_id, begun.parent_id) == (TRACE, PARENT)


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-ff", True),
        (f"cc-{TRACE}-{PARENT}-02", False),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True),
    ],
)
def test_flags_and_later_versions(value: str, *, sampled: bool) -> None:
    """H20, Trace Context §2.2: of the flags only the first bit is passed on, and a later version is read as this one."""
    begun = trace.begin(Fields.of([(b"traceparent", value.encode())]))
    assert (begun.trace_id, begun.sampled) == (TRACE, sampled)
    assert begun.sent()[0][1][-2:] == ("01" if sampled else "00")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [VALID, VALID],
        [VALID + b"-more"],
        [VALID.upper()],
        [VALID[:-1]],
        [b" " + VALID],
        [VALID.replace(b"00-", b"ff-", 1)],
        [f"00-{'0' * 32}-{PARENT}-01".encode()],
        [f"00-{TRACE}-{'0' * 16}-01".encode()],
        [f"0-{TRACE}-{PARENT}-01".encode()],
        [f"cc-{TRACE}-{PARENT}-01.x".encode()],
        ["00-٤bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01".encode()],
    ],
    ids=repr,
)
def test_anything_else_begins_a_new_trace(values: list[bytes]) -> None:
    """H20: an invalid context counts as absent, and its state goes with it."""
    begun = trace.begin(Fields.of([*((b"traceparent", value) for value in values), (b"tracestate", b"a=1")]))
    assert begun.trace_id != TRACE
    assert re.fullmatch("[0-9a-f]{32}", begun.trace_id)
    assert (begun.parent_id, begun.state, begun.sampled) == ("", "", False)
    assert begun.sent() == (("traceparent", f"00-{begun.trace_id}-{begun.span_id}-00"),)
    assert begun.parent_id == ""


def test_traces_differ() -> None:
    """H20: each request has a trace and a span of its own."""
    begun = [trace.begin(Fields.of([])) for _ in range(100)]
    assert len({one.trace_id for one in begun}) == len({one.span_id for one in begun}) == 100


@pytest.mark.parametrize(
    ("given_states", "kept"),
    [
        ([b"a=1,,b=2"], "a=1,b=2"),
        ([b"a=" + b"x" * 510], "a=" + "x" * 510),
        ([b"a=" + b"x" * 511], ""),
        ([b"a=" + b"x" * 400, b"b=" + b"y" * 200, b"c=1"], "a=" + "x" * 400),
        ([b"a=\x01"], ""),
        ([b"a=\xff"], ""),
        ([b"a=1\r\nx: y"], ""),
    ],
)
def test_state_is_kept_whole_or_not(given_states: list[bytes], kept: str) -> None:
    """H20, Y10: members past 512 characters are dropped whole, and what no header may hold drops all."""
    assert trace.begin(Fields.of([(b"traceparent", VALID), *((b"tracestate", state) for state in given_states)])).state == kept


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate", b"x"]), st.binary(max_size=80)), max_size=5))
def test_any_headers(given_headers: list[tuple[bytes, bytes]]) -> None:
    """H20, Y10: whatever comes, what goes out is well-formed and one line."""
    sent = dict(trace.begin(Fields.of(given_headers)).sent())
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", sent["traceparent"])
    assert re.fullmatch("[ -~\t]*", sent.get("tracestate", ""))
