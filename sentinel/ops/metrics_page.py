"""The page Prometheus scrapes: the figures of all workers of this host, merged.

Fails as a whole with a 500 where the files of the workers cannot be read; no request of a caller depends on it.
"""

import os

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()


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
