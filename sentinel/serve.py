"""The supervisor: Granian with Sentinel's flags, one worker process a core, and the admin listener in a thread of its own.

Fails before it listens: wrong settings, a host that cannot be resolved, a port in use and damaged token ranks are one sentence
each. A worker that
dies is started again; one that dies again within seconds stops the server (Granian's crash-loop rule), for the orchestrator to
start anew.
"""

import errno
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from sentinel.admin import heartbeat
from sentinel.admin.listener import Admin
from sentinel.openai.tokens.tokenizer import read_encodings
from sentinel.ops import logs, vocab
from sentinel.ops.settings import Settings

# What makes the application of a worker, as `module:function`.
APPLICATION: Final = "sentinel.app:create"
_BACKLOG: Final = 4096
_ADMIN_BACKLOG: Final = 128
_HEADER_BYTES_MAX: Final = 131_072
_DEAF_S: Final = 5.0
# Of an answer that its client does not take, the kernel would keep up to 4 MiB (net.ipv4.tcp_wmem) beside what it has sent.
_UNSENT_BYTES_MAX: Final = 131_072
# Granian calls a second death within 5.5 s of a respawn a crash loop.
_RESPAWN_S: Final = 3.5
_TOLD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# After the drain deadline: settle, flush usage and close the edges.
_CLOSE_S: Final = 10

_log: Final = logs.Log("serve")


class _Server(MPServer):
    """Granian, that tells its workers to drain before it tells them to stop (see `app.DRAIN_SIGNAL`)."""

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        # A worker inherits this handler until it has its own; it has no workers to tell.
        if os.getpid() == getattr(self, "pid", None):
            for worker in self.wrks:
                _drain(worker.inner.pid)
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]

    def signal_handler_reload(self, *_args: Any, **_kwargs: Any) -> None:
        """Granian's reload would end workers without a drain; a new version is a new process, so SIGHUP does nothing."""

    def _respawn_workers(self, workers: list[int], *args: Any, **kwargs: Any) -> None:
        for position in workers:
            _forget(self.wrks[position].inner.pid)
        super()._respawn_workers(workers, *args, **kwargs)

    def pids(self) -> list[int]:
        """The workers there are."""
        return [worker.inner.pid for worker in list(self.wrks) if worker.inner.pid is not None]


def _drain(pid: int | None) -> None:
    try:
        if pid is not None:
            os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return  # it has ended already


def _forget(pid: int | None) -> None:
    """Take a dead worker out of the gauges that count the living, and its heartbeat away."""
    # Imported when the place of its files is known: see `serve`.
    from sentinel.admin import metrics_page  # noqa: PLC0415

    if pid is not None:
        metrics_page.forget(pid)
        heartbeat.forget(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), pid)


class AddressError(Exception):
    """The address cannot be listened on; the message says why, and which setting to change."""


def serve(settings: Settings, application: str = APPLICATION) -> None:
    """Serve `application` until SIGTERM or SIGINT. Raises AddressError or VocabError before anything is started."""
    logs.start(settings.log_level)
    # Workers are copies of this process, and share what it has read: 65 MB of each, and half a second of its start.
    read_encodings(vocab.ranks)
    address = address_of(settings.host)
    # Granian listens with SO_REUSEPORT, which would quietly share a port that somebody else already serves.
    _bound(address, settings.port, "SENTINEL_HOST", "SENTINEL_PORT").close()
    admin_address = address_of(settings.admin_host, "SENTINEL_ADMIN_HOST")
    listener = _bound(admin_address, settings.admin_port, "SENTINEL_ADMIN_HOST", "SENTINEL_ADMIN_PORT")
    # Inherited by the workers, so that a drain signal that comes before they listen for it does not end them.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # What a worker is told while it starts waits in the kernel until it can hear it (`app`): the handlers that it inherits
    # would swallow it.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD),
    )
    figures = tempfile.mkdtemp(prefix="sentinel-metrics-")
    # Read by prometheus-client when a worker first imports it, which is why nothing here may import it earlier.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = figures
    try:
        server = _server(application, settings, address, _places(settings.connections_max))
        _listen(listener, lambda: [heartbeat.read(Path(figures), pid) for pid in server.pids()])
        server.serve(spawn_target=partial(_serve_as_worker, settings.downstream_idle_s))
    finally:
        shutil.rmtree(figures, ignore_errors=True)


