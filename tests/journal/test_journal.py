"""journal: what stands on the disk, whatever died; and what is told of it to a real Redis, once."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from sentinel.journal import Journal, Receipt
from sentinel.journal.orphans import adopt
from sentinel.ledger import Ledger
from sentinel.ledger.keys import key
from sentinel.ops.records import Bill, Caller, Entry, Hold, Remaining
from sentinel.stages.recovery import Recovery
from sentinel.zion.increments import Item, Seal
from sentinel.zion.limits import MetricLimit, Snapshot
from tests.support.journals import entries_of
from tests.support.ledgers import emptied, open_ledger, verdict_of
from tests.support.redis_server import RedisServer, redis_server, remove_server, start_server

__all__ = ["redis_server"]

BOOT, OTHER_BOOT = "00000000000000aa", "00000000000000bb"
CALLER = Caller("customer-1", "one@example.com")
NONE = Remaining(None, None, None)
KEEP_S = 120.0


class Clock:
    """Monotonic seconds, and Unix time that goes along."""

    def __init__(self) -> None:
        self.s = 1000.0

    def unix_s(self) -> float:
        return 1_795_262_400 + self.s


def hold(sequence: int, boot: str = BOOT, input_tokens: int = 10) -> Hold:
    """The hold of one request."""
    return Hold(f"req_{boot}_{sequence:x}", CALLER, "m", input_tokens, 0, NONE, NONE, NONE, NONE)


def journal(directory: Path, boot: str = BOOT, clock: Clock | None = None, **changes: Any) -> Journal:
    """An open journal."""
    clock = clock or Clock()
    given = {"bytes_max": 2**20, "keep_s": KEEP_S, "refuse_when_full": True, **changes}
    opened = Journal(directory, boot, now_s=lambda: clock.s, unix_s=clock.unix_s, **given)
    opened.tend()
    return opened


def lines(directory: Path) -> list[tuple[str, int]]:
    """(kind, input tokens) of every whole line, by file name."""
    files = sorted(directory.glob("*.jsonl"))
    return [(entry.kind, entry.input_tokens) for path in files for entry in entries_of(path)]


def told(directory: Path) -> list[tuple[str, str, int]]:
    """(kind, request id, input tokens) of all that dead workers left."""
    found = []
    while (orphan := adopt(directory)) is not None:
        found += [(entry.kind, entry.request_id, entry.input_tokens) for some in orphan.tell() for entry in some]
        orphan.delete()
    return found


def settle(written: Journal, sequence: int, input_tokens: int = 10) -> Receipt:
    """Start and settle one request."""
    written.started(hold(sequence))
    return written.settled(hold(sequence), Bill(1, input_tokens, 5))


def memory(written: Journal) -> int:
    """How many bills are in memory alone."""
    return len(written._unwritten)


def waiting(written: Journal) -> list[int]:
    """The input tokens of the bills that are to be told again."""
    return [entry.input_tokens for some in written.untold() for entry, _ in some]


def test_bills_are_one_write_to_a_private_file(tmp_path: Path) -> None:
    """What is started, one bill and several stand at once; directory and file are nobody else's."""
    written = journal(tmp_path / "data")
    written.started(hold(1))
    assert lines(tmp_path / "data") == [("started", 10)]
    written.started(hold(2))
    written.settled(hold(1), Bill(1, 7, 5))
    assert lines(tmp_path / "data") == [("started", 10), ("started", 10), ("settled", 7)]
    assert len(written.settled_all([(hold(at), Bill(1, at, 5)) for at in (2, 3)])) == 2
    assert lines(tmp_path / "data")[3:] == [("settled", 2), ("settled", 3)]
    (path,) = (tmp_path / "data").iterdir()
    assert (path.name, path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (
        f"{BOOT}-000001.jsonl",
        0o600,
        0o700,
    )


def test_a_torn_last_line_is_not_read(tmp_path: Path) -> None:
    """Cut at every byte, a file tells its whole lines and nothing else; never a line that was not written."""
    written = journal(tmp_path / "a")
    for at in range(3):
        settle(written, at, at + 1)
    written.close()
    (path,) = (tmp_path / "a").iterdir()
    content = path.read_bytes()
    whole = lines(tmp_path / "a")
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert lines(tmp_path / "a") == whole[: content[:size].count(b"\n")]


def test_names_that_no_json_can_carry_are_written_as_the_ledger_writes_them(tmp_path: Path) -> None:
    """A lone surrogate does not lose a line."""
    written = journal(tmp_path)
    odd = Hold("req_1", Caller("\ud800", 'a"\n'), "\udfff", 1, 0, NONE, NONE, NONE, NONE)
    written.settled(odd, Bill(1, 2, 3))
    (entry,) = entries_of(next(tmp_path.iterdir()))
    assert (entry.external_id, entry.email, entry.model) == ("\\ud800", 'a"\n', "\\udfff")


def test_a_file_goes_when_redis_cannot_lose_it_any_more(tmp_path: Path) -> None:
    """Kept while one bill is open, and for 120 s of a Redis that lives after the last was taken; what runs moves on."""
    clock = Clock()
    written = journal(tmp_path, clock=clock, bytes_max=65_536)
    written.started(hold(1))
    receipts = [settle(written, at) for at in range(2, 40)]
    assert len(list(tmp_path.iterdir())) > 1
    for receipt in receipts[1:]:
        written.take(receipt)
    clock.s += 1000
    written.confirm()
    written.tend()
    assert lines(tmp_path)[0] == ("started", 10)
    written.take(receipts[0])
    clock.s += KEEP_S
    written.tend()
    assert ("settled", 10) in lines(tmp_path), "Redis is not known to live"
    written.confirm()
    written.tend()
    left = lines(tmp_path)
    assert left.count(("started", 10)) - left.count(("settled", 10)) == 1
    clock.s += 1000
    written.confirm()
    written.tend()  # begins a new file, since the last one is old
    written.tend()
    assert lines(tmp_path) == [("started", 10)]
    assert len(list(tmp_path.iterdir())) <= 2


def test_bills_that_redis_did_not_take_are_told_from_the_disk(tmp_path: Path) -> None:
    """Exactly those that wait, over all files, until they are taken."""
    written = journal(tmp_path, bytes_max=65_536)
    receipts = [settle(written, at, at) for at in range(60)]
    for at, receipt in enumerate(receipts):
        if at % 3 == 1:
            written.wait(receipt)
        elif at % 3 == 2:
            written.take(receipt)
    assert written.waiting == 20
    found = [pair for some in written.untold() for pair in some]
    assert [entry.input_tokens for entry, _ in found] == list(range(1, 60, 3))
    for _, receipt in found[:5]:
        written.take(receipt)
        written.take(receipt)
    assert written.waiting == 15
    assert [entry.input_tokens for some in written.untold() for entry, _ in some] == list(range(16, 60, 3))


def test_a_full_journal_refuses_new_work_and_keeps_room_for_what_runs(tmp_path: Path) -> None:
    """Past its bound new work is refused, then bills stay in memory; when Redis takes bills there is room, and they are written
    first.
    """
    clock = Clock()
    written = journal(tmp_path, clock=clock, bytes_max=65_536)
    receipts = []
    while not written.refuses:
        receipts.append(settle(written, len(receipts)))
    assert 0.95 * 65_536 < written.bytes_used < 65_536
    written.tend()
    assert written.state == "full"
    while not memory(written):
        receipts.append(written.settled(hold(9999), Bill(1, 1, 1)))
    unwritten = written.settled(hold(9998), Bill(1, 777, 1))
    written.wait(unwritten)
    assert waiting(written) == [777]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 65_536
    assert not journal(tmp_path, OTHER_BOOT, bytes_max=65_536, refuse_when_full=False).refuses
    for receipt in receipts:
        written.take(receipt)
    clock.s += 1
    written._safe_s = clock.s - KEEP_S
    written.tend()
    written.tend()
    assert (written.state, written.refuses, memory(written), waiting(written)) == ("ok", False, 0, [777])
    assert ("settled", 777) in lines(tmp_path)
    written.take(unwritten)
    assert (written.waiting, waiting(written)) == (0, [])


def test_of_several_bills_as_many_are_written_as_there_is_room_for(tmp_path: Path) -> None:
    """Where not all fit that ended together, the first stand on the disk, in their order, the others in memory: none is lost
    and none stands twice.
    """
    written = journal(tmp_path, bytes_max=65_536)
    while written.bytes_used < 62_000:
        settle(written, 1)
    before = len(lines(tmp_path))
    receipts = written.settled_all([(hold(at), Bill(1, at, 5)) for at in range(100, 200)])
    assert len(receipts) == 100
    stand = [tokens for _, tokens in lines(tmp_path)[before:]]
    assert 0 < len(stand) < 100
    assert stand == list(range(100, 100 + len(stand)))
    assert memory(written) == 100 - len(stand)
    for receipt in receipts:
        written.wait(receipt)
    assert sorted(waiting(written)) == list(range(100, 200))
    for receipt in receipts:
        written.take(receipt)
    assert (written.waiting, memory(written)) == (0, 0)


def test_a_place_that_cannot_be_written_is_said_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file where the directory should be: state, refusal, one error; and all is well as soon as it is gone."""
    blocked = tmp_path / "data"
    blocked.write_text("")
    written = journal(blocked)
    for _ in range(3):
        written.tend()
    assert (written.refuses, written.state.startswith("cannot be written")) == (True, True)
    settle(written, 1)
    assert memory(written) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    blocked.unlink()
    written.tend()
    assert (written.refuses, written.state, memory(written)) == (False, "ok", 0)
    written.wait(settle(written, 2, 22))
    assert waiting(written) == [22]


def test_bills_in_memory_are_written_first_thing(tmp_path: Path) -> None:
    """What a full disk did not take stands in the journal as soon as it takes anything, in its order, whether
    Redis has not taken it, has yet to, or takes it later; kill -9 right afterwards loses none.
    """
    blocked = tmp_path / "data"
    blocked.write_text("")
    written = journal(blocked, refuse_when_full=False)
    receipts = [settle(written, at, at) for at in range(1, 7)]
    for receipt in receipts[:3]:
        written.wait(receipt)
    written.take(receipts[1])
    assert (written.waiting, waiting(written), memory(written)) == (2, [1, 3], 5)
    blocked.unlink()
    written.tend()
    assert lines(blocked) == [("settled", at) for at in (1, 3, 4, 5, 6)]
    assert (written.waiting, waiting(written), memory(written)) == (2, [1, 3], 0)
    for receipt in (receipts[0], receipts[5]):
        written.take(receipt)
        written.take(receipt)
    written.wait(receipts[4])
    assert waiting(written) == [3, 5]


def test_memory_for_bills_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Past the bound the oldest is dropped, and named."""
    blocked = tmp_path / "data"
    blocked.write_text("")
    written = journal(blocked, unwritten_max=3)
    for at in range(1, 6):
        written.wait(settle(written, at, at))
    assert waiting(written) == [3, 4, 5]
    lost = [vars(record)["fields"]["request_id"] for record in caplog.records if "settlement lost" in record.message]
    assert lost == [hold(1).request_id, hold(2).request_id]


def test_a_disk_that_fails_in_the_middle_of_a_line_loses_only_that_tick(tmp_path: Path) -> None:
    """What the kernel refuses is in memory until the next try; earlier and later lines are whole."""
    written = journal(tmp_path)
    first = settle(written, 1, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    written.started(hold(2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (sum(path.stat().st_size for path in tmp_path.iterdir()) + 130, hard))
    try:
        second, other = written.settled_all([(hold(at), Bill(1, at, 5)) for at in (2, 4)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    written.wait(second)
    written.wait(first)
    assert (memory(written), written.refuses, waiting(written)) == (2, True, [2, 1])
    third = settle(written, 3, 3)
    written.tend()
    written.wait(third)
    written.take(other)
    assert waiting(written) == [1, 2, 3]
    written.take(second)
    assert waiting(written) == [1, 3]
    told = [("settled", at) for at in (2, 4, 3)]
    assert lines(tmp_path) == [("started", 10), ("settled", 1), ("started", 10), *told]


def test_a_living_workers_journal_is_nobody_elses(tmp_path: Path) -> None:
    """Another process gets it only when its worker is dead, by kill -9 too; and of two that ask only one."""
    program = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.journal.test_journal import OTHER_BOOT, Bill, hold, journal
written = journal(Path(sys.argv[1]), OTHER_BOOT)
written.started(hold(1, OTHER_BOOT)); written.started(hold(2, OTHER_BOOT, 20))
written.settled(hold(1, OTHER_BOOT), Bill(1, 7, 8))
print("written", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "written\n"
            assert adopt(tmp_path) is None
        finally:
            child.kill()
    orphan = adopt(tmp_path)
    assert orphan is not None
    assert adopt(tmp_path) is None
    orphan.release()
    assert told(tmp_path) == [("settled", f"req_{OTHER_BOOT}_1", 7), ("started", f"req_{OTHER_BOOT}_2", 20)]
    assert list(tmp_path.iterdir()) == []


def test_the_own_journal_is_never_adopted(tmp_path: Path) -> None:
    """A worker that looks for dead siblings does not find itself, also while it rotates; after its end somebody else does."""
    written = journal(tmp_path, bytes_max=65_536)
    for at in range(100):
        settle(written, at)
    assert len(list(tmp_path.iterdir())) > 2
    assert adopt(tmp_path) is None
    written.close()
    assert len(told(tmp_path)) == 100


# Told to a real ledger.


@pytest.fixture
async def ledger(redis_server: RedisServer) -> AsyncIterator[Ledger]:
    """A ledger over an empty Redis, with a caller who has no limits."""
    opened = await new_ledger(redis_server.url)
    yield opened
    await opened.close()


async def new_ledger(url: str) -> Ledger:
    """The same for any Redis."""
    await emptied(url)
    opened = open_ledger(url, partitions=2, stale_ms=3_600_000)
    await opened.install_limits(CALLER.external_id, Snapshot(MetricLimit(), MetricLimit(), MetricLimit()), (0, 0, 0))
    return opened


async def booked(ledger: Ledger) -> tuple[int, int, int]:
    """(input, output, requests) of all that waits for Zion, when nobody has to tell of lost batches any more."""
    items: list[Item] = []
    for partition in range(ledger.partitions):
        await ledger.peek(partition)
        await ledger._pipeline.command("hset", key("p", partition), "until", 0)
        while (batch := await ledger.claim_batch(partition)) is not None:
            items += batch.items
            await ledger.ack_batch(batch)
    return (
        sum(item.input_tokens for item in items),
        sum(item.output_tokens for item in items),
        sum(item.requests for item in items),
    )


async def test_what_a_dead_worker_left_is_told_once(ledger: Ledger, tmp_path: Path) -> None:
    """Settled and taken, settled and never told, started only with and without a hold: each is booked once; then deleted."""
    clock = Clock()
    dead = journal(tmp_path, OTHER_BOOT, clock)
    for sequence in (1, 2, 3):
        await verdict_of(ledger, CALLER, hold(sequence, OTHER_BOOT).request_id, 10, 5, 1, "m")
    for sequence in (1, 2, 3, 4, 5):
        dead.started(hold(sequence, OTHER_BOOT))
    for sequence in (1, 2, 5):
        dead.settled(hold(sequence, OTHER_BOOT), Bill(1, sequence, 100))
    await ledger.settle(hold(1, OTHER_BOOT), Bill(1, 1, 100))
    dead.close()
    own = journal(tmp_path, clock=clock, keep_s=0.0)
    recovery = Recovery(ledger, own)
    await recovery.look()
    # 1, 2 and 5 as they were settled, 4 by its estimate; 3 still has its hold.
    assert await booked(ledger) == (1 + 2 + 5 + 10, 300, 4)
    assert recovery._told != []
    recovery._adopt_at_s = 0.0
    await recovery.look()
    assert await booked(ledger) == (0, 0, 0)
    assert [path.name[:16] for path in tmp_path.iterdir()] == [BOOT]
    await recovery.close()
    own.close()


async def test_what_is_too_old_to_be_told_safely_is_kept_aside(ledger: Ledger, tmp_path: Path) -> None:
    """After two days Redis has forgotten what is settled: such a file is kept for an operator, its newer lines are told."""
    clock = Clock()
    dead = journal(tmp_path, OTHER_BOOT, clock)
    dead.settled(hold(1, OTHER_BOOT), Bill(1, 1, 1))
    clock.s += 48 * 3600
    dead.settled(hold(2, OTHER_BOOT), Bill(1, 20, 2))
    dead.close()
    own = journal(tmp_path, clock=clock)
    recovery = Recovery(ledger, own)
    await recovery.look()
    assert await booked(ledger) == (20, 2, 1)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".late"]
    await recovery.close()
    own.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of trouble with journals."""
    names = ("sentinel.journal", "sentinel.recovery")
    return [record.message for record in caplog.records if record.name in names and record.levelname != "INFO"]


@pytest.mark.parametrize("replaced", ["by nothing", "by a file", "by another directory"])
async def test_a_directory_that_goes_away_while_redis_is_restarted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, replaced: str
) -> None:
    """What a restarted Redis lost is told all the same, from files that are still open; the log has one line for
    each change of state, and all is well again by itself.
    """
    caplog.set_level("INFO")
    server = start_server()
    ledger = await new_ledger(server.url)
    directory = tmp_path / "data"
    dead = journal(directory, OTHER_BOOT)
    dead.settled(hold(1, OTHER_BOOT), Bill(1, 100, 0))
    dead.close()
    own = journal(directory)
    recovery = Recovery(ledger, own)
    own.settled(hold(1), Bill(1, 1, 0))
    await recovery.look()
    assert await booked(ledger) == (100, 0, 1)
    directory.rename(tmp_path / "aside")
    if replaced == "by a file":
        directory.write_text("")
    elif replaced == "by another directory":
        directory.mkdir()
    server.stop()
    server.start()
    caplog.clear()
    for _ in range(3):
        recovery._adopt_at_s = 0.0
        await recovery.look()
        own.settled(hold(2), Bill(1, 20, 0))
    assert await booked(ledger) == (101, 0, 2)
    gone = ["the journal fails"] if replaced == "by a file" else []
    assert said(caplog) == [*gone, "redis was started again"]
    if replaced == "by a file":
        directory.unlink()
    recovery._told = [(-1000.0, orphan) for _, orphan in recovery._told]
    await recovery.look()
    assert {entry.input_tokens for path in directory.iterdir() for entry in entries_of(path)} == {20}
    assert said(caplog) == [*gone, "redis was started again"]
    assert (own.state, recovery._told) == ("ok", [])
    await recovery.close()
    own.close()
    await ledger.close()
    remove_server(server)


@pytest.mark.parametrize("options", [(), ("--rename-command", "INFO", "")], ids=["", "that does not say which run it is"])
async def test_a_redis_that_lost_what_it_took_is_told_again(
    tmp_path: Path, options: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Started again without its last moments: bills, also zero ones, and adopted journals are told; what is older is not."""
    server = start_server(*options)
    ledger = await new_ledger(server.url)
    clock = Clock()
    dead = journal(tmp_path, OTHER_BOOT, clock)
    dead.settled(hold(1, OTHER_BOOT), Bill(1, 1000, 0))
    dead.close()
    own = journal(tmp_path, clock=clock)
    recovery = Recovery(ledger, own)
    receipts = [own.settled(hold(1), Bill(1, 1, 0))]
    clock.s += KEEP_S + 1
    await recovery.look()
    receipts += [own.settled(hold(at), Bill(1, 10, 0)) for at in (2, 3)]
    for receipt in receipts:
        assert receipt is not None
        own.take(receipt)
    assert await booked(ledger) == (1000, 0, 1)
    server.stop()
    clock.s += 3600
    server.start()
    await recovery.look()
    assert await booked(ledger) == (1020, 0, 3)
    await recovery.look()
    assert await booked(ledger) == (0, 0, 0)
    # Nothing is refused, over and over, by a Redis that is well.
    assert [record.message for record in caplog.records if "answers again" in record.message] == []
    # What was told is deleted in time, and so the journal does not fill up.
    clock.s += KEEP_S + 1
    recovery._now_s = lambda: clock.s + 1e9
    await recovery.look()
    assert [path.name[:16] for path in tmp_path.iterdir()] == [BOOT]
    await recovery.close()
    own.close()
    await ledger.close()
    remove_server(server)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["start", "settle", "zero"]), st.integers(1, 6)), max_size=16),
    cut=st.floats(0, 1),
    again=st.floats(0, 1),
)
def test_any_prefix_of_a_journal_is_told_consistently(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], cut: float, again: float
) -> None:
    """Cut anywhere, told, told again in part and then whole: each request is booked once, by its bill where that is there."""
    directory = tmp_path_factory.mktemp("prefix")
    written = journal(directory, OTHER_BOOT)
    bills = {"settle": Bill(1, 7, 3), "zero": Bill(0, 0, 0)}
    done: set[int] = set()
    for kind, sequence in steps:
        if sequence in done:
            continue
        if kind == "start":
            written.started(hold(sequence, OTHER_BOOT))
        else:
            written.settled(hold(sequence, OTHER_BOOT), bills[kind])
            done.add(sequence)
    written.close()
    content = b"".join(path.read_bytes() for path in directory.iterdir())
    path = directory / f"{OTHER_BOOT}-000001.jsonl"

    async def tell(content: bytes, ledger: Ledger) -> list[Entry]:
        path.write_bytes(content)
        orphan = adopt(directory)
        assert orphan is not None
        found = [entry for some in orphan.tell() for entry in some]
        for entry in found:
            await ledger.replay(entry)
        orphan.delete()
        return found

    async def run() -> None:
        ledger = await new_ledger(redis_server.url)
        prefix = content[: int(cut * len(content))]
        await tell(prefix[: int(again * len(prefix))], ledger)
        found = await tell(prefix, ledger)
        assert len({entry.request_id for entry in found}) == len(found)
        await tell(prefix, ledger)
        expected = (
            sum(entry.input_tokens for entry in found),
            sum(entry.output_tokens for entry in found),
            sum(entry.requests for entry in found),
        )
        assert await booked(ledger) == expected
        await ledger.close()

    asyncio.run(run())
    directory.rmdir()


