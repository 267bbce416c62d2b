"""How long one body keeps the event loop waiting while it is read beside it: `python -m bench.held`.

A body is read in a thread (`wire.decoded_bytes`, `wire.read_call`), which gives the interpreter to others after half a
millisecond, but not within a call of C: that of msgspec which decodes all of it, above all. Printed is the longest time in
which a thread beside it, that wants nothing but the interpreter, did not have it; of five rounds the least, since a busy
machine adds to all. A body that is not read raises what reading raises.
"""

import gc
import json
import sys
import threading
import time
from typing import Any, Final

from sentinel.openai import routes, wire

_MIB: Final = 2**20
_ROUNDS: Final = 5
_SWITCH_S: Final = 0.0005  # as downstream/offload.py has it
_JSON: Final = b"application/json"


def _chat(content: Any) -> bytes:
    said = [{"role": "user", "content": content}]
    return json.dumps({"model": "gpt-4o", "messages": said}, separators=(",", ":"), ensure_ascii=False).encode()


def _any(values: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "x": values}, separators=(",", ":")).encode()


# What it is, the route that reads it, and the body: as many values, or bytes, as are read.
BODIES: Final[list[tuple[str, str, bytes]]] = [
    ("a chat of 2 000 parts of 500 characters", "/chat/completions", _chat([{"type": "text", "text": "a" * 500}] * 2000)),
    ("160 000 objects, a chat", "/chat/completions", _chat([{"a": 1}] * 160_000)),
    ("160 000 objects, with the id of a file", "/chat/completions", _chat([{"a": 1}] * 160_000 + [{"file_id": "file-1"}])),
    ("160 000 objects, another route", "/assistants", _any([{"a": 1}] * 160_000)),
    ("490 000 numbers, another route", "/assistants", _any([1] * 490_000)),
    ("490 000 texts, another route", "/assistants", _any(["ab"] * 490_000)),
    ("490 000 members of one object, a chat", "/chat/completions", _chat([{f"k{n}": 1 for n in range(490_000)}])),
    ("a text of 32 MiB", "/chat/completions", _chat("a" * (32 * _MIB - 200))),
    ("a text of 32 MiB, all escapes", "/chat/completions", _chat("\n" * (16 * _MIB - 200))),
    ("a text of 31 MiB, with an emoji", "/chat/completions", _chat("a" * 31 * _MIB + "\U0001f600")),
]


def held_s(path: str, body: bytes) -> float:
    """The longest time that a round kept the other thread waiting."""
    match = routes.match("POST", f"/v1{path}")

    def read() -> None:
        wire.decoded_bytes(body, _JSON)
        wire.read_call(match.route, "POST", path, b"", body, _JSON)

    reading = threading.Thread(target=read)
    longest_s, last_s = 0.0, time.perf_counter()
    reading.start()
    while reading.is_alive():
        time.sleep(0.0001)
        now_s = time.perf_counter()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return longest_s


def main() -> None:
    """The command."""
    sys.setswitchinterval(_SWITCH_S)
    # As a worker has it (`worker._calm_collector`).
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    for name, path, body in BODIES:
        longest_s = min(held_s(path, body) for _ in range(_ROUNDS))
        print(f"{name:45} {len(body) / _MIB:6.1f} MiB {longest_s * 1000:6.1f} ms")


if __name__ == "__main__":
    main()
