"""docs/index.md leads a reader who has never seen the project to code in two steps."""

import re

import pytest

from tests.support.documents import ROOT

PAGE = (ROOT / "docs" / "index.md").read_text()
ANSWERS = {
    "Where is a cut stream billed?": ("sentinel/stages/relay/outcome.py", "UPSTREAM_ERROR"),
    "Where does a header get dropped?": ("sentinel/openai/headers.py", "def upstream("),
    "Which script frees a hold?": ("sentinel/ledger/scripts/settle.lua", "hold"),
    "What would I change for a third provider?": ("sentinel/upstream/provider.py", "PROVIDERS = "),
}


@pytest.mark.parametrize("question", ANSWERS)
def test_a_question_leads_to_its_code(question: str) -> None:
    """The README links the index, whose row of the question links the file, which has what is looked for."""
    file, holds = ANSWERS[question]
    assert "](docs/index.md)" in (ROOT / "README.md").read_text()
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {question} |"))
    assert f"](../{file})" in row
    assert holds in (ROOT / file).read_text()


def test_every_link_of_the_index_leads_somewhere() -> None:
    """Also those to code."""
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_glossary_is_short_and_in_order() -> None:
    """At most 30 words, by the alphabet."""
    words = re.findall(r"^\| ([a-z ]+) \|", PAGE.partition("| word | meaning |")[2], re.MULTILINE)
    assert words == sorted(words)
    assert 10 < len(words) <= 30
