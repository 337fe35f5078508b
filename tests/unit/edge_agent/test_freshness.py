"""The lane `live` is short when the cloud is back, whatever came meanwhile."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.domain.freshness import Freshness
from edge_agent.pipeline.collect import Collector
from protocols.edgelink.lanes import Lane
from tests.fakes.outbox import FakeOutbox
from tests.unit.edge_agent.test_collect import SHAPE, settle

PATIENCE_S = 10


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=100))
def test_no_frame_enters_a_lane_in_which_one_has_waited_twice_as_long_as_it_may(steps: list[tuple[int, int, bool]]) -> None:
    """A step: seconds pass, the cloud commits some frames, and a frame is made or not."""
    fresh, now, lane, seq = Freshness(PATIENCE_S), 0.0, list[tuple[int, float]](), 0
    for passed, committed, made in steps:
        now += passed
        del lane[:committed]
        behind = fresh.look(now, lane[0][0] if lane else seq + 1, seq + 1)
        assert lane or not behind, "an empty lane is not behind"
        if made and not behind:
            assert not lane or now - lane[0][1] <= 2 * PATIENCE_S + 3
            seq += 1
            lane.append((seq, now))


@given(st.lists(st.integers(0, 5), max_size=60))
def test_a_lane_that_is_emptied_in_time_is_never_behind(waits: list[int]) -> None:
    fresh, now = Freshness(PATIENCE_S), 0.0
    for seq, wait in enumerate(waits, 1):
        assert not fresh.look(now, seq, seq + 1)  # the frame before it is gone
        now += wait


def test_without_patience_nothing_is_ever_behind() -> None:
    fresh = Freshness(0)
    assert not any(fresh.look(now, 1, 100) for now in range(0, 10_000, 10))


async def test_an_outage_s_readings_lie_in_bulk_and_later_ones_do_not_wait_for_them() -> None:
    outbox, now = FakeOutbox(), 0.0
    collector = Collector(outbox, {}, close_after_s=0.0, bulk_after_s=PATIENCE_S, now_s=lambda: now)
    task = asyncio.create_task(collector.run())

    async def row(at_s: float, number: int) -> None:
        nonlocal now
        now = at_s
        collector.row(SHAPE, [float(number)], number)
        collector.mark("row/1", b"%d" % number)
        await collector.flush()

    await row(0, 1)
    await row(1, 2)
    await row(12, 3)  # the cloud has been away for longer than it may
    await row(900, 4)
    assert [lane for lane, _, _ in outbox.appended] == [Lane.LIVE, Lane.LIVE, Lane.BULK, Lane.BULK]
    assert await outbox.marks() == {"row/1": b"4"}, "marks travel with their rows, whatever the lane"
    await outbox.committed(Lane.LIVE, 2)  # it is back
    await row(901, 5)
    assert outbox.appended[-1][0] is Lane.LIVE
    assert outbox.state().lanes[Lane.BULK].frames == 2
    task.cancel()
    await settle()
