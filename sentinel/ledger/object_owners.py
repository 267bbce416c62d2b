"""Whose an object at the provider is: one key each, `o:{sPP}:<id>`, holding the owner's external id (docs/limits.md).

Fails as LedgerUnavailableError: an object whose owner cannot be looked up has none, and one that was not noted stays without.
"""

import asyncio
from collections.abc import Iterable, Sequence

from sentinel.ledger.keys import key, partition_of
from sentinel.ledger.redis.pipeline import Pipeline


class Owners:
    """The owners of objects, by id. `life_s` is how long an owner is known after the object was last asked for."""

    def __init__(self, pipeline: Pipeline, *, partitions: int) -> None:
        self._pipeline = pipeline
        self._partitions = partitions

    async def find(self, objects: Sequence[tuple[str, int]]) -> list[str | None]:
        """The owners of these (id, life_s), None where nobody is known; being asked for prolongs a life."""
        calls = [self._pipeline.command("getex", self._key(name), "EX", life_s) for name, life_s in objects]
        return [None if owner is None else owner.decode() for owner in await asyncio.gather(*calls)]

    async def known(self, names: Iterable[str]) -> dict[str, str]:
        """The owners of those of `names` that have one, asked for all at once; no life is prolonged."""
        by_partition: dict[int, list[str]] = {}
        for name in names:
            by_partition.setdefault(partition_of(name, self._partitions), []).append(name)
        calls = [
            self._pipeline.command("mget", *[key("o", partition, name) for name in some])
            for partition, some in by_partition.items()
        ]
        found: dict[str, str] = {}
        for some, owners in zip(by_partition.values(), await asyncio.gather(*calls), strict=True):
            found |= {name: owner.decode() for name, owner in zip(some, owners, strict=True) if owner is not None}
        return found

    async def keep(self, external_id: str, objects: Iterable[tuple[str, int]]) -> None:
        """Note that these (id, life_s) are the caller's; what has an owner keeps it."""
        calls = [self._pipeline.command("set", self._key(name), external_id, "NX", "EX", life_s) for name, life_s in objects]
        await asyncio.gather(*calls)

    def _key(self, object_id: str) -> str:
        return key("o", partition_of(object_id, self._partitions), object_id)
