"""batches.read: the input file of a batch is read before it is sent, so that what it names can be checked and its size be held.

Fails closed: BadRequestError for a file that is none of a batch, NotFoundError where the provider has none, UpstreamError where
it does not show it, OverloadedError where others are being read, DrainingError where this worker ends, ForbiddenError where
batches are off. Files never change: what one asks for is remembered.
"""

import asyncio
from typing import Final

from msgspec.structs import replace

from sentinel.openai import headers, objects
from sentinel.openai.header_fields import Fields
from sentinel.openai.request.batch_file import Asked, Lines, Tally, endpoint
from sentinel.ops.errors import (
    BadRequestError,
    DrainingError,
    ForbiddenError,
    OverloadedError,
    UpstreamError,
    UpstreamUnavailableError,
)
from sentinel.ops.logs import Log
from sentinel.ops.records import Call, Caller, Ids, TextPrompt
from sentinel.upstream.provider import Provider, Reply, Timeouts

_log: Final = Log("batches")

_PATIENCE: Final = Timeouts(first_byte_s=30.0, total_s=600.0)
_READ_S: Final = 600.0
# Files that are read or wait for it; one is read at a time, since that is work for one core.
_READING_MAX: Final = 16
_READING_OF_CALLER_MAX: Final = 2
_KNOWN_MAX: Final = 1024
# Of a file that names more it is not remembered what it asks for.
_KNOWN_IDS_MAX: Final = 512
# What is read in a thread at a time.
_PIECE_BYTES: Final = 256 * 1024


class Batches:
    """Reads input files of at most `file_bytes_max`, in lines of at most `line_bytes_max`. `how` is SENTINEL_BATCH_INPUT;
    `output_tokens_default` is held for each answer without a cap.
    """

    def __init__(
        self, provider: Provider, *, how: str, file_bytes_max: int, line_bytes_max: int, output_tokens_default: int
    ) -> None:
        self._provider = provider
        self._how = how
        self._file_bytes_max = file_bytes_max
        self._line_bytes_max = line_bytes_max
        self._output_tokens_default = output_tokens_default
        self._known: dict[tuple[str, str], Asked] = {}
        self._reading: dict[tuple[str, str], tuple[str, asyncio.Task[Asked]]] = {}
        self._turn = asyncio.Semaphore(1)

    async def read(self, caller: Caller, call: Call, request_id: str) -> Call:
        """`call`, which makes a batch of files of its caller, with what they ask for."""
        if self._how == "off":
            raise ForbiddenError("Batches are not available through this gateway.", code="route_not_available")
        if self._how == "unread" or not call.referenced_ids.objects:
            return call
        if len(call.referenced_ids.objects) > 1:
            raise BadRequestError("A batch has one input file.", param="input_file_id", code="invalid_value")
        (name,) = call.referenced_ids.objects
        key = (name, endpoint(call))
        asked = self._known.get(key) or await self._shared(caller, key, request_id)
        return replace(
            call,
            prompt=TextPrompt(tokens_given=max(1, asked.input_tokens)),
            output_tokens_declared=max(1, asked.output_tokens + asked.uncapped * self._output_tokens_default),
            output_tokens_least=max(1, asked.output_tokens + asked.uncapped),
            models=call.models | asked.models,
            referenced_ids=Ids(
                call.referenced_ids.objects | asked.named.objects, call.referenced_ids.alike | asked.named.alike
            ),
        )

    async def close(self) -> None:
        """End what is being read."""
        tasks = [task for _, task in self._reading.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _shared(self, caller: Caller, key: tuple[str, str], request_id: str) -> Asked:
        """What the file asks for, which is read once for all who wait for it."""
        if key not in self._reading:
            of_caller = sum(external_id == caller.external_id for external_id, _ in self._reading.values())
            if len(self._reading) >= _READING_MAX or of_caller >= _READING_OF_CALLER_MAX:
                raise OverloadedError("This gateway is busy with the input files of other batches.", retry_after_s=5)
            task = asyncio.create_task(self._learn(key, request_id))
            self._reading[key] = caller.external_id, task
            task.add_done_callback(lambda done: self._done(key, done))
        task = self._reading[key][1]
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise DrainingError from None
            raise

    def _done(self, key: tuple[str, str], task: asyncio.Task[Asked]) -> None:
        del self._reading[key]
        if not task.cancelled() and task.exception() is None:
            asked = task.result()
            if len(asked.named.objects) + len(asked.named.alike) <= _KNOWN_IDS_MAX:
                self._known[key] = asked
            if len(self._known) > _KNOWN_MAX:
                del self._known[next(iter(self._known))]

    async def _learn(self, key: tuple[str, str], request_id: str) -> Asked:
        name, path = key
        async with self._turn:
            sent = headers.upstream(Fields.of(()), request_id, self._provider.key)
            reply = await self._provider.send("GET", f"/files/{name}/content", b"", sent, b"", _ignore, _PATIENCE)
            try:
                _check(reply, name)
                async with asyncio.timeout(_READ_S):
                    return await self._tally(reply, path)
            except TimeoutError:
                raise _unread("it takes too long") from None
            finally:
                reply.close()

    async def _tally(self, reply: Reply, path: str) -> Asked:
        lines, tally = Lines(self._line_bytes_max), Tally(path)
        waiting: list[bytes] = []
        seen_bytes = waiting_bytes = 0
        while chunk := await reply.read():
            seen_bytes += len(chunk)
            if seen_bytes > self._file_bytes_max:
                message = f"The input file of a batch has at most {self._file_bytes_max} bytes."
                raise BadRequestError(message, param="input_file_id", code="invalid_value")
            waiting.append(chunk)
            waiting_bytes += len(chunk)
            if waiting_bytes >= _PIECE_BYTES:
                await asyncio.to_thread(tally.add, lines.feed(b"".join(waiting)))
                waiting, waiting_bytes = [], 0
        await asyncio.to_thread(tally.add, [*lines.feed(b"".join(waiting)), *lines.finish()])
        return tally.asked()


def _check(reply: Reply, name: str) -> None:
    """Raise what the caller is told where the provider does not show the file."""
    if reply.status == 404:
        raise objects.not_found("file", name)
    if reply.status == 429 or reply.status >= 500:
        raise UpstreamUnavailableError("The provider cannot show the input file now.", retry_after_s=5, sent=False)
    if reply.status != 200 or any(line.lower() == b"content-encoding" for line, _ in reply.headers):
        raise _unread(f"status {reply.status}")


def _unread(reason: str) -> UpstreamError:
    _log.error("an input file of a batch cannot be read: SENTINEL_BATCH_INPUT says what becomes of batches", reason=reason)
    return UpstreamError("The provider does not show the input file of this batch.", retry=False, sent=False)


def _ignore() -> None:
    """Nothing hangs on when a file is asked for."""
