"""The outbox on disk: quota, waiting lanes, shared commits, damage, a disk that refuses."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import numpy as np
import pytest

from edge_agent.buffer.lane_rows import ROW_OVERHEAD_BYTES
from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import OutboxClosed, OutboxDamaged, OutboxUnavailable
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import Frame, body_of, decode_frame, encode_body
from protocols.edgelink.lanes import Gap, GapReason, Lane, Verdict, Watermark
from protocols.edgelink.records import GapRecord

NOW_MS = 1_760_000_000_000
READINGS = 200


def body(number: int) -> bytes:
    """A frame of 200 readings that does not compress: about 1.6 KB. Its times are its own."""
    values = np.random.default_rng(number).random(READINGS)
    times = np.arange(number * READINGS, (number + 1) * READINGS, dtype=np.int64) + NOW_MS
    return encode_body(Columns((("press", "p1", "force"),), np.zeros(READINGS, np.uint32), times, values))


SIZE = len(body(0)) + ROW_OVERHEAD_BYTES


@asynccontextmanager
async def opened(path: Path, *, frames: int = 1_000, in_doubt: int = 2) -> AsyncIterator[SqliteOutbox]:
    """An outbox with room for about `frames` frames of `body`."""
    box = SqliteOutbox(path, quotas=Quotas(frames * SIZE), gateway=("gateway", "gw1"), now_ms=lambda: NOW_MS, in_doubt=in_doubt)
    try:
        yield box
    finally:
        await box.close()


async def held(box: SqliteOutbox, lane: Lane) -> list[tuple[int, Frame]]:
    return [(seq, decode_frame(frame)) for seq, frame in await box.next(lane, 0, 10_000)]


def gaps(frame: Frame) -> list[Gap]:
    return [record.gap for record in frame.records if isinstance(record, GapRecord)]


async def test_the_file_keeps_its_identity_and_counts_its_openings(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db") as box:
        first = box.state()
        await box.append(Lane.LIVE, body(1), READINGS, {"last/p1": b"1"})
    async with opened(tmp_path / "b.db") as box:
        again = box.state()
        assert (again.buffer_id, again.boot) == (first.buffer_id, first.boot + 1)
        assert again.lanes[Lane.LIVE].collected == READINGS
        assert await box.marks() == {"last/p1": b"1"}
        await box.append(Lane.LIVE, body(2), READINGS)
        assert [(seq, frame.header.boot) for seq, frame in await held(box, Lane.LIVE)] == [(1, 1), (2, 2)]
    async with opened(tmp_path / "other.db") as box:
        assert box.state().buffer_id != first.buffer_id


async def test_appends_that_wait_share_a_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db") as box:
        commits = 0

        def count() -> bool:
            nonlocal commits
            commits += 1
            return False

        box._file._db.set_commit_hook(count)
        seqs = await asyncio.gather(*(box.append(Lane.LIVE, body(number % 5), READINGS) for number in range(200)))
        assert seqs == list(range(1, 201))
        assert commits <= 10


async def test_overflow_names_every_reading_it_drops(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=40) as box:
        for number in range(200):
            await box.append(Lane.LIVE, body(number), READINGS)
        state = box.state().lanes[Lane.LIVE]
        frames = await held(box, Lane.LIVE)
        kept = {time for _, frame in frames for time in frame.columns.times.tolist()}
        named = [gap for _, frame in frames for gap in gaps(frame)]
        assert {gap.reason for gap in named} == {GapReason.OVERFLOW}
        for time in range(NOW_MS, NOW_MS + 200 * READINGS):
            assert (time in kept) != any(gap.from_ms < time < gap.to_ms for gap in named)
        assert state.in_gaps == sum(gap.count or 0 for gap in named) > 0
        assert state.collected == state.readings + state.in_gaps == 200 * READINGS
        assert box.state().used_bytes <= 40 * SIZE
        assert kept >= set(range(NOW_MS + 190 * READINGS, NOW_MS + 200 * READINGS)), "the newest stay"


async def test_the_cloud_takes_what_overflow_left_without_a_hole(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=20) as box:
        for number in range(100):
            await box.append(Lane.LIVE, body(number), READINGS)
        watermark = Watermark()
        for _, frame in await held(box, Lane.LIVE):
            decision = watermark.advance(frame.header.seq, frame.header.floor, frame.header.first)
            assert (decision.verdict, decision.lost) == (Verdict.APPEND, None)
            watermark = Watermark(decision.committed)
        assert watermark.committed == 100


async def test_frames_that_may_be_in_flight_are_dropped_last(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=20, in_doubt=4) as box:
        for number in range(60):
            await box.append(Lane.LIVE, body(number), READINGS)
        assert [seq for seq, frame in await held(box, Lane.LIVE) if len(frame.columns.values)][:4] == [1, 2, 3, 4]


async def test_bulk_is_dropped_before_live(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=40) as box:
        for number in range(20):
            await box.append(Lane.LIVE, body(number), READINGS)
        for number in range(100):
            await box.append(Lane.BULK, body(number), READINGS)
        lanes = box.state().lanes
        assert lanes[Lane.LIVE].in_gaps == 0
        assert lanes[Lane.BULK].in_gaps > 0


async def test_alarms_displace_readings_then_wait_for_room_and_keep_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=16) as box:
        for number in range(14):
            await box.append(Lane.LIVE, body(number), READINGS)
        alarms = [asyncio.create_task(box.append(Lane.ALARM, body(number), READINGS)) for number in range(30)]
        await asyncio.wait(alarms, timeout=0.5)
        done = [task.result() for task in alarms if task.done()]
        assert 10 <= len(done) < 30
        assert done == list(range(1, len(done) + 1))
        assert box.state().lanes[Lane.LIVE].in_gaps > 0
        assert box.state().used_bytes <= 16 * SIZE
        await asyncio.wait_for(box.append(Lane.LIVE, body(99), READINGS), 5)  # readings never wait: they become gaps
        while not all(task.done() for task in alarms):
            await box.committed(Lane.ALARM, box.state().lanes[Lane.ALARM].floor)
        assert [task.result() for task in alarms] == list(range(1, 31))


async def test_a_waiting_alarm_is_told_when_the_outbox_closes(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=4) as box:
        alarms = [asyncio.create_task(box.append(Lane.ALARM, body(number), READINGS)) for number in range(6)]
        await asyncio.wait(alarms, timeout=0.3)
        waiting = [task for task in alarms if not task.done()]
        assert waiting
        await box.close()
        for task in waiting:
            with pytest.raises(OutboxClosed):
                await task


async def test_a_waiting_alarm_that_is_given_up_leaves_no_trace(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=4) as box:
        tasks = [asyncio.create_task(box.append(Lane.ALARM, body(number), READINGS)) for number in range(5)]
        await asyncio.wait(tasks, timeout=0.3)
        waiting = [task for task in tasks if not task.done()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        count = len(tasks) - len(waiting)
        await box.committed(Lane.ALARM, count)
        assert box.state().lanes[Lane.ALARM].next_seq == count + 1


async def test_the_space_of_committed_frames_is_used_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db", frames=200) as box:
        sizes = []
        for batch in range(6):
            for number in range(100):
                seq = await box.append(Lane.LIVE, body(number), READINGS)
            await box.committed(Lane.LIVE, seq)
            sizes.append((tmp_path / "b.db").stat().st_size)
            assert box.state().used_bytes == 0, batch
        assert sizes[-1] <= 2 * max(sizes[:2]) + (1 << 20)


async def test_a_damaged_frame_becomes_a_gap_and_the_rest_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    async with opened(path) as box:
        for number in range(3):
            await box.append(Lane.LIVE, body(number), READINGS)
    data = path.read_bytes()
    at = data.index(body(1)[200:260])
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    async with opened(path) as box:
        frames = await held(box, Lane.LIVE)
        assert [(seq, len(frame.columns.values)) for seq, frame in frames] == [(1, READINGS), (2, 0), (3, READINGS)]
        (gap,) = gaps(frames[1][1])
        assert (gap.reason, gap.count, gap.device_name) == (GapReason.BUFFER_DAMAGED, READINGS, "gw1")
        assert box.state().lanes[Lane.LIVE].in_gaps == READINGS


async def test_a_refused_frame_is_kept_aside_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db") as box:
        await box.append(Lane.LIVE, body(1), READINGS)
        await box.replace(Lane.LIVE, 1, body(2))
        assert [body_of(frame) for _, frame in await box.next(Lane.LIVE, 0, 9)] == [body(2)]
    with apsw.Connection(os.fspath(tmp_path / "b.db")) as db:
        assert db.execute("select lane, seq, reason, readings, body from quarantine").fetchall() == [
            ("live", 1, "refused_frame", READINGS, body(1))
        ]


async def test_a_second_agent_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db") as box:
        with pytest.raises(OutboxUnavailable):
            await asyncio.to_thread(
                lambda: SqliteOutbox(tmp_path / "b.db", quotas=Quotas(1 << 20), gateway=("gateway", "gw1"), now_ms=lambda: NOW_MS)
            )
        assert await box.append(Lane.LIVE, body(1), READINGS) == 1


@pytest.mark.parametrize("content", [b"no database at all, only a file that happens to be here" * 40, None])
async def test_a_file_that_is_no_buffer_is_refused_and_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "b.db"
    if content is None:
        with apsw.Connection(os.fspath(path)) as db:
            db.execute("create table somebody_elses (x)")
        db.close()
    else:
        path.write_bytes(content)
    with pytest.raises(OutboxDamaged):
        SqliteOutbox(path, quotas=Quotas(1 << 20), gateway=("gateway", "gw1"), now_ms=lambda: NOW_MS)
    if content is not None:
        assert path.read_bytes() == content


def limit_pages(box: SqliteOutbox) -> Callable[[], object]:
    """Make the file unable to grow, as a full disk; returns what lifts the limit."""
    db = box._file._db
    db.pragma("max_page_count", db.pragma("page_count"))
    return lambda: db.pragma("max_page_count", 1 << 20)


async def test_a_full_disk_is_told_to_every_caller_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db") as box:
        for number in range(3):
            await box.append(Lane.LIVE, body(number), READINGS)
        limit_pages(box)
        results = await asyncio.gather(*(box.append(Lane.LIVE, body(number), READINGS) for number in range(40)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, OutboxUnavailable)]
        kept = [result for result in results if isinstance(result, int)]
        assert refused
        assert len(refused) + len(kept) == 40
        # The next write opens the file afresh, which also lifts the limit: the disk has room again.
        seq = await box.append(Lane.LIVE, body(7), READINGS)
        assert seq == 4 + len(kept)
        assert [found for found, _ in await held(box, Lane.LIVE)] == list(range(1, seq + 1))
        assert box.state().lanes[Lane.LIVE].collected == seq * READINGS


async def test_the_loop_is_never_blocked_by_a_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "b.db") as box:

        def slow_disk() -> bool:
            time.sleep(0.2)
            return False

        box._file._db.set_commit_hook(slow_disk)
        appended = asyncio.create_task(box.append(Lane.LIVE, body(1), READINGS))
        turns = 0
        while not appended.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert turns > 20
