"""What a stream has said since its last usage, in case no other comes (rules L1, L4). Nothing here fails.

Kept as raw events, read only where it is asked for; past the bound read at once, and only measured.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from sentinel.openai.response import sse
from sentinel.openai.response.abridged_json import abridged
from sentinel.openai.response.event_buffer import EventBuffer
from sentinel.openai.response.texts import Texts
from sentinel.openai.response.usage import decode
from sentinel.ops.records import NOTHING_PRODUCED, Produced

# Rarely are so many words in one reading; images and the echo of a long request are.
WORDS_BYTES_MAX: Final = 16 << 10

_FINISH: Final = re.compile(rb'"finish_reason"(?!\s*:\s*null)')
# What every event with something of the answer has: choices, or one of the types that `texts` reads.
_SPOKEN: Final = re.compile(rb'"choices"|\.delta"|item\.added"|image_generation_call')


class UnbilledOutput:
    """The regions of whole events that no usage covers; `say` adds the text of an event, and is None where none is counted.

    `latest` holds those that came last, and `latest_bytes` their length: whoever adds a region of few words may append it
    there, and call `store` once they are more than WORDS_BYTES_MAX. `unread_bytes` may be text, but cannot be read at all.
    """

    __slots__ = ("_choices", "_kept", "_kept_bytes_max", "_past", "_say", "latest", "latest_bytes", "unread_bytes")

    def __init__(self, say: Callable[[dict[str, Any], Texts], None] | None, kept_bytes_max: int) -> None:
        self.latest: list[bytes] = []
        self.latest_bytes = 0
        self.unread_bytes = 0
        self._say = say
        self._kept_bytes_max = kept_bytes_max
        self._kept = EventBuffer(kept_bytes_max)
        # Past the cap events are read at once and only the size of their texts is remembered.
        self._past = Texts(0)
        # Which choices began and ended, also before the last usage; known where somebody asked.
        self._choices = Texts(0)

    def add(self, region: bytes) -> None:
        """Remembers `region`; one too large to be all words only if there are any in it, and without its images."""
        if self._say is None:
            return
        if len(region) > WORDS_BYTES_MAX:
            region = abridged(region)
            if _SPOKEN.search(region) is None:
                return
        self.latest.append(region)
        self.latest_bytes += len(region)
        if self.latest_bytes > WORDS_BYTES_MAX:
            self.store()

    def store(self) -> None:
        """Puts what came last to what is kept in little memory; a short stream that ends with usage never needs it."""
        latest, latest_bytes = self.latest, self.latest_bytes
        self.latest, self.latest_bytes = [], 0
        if not self._kept.add(latest, latest_bytes):
            for region in latest:
                if not self._kept.add((region,), len(region)):
                    self._read(region, self._past)

    def clear(self) -> None:
        """Forgets everything: it is paid."""
        self.latest, self.latest_bytes = [], 0
        self.unread_bytes = 0
        self._kept.clear()
        self._past = Texts(0)

    def silent(self) -> bool:
        """Whether nothing was said at all."""
        self.store()
        return (
            not self.unread_bytes and not self._past.bytes_uncounted and not any(map(_SPOKEN.search, self._kept.newest_first()))
        )

    def finished(self) -> bool:
        """Whether a choice gave its finish reason; looked for from the end, where it stands."""
        self.store()
        return bool(self._past.ended) or self.finishes(self._kept.newest_first())

    def all_finished(self, choices: int, events: Sequence[bytes] = (), *, one_is_enough: bool = False) -> bool:
        """Whether every choice that began gave its finish reason, the `events` that come next included; of `choices` at most.

        Asked before each `clear`, it remembers what that forgets. Everything is read only where a choice has not ended.
        """
        self.store()
        seen = self._choices
        for region in chain(events, self._kept.newest_first()):
            if _FINISH.search(region) is not None:
                self._read(region, seen)
            if len(seen.ended) >= choices:
                return True
        for region in chain(self._kept, events):
            self._read(region, seen)
        seen.begun |= self._past.begun
        seen.ended |= self._past.ended
        return bool(seen.ended) and (one_is_enough or seen.begun <= seen.ended)

    def finishes(self, regions: Iterable[bytes]) -> bool:
        """Whether a choice gave its finish reason in one of `regions`."""
        for region in regions:
            if _FINISH.search(region) is not None:
                texts = Texts(0)
                self._read(region, texts)
                if texts.ended:
                    return True
        return False

    def produced(self) -> Produced:
        """Everything that was said. Nothing where no text is counted."""
        if self._say is None:
            return NOTHING_PRODUCED
        self.store()
        texts = Texts(self._kept_bytes_max)
        for region in self._kept:
            self._read(region, texts)
        uncounted = texts.bytes_uncounted + self._past.bytes_uncounted
        return Produced(texts.joined(), uncounted, texts.media_tokens + self._past.media_tokens, self.unread_bytes)

    def _read(self, region: bytes, texts: Texts) -> None:
        """Adds to `texts` what the events of `region` say."""
        if self._say is None:
            return
        for event in sse.events(region):
            if (fields := decode(sse.payload(event))) is not None:
                self._say(fields, texts)
