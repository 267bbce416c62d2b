"""The callers of a run: each asks again and again, in a way that chance chooses, and notes what it was told.

A client never fails: what breaks off, or is not what it should be, is in its notes.
"""

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User

# How a client asks, and how often in a hundred.
KINDS: Final = {"plain": 26, "stream": 23, "slow": 11, "leaves": 12, "leaves early": 8, "refused": 7, "cut": 6, "background": 7}
_WAIT_S: Final = 60.0
_REFUSED_S: Final = 0.1
_BROKEN_S: Final = 0.5
_OUTPUT_TOKENS: Final = 24


@dataclass
class Note:
    """What became of one request; times of the loop. `whole`: its answer came to its end, be that an error."""

    user: str
    kind: str
    began_s: float
    ended_s: float = 0.0
    request_id: str = ""
    status: int = 0
    code: str = ""
    whole: bool = False
    pieces: int = 0
    broken: str = ""

    @property
    def left(self) -> bool:
        """Whether its client went away by itself."""
        return self.kind.startswith("leaves") and not self.whole and not self.broken


class Clients:
    """Of each of `users`, some at a time, until `end`. The notes are in the order in which requests began."""

    def __init__(self, stack: Stack, users: list[User], seed: int, *, each: int) -> None:
        self.notes: list[Note] = []
        self._stack = stack
        self._over = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._go_on(user, random.Random(f"{seed}:{user.email}:{number}")))
            for user in users
            for number in range(each)
        ]

    async def end(self) -> None:
        """Let each finish what it asks."""
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def plain(self, http: aiohttp.ClientSession, user: User) -> Note:
        """One plain request, when all others have ended."""
        return await self.ask(http, user, "plain", random.Random(0))

    async def _go_on(self, user: User, chance: random.Random) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WAIT_S)) as http:
            while not self._over.is_set():
                note = await self.ask(http, user, chance.choices(list(KINDS), list(KINDS.values()))[0], chance)
                pause_s = _BROKEN_S if note.broken else _REFUSED_S if note.status >= 429 else chance.uniform(0, 0.05)
                await asyncio.sleep(pause_s)

    async def ask(self, http: aiohttp.ClientSession, user: User, kind: str, chance: random.Random) -> Note:
        """One request."""
        clock = asyncio.get_running_loop().time
        note = Note(user.email, kind, clock())
        self.notes.append(note)
        try:
            if kind == "leaves early":
                async with asyncio.timeout(chance.uniform(0.01, 0.3)):
                    await self._ask(http, user, note, chance)
            else:
                await self._ask(http, user, note, chance)
        except TimeoutError:
            note.broken = "" if kind == "leaves early" else f"no end within {_WAIT_S:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            note.broken = f"{type(error).__name__}: {error}"
        note.ended_s = clock()
        return note

    async def _ask(self, http: aiohttp.ClientSession, user: User, note: Note, chance: random.Random) -> None:
        simulate = _simulate(note.kind, chance)
        streams = note.kind in {"stream", "slow", "leaves", "cut"}
        body: dict[str, Any] = {"model": "gpt-4o", "user": user.email, "simulate": simulate}
        path = "chat/completions"
        if note.kind == "background":
            # What it holds is what it costs, so that the one is as good as the other where nobody can see it any more.
            path = "responses"
            body |= {"input": HELLO[0]["content"], "background": True, "max_output_tokens": _OUTPUT_TOKENS}
        else:
            body |= {"messages": HELLO, "stream": streams}
        head = {"authorization": f"Bearer {user.token}"}
        async with http.post(f"{self._stack.base_url}/{path}", json=body, headers=head) as answer:
            note.request_id, note.status = answer.headers["x-request-id"], answer.status
            if answer.status != 200 or not streams:
                shown = json.loads(await answer.read())
                note.code = (shown.get("error") or {}).get("code") or ""
                note.whole = True
            else:
                await _follow(answer, note, chance.randrange(1, _OUTPUT_TOKENS) if note.kind == "leaves" else 0)


def _simulate(kind: str, chance: random.Random) -> dict[str, Any]:
    """What the provider is asked to do."""
    answer: dict[str, Any] = {"output_tokens": _OUTPUT_TOKENS}
    if kind in {"slow", "leaves"}:
        answer["token_ms"] = chance.uniform(5, 60)
    elif kind == "leaves early":
        answer["delay_ms"] = 200
    elif kind == "background":
        answer["background_s"] = chance.uniform(0.2, 3.0)
    elif kind == "refused":
        # Every time, under a key of its own.
        answer |= {"status": chance.choice([400, 429, 500, 503]), "times": 9, "key": f"{chance.random()}"}
    elif kind == "cut":
        answer["cut_after_events"] = chance.randrange(2, _OUTPUT_TOKENS)
    return answer


async def _follow(answer: aiohttp.ClientResponse, note: Note, leaves_after: int) -> None:
    """Read a stream, to its end or until its client leaves."""
    ends = False
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            ends = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            note.code, ends = event["error"]["code"] or "", True
        note.pieces += sum(bool(choice["delta"].get("content")) for choice in event.get("choices") or [])
        if leaves_after and note.pieces >= leaves_after:
            answer.close()
            return
    note.whole = ends
    if not ends:
        note.broken = "a stream without an end"
