"""The allocator gives large blocks back, in whatever order they are forgotten."""

import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys
from sentinel.worker.allocator import give_back_large_blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

assert give_back_large_blocks()
bytearray(30 * 2**20)  # after this, glibc of itself cuts blocks of up to 30 MiB out of its heap
before, kept = resident(), []
blocks = [b"x" * (4 * 2**20) for _ in range(32)]
for at in range(32):
    kept.append(b"y" * 200_000)  # lives longer, between them
    blocks[at] = None
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
def test_what_is_forgotten_is_given_back() -> None:
    """128 MiB in large blocks are gone when they are forgotten, though what was made beside them lives on."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 16 * 2**20
