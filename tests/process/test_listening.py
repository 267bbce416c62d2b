"""Where `sentinel serve` listens: an address in any spelling or a name that has one; anything else is one sentence."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.devstack.child import Child
from sentinel.devstack.claims import free_port
from sentinel.devstack.simulator import is_ok
from sentinel.serve import AddressError, address_of

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SERVE = [sys.executable, "-m", "sentinel", "serve"]
_START_S = 60
_STOP_S = 40


def has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def environ(host: str, port: int, directory: Path) -> dict[str, str]:
    """What a Sentinel needs to start; nothing of it is asked for."""
    own = {"SENTINEL_HOST": host, "SENTINEL_PORT": str(port), "SENTINEL_WORKERS": "1", "SENTINEL_DRAIN_SECONDS": "0"}
    own |= {"SENTINEL_ADMIN_PORT": str(free_port())}
    own |= {"ZION_API_URL": "http://127.0.0.1:9", "ZION_API_KEY": "zk-canary", "OPENAI_API_KEY": "sk-canary"}
    own |= {"REDIS_URL": "redis://127.0.0.1:9", "SENTINEL_DATA_DIR": str(directory / "data")}
    return {**{name: text for name, text in os.environ.items() if name.startswith(("COV", "PATH"))}, **own}


@pytest.mark.parametrize(
    ("host", "reached"),
    [("localhost", "localhost"), ("127.1", "127.0.0.1"), ("::1", "[::1]")],
)
async def test_it_listens_where_the_host_says(host: str, reached: str, tmp_path: Path) -> None:
    """SENTINEL_HOST is a name, or an address of either family in any spelling, and Sentinel is reached there."""
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    port = free_port()
    serving = Child("Sentinel", SERVE, log=tmp_path / "log", environ=environ(host, port, tmp_path), cwd=tmp_path)
    try:
        await serving.start(lambda: is_ok(f"http://{reached}:{port}/health/live"), timeout_s=_START_S)
    finally:
        code = await serving.stop(timeout_s=_STOP_S)
    assert code == 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "0.0.0.0"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "127.0.0.1"),
        ("LocalHost", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("::", "::"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
async def test_a_host_is_an_address(host: str, address: str) -> None:
    """A name gives its address, and every spelling of one the usual."""
    assert address_of(host) == address


@pytest.mark.parametrize(
    ("found", "address"),
    [
        (["::1", "127.0.0.1"], "127.0.0.1"),
        (["::1"], "::1"),
        (["fe80::1%eth0", "fd00::1"], "fd00::1"),
        (["10.0.0.2", "10.0.0.1"], "10.0.0.2"),
    ],
)
async def test_a_name_with_several_addresses(found: list[str], address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of IPv4 is taken, else the first of IPv6 that is not of one link only."""
    rows = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one.partition("%")[0], 0, 0, int("%" in one)))
        if ":" in one
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0))
        for one in found
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: rows)
    assert address_of("name") == address


NOT_RESOLVED = "which cannot be resolved: "


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("nowhere.invalid", NOT_RESOLVED),
        ("a..b", NOT_RESOLVED),
        (".", NOT_RESOLVED),
        ("x" * 300, NOT_RESOLVED),
        ("127.0.0.1:8080", NOT_RESOLVED),
        ("http://localhost", NOT_RESOLVED),
        ("[::1]", NOT_RESOLVED),
        ("*", NOT_RESOLVED),
        ("local host", NOT_RESOLVED),
        ("\u00fcber.invalid", NOT_RESOLVED),
        ("256.0.0.1", NOT_RESOLVED),
        ("fe80::1%1", "an address of one link only"),
    ],
)
async def test_what_is_no_host_is_told(host: str, words: str) -> None:
    """What cannot be resolved is one sentence that names the setting and its value."""
    with pytest.raises(AddressError) as caught:
        address_of(host)
    assert str(caught.value).startswith(f"SENTINEL_HOST is {host}, {words}" if words == NOT_RESOLVED else "SENTINEL_HOST is ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("nowhere.invalid", "SENTINEL_HOST is nowhere.invalid, which cannot be resolved"),
        ("192.0.2.1", "cannot listen on 192.0.2.1:"),
        ("2001:db8::1", "cannot listen on 2001:db8::1:"),
    ],
)
async def test_a_host_that_is_not_here_ends_the_start(host: str, words: str, tmp_path: Path) -> None:
    """What cannot be resolved, or is another machine's, ends `sentinel serve` with 1, one sentence and the setting."""
    own = environ(host, free_port(), tmp_path)
    done = await asyncio.to_thread(subprocess.run, SERVE, capture_output=True, text=True, env=own, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sentinel: ")
    assert words in done.stderr
    assert "SENTINEL_HOST" in done.stderr
