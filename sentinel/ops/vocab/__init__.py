"""The token ranks of o200k_base and cl100k_base, as package files: nothing is ever downloaded (rules K6, K7).

Fails closed: ranks that are missing, damaged or not the published ones raise `VocabError`, and the worker does not start.
"""

import gzip
import hashlib
import zlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

# Of the unpacked file, as tiktoken itself expects them.
SHA256: Final = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}


class VocabError(Exception):
    """The ranks of an encoding cannot be had as published; the message names the encoding and the reason."""


def ranks(name: str, folder: Traversable | None = None) -> bytes:
    """The ranks of the encoding `name` in tiktoken's format: one `base64(token) rank` a line.

    Read from `<name>.tiktoken.gz` in `folder` (default: this package). Raises VocabError.
    """
    if name not in SHA256:
        raise VocabError(f"{name}: no such encoding, only {', '.join(SHA256)}")
    source = (files(__package__) if folder is None else folder) / f"{name}.tiktoken.gz"
    try:
        unpacked = gzip.decompress(source.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise VocabError(f"{name}: the ranks cannot be read: {error}") from error
    if hashlib.sha256(unpacked).hexdigest() != SHA256[name]:
        raise VocabError(f"{name}: the ranks are not the published ones (their SHA-256 differs)")
    return unpacked