def seal(clock: Clock, batch_id: str, items: bytes = b'[["x","","m",0,1,2,3]]') -> Seal:
    """What stands of a batch."""
    return Seal("sealed", int(clock.unix_s() * 1000), batch_id, 7, 1, "unified", Raw(items))


def sealed(found: Iterator[list[Seal]]) -> list[tuple[str, bytes]]:
    """(batch id, items) of seals."""
    return [(one.batch_id, bytes(one.items)) for some in found for one in some]


def test_a_seal_stands_among_bills(tmp_path: Path) -> None:
    """Seals and bills are told apart, in one's own journal and in a dead worker's; those of before a time are left out."""
    clock = Clock()
    written = journal(tmp_path, clock=clock)
    settle(written, 1, 7)
    assert written.sealed(seal(clock, "first"))
    clock.s += 10
    long = b'["' + b"x" * 200_000 + b'"]'
    assert written.sealed(seal(clock, "second", long))
    settle(written, 2, 8)
    assert sealed(written.sealed_since(int(clock.unix_s() * 1000))) == [("second", long)]
    assert [entry.input_tokens for some in written.settled_since(0) for entry in some] == [7, 8]
    written.close()
    orphan = adopt(tmp_path)
    assert orphan is not None
    assert sealed(orphan.sealed()) == [("first", b'[["x","","m",0,1,2,3]]'), ("second", long)]
    assert [entry.input_tokens for some in orphan.tell() for entry in some if entry.kind == "settled"] == [7, 8]
    orphan.release()


