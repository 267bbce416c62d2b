"""The public token ranks, shipped inside the package: nothing is ever downloaded (wire.md K6, K7).

Fails at start-up: ranks that are missing or not what their SHA-256 says raise `VocabError`, before a request is counted wrong.
"""

import gzip
import zlib
from hashlib import sha256
from importlib.resources import files
from typing import Final

# Of the unpacked files, as their publisher gives them.
SHA256: Final = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}


class VocabError(Exception):
    """The ranks in this installation are missing or damaged."""


def ranks(name: str) -> bytes:
    """The ranks of an encoding: a line each of base64 token and rank. Raises VocabError."""
    try:
        content = gzip.decompress(files(__package__).joinpath(f"{name}.tiktoken.gz").read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise VocabError(f"the token ranks of {name} cannot be read: {error}") from error
    return checked(name, content)


def checked(name: str, content: bytes) -> bytes:
    """`content` if it is what `name` stands for. Raises VocabError."""
    if sha256(content).hexdigest() != SHA256.get(name):
        raise VocabError(f"the token ranks of {name} are not the published ones")
    return content
