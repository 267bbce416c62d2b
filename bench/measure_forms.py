"""How long forms are searched for the objects they name: 32 MiB of what takes longest, and of what clients send."""

import random

import pytest

from sentinel.openai.request import form_ids

_BYTES = 32 * 2**20
_TYPE = b"multipart/form-data; boundary=b1234567"
_HEAD = b'--b1234567\r\nContent-Disposition: form-data; name="x"\r\n\r\n'
_FILLED = {
    "image": random.Random(1).randbytes(2**20),
    "text": b"The river was wide and slow in the evening. ",
    "underscores": b"_",
    "quotes": b'"',
    "quoted ids": b'"vs_a"',
    "escaped ids": b'"\\u0076s_a"',
    "long ids": b" resp_" + b"a" * 20,
    "nearly a boundary": b"\r\n--b123456",
}


@pytest.mark.parametrize("kind", _FILLED)
def measure_search(benchmark, kind: str) -> None:
    """A form with one part."""
    filler = _FILLED[kind]
    body = _HEAD + (filler * (_BYTES // len(filler) + 1))[:_BYTES] + b"\r\n--b1234567--\r\n"
    benchmark.pedantic(form_ids.ids, args=(body, _TYPE, ()), rounds=2)
