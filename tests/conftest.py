"""In which order tests run, which of them are asked what they cover, and which way their stacks go.

Tests that start processes come first: they are long and few, and a worker of xdist that has the last of them is waited for.

Tracing doubles what a stack costs and triples a property, so lines are counted where each of them is run once: by plain tests,
and by the stack that the process tests share. What attacks, fails or tries every example runs untraced, as it is served.

With `--general` every stack runs a Sentinel that has no usual cases (tests/support/general.py): what a test claims must hold of
both.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test

from sentinel.devstack.stack import Stack
from tests.support import covering

_HERE = Path(__file__).parent
USUAL, GENERAL = "sentinel", "tests.support.general"
STARTING = frozenset({"process", "hostile", "clients", "locks", "chaos"})


def starts(item: pytest.Item) -> bool:
    """Whether a test is one of those that start processes: by its directory."""
    return item.path.relative_to(_HERE).parts[0] in STARTING


def pytest_addoption(parser: pytest.Parser) -> None:
    """The way of every stack that does not choose its own."""
    parser.addoption("--general", action="store_true", help="run every stack without the usual cases of its stages")


def pytest_configure(config: pytest.Config) -> None:
    """Before any stack is made; each worker of xdist does it for its own."""
    if config.getoption("general"):
        Stack.module = GENERAL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes first; what is not asked for coverage is marked."""
    items.sort(key=starts, reverse=True)
    for item in items:
        if starts(item) or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Before any fixture of such a test starts a process."""
    if not starts(item):
        return (yield)
    if covering.VARIABLE in os.environ:
        covering.told[covering.VARIABLE] = os.environ.pop(covering.VARIABLE)
    try:
        return (yield)
    finally:
        os.environ.update(covering.told)
