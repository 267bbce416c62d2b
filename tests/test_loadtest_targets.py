"""What the load runner starts and asks (loadtest/README.md): other gateways, other interpreters, the provider."""

import hashlib
import json
import platform
from pathlib import Path
from typing import ClassVar

import pytest

from bench import machine
from bench.http1 import Connection
from bench.provider import Provider, Served
from loadtest import gateways, interpreters, peers
from loadtest.asking import Asking
from sentinel.devstack.child import StackError
from sentinel.ops import vocab


def test_peers_are_found_by_their_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is named is found through npm's link to it, one that is not is left out, and a wrong path is refused."""
    script = tmp_path / "start-server.js"
    script.touch()
    (tmp_path / "gateway").symlink_to(script)
    for name in ("LITELLM", "ENVOY", "ONE_API"):
        monkeypatch.delenv(f"SENTINEL_BENCH_{name}", raising=False)
    monkeypatch.setenv("SENTINEL_BENCH_PORTKEY", str(tmp_path / "gateway"))
    assert peers.find() == {"Portkey": script}
    monkeypatch.setenv("SENTINEL_BENCH_LITELLM", str(tmp_path / "nothing"))
    with pytest.raises(StackError, match="SENTINEL_BENCH_LITELLM names no file"):
        peers.find()


def test_litellm_is_asked_with_its_own_key(tmp_path: Path) -> None:
    """The proxy is given the provider and a key that changes with every run, and its requests carry that key alone."""
    peer, other = (gateways.litellm(tmp_path / "bin/litellm", 4000, "http://127.0.0.1:1/v1", tmp_path) for _ in range(2))
    [model] = json.loads((tmp_path / "litellm.json").read_text(encoding="utf-8"))["model_list"]
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:1/v1"
    assert peer.bearer != other.bearer
    asking = Asking({"url": "http://127.0.0.1:4000", "bearer": peer.bearer, "headers": {"x-some": "thing"}})
    head = asking.request().partition(b"\r\n\r\n")[0].decode().splitlines()
    assert f"authorization: Bearer {peer.environ['LITELLM_MASTER_KEY']}" in head
    assert "x-some: thing" in head


def test_envoy_asks_for_a_key_and_gives_no_request_an_id(tmp_path: Path) -> None:
    """Who does not know the key of this run is not passed on, and what is, is not taken for Sentinel's by the provider."""
    peer = gateways.envoy(tmp_path / "site-packages/envoy/_bin/envoy", 4000, "http://127.0.0.1:1/v1", tmp_path)
    [listener] = json.loads((tmp_path / "envoy.json").read_text(encoding="utf-8"))["static_resources"]["listeners"]
    [connections] = listener["filter_chains"][0]["filters"]
    settings = connections["typed_config"]
    assert settings["generate_request_id"] is False
    names = [one["name"].split(".")[1] for one in settings["http_filters"]]
    assert names == ["health_check", "api_key_auth", "local_ratelimit", "router"]
    assert settings["http_filters"][1]["typed_config"]["credentials"] == [{"key": peer.bearer, "client": "bench"}]


def test_one_api_needs_nothing_from_the_internet(tmp_path: Path) -> None:
    """The token ranks lie where it looks for them before it fetches any."""
    executable = tmp_path / "one-api"
    executable.write_text("#!/bin/sh\necho v0.6.10\n")
    executable.chmod(0o700)
    peer = gateways.one_api(executable, 4000, "http://127.0.0.1:1/v1", tmp_path)
    assert (peer.version, peer.bearer) == ("0.6.10", f"sk-{peer.environ['INITIAL_ROOT_TOKEN']}")
    ranks = Path(peer.environ["TIKTOKEN_CACHE_DIR"]) / "fb374d419588a4632f3f557e76b4b70aebbca790"
    assert hashlib.sha256(ranks.read_bytes()).hexdigest() == vocab.SHA256["o200k_base"]


def test_an_interpreter_says_how_it_was_built() -> None:
    """The page names version and build of each; what does not run is unknown."""
    assert machine.interpreter().startswith(f"CPython {platform.python_version()}, with")
    assert machine.interpreter("/nowhere/python") == "unknown"
    assert machine.describe()["python built"] in machine.interpreter()
    assert interpreters.find("/opt/python") == Path("/opt/python")


def test_an_environment_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once, by the lock, below .loadtest/; an interpreter that makes none is told, and not taken for made."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no venv here >&2\nexit 1\n")
    python.chmod(0o700)
    monkeypatch.setattr(interpreters, "_ROOT", tmp_path)
    for _ in range(2):
        with pytest.raises(StackError, match="no environment: no venv here"):
            interpreters.prepare(python)


def test_the_provider_answers_once_whatever_the_framing() -> None:
    """A body with a length, one in chunks, and none: one answer each, when the last byte is there, and no earlier."""

    class Heard(Connection):
        heads: ClassVar[list[bytes]] = []

        def asked(self, head: bytes, body: bytes) -> None:
            self.heads.append(head.split()[0])

    heard = Heard()
    requests = {
        b"LENGTH": b"LENGTH / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        b"CHUNKS": b"CHUNKS / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\r\n}\r\n0\r\n\r\n",
        b"EMPTY": b"EMPTY / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"NONE": b"NONE / HTTP/1.1\r\nhost: here\r\n\r\n",
    }
    for name, request in requests.items():
        for at in range(len(request)):
            heard.data_received(request[at : at + 1])
            assert heard.heads == ([] if at < len(request) - 1 else [name])
        heard.heads.clear()


def test_the_provider_counts_what_came_through_sentinel_alone() -> None:
    """What has no request id, as that of the peers has none, is answered and not served by its count."""
    served = Served()
    Provider(served).asked(b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\n", b"{}")
    assert served.requests == 0
    Provider(served).asked(b"POST /v1/chat/completions HTTP/1.1\r\nx-request-id: one\r\n", b"{}")
    assert served.requests == 1
