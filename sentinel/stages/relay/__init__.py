"""relay.copy: the provider's answer to the client, byte for byte, while a meter looks on.

Never fails: however an answer ends, `copy` returns an Outcome that says how and what is known of its cost. A failure before
anything went down is raised by the rest that is returned beside it, to be told as any other. One after the first byte is told
in the stream (rules F1, F5) where there is one; a body that was promised a length is left short of it, so that the client can
tell. The relay follows the content type of the answer, not the request (rule S5). What is left of an answer whose bill is
known is read after it: nothing is held for that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from sentinel.downstream.exchange import Exchange
from sentinel.openai.header_fields import Line
from sentinel.openai.response import event_buffer
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.created_objects import CreatedObjects
from sentinel.openai.response.meter import Meter
from sentinel.openai.response.select_meter import opened
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.openai.response.usage import usage_of
from sentinel.ops.errors import ClientGoneError, DrainingError, SentinelError, UpstreamError
from sentinel.ops.logs import Log
from sentinel.ops.records import Call, Dialect, Ending, Outcome
from sentinel.stages.relay.after_end import BackgroundDrain, end, is_paid, pass_rest, read_rest
from sentinel.stages.relay.before_forward import Keep, Note, Told, send_found
from sentinel.stages.relay.disconnect import Leaving
from sentinel.stages.relay.event_sink import pipe
from sentinel.stages.relay.outcome import Failure, has_told, outcome_of, truncation
from sentinel.upstream.provider import Plain, Reply

__all__ = ["BackgroundDrain", "Keep", "Leaving", "Note", "Relay", "Rest"]

_log: Final = Log("relay")

Rest = Callable[[], Awaitable[None]]

# To end a stream that has failed.
_TAIL_S: Final = 1.0

# To read what an answer names that nobody waits for any more: its beginning, or all of a small object.
_NAMES_S: Final = 30.0


class Relay:
    """Copies answers."""

    def __init__(self, leaving: Leaving) -> None:
        self.leaving = leaving
        # Reading long answers is pure Python: several at once would only take turns with the event loop.
        self._reading = asyncio.Semaphore(1)

    async def copy(
        self,
        reply: Reply,
        exchange: Exchange,
        call: Call,
        extra: list[tuple[bytes, bytes]],
        watch: Callable[[Meter], None],
        keep: Keep,
        note: Note | None = None,
    ) -> tuple[Outcome, Rest | None]:
        """Copy `reply` to the client under its own headers and `extra`. `watch` is given its meter, `keep` new ids before the
        client knows them, `note` those of work that lasts. Behind the bill the rest is awaited, which raises what is not told.
        """
        if type(reply) is not Plain or call.dialect is not Dialect.CHAT or call.creates:
            return await self._copy(reply, exchange, call, extra, watch, keep, note)
        # The usual case: a chat that is here, all of it, and goes down in one piece, which no meter need watch.
        answer, failure = reply.answer, None
        try:
            with exchange:
                await exchange.answer(200, [*answer.down, *extra], answer.body)
        except (ClientGoneError, DrainingError) as error:
            failure = error
        usage = usage_of(answer.body) if failure is None else None
        if usage is None:
            meter = BodyMeter(call.dialect)
            if exchange.started:
                meter.feed(await reply.read())
            if failure is None:
                meter.finish()
            return await self._ended(failure, reply, exchange, call, meter, CreatedObjects(()), keep)
        if usage.reasoning_tokens or call.model not in self.leaving.known:
            self.leaving.learn(call, "", usage)
        upstream_id = answer.request_id.decode("latin-1")[:128]
        down = exchange.bytes_down
        outcome = Outcome(Ending.SUCCESS, 200, started=True, usage=usage, bytes_down=down, upstream_request_id=upstream_id)
        return outcome, None

    async def _copy(
        self,
        reply: Reply,
        exchange: Exchange,
        call: Call,
        extra: list[Line],
        watch: Callable[[Meter], None],
        keep: Keep,
        note: Note | None,
    ) -> tuple[Outcome, Rest | None]:
        """The same for any answer."""
        meter, head, length = opened(reply.status, reply.headers, call)
        finds = CreatedObjects(call.creates)
        watch(meter)
        failure: Failure | None = None
        try:
            try:
                with exchange:
                    if call.creates and reply.status < 300:
                        await self._pump_found(reply, exchange, call, [*head, *extra], meter, Told(finds, keep, note))
                    else:
                        await exchange.start(reply.status, [*head, *extra])
                        await self._pump(reply, exchange, call, meter, length)
                    failure = truncation(meter)
                    if failure is None and not (meter.terminated and is_paid(meter, call)):
                        if not exchange.ended:
                            await exchange.finish(meter.ending() if isinstance(meter, StreamMeter) else b"")
                        await exchange.linger()  # an answer that came before the end of an upload is not to be lost
            except (ClientGoneError, UpstreamError, DrainingError) as error:
                failure = error
            return await self._ended(failure, reply, exchange, call, meter, finds, keep)
        except BaseException:
            reply.close()
            raise

    async def _ended(
        self,
        failure: Failure | None,
        reply: Reply,
        exchange: Exchange,
        call: Call,
        meter: Meter,
        finds: CreatedObjects,
        keep: Keep,
    ) -> tuple[Outcome, Rest | None]:
        """What became of it, and what is to be awaited behind its bill."""
        # Everything the client needs was relayed; SDKs close on purpose after [DONE] (rule D5).
        whole = failure is None or meter.terminated
        rest: Rest | None = None
        if failure is not None:
            await self._after(failure, reply, exchange, call, meter, finds, keep)
            reply.close()
            rest = None if exchange.started else partial(_fail, failure)
        elif meter.terminated:
            rest = partial(end, reply, exchange, call, meter)
        else:
            reply.close()
        outcome = await outcome_of(reply, exchange, meter, None if whole else failure, self._reading)
        outcome = outcome if whole else self.leaving.judge(call, outcome, whole=has_told(meter))
        self.leaving.learn(call, meter.object_id, outcome.usage)
        return _with_left(outcome, meter, finds) if call.creates else outcome, rest

    async def abandon(self, reply: Reply, call: Call, keep: Keep) -> Outcome:
        """The outcome of an answer whose client left before it came, read as far as it names what it leaves. Never fails."""
        meter, _, _ = opened(reply.status, reply.headers, call)
        finds = CreatedObjects(call.creates)
        try:
            if reply.status < 300:
                await self._read_names(reply, meter, finds, keep)
        finally:
            reply.close()
        return _with_left(await outcome_of(reply, None, meter, ClientGoneError(), self._reading), meter, finds)

    async def _pump(self, reply: Reply, exchange: Exchange, call: Call, meter: Meter, length: int | None) -> None:
        """Every read goes down at once (rule S6); nothing is read faster than the client takes it (rule D6).

        What completes a body of a known `length` goes down as its last part, before the meter reads it.
        """
        if length is None:
            await pipe(reply, exchange, meter)
            if meter.terminated:
                if is_paid(meter, call):
                    return
                await pass_rest(reply, meter, call, exchange.send)
        else:
            while chunk := await reply.read():
                passed = meter.feed(chunk)
                if exchange.bytes_down + len(passed) == length:
                    await exchange.finish(passed)
                elif passed:
                    await exchange.send(passed)
        if passed := meter.finish():
            await exchange.send(passed)

    async def _pump_found(
        self, reply: Reply, exchange: Exchange, call: Call, head: list[Line], meter: Meter, told: Told
    ) -> None:
        """The same for an answer that names new objects: each is kept before the client has its id."""
        if not isinstance(meter, StreamMeter):
            await self._pump_held(reply, exchange, head, meter, told)
            return
        await exchange.start(reply.status, head)
        send = partial(send_found, exchange, meter, told)
        while not meter.terminated and (chunk := await reply.read()):
            await send(meter.feed(chunk))
        if meter.terminated:
            if is_paid(meter, call):
                return
            await pass_rest(reply, meter, call, send)
        await send(meter.finish())

    async def _pump_held(self, reply: Reply, exchange: Exchange, head: list[Line], meter: Meter, told: Told) -> None:
        """The same for a plain body. Its ids are known when it is whole, so its last piece waits for that, and the head waits
        with it: a server that has a head and nothing else would answer a failure with words of its own.

        What tells of work that lasts waits as a whole, as far as the meter keeps it as well.
        """
        held: list[bytes] = []
        room_bytes = left_bytes = 0 if told.note is None else event_buffer.BYTES_MAX
        while chunk := await reply.read():
            passed = meter.feed(chunk)
            left_bytes -= len(passed)
            if held and left_bytes < 0:
                if not exchange.started:
                    await exchange.start(reply.status, head)
                await exchange.send(b"".join(held))
                held.clear()
                left_bytes = room_bytes - len(passed)
            held.append(passed)
        meter.finish()
        if isinstance(meter, BodyMeter):
            await told.in_body(meter)
        if not exchange.started:
            await exchange.start(reply.status, head)
        if held:
            await exchange.send(b"".join(held))

    async def _after(
        self, failure: Failure, reply: Reply, exchange: Exchange, call: Call, meter: Meter, finds: CreatedObjects, keep: Keep
    ) -> None:
        """What is still owed after a failure: the rest of the answer to its meter, or a word to the client."""
        if not isinstance(failure, ClientGoneError):
            await self._tell(exchange, meter, failure)
        elif meter.terminated:
            if meter.usage is None:
                await read_rest(reply, meter)
        elif call.detached:
            await self._read_names(reply, meter, finds, keep)
        elif self.leaving.reads_on(call):
            await self.leaving.background_drain.read(reply, meter)

    async def _read_names(self, reply: Reply, meter: Meter, finds: CreatedObjects, keep: Keep) -> None:
        """Read on until the work that goes on has a name under which it can be looked at."""
        new: list[str] = []
        try:
            async with asyncio.timeout(_NAMES_S):
                while not (meter.unfinished or meter.terminated) and (chunk := await reply.read()):
                    passed = meter.feed(chunk)
                    if isinstance(meter, StreamMeter):
                        new += finds.in_stream(meter, passed)
        except (TimeoutError, UpstreamError):
            _log.debug("an answer was not read as far as its names")
        if isinstance(meter, BodyMeter):
            meter.finish()
            new = finds.in_body(meter)
        if new:
            await keep(new)

    async def _tell(self, exchange: Exchange, meter: Meter, failure: SentinelError) -> None:
        """End a stream with the failure; leave a plain body short, so that the server closes the connection under it."""
        if not isinstance(meter, StreamMeter) or exchange.ended or not exchange.started:
            return
        last = meter.finish()
        last += meter.failure(failure.message, failure.type, failure.code)
        try:
            # A client that does not read must not keep a failed answer open.
            async with asyncio.timeout(_TAIL_S):
                await exchange.finish(last)
        except TimeoutError:
            _log.warning("client did not take the end of a failed stream", request_id=exchange.request_id)


async def _fail(failure: Failure) -> None:
    raise failure


def _with_left(outcome: Outcome, meter: Meter, finds: CreatedObjects) -> Outcome:
    return msgspec.structs.replace(outcome, created_ids=finds.state_of(meter), unfinished=meter.unfinished)
