"""The rules of docs/wire-rules.md: each has a test, and each that is named anywhere is there."""

import pytest

from tests.support.wire_rules import PAGE, ROOT, by_test, cited, page, rules, sources

NAMED = by_test()


@pytest.mark.parametrize("rule", rules())
def test_the_rule_has_a_test(rule: str) -> None:
    """Some test claims this rule by its id."""
    assert rule in NAMED


def test_rules_have_ids_of_their_own() -> None:
    """No id stands for two rules, and there are as many as somebody has counted."""
    found = rules()
    assert len(found) == len(set(found))
    assert len(found) > 100


def test_what_is_named_is_there() -> None:
    """Each id in code, tests and documents is one of the page."""
    known = set(rules())
    unknown = {str(path.relative_to(ROOT)): named for path in sources() if (named := sorted(cited(path.read_text()) - known))}
    assert unknown == {}
    assert sorted(set(NAMED) - known) == []


def test_the_tests_of_the_page_are_those_that_name_the_rule() -> None:
    """The last column is as `python -m tests.support.documents` writes it."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("as rule H8 says", {"H8"}),
        ("(rules H8, H9 and E4)", {"H8", "H9", "E4"}),
        ("rules H10 to H12", {"H10", "H11", "H12"}),
        ("Rules P1–P3: both", {"P1", "P2", "P3"}),
        ("the rule of H8", set()),
    ],
)
def test_citations_are_found(text: str, ids: set[str]) -> None:
    """One, several, and a range."""
    assert cited(text) == ids
