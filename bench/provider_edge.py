"""What one call to the provider costs this process: `python -m bench.provider_edge [calls]`, with 1, 16 and 64 at a time.

Prints CPU microseconds for each call, of the edge and the event loop alone; the provider is a process of its own. Compare only
inside one run on one machine.
"""

import asyncio
import sys
import time

import uvloop

from sentinel.edges.http import Client
from sentinel.edges.provider import OpenAI, Patience

_HEADERS = [
    ("content-type", "application/json"),
    ("user-agent", "openai/python 3.5"),
    ("x-stainless-lang", "python"),
    ("authorization", "Bearer sk-key"),
    ("accept-encoding", "identity"),
    ("x-request-id", "req_0123456789"),
]
_BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 400)
_PATIENCE = Patience(600, 600)


def _ignore() -> None:
    pass


async def _call(provider: OpenAI, times: int) -> None:
    for _ in range(times):
        reply = await provider.send("POST", "/chat/completions", b"", _HEADERS, _BODY, _ignore, _PATIENCE)
        while await reply.read():
            pass
        reply.close()


async def main() -> None:
    """Warm up, then measure."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.provider", stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    url = (await child.stdout.readline()).decode().strip()
    provider = OpenAI(Client(url, connect_s=5), "sk-key", idle_s=60, connections_max=1000)
    try:
        await _call(provider, 300)
        for together in (1, 16, 64):
            cpu_s, since_s = time.process_time(), time.perf_counter()
            await asyncio.gather(*(_call(provider, calls // together) for _ in range(together)))
            cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - since_s
            print(f"{together} at a time: {cpu_s / calls * 1e6:.0f} µs of CPU a call, {calls / wall_s:.0f} calls a second")
    finally:
        await provider.close()
        child.kill()
        await child.wait()


if __name__ == "__main__":
    uvloop.run(main())
