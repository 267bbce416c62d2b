"""What is told of an answer before the bytes that say it go down: the ids it names. Raises what telling raises."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from sentinel.downstream.exchange import Exchange
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.created_objects import CreatedObjects
from sentinel.openai.response.stream_meter import StreamMeter

Keep = Callable[[list[str]], Awaitable[None]]
Note = Callable[[Mapping[str, Sequence[str]]], Awaitable[None]]


class Told(msgspec.Struct, frozen=True):
    """What is told of an answer before the bytes that say it go down."""

    finds: CreatedObjects
    keep: Keep
    note: Note | None

    async def in_stream(self, meter: StreamMeter, passed: bytes) -> None:
        """The whole events `passed` are about to go down."""
        if new := self.finds.in_stream(meter, passed):
            await self.keep(new)
        # Work has begun as soon as it has a name: an event that is too long to be held says the rest too late.
        if self.note is not None and meter.object_id and not meter.terminated:
            await self.note(self.finds.state_of(meter))

    async def in_body(self, meter: BodyMeter) -> None:
        """A body is whole, and its end is about to go down."""
        if new := self.finds.in_body(meter):
            await self.keep(new)
        if self.note is not None and meter.unfinished:
            await self.note(self.finds.state_of(meter))


async def send_found(exchange: Exchange, meter: StreamMeter, told: Told, passed: bytes) -> None:
    """Send what was `passed`, once that is told."""
    await told.in_stream(meter, passed)
    if passed:
        await exchange.send(passed)
