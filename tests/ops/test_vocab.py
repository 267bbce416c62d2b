"""The shipped ranks are the published ones, and anything else is refused."""

import gzip
import hashlib
from pathlib import Path

import pytest

from sentinel import cli
from sentinel.ops import logs, vocab
from sentinel.ops.settings import read
from tests.support.documents import ROOT


@pytest.mark.parametrize("name", sorted(vocab.SHA256))
def test_shipped_ranks_are_the_published_ones(name: str) -> None:
    """Each encoding unpacks to the file whose hash tiktoken itself expects."""
    assert vocab.SHA256[name] == hashlib.sha256(vocab.ranks(name)).hexdigest()


def test_other_ranks_are_refused(tmp_path: Path) -> None:
    """A single changed rank fails, although the file is well formed."""
    changed = vocab.ranks("cl100k_base").replace(b" 99999\n", b" 99998\n", 1)
    (tmp_path / "cl100k_base.tiktoken.gz").write_bytes(gzip.compress(changed, 1))
    with pytest.raises(vocab.VocabError, match=r"cl100k_base: .*SHA-256"):
        vocab.ranks("cl100k_base", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "plain", "flipped", "empty"])
def test_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    """A file that was cut, is not gzip, or has a flipped byte is a VocabError, whatever the library raises."""
    packed = gzip.compress(b"IQ== 0\n" * 1000)
    damaged = {"cut": packed[:20], "plain": b"IQ== 0\n", "flipped": packed[:12] + b"\xff\xff" + packed[14:], "empty": b""}
    (tmp_path / "o200k_base.tiktoken.gz").write_bytes(damaged[damage])
    with pytest.raises(vocab.VocabError, match="o200k_base"):
        vocab.ranks("o200k_base", tmp_path)


def test_missing_file_and_unknown_name_are_refused(tmp_path: Path) -> None:
    """No file and no such encoding are VocabErrors too; a name never becomes a path."""
    with pytest.raises(vocab.VocabError, match="cannot be read"):
        vocab.ranks("o200k_base", tmp_path)
    with pytest.raises(vocab.VocabError, match="no such encoding"):
        vocab.ranks("../o200k_base")


def test_a_server_without_ranks_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The supervisor reads them first, so that no worker starts, dies and is started again."""

    def damaged(name: str) -> bytes:
        raise vocab.VocabError(f"{name}: the ranks cannot be read")

    monkeypatch.setattr(vocab, "ranks", damaged)
    monkeypatch.setattr(logs, "start", lambda _level: None)
    assert cli._serve(read({}, dotenv=ROOT / ".env.example")) == 1
    assert capsys.readouterr().err == "sentinel: o200k_base: the ranks cannot be read\n"
