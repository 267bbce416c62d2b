"""The rules of docs/wire-rules.md, and where code and tests name them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "wire-rules.md"
_ROW = re.compile(r"^\| ([A-Z]\d+) \| (.*) \| (.*) \| (.*) ?\|$", re.MULTILINE)
_ID = r"[A-Z]\d{1,2}"
# "rule H8", "rules H8, H9 and E4", "rules H10 to H12"; a test's docstring may also begin with the ids alone.
_CITED = re.compile(rf"\b[Rr]ules?\s+({_ID}(?:(?:,\s+|\s+and\s+|\s+to\s+|–){_ID})*)")
_BEGINNING = re.compile(rf"({_ID}(?:, {_ID})*): ")
_RANGE = re.compile(rf"({_ID})(?:\s+to\s+|–)({_ID})")


def rules() -> list[str]:
    """The ids of the page, in its order."""
    return [row[0] for row in _ROW.findall(PAGE.read_text())]


def cited(text: str) -> set[str]:
    """The ids that `text` names, those within a range too."""
    found: set[str] = set()
    for ids in _CITED.findall(text):
        found |= set(re.findall(_ID, ids))
        for first, last in _RANGE.findall(ids):
            found |= {f"{first[0]}{number}" for number in range(int(first[1:]), int(last[1:]) + 1)}
    return found


def by_test() -> dict[str, set[str]]:
    """The files of tests that name each id in a docstring of a test, without `tests/`."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                docstring = ast.get_docstring(node) or ""
                beginning = _BEGINNING.match(docstring)
                for rule in cited(docstring) | (set(re.findall(_ID, beginning[1])) if beginning else set()):
                    found.setdefault(rule, set()).add(str(path.relative_to(ROOT / "tests")))
    return found


def sources() -> Iterator[Path]:
    """Whatever may name a rule."""
    for directory in ("sentinel", "tests", "bench", "loadtest", "docs"):
        for suffix in ("*.py", "*.lua", "*.md"):
            yield from (ROOT / directory).rglob(suffix)


def page() -> str:
    """docs/wire-rules.md with its column of tests as it is; the rest is written by hand."""
    tests = by_test()

    def row(found: re.Match[str]) -> str:
        names = ", ".join(f"`{name}`" for name in sorted(tests.get(found[1], ())))
        return f"| {found[1]} | {found[2]} | {found[3]} | {names} |"

    return _ROW.sub(row, PAGE.read_text())
