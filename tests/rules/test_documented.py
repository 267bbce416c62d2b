"""What an operator can set or watch is documented, and the documents are true."""

import inspect
import re

import pytest
from prometheus_client import Counter

from sentinel.ops import errors, metrics
from sentinel.ops.settings import read
from tests.support.documents import ROOT, compatibility_page, env_example, settings_page

METRICS = {metric._name: metric for metric in metrics.FAMILIES}


def test_routes_are_documented() -> None:
    """docs/compatibility.md has every row of the route table as it is (`python -m tests.support.documents` writes it)."""
    assert (ROOT / "docs" / "compatibility.md").read_text() == compatibility_page()


def test_settings_are_documented() -> None:
    """docs/settings.md has every variable as it is (`python -m tests.support.documents` writes it)."""
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_the_example_is_complete_and_works() -> None:
    """`.env.example` has every variable, and is a working configuration as it stands."""
    assert (ROOT / ".env.example").read_text() == env_example()
    settings = read({}, dotenv=ROOT / ".env.example")
    assert settings.zion_api_url == "https://zion.example.com"
    uncommented = "\n".join(
        line.removeprefix("# ") if re.match(r"# [A-Z_]+=", line) else line for line in env_example().splitlines()
    )
    assert uncommented.count("=") >= 30


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_documented(name: str) -> None:
    """docs/metrics.md has a row for each metric: its name as scraped, its type, its labels, and its help."""
    metric = METRICS[name]
    (family,) = metric.describe()
    suffix = "_total" if isinstance(metric, Counter) else ""
    labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
    row = f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"
    assert row in (ROOT / "docs" / "metrics.md").read_text()


def test_errors_are_documented() -> None:
    """docs/errors.md has every status with its type, and every code that is raised anywhere."""
    page = (ROOT / "docs" / "errors.md").read_text()
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.SentinelError):
            assert f"| {error.status} | `{error.type}`" in page, error
            assert error.code is None or f"`{error.code}`" in page, error
    sources = "\n".join(path.read_text() for path in (ROOT / "sentinel").rglob("*.py") if "devstack" not in path.parts)
    for code in set(re.findall(r'code="([a-z_]+)"', sources)):
        assert f"`{code}`" in page, code


def test_every_document_is_reachable() -> None:
    """Each page of docs/ is linked from the README or from another page, and every link leads somewhere."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    linked = set()
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} -> {target}"
            linked.add((page.parent / target).resolve())
    assert {page.resolve() for page in pages[1:]} <= linked


NAMED = sorted(
    {
        (page.name, *named)
        for page in (ROOT / "docs").glob("*.md")
        for named in re.findall(r"[` ](?:tests/)?([a-z0-9_/]+\.py)(?:::(test_[a-z0-9_]+))`", page.read_text())
    }
)


@pytest.mark.parametrize(("page", "file", "name"), NAMED)
def test_a_test_that_is_named_exists(page: str, file: str, name: str) -> None:
    """docs/threats.md and docs/guarantees.md name tests that are there."""
    assert re.search(rf"^ *(async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{page}: {file}::{name}"


@pytest.mark.parametrize("page", ["threats.md", "guarantees.md"])
def test_every_row_names_what_shows_it(page: str) -> None:
    """Each row of a table of docs/threats.md names a test, each of docs/guarantees.md a command."""
    wanted = re.compile(
        r"`[a-z0-9_/]+\.py::test_[a-z0-9_]+`" if page == "threats.md" else r"`(pytest tests/|\.venv/bin/python -m )"
    )
    tables = re.findall(
        r"^\|.*\| (?:test|command) \|\n\| --- .*\n((?:\|.*\n)+)", (ROOT / "docs" / page).read_text(), re.MULTILINE
    )
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 15
    assert all((ROOT / path).exists() for path in re.findall(r"pytest (tests/[a-z0-9_/.]+)", " ".join(rows)))
    assert [row for row in rows if not wanted.search(row)] == []
