"""Small stays small: functions of at most 50 lines, files of at most 300."""

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "sentinel").rglob("*.py"))
FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 50


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_files_are_small(source: Path) -> None:
    """A file that passes its bound becomes a package."""
    assert len(source.read_text().splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_functions_are_small(source: Path) -> None:
    """A function fits on one screen; constructors that only store what they are given may be longer."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            bound = 70 if node.name == "__init__" else FUNCTION_LINES_MAX
            assert node.end_lineno - node.lineno + 1 <= bound, f"{source.name}:{node.lineno} {node.name}"
