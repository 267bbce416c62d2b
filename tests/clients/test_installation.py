"""The clients are installed once, anew when their pins change, and a failure says what to do."""

import sys
from pathlib import Path

import pytest

from tests.clients.installation import NotInstalledError, installed

COUNT = [sys.executable, "-c", "open('done', 'x').write('')"]  # fails where it has run before


def test_an_installation_is_made_once_for_its_pins(tmp_path: Path) -> None:
    """The same pins and runtime install nothing again; another pin or runtime begins with an empty directory."""
    pin, directory = tmp_path / "pin.txt", tmp_path / "client"
    pin.write_text("one")
    for content, runtime in (("one", "3.11"), ("one", "3.11"), ("two", "3.11"), ("two", "3.12")):
        pin.write_text(content)
        assert installed(directory, [pin], runtime, COUNT, copied=[pin]) == directory
        assert (directory / "pin.txt").read_text() == content
        assert (directory / "done").is_file()
    (directory / "mark").touch()
    installed(directory, [pin], "3.12", COUNT)
    assert (directory / "mark").is_file()


def test_a_failed_installation_is_told_and_tried_again(tmp_path: Path) -> None:
    """Without a network a sentence says so, with the installer's own words; nothing half-made passes for whole."""
    pin, directory = tmp_path / "pin.txt", tmp_path / "client"
    pin.write_text("one")
    with pytest.raises(NotInstalledError, match=r"(?s)'client' could not be installed.*network.*no route"):
        installed(directory, [pin], "3.11", [sys.executable, "-c", "import sys; print('no route'); sys.exit(1)"])
    assert installed(directory, [pin], "3.11", COUNT) == directory
