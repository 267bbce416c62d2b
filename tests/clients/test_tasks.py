"""Coding agents and chat front ends, unmodified, do their task through Sentinel as they do it with the provider itself.

Sentinel is in its default mode: of its settings only where things are is set.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.clients.installation import NotInstalledError
from tests.clients.roster import TASKS
from tests.clients.tasks.task import AFTER, SAID, Done, Place, Task, run
from tests.support.running import User, make_user, metrics_page, reconciled

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

_SETTLED_S = 10.0
each = pytest.mark.parametrize("task", TASKS, ids=str)


@dataclass(frozen=True)
class Both:
    """A task done through Sentinel and with the provider: what came of it, and the provider's rows of each.

    `log` is what Sentinel logged of it, `outside` what was asked of anyone else.
    """

    ours: Done
    theirs: Done
    our_rows: list[dict[str, Any]]
    their_rows: list[dict[str, Any]]
    user: User
    log: list[dict[str, Any]]
    outside: list[str]


Doing = Callable[[Task], Awaitable[Both]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Sentinel with no setting of its own."""
    async with Stack(tmp_path_factory.mktemp("tasks")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Doing:
    """Does a task on both sides, once for all tests; skips where it cannot run, fails there if SENTINEL_REQUIRE_NODE is 1."""
    doing: dict[str, asyncio.Task[Both]] = {}

    async def once(task: Task) -> Both:
        if lacking := task.lacking():
            (pytest.fail if os.environ.get("SENTINEL_REQUIRE_NODE") == "1" else pytest.skip)(lacking)
        if task.name not in doing:
            doing[task.name] = asyncio.create_task(_done(task, stack, tmp_path_factory))
        try:
            return await doing[task.name]
        except NotInstalledError as error:
            pytest.fail(str(error), pytrace=False)

    return once


async def _done(task: Task, stack: Stack, directories: pytest.TempPathFactory) -> Both:
    """The task on both sides at the same time; nobody else asks this Sentinel meanwhile.

    A program that hangs while nothing of it waits at Sentinel, unread or under way, has one more try: that is its own affair.
    """
    for _ in range(2):
        both = await _tried(task, stack, directories)
        hung = both.ours.hung_by_itself or both.theirs.hung_by_itself
        if not hung or not re.search(r"^sentinel_requests_in_flight(?:{.*})? 0\.0$", await metrics_page(stack), re.MULTILINE):
            break
        print(f"{task} hangs by itself\n{both.ours.output}\n{both.theirs.output}")
    return both


async def _tried(task: Task, stack: Stack, directories: pytest.TempPathFactory) -> Both:
    user, begun = await make_user(stack), len(stack.child("sentinel").output())
    homes = [directories.mktemp(f"{task}-{side}") for side in ("sentinel", "provider")]
    ours = Place(homes[0], stack.base_url, user.token, f"task-{task}-sentinel-")
    theirs = Place(homes[1], f"{stack.provider_url}/v1", stack.provider_key, f"task-{task}-provider-")
    names = {ours.marker: user.email, theirs.marker: f"{homes[1].name}@provider"}
    for place in (ours, theirs):
        play = {"marker": place.marker, "user": names[place.marker], "answers": task.answers(place)}
        await stack.control("provider", "plays", play)
    outside: list[str] = []
    server = await asyncio.start_server(lambda *streams: _noted(outside, *streams), "127.0.0.1", 0)
    async with server:
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        done = await asyncio.gather(run(task, ours, proxy), run(task, theirs, proxy))
    rows = (await stack.control("provider", "served"))["rows"]
    our_rows, their_rows = ([row for row in rows if row["user"] == names[place.marker]] for place in (ours, theirs))
    return Both(*done, our_rows, their_rows, user, await _log(stack, begun, len(our_rows)), outside)


async def _log(stack: Stack, begun: int, requests: int) -> list[dict[str, Any]]:
    """What Sentinel logged since `begun`, as soon as so many requests have ended in it: bills come after answers."""
    async with asyncio.timeout(_SETTLED_S):
        while True:
            text = stack.child("sentinel").output()[begun:]
            log = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
            if sum(line["event"] == "request" for line in log) >= requests:
                return log
            await asyncio.sleep(0.05)


async def _noted(outside: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    outside.append((await reader.readline()).decode("latin-1").strip())
    writer.close()


@each
async def test_the_task_is_done(both: Doing, task: Task) -> None:
    """At least three tools are called, the file is changed as the model wanted, all it said is shown, the exit code is 0."""
    done = (await both(task)).ours
    assert done.code == 0, done.output
    assert done.files == AFTER, done.output
    shown = "\n".join(done.said)
    assert [text for text in SAID if text not in shown] == []
    assert len(done.calls) >= 3, done.output


@each
async def test_the_program_cannot_tell_the_difference(both: Doing, task: Task) -> None:
    """The same files, words, results of tools and exit code as with the provider itself, and as many requests of it."""
    ran = await both(task)
    assert (ran.ours.said, ran.ours.calls) == (ran.theirs.said, ran.theirs.calls)
    assert (ran.ours.files, ran.ours.code) == (ran.theirs.files, ran.theirs.code)
    ours, theirs = (
        sorted((row["path"], row["status"], row["stream"], row["complete"]) for row in rows)
        for rows in (ran.our_rows, ran.their_rows)
    )
    assert ours == theirs
    assert len(ours) >= 4
    assert {row[1:] for row in ours} == {(200, True, True)}


@each
async def test_sentinel_refuses_nothing_and_estimates_nothing(both: Doing, task: Task) -> None:
    """Each request is a success of 200 whose usage is the provider's own word; a WebSocket is asked for once, if at all."""
    log = (await both(task)).log
    assert [line["code"] for line in log if line["event"] == "request refused"] == list(task.refused)
    ended = [line for line in log if line["event"] == "request"]
    assert {(line["status"], line["ending"], line["estimated"]) for line in ended} == {(200, "success", "")}


@each
async def test_zion_books_what_the_provider_served(stack: Stack, both: Doing, task: Task) -> None:
    """To the token, each request once."""
    ran = await both(task)
    served, booked = await reconciled(stack, [ran.user])
    assert booked == served
    assert booked[ran.user.email][0] == len(ran.our_rows)


@each
async def test_the_program_asks_nobody_else(both: Doing, task: Task) -> None:
    """With what docs/compatibility-clients.md sets, no update, model list, plug-in or telemetry is asked of anyone."""
    assert (await both(task)).outside == []
