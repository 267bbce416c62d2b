"""Every rule of the wire has a test that names it: the ids of docs/compatibility.md stand in the docstrings of tests."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Families of rules and how many each has; K8 is a comparison of libraries, and binds nobody.
FAMILIES = {"E": 6, "R": 6, "I": 7, "O": 3, "S": 8, "U": 12, "F": 5, "D": 7, "L": 4, "P": 5, "T": 5, "M": 3, "K": 7, "H": 21}
RULES = ["I0", *(f"{family}{number}" for family, count in FAMILIES.items() for number in range(1, count + 1))]
_RULE = re.compile(r"\b([A-Z])(\d+)(?:[-–]([A-Z])?(\d+))?\b")


@cache
def named() -> set[str]:
    """Every rule that a docstring of a test names, ranges such as T1-T4 included."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for family, first, _, last in _RULE.findall(ast.get_docstring(node) or ""):
                    found |= {f"{family}{number}" for number in range(int(first), int(last or first) + 1)}
    return found


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_has_a_test(rule: str) -> None:
    """Some test claims this rule by its id."""
    assert rule in named()
