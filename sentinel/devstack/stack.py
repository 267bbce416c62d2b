"""The whole stack as child processes: Redis, Zion's simulator, the provider's simulator, and Sentinel itself.

`Stack` raises `StackError` (one sentence for the user) when a piece does not come up, and leaves nothing running then. Children
are told to stop when this process ends, even by kill -9.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from sentinel.devstack.child import Child, StackError
from sentinel.devstack.claims import free_port, lock, require_free
from sentinel.devstack.redis_server import RedisServer
from sentinel.devstack.simulator import Simulator, is_ok

PIECES: Final = ("redis", "zion", "provider", "sentinel")
_START_S: Final = 30.0
_STOP_S: Final = 40.0  # above the longest drain that makes sense here
# All pieces share the cores: 50 ms late says nothing of Redis, nor a second's wait of how many callers there are.
_LENIENT: Final = {"SENTINEL_REDIS_TIMEOUT_SECONDS": "1", "SENTINEL_TURN_WAIT_SECONDS": "5"}


class Stack:
    """The pieces in `directory` (data, logs, lock), each to be started, stopped and killed by name (see PIECES).

    With `simulators` False only Sentinel itself is started, and `environ` says where Redis, Zion and the provider are. With
    `real_provider` True `environ` (or `.env`) holds a provider's key. `settings` are Sentinel's variables and win over
    everything else. Ports are free ones where they are 0, and stay the same when a piece is started again. `tokens` are the
    demo users' (free, pro, spent); `zion_key` and `provider_key` are the keys the simulators accept.
    """

    # What is run as Sentinel: `python -m … serve`.
    module = "sentinel"

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        admin_port: int = 0,
        workers: int = 2,
        simulators: bool = True,
        real_provider: bool = False,
        settings: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        token_ms: float = 0,
        output_tokens: int = 48,
    ) -> None:
        self.directory = directory.absolute()
        self.port = port
        self.admin_port = admin_port
        self.tokens: dict[str, str] = {}
        self._environ = dict(os.environ if environ is None else environ)
        self._settings = dict(settings or {})
        self._workers = workers
        self._simulators = simulators
        self._real_provider = real_provider
        self.zion_key = f"zion-{secrets.token_hex(16)}"
        self.provider_key = f"sk-simulated-{secrets.token_hex(16)}"
        zion = {"ZION_API_KEY": self.zion_key, "SIMULATOR_JWT_SECRET": secrets.token_hex(32)}
        self._zion = Simulator("zion", [], log=self._log("zion"), environ={**self._environ, **zion})
        options = ["--token-ms", f"{token_ms:g}", "--output-tokens", str(output_tokens)]
        provider = {"SIMULATOR_PROVIDER_KEY": self.provider_key}
        self._provider = Simulator("provider", options, log=self._log("provider"), environ={**self._environ, **provider})
        self._redis: RedisServer | None = None
        self._sentinel: Child | None = None
        self._lock: int | None = None

    @property
    def url(self) -> str:
        """Where Sentinel listens, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where its metrics and its health are, without a path."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI SDK takes as its base URL."""
        return f"{self.url}/v1"

    @property
    def zion_url(self) -> str:
        """Where Zion's simulator listens."""
        return self._zion.url

    @property
    def provider_url(self) -> str:
        """Where the provider's simulator listens, without `/v1`."""
        return self._provider.url

    @property
    def redis_url(self) -> str:
        """The REDIS_URL of this stack's own Redis."""
        assert self._redis is not None
        return self._redis.url

    @property
    def pieces(self) -> tuple[str, ...]:
        """The names of the pieces this stack has, in the order of their start."""
        if not self._simulators:
            return ("sentinel",)
        return tuple(name for name in PIECES if name != "provider" or not self._real_provider)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    async def start(self, *names: str) -> None:
        """Start these pieces, or all: what Sentinel needs at the same time, then Sentinel.

        StackError if one fails, or if another stack has the directory.
        """
        if self._lock is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.directory / "lock")
        wanted = names or self.pieces
        starting = {"redis": self._start_redis, "zion": self._start_zion, "provider": self._provider.start}
        # All of them are waited for, so that none is still on its way up when the failure of another is told.
        results = await asyncio.gather(*(starting[name]() for name in wanted if name in starting), return_exceptions=True)
        for failure in filter(None, results):
            raise failure
        if "sentinel" in wanted:
            await self._start_sentinel()

    async def stop(self, *names: str) -> None:
        """Stop these pieces, or all and release the directory: Sentinel first, then at a time what it needs. Never fails on
        what is not running.
        """
        wanted = names or PIECES
        if "sentinel" in wanted:
            await self._stop("sentinel")
        await asyncio.gather(*(self._stop(name) for name in wanted if name != "sentinel"))
        if not names and self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _stop(self, name: str) -> None:
        if name == "redis" and self._redis is not None:
            await self._redis.stop()
        elif (child := self._children()[name]) is not None:
            await child.stop(timeout_s=_STOP_S)

    async def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole process group of a piece; with SIGKILL, wait until it is gone."""
        if name == "redis" and number == signal.SIGKILL and self._redis is not None:
            await self._redis.kill()
        else:
            await self.child(name).kill(number)

    def kill_all(self) -> None:
        """Send SIGKILL to everything at once, without waiting; `stop` collects what is left."""
        for child in self._children().values():
            if child is not None:
                child.signal_group(signal.SIGKILL)

    def child(self, name: str) -> Child:
        """The process of a piece: `pid`, `running`, `returncode`, `log`, `output()`. StackError if it was never started."""
        child = self._children()[name]
        if child is None:
            raise StackError(f"{name} was not started.")
        return child

    def _children(self) -> dict[str, Child | None]:
        redis = self._redis.child if self._redis is not None else None
        return {"redis": redis, "zion": self._zion.child, "provider": self._provider.child, "sentinel": self._sentinel}

    async def ended(self) -> str:
        """Wait until a piece ends that nobody stopped; returns a sentence about it."""
        waits = {asyncio.ensure_future(self.child(name).wait()): name for name in self.pieces}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        child = self.child(waits[done.pop()])
        return f"{child.name} ended unexpectedly (exit code {child.returncode}); its log is {child.log}."

    async def control(self, name: str, path: str, body: Any = None) -> Any:
        """The JSON answer of a simulator's endpoint under /simulator/: GET, or POST where there is a body."""
        return await {"zion": self._zion, "provider": self._provider}[name].control(path, body)

    async def _start_redis(self) -> None:
        if self._redis is None:
            held = [self._lock] if self._lock is not None else []  # the directory stays locked until Redis is gone too
            self._redis = RedisServer(self.directory / "redis", log=self._log("redis"), environ=self._environ, pass_fds=held)
        await self._redis.start()

    async def _start_zion(self) -> None:
        await self._zion.start()
        self.tokens = await self._zion.control("users")

    async def _start_sentinel(self) -> None:
        self.port = self.port or free_port()
        self.admin_port = self.admin_port or free_port()
        require_free(self.port)
        require_free(self.admin_port, "--admin-port")
        command = [sys.executable, "-m", self.module, "serve"]
        self._sentinel = Child("Sentinel", command, log=self._log("sentinel"), environ=self._sentinel_environ())
        # With parts that are not ours, Sentinel's being unready is for its user to see, not a reason to stop it.
        state = f"{self.admin_url}/health/{'ready' if self._simulators else 'live'}"
        await self._sentinel.start(lambda: is_ok(state), timeout_s=_START_S)

    def _sentinel_environ(self) -> dict[str, str]:
        own = {"SENTINEL_HOST": "127.0.0.1", "SENTINEL_PORT": str(self.port), "SENTINEL_WORKERS": str(self._workers)}
        own |= {"SENTINEL_ADMIN_HOST": "127.0.0.1", "SENTINEL_ADMIN_PORT": str(self.admin_port)}
        own |= {"SENTINEL_DATA_DIR": str(self.directory / "journal")}
        if self._simulators:
            own |= {"ZION_API_URL": self.zion_url, "ZION_API_KEY": self.zion_key, "REDIS_URL": self.redis_url}
            if not self._real_provider:
                own |= {
                    "SENTINEL_PROVIDER": "openai",
                    "OPENAI_API_KEY": self.provider_key,
                    "OPENAI_API_URL": f"{self.provider_url}/v1",
                }
        return {**_LENIENT, **self._environ, **own, **self._settings}

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"
