"""The order of the suite and what of it is traced (tests/conftest.py)."""

import os

import pytest

from tests import conftest
from tests.support import covering


def test_what_starts_processes_comes_first(request: pytest.FixtureRequest) -> None:
    """Whichever tests are chosen, no long one is left for the end."""
    order = [conftest.starts(item) for item in request.session.items]
    assert order == sorted(order, reverse=True)


def test_what_is_not_asked_for_coverage_starts_nothing_traced(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells a child process to count its lines is away while such a test runs, and back after it."""
    monkeypatch.setenv(covering.VARIABLE, "config")
    monkeypatch.setattr(covering, "told", {})
    monkeypatch.setattr(conftest, "starts", lambda _item: True)
    running = conftest.pytest_runtest_protocol(request.node)
    next(running)
    assert covering.VARIABLE not in os.environ
    assert covering.told == {covering.VARIABLE: "config"}
    with pytest.raises(StopIteration):
        next(running)
    assert os.environ[covering.VARIABLE] == "config"
