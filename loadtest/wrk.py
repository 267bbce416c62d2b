"""wrk, where it is on PATH, asks faster than Python can. It is for the yardstick alone: it leaves in the middle of its last
requests, which Sentinel bills by estimate, so that they could not be reconciled. RuntimeError where it fails.
"""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.zion import token
from loadtest import processes
from loadtest.asking import sized

_SCRIPT: Final = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
local built
request = function()
    built = built or wrk.format(nil, "/v1/chat/completions")
    return built
end
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('\\n{{"asked": %d, "seconds": %f, "status": %d, "broken": %d, "ms": [%f, %f, %f, %f]}}\\n',
        summary.requests, summary.duration / 1000000, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50) / 1000, latency:percentile(90) / 1000, latency:percentile(99) / 1000,
        latency:percentile(99.9) / 1000))
end
"""


def find() -> str | None:
    """The wrk of this machine."""
    return shutil.which("wrk")


async def ask(executable: str, job: dict[str, Any]) -> dict[str, Any]:
    """A job of loadtest.asking, for one caller; `percentiles_ms` instead of a histogram. RuntimeError where wrk fails."""
    watched: dict[str, list[int]] = job.get("watch", {})
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "ask.lua"
        body = sized(job.get("body_bytes", 0)).decode()
        script.write_text(_SCRIPT.format(body=body, token=token("caller-0")), encoding="utf-8")
        warmed = await _run(executable, job, script, max(1, int(job.get("warm_up", 1))))
        before = {name: processes.cpu_s(pids) for name, pids in watched.items()}
        seen = await _run(executable, job, script, max(1, int(job["seconds"])))
        used = {name: processes.cpu_s(pids) - before[name] for name, pids in watched.items()}
    failures = {
        f"other than 200: {name}": seen[name] + warmed[name] for name in ("status", "broken") if seen[name] + warmed[name]
    }
    return {
        "good": seen["asked"] - seen["status"],
        "failed": sum(failures.values()),
        "failures": failures,
        "seconds": seen["seconds"],
        "cpu_s": used,
        "percentiles_ms": dict(zip(("p50", "p90", "p99", "p99.9"), seen["ms"], strict=True)),
    }


async def _run(executable: str, job: dict[str, Any], script: Path, seconds: int) -> dict[str, Any]:
    command = [executable, "-t1", f"-c{job['connections']}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), job["url"]]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()
    if child.returncode != 0:
        raise RuntimeError(f"wrk ended with {child.returncode}")
    seen: dict[str, Any] = json.loads(next(line for line in said.splitlines() if line.startswith(b'{"asked"')))
    return seen
