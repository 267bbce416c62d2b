"""Increments: the same items are the same bytes, in both of Zion's formats, and each refusal finds its item."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.zion.increments import Item, Refusal, build, failure, refusals, refused

ADA = Item("u-1", "ada@example.test", "gpt-4o", 10, 20, 1)
BOB = Item("u-2", "bob@example.test", "", 0, 5, 2)
SEALED_MS = 1_700_000_000_123

amounts = st.integers(0, 10**12)
items = st.lists(st.builds(Item, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), amounts, amounts, amounts))


def test_unified_is_one_increment_an_item_without_zeros() -> None:
    """zion.md, unified: zero amounts and an empty model are left out; the time stamp is UTC."""
    report = build([ADA, BOB], "unified", SEALED_MS)
    assert json.loads(report.body) == {
        "increments": [
            {
                "email": "ada@example.test",
                "aiInputTokens": 10,
                "aiOutputTokens": 20,
                "aiRequests": 1,
                "model": "gpt-4o",
                "timestamp": "2023-11-14T22:13:20.123Z",
            },
            {"email": "bob@example.test", "aiOutputTokens": 5, "aiRequests": 2, "timestamp": "2023-11-14T22:13:20.123Z"},
        ]
    }
    assert report.origins == (0, 1)


@pytest.mark.parametrize("usage_format", ["unified", "per_limit"])
def test_a_caller_is_reported_under_the_names_it_has_by_now(usage_format: str) -> None:
    """Both of them, in the format that says one."""
    item = Item("old", "old@x", "m", 1, 0, 0, ("new", "new@x"))
    assert build([item], usage_format, SEALED_MS) == build([Item("new", "new@x", "m", 1, 0, 0)], usage_format, SEALED_MS)


def test_per_limit_is_one_increment_a_metric() -> None:
    """zion.md, per-limit: each amount is named by its limit; increments of one item share its origin."""
    report = build([BOB, ADA], "per_limit", SEALED_MS)
    assert json.loads(report.body)["increments"] == [
        {"externalId": "u-2", "limitName": "ai_output_tokens", "amount": 5},
        {"externalId": "u-2", "limitName": "ai_requests", "amount": 2},
        {"externalId": "u-1", "limitName": "ai_input_tokens", "amount": 10},
        {"externalId": "u-1", "limitName": "ai_output_tokens", "amount": 20},
        {"externalId": "u-1", "limitName": "ai_requests", "amount": 1},
    ]
    assert report.origins == (0, 0, 1, 1, 1)


@given(items, st.sampled_from(["unified", "per_limit"]), st.integers(0, 4 * 10**12))
def test_a_report_sent_again_is_the_same_report(batch: list[Item], usage_format: str, sealed_at_ms: int) -> None:
    """Same items, same bytes: what an idempotency key stands for never changes; amounts are conserved."""
    report = build(batch, usage_format, sealed_at_ms)
    assert report == build(batch, usage_format, sealed_at_ms)
    increments = json.loads(report.body)["increments"]
    sent = sum(
        amount
        for one in increments
        for name, amount in one.items()
        if name in {"amount", "aiInputTokens", "aiOutputTokens", "aiRequests"}
    )
    assert sent == sum(item.input_tokens + item.output_tokens + item.requests for item in batch)


@pytest.mark.parametrize("usage_format", ["unified", "per_limit"])
def test_singles_and_the_batch_say_the_same(usage_format: str) -> None:
    """The body of a batch is that of its increments, each of which may be sent alone; their shares add up to the items."""
    report = build([BOB, ADA], usage_format, SEALED_MS)
    assert json.loads(report.body)["increments"] == [json.loads(single) for single in report.singles]
    for position, item in enumerate([BOB, ADA]):
        shares = [share for origin, share in zip(report.origins, report.shares, strict=True) if origin == position]
        assert tuple(map(sum, zip(*shares, strict=True))) == item.amounts


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"success": True, "data": data}])
def test_refusals_find_their_items(wrap) -> None:
    """Results come in the order of the increments, enveloped or bare; only what was refused of an item is refused."""
    report = build([BOB, ADA], "per_limit", SEALED_MS)
    results = [{"success": True}, {"success": True}, {"success": False, "error": "no such user"}, {}, {"success": False}]
    answer = json.dumps(wrap({"processed": 3, "failed": 2, "results": results})).encode()
    reasons = refused(answer)
    assert reasons == {2: "no such user", 4: "refused without a reason"}
    assert refusals(report, reasons) == {1: Refusal("no such user", (10, 0, 1))}


def test_results_that_nobody_asked_for_refuse_nothing() -> None:
    """An answer longer than the report is read as far as the report goes."""
    assert refusals(build([ADA], "unified", SEALED_MS), {1: "who?"}) == {}


@pytest.mark.parametrize("answer", [b"{}", b'{"data":{}}', b'{"data":{"results":[]}}', b'{"data":null}'])
def test_an_answer_without_results_refuses_nothing(answer: bytes) -> None:
    """Zion answered 200: what it does not mention is applied."""
    assert refused(answer) == {}


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[1]", b'{"data":{"results":[{"success":"maybe"}]}}'])
def test_an_answer_against_the_contract_raises(answer: bytes) -> None:
    """The caller decides what an unreadable 200 means."""
    with pytest.raises(ValueError):
        refused(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"success":false,"error":{"code":"NOT_FOUND","message":"User not found"}}', "User not found"),
        (b'{"error":{"code":"NOT_FOUND"}}', "NOT_FOUND"),
        (b'{"error":"Not Found"}', None),
        (b"<html>404</html>", None),
        (b"", None),
    ],
)
def test_zions_own_words_are_told_from_those_of_others(answer: bytes, words: str | None) -> None:
    """zion.md: Zion's errors have a code; the 404 of a proxy says nothing about a user."""
    assert failure(answer) == words