def test_a_file_with_a_seal_stays_as_long_as_redis_may_lose_it(tmp_path: Path) -> None:
    """Its bills were taken long before: the seal alone keeps it."""
    clock = Clock()
    written = journal(tmp_path, clock=clock)
    written.take(settle(written, 1))
    clock.s += KEEP_S
    assert written.sealed(seal(clock, "first"))
    for passed, left in ((0.0, 1), (KEEP_S - 1, 1), (301.0, 0)):
        clock.s += passed
        written.confirm()
        written.tend()
        assert len(sealed(written.sealed_since(0))) == left
    written.close()


def test_the_last_room_is_not_for_seals(tmp_path: Path) -> None:
    """A full journal, or one whose directory is gone, takes no seal, and says so; bills still have the last of the room."""
    clock = Clock()
    written = journal(tmp_path / "data", clock=clock, bytes_max=20_000)
    assert not written.sealed(seal(clock, "large", b'["' + b"x" * 19_500 + b'"]'))
    assert written.sealed(seal(clock, "small"))
    settle(written, 1)
    assert memory(written) == 0
    written.close()
    (tmp_path / "file").write_text("")
    nowhere = journal(tmp_path / "file", clock=clock)
    assert not nowhere.sealed(seal(clock, "small"))
    nowhere.close()
