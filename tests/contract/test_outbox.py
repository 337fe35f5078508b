"""What every outbox promises: run on the fake and on SQLite, so that tests may trust the fake."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import Outbox, OutboxClosed
from protocols.edgelink.columns import NO_COLUMNS, Columns
from protocols.edgelink.frame import decode_frame, encode_body
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane, compare
from protocols.edgelink.records import GapRecord
from tests.fakes.outbox import FakeOutbox

NOW_MS = 1_760_000_000_000


def readings(*values: float) -> bytes:
    count = len(values)
    times = np.arange(NOW_MS, NOW_MS + count, dtype=np.int64)
    return encode_body(Columns((("meter", "m1", "power"),), np.zeros(count, np.uint32), times, np.array(values)))


@pytest.fixture(params=["fake", "sqlite"])
async def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outbox]:
    box: Outbox = (
        FakeOutbox()
        if request.param == "fake"
        else SqliteOutbox(tmp_path / "buffer.db", quotas=Quotas(1 << 24), gateway=("gateway", "gw1"), now_ms=lambda: NOW_MS)
    )
    yield box
    await box.close()


async def values(box: Outbox, lane: Lane, after: int = 0) -> list[list[float]]:
    return [decode_frame(frame).columns.values.tolist() for _, frame in await box.next(lane, after, 100)]


async def test_frames_come_back_in_order_and_go_when_committed(outbox: Outbox) -> None:
    first = await outbox.append(Lane.LIVE, readings(1.0), 1)
    second = await outbox.append(Lane.LIVE, readings(2.0), 1)
    assert (first, second) == (1, 2)
    assert [seq for seq, _ in await outbox.next(Lane.LIVE, 0, 1)] == [first]
    assert await values(outbox, Lane.LIVE) == [[1.0], [2.0]]
    await outbox.committed(Lane.LIVE, first)
    assert await values(outbox, Lane.LIVE) == [[2.0]]
    assert await values(outbox, Lane.LIVE, after=second) == []


async def test_lanes_number_their_frames_apart(outbox: Outbox) -> None:
    assert [await outbox.append(lane, readings(1.0), 1) for lane in LANES] == [1, 1, 1, 1]
    await outbox.committed(Lane.LIVE, 1)
    assert await values(outbox, Lane.LIVE) == []
    assert await values(outbox, Lane.ALARM) == [[1.0]]


async def test_a_frame_is_stamped_with_identity_and_the_present_floor(outbox: Outbox) -> None:
    for value in (1.0, 2.0, 3.0):
        await outbox.append(Lane.LIVE, readings(value), 1)
    await outbox.committed(Lane.LIVE, 1)
    state = outbox.state()
    headers = [decode_frame(frame).header for _, frame in await outbox.next(Lane.LIVE, 0, 9)]
    assert [(h.buffer_id, h.boot, h.lane, h.seq, h.floor, h.first) for h in headers] == [
        (state.buffer_id, state.boot, Lane.LIVE, seq, 2, seq) for seq in (2, 3)
    ]


async def test_the_state_accounts_for_every_reading(outbox: Outbox) -> None:
    await outbox.append(Lane.LIVE, readings(1.0, 2.0), 2)
    await outbox.append(Lane.LIVE, readings(3.0), 1)
    await outbox.append(Lane.LIVE, readings(4.0, 5.0, 6.0), 3)
    await outbox.committed(Lane.LIVE, 1)
    await outbox.replace(Lane.LIVE, 2, encode_body(NO_COLUMNS))
    lane = outbox.state().lanes[Lane.LIVE]
    assert (lane.floor, lane.next_seq, lane.frames) == (2, 4, 2)
    assert (lane.collected, lane.delivered, lane.in_gaps, lane.readings) == (6, 2, 1, 3)
    bodies = [len(body) + 64 for body in (readings(1.0, 2.0), readings(3.0), readings(4.0, 5.0, 6.0))]
    assert (lane.appended_bytes, lane.delivered_bytes) == (sum(bodies), bodies[0])


async def test_the_ledger_balances_and_is_the_whole_account(outbox: Outbox) -> None:
    for number in range(4):
        await outbox.append(Lane.LIVE, readings(number), 1)
    await outbox.committed(Lane.LIVE, 2)
    await outbox.replace(Lane.LIVE, 3, readings())
    found = await outbox.ledger()
    totals = [sum(getattr(one, name) for one in found) for name in ("collected", "delivered", "buffered", "in_gaps")]
    assert totals == [4, 2, 1, 1]
    assert all(one.collected == one.delivered + one.buffered + one.in_gaps for one in found)


async def test_committing_twice_or_too_far_changes_nothing_more(outbox: Outbox) -> None:
    await outbox.append(Lane.LIVE, readings(1.0), 1)
    await outbox.committed(Lane.LIVE, 1)
    await outbox.committed(Lane.LIVE, 1)
    await outbox.committed(Lane.LIVE, 99)
    assert outbox.state().lanes[Lane.LIVE].delivered == 1
    assert await outbox.append(Lane.LIVE, readings(2.0), 1) == 2


async def test_a_refused_frame_becomes_its_gap_at_the_same_seq(outbox: Outbox) -> None:
    gap = GapRecord(Gap("meter", "m1", ("power",), NOW_MS - 1, NOW_MS + 1, 1, GapReason.REFUSED_FRAME))
    await outbox.append(Lane.LIVE, readings(1.0), 1)
    await outbox.append(Lane.LIVE, readings(2.0), 1)
    await outbox.replace(Lane.LIVE, 1, encode_body(NO_COLUMNS, (gap,)))
    await outbox.replace(Lane.LIVE, 77, encode_body(NO_COLUMNS, (gap,)))
    frames = [(seq, decode_frame(frame)) for seq, frame in await outbox.next(Lane.LIVE, 0, 9)]
    assert [(seq, frame.records) for seq, frame in frames] == [(1, (gap,)), (2, ())]


async def test_marks_are_kept_with_frames_or_alone_and_an_empty_value_removes_one(outbox: Outbox) -> None:
    await outbox.append(Lane.LIVE, readings(1.0), 1, {"last/m1": b"1", "seen/a": b"x"})
    await outbox.remember({"last/m2": b"2", "seen/a": b""})
    assert await outbox.marks("last/") == {"last/m1": b"1", "last/m2": b"2"}
    assert set(await outbox.marks()) == {"last/m1", "last/m2"}


async def test_a_forwarder_is_woken_by_the_next_frame(outbox: Outbox) -> None:
    first = await outbox.append(Lane.LIVE, readings(1.0), 1)
    await asyncio.wait_for(outbox.arrival({}), 5)
    waiting = asyncio.create_task(outbox.arrival({Lane.LIVE: first}))
    await asyncio.sleep(0)
    assert not waiting.done()
    await outbox.append(Lane.ALARM, readings(2.0), 1)
    await asyncio.wait_for(waiting, 5)


async def test_on_reconnect_the_buffer_trims_to_the_clouds_watermark(outbox: Outbox) -> None:
    for value in (1.0, 2.0, 3.0):
        await outbox.append(Lane.LIVE, readings(value), 1)
    await outbox.reconcile({Lane.LIVE: 2})
    assert await values(outbox, Lane.LIVE) == [[3.0]]
    assert outbox.state().lanes[Lane.LIVE].delivered == 2


async def test_a_restored_backup_moves_behind_the_clouds_watermark_and_names_the_gap(outbox: Outbox) -> None:
    await outbox.append(Lane.LIVE, readings(1.0), 1)
    await outbox.append(Lane.LIVE, readings(2.0), 1)
    await outbox.reconcile({Lane.LIVE: 40})
    frames = [(seq, decode_frame(frame)) for seq, frame in await outbox.next(Lane.LIVE, 40, 9)]
    assert [(seq, frame.columns.values.tolist()) for seq, frame in frames] == [(41, [1.0]), (42, [2.0]), (43, [])]
    (record,) = frames[-1][1].records
    assert isinstance(record, GapRecord)
    assert record.gap.reason is GapReason.BUFFER_RESET
    lane = outbox.state().lanes[Lane.LIVE]
    assert compare(lane.floor, lane.next_seq, 40).value == "in_step"
    assert await outbox.append(Lane.LIVE, readings(3.0), 1) == 44


async def test_a_closed_outbox_says_so(outbox: Outbox) -> None:
    waiting = asyncio.create_task(outbox.arrival({}))
    await asyncio.sleep(0)
    await outbox.close()
    await outbox.close()
    with pytest.raises(OutboxClosed):
        await outbox.append(Lane.LIVE, readings(1.0), 1)
    with pytest.raises(OutboxClosed):
        await asyncio.wait_for(waiting, 5)
