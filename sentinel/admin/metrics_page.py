"""The page Prometheus scrapes: the figures of all workers of this host, merged.

Fails as a whole where the files of the workers cannot be read; no request of a caller depends on it.
"""

import os
import threading
import time
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()
KEPT_S: Final = 1.0


class MetricsPage:
    """The page, made at most once a second however many ask. To be asked for in a thread: it takes tens of milliseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page = b""
        self._made_s = float("-inf")

    def text(self) -> bytes:
        """The page as it is, or was less than a second ago. Who comes while it is made waits for it."""
        with self._lock:
            if time.monotonic() - self._made_s >= KEPT_S:
                self._page = render()
                self._made_s = time.monotonic()
            return self._page


def forget(pid: int) -> None:
    """Remove what a dead worker counted as present: its counters stay, its gauges of the living go."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def render() -> bytes:
    """The metrics page in Prometheus's text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    merged = CollectorRegistry()
    MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    return generate_latest(merged)
