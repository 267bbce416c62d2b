"""What callers are called by now: usage is reported under the names that Zion knows at that time, not at the time of use.

Zion's profile alone tells a new name, so it is learned when Zion is asked who a token belongs to. Known are the names a user
had (`u:{sPP}:<Zion's own id>`), and in the partition of each former one what became of it (`n:{sPP}`), where claim_batch.lua
looks. Fails as LedgerUnavailableError; what was not noted then is noted when Zion is asked the next time.
"""

import asyncio
from collections import defaultdict
from typing import Final

from sentinel.ledger.keys import key, partition_of
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ledger.redis.resp import pairs
from sentinel.ops.records import Caller

# Of one user; an older one is what it was when it was forgotten.
NAMES_MAX: Final = 16
# Former names of one partition, about 200 bytes each.
RENAMED_MAX: Final = 10_000
LIFE_MS: Final = 90 * 86_400_000


class Names:
    """The names of the users of one ledger, over its `pipeline`."""

    def __init__(self, pipeline: Pipeline, *, partitions: int) -> None:
        self._pipeline = pipeline
        self._partitions = partitions

    async def learn(self, user_id: str, caller: Caller) -> None:
        """Note what Zion calls the user of this id of its own now: names.lua, then rename.lua where there is a former name."""
        present = (caller.external_id, caller.email)
        keys = [key("u", self._at(user_id), user_id)]
        before = await self._pipeline.script("names", keys, (*present, NAMES_MAX, LIFE_MS))
        # The present name may be a former one of somebody else.
        former: defaultdict[int, list[bytes]] = defaultdict(list, {self._at(caller.external_id): []})
        for external_id, email in pairs(before):
            former[self._at(external_id.decode())] += (external_id, email)
        calls = [
            self._pipeline.script("rename", [key("n", at)], (user_id, *present, RENAMED_MAX, *names))
            for at, names in former.items()
        ]
        await asyncio.gather(*calls)

    def _at(self, name: str) -> int:
        return partition_of(name, self._partitions)
