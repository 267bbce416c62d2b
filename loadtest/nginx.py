"""nginx, the yardstick: one that proxies as plainly as it can, on the gateway's core, before one that answers at once.

Where no nginx is on PATH, `find` is None and the tables go without it.
"""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

from bench.provider import COMPLETION
from sentinel.devstack.child import Child
from sentinel.devstack.claims import free_port

_START_S: Final = 10.0
_TOP: Final = """{user}worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 16384; }}
worker_rlimit_nofile 32768;
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 64m;
    client_body_buffer_size 2m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 1h;
"""
_ANSWERING: Final = """
    server {{ listen 127.0.0.1:{port} backlog=8192; default_type application/json; location / {{ return 200 '{answer}'; }} }}
}}
"""
_PROXYING: Final = """
    upstream at_once {{ server 127.0.0.1:{at_once}; keepalive 512; keepalive_requests 1000000000; }}
    upstream paced {{ server 127.0.0.1:{paced}; keepalive 512; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{port} backlog=8192; location / {{ proxy_pass http://at_once; }} }}
    server {{ listen 127.0.0.1:{port_paced} backlog=8192; location / {{ proxy_buffering off; proxy_pass http://paced; }} }}
}}
"""


def find() -> str | None:
    """The nginx of this machine."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Nginx:
    """Both of them; `url` proxies to the other one, `url_paced` to the provider that streams at `provider_port`."""

    def __init__(self, executable: str, directory: Path, provider_port: int) -> None:
        ports = [free_port() for _ in range(3)]
        self.url, self.url_paced = (f"http://127.0.0.1:{port}" for port in ports[:2])
        self.url_answering = f"http://127.0.0.1:{ports[2]}"
        proxying = _PROXYING.format(port=ports[0], port_paced=ports[1], at_once=ports[2], paced=provider_port)
        answering = _ANSWERING.format(port=ports[2], answer=COMPLETION.decode())
        self._answering = _child(executable, directory / "answering", answering)
        self._proxying = _child(executable, directory / "proxying", proxying)
        self._ports = {"answering": ports[2], "proxying": ports[0]}

    @property
    def group(self) -> int:
        """The process group of the one that proxies."""
        return self._proxying.pid

    async def start(self) -> None:
        """Start both. StackError where one does not come up."""
        await self._answering.start(lambda: listens(self._ports["answering"]), timeout_s=_START_S)
        await self._proxying.start(lambda: listens(self._ports["proxying"]), timeout_s=_START_S)

    async def stop(self) -> None:
        """Stop both."""
        await self._proxying.stop(timeout_s=5)
        await self._answering.stop(timeout_s=5)


def _child(executable: str, directory: Path, rest: str) -> Child:
    directory.mkdir(parents=True)
    user = "user root;\n" if os.geteuid() == 0 else ""
    file = directory / "nginx.conf"
    file.write_text(_TOP.format(directory=directory, user=user) + rest, encoding="utf-8")
    command = [executable, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")]
    return Child(f"nginx ({directory.name})", command, log=directory / "nginx.log", environ=os.environ)


async def listens(port: int) -> bool:
    """Whether somebody takes connections on this port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