def _listen(listener: socket.socket, workers: Callable[[], list[dict[str, Any]]]) -> None:
    """Start the admin listener."""
    from sentinel.admin import metrics_page  # noqa: PLC0415 - see `serve`

    listener.listen(_ADMIN_BACKLOG)
    # A worker is a copy of this process: with the listener in it, the port would be taken for as long as the worker lives.
    os.register_at_fork(after_in_child=listener.close)
    Admin(listener, workers, metrics_page.MetricsPage().text, metrics_page.CONTENT_TYPE).start()


def _places(connections_max: int) -> int:
    """How many connections a worker may take, with all open files allowed that can be: each may need one to the provider."""
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    places = connections_max if allowed == resource.RLIM_INFINITY else min(connections_max, allowed // 2)
    if places < connections_max:
        needed = 2 * connections_max
        _log.error("too few open files allowed", allowed=allowed, needed=needed, connections_max=places)
    return places


def _serve_as_worker(
    downstream_idle_s: float, worker_id: int, name: str | None, load: Callable[[], Any], sock: Any, *rest: Any
) -> None:
    """What a worker process runs: Granian's own, with a socket that the application can look at.

    Granian would make the socket itself, later, and show it to nobody. It begins to listen when the application is open.
    """
    (spec, _shared), _inherited = sock
    holder = spec.build()
    app = load()
    app.listener = socket.socket(fileno=os.dup(holder.get_fd()))
    _close_deaf(app.listener, downstream_idle_s)
    MPServer._spawn_asgi_lifespan_worker(worker_id, name, lambda: app, ((None, holder), None), *rest)


def _close_deaf(listener: socket.socket, idle_s: float) -> None:
    """Let the kernel close connections whose client takes nothing for `idle_s`, and some seconds for the application to be
    first and settle. Every connection that is accepted inherits it; Granian itself waits for such a client for ever.
    """
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((idle_s + _DEAF_S) * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)


def _server(application: str, settings: Settings, address: str, places: int) -> _Server:
    return _Server(
        application,
        factory=True,
        address=address,
        port=settings.port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,  # so that a request for one arrives as any other, and is refused in OpenAI's shape
        workers=settings.workers,
        runtime_mode=RuntimeModes.st,
        backlog=_BACKLOG,
        backpressure=places,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(settings.head_timeout_s * 1000), max_buffer_size=_HEADER_BYTES_MAX
        ),
        log_level=LogLevels(settings.log_level),
        log_dictconfig=logs.GRANIAN,
        respawn_failed_workers=True,
        respawn_interval=_RESPAWN_S,
        workers_kill_timeout=int(settings.drain_s) + _CLOSE_S,
        process_name=None,
    )


def address_of(host: str, name: str = "SENTINEL_HOST") -> str:
    """The address that a host, the setting `name`, means: Granian takes no names, and listens on one address only.

    That is one of IPv4 where there is one: a name such as localhost often has both, on machines where only IPv4 works.
    Raises AddressError.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it cannot be a name"
        raise AddressError(f"{name} is {host}, which cannot be resolved: {reason}") from None
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    # An address of one link has a zone, the fourth part (`fe80::1%eth0`), which Granian does not take.
    addresses = [str(at[0]) for *_, at in found if not any(at[3:])]
    if not addresses:
        raise AddressError(f"{name} is {host}, which is an address of one link only; choose another")
    return addresses[0]


def _bound(address: str, port: int, host_name: str, port_name: str) -> socket.socket:
    """A socket that has this address and port for itself, which are the settings of these names. Raises AddressError."""
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        name = port_name if error.errno in {errno.EADDRINUSE, errno.EACCES} else host_name
        raise AddressError(f"cannot listen on {address}:{port}: {error.strerror}; choose another with {name}") from None
    return bound
