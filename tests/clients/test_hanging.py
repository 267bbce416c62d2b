"""A program that hangs is told apart: by itself, or since whoever it asks does not read what it sent."""

import socket
from pathlib import Path

import pytest

from tests.clients.tasks import task
from tests.clients.tasks.task import Place, Program, Task, run, unread_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells what is unread")


def test_what_is_unread_is_counted() -> None:
    """Bytes that nobody read, and connections that nobody accepted, until somebody does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert unread_bytes(port) == 0
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert unread_bytes(port) == 1
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"hello")
                assert unread_bytes(port) == 5
                accepted.recv(9)
                assert unread_bytes(port) == 0


@pytest.mark.parametrize("sends", [False, True])
async def test_a_hang_is_told_with_what_is_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool) -> None:
    """What it sent and nobody read is not its own affair."""
    monkeypatch.setattr(task, "_RUN_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "key", "marker")
        script = f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]}; echo hi >&3; sleep 60" if sends else "sleep 60"
        hangs = Task(
            "hangs",
            "",
            "",
            "",
            answers=lambda _: [],
            program=lambda _: Program(["bash", "-c", script], {}),
            read=lambda output, errors: ([output, errors], []),
        )
        done = await run(hangs, place, "http://127.0.0.1:9")
    assert (done.code, done.hung_by_itself) == (-9, not sends)
    assert "it hangs: killed after 0.5 s, in call " in done.output
