"""What the settings make of the bounds of bodies."""

import pytest

from sentinel.ops import settings
from sentinel.worker import parts

NEEDED = {"ZION_API_URL": "http://zion.test", "ZION_API_KEY": "k", "OPENAI_API_KEY": "k"}


@pytest.mark.parametrize(
    ("given", "arriving"),
    [
        ({}, 256),
        ({"SENTINEL_CALLER_ARRIVING_BODIES_MAX": "7"}, 7),
        ({"SENTINEL_CALLER_CONCURRENCY_MAX": "3"}, 3),
        ({"SENTINEL_UPSTREAM_CONNECTIONS_MAX": "100"}, 50),
        ({"SENTINEL_UPSTREAM_CONNECTIONS_MAX": "1"}, 1),
    ],
)
def test_how_many_bodies_of_a_caller_may_arrive(given: dict[str, str], arriving: int) -> None:
    """The least of what is set, of the caller's requests, and of half the provider's connections."""
    bodies = parts.bodies(settings.read(NEEDED | given, None))
    for _ in range(arriving):
        assert bodies.arriving.take("a")
    assert not bodies.arriving.take("a")
    assert bodies.arriving.take("b")


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, 256 * 2**20),
        ({"SENTINEL_CALLER_BODIES_BYTES_MAX": "1024", "SENTINEL_BODY_BYTES_MAX": "4096"}, 3 * 4096),
        ({"SENTINEL_CALLER_BODIES_BYTES_MAX": "100000", "SENTINEL_BODY_BYTES_MAX": "4096"}, 100_000),
    ],
)
def test_what_one_caller_may_hold(given: dict[str, str], share: int) -> None:
    """What is set, and never less than a body of the largest size takes when it is decoded."""
    assert parts.bodies(settings.read(NEEDED | given, None)).memory.share == share
