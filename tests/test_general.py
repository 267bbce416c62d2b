"""The option `--general` (tests/conftest.py): every stack without the usual cases of its stages."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sentinel.devstack.stack import Stack
from tests.conftest import GENERAL, USUAL
from tests.support import general

ROOT = Path(__file__).parents[1]


def test_every_stack_goes_the_way_that_was_chosen(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """As it is served, or without usual cases where the option says so."""
    assert Stack(tmp_path).module == (GENERAL if request.config.getoption("general") else USUAL)


def test_the_option_switches() -> None:
    """So it is with the option, also in a worker of xdist."""
    chosen = f"{__file__}::{test_every_stack_goes_the_way_that_was_chosen.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n1", "--general", chosen]
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("COV", "PYTEST_XDIST"))}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_usual_case_that_is_asked_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the general way is chosen, each usual case raises, so that no test passes by it."""
    stages = [(getattr(import_module(module), stage), name) for module, stage, name in general.USUAL]
    for stage, name in stages:
        monkeypatch.setattr(stage, name, getattr(stage, name))  # put back afterwards
    general.create()
    for stage, name in stages:
        with pytest.raises(AssertionError, match="usual case"):
            getattr(stage, name)()
