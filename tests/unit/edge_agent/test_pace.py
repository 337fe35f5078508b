"""The rates that the outage planner works with."""

import pytest

from edge_agent.pipeline.pace import OVER_S, Pace
from edge_agent.ports import LaneState, OutboxState
from protocols.edgelink.lanes import LANES, Lane


def state(appended: int = 0, delivered: int = 0, frames: int = 1) -> OutboxState:
    lanes = {lane: LaneState() for lane in LANES}
    lanes[Lane.LIVE] = LaneState(frames=frames, appended_bytes=appended, delivered_bytes=delivered)
    return OutboxState(b"b", 1, lanes, 1 << 20)


def test_the_rate_is_the_average_over_the_last_ten_minutes() -> None:
    pace = Pace()
    assert (pace.over_s, pace.bytes_per_s()[Lane.LIVE]) == (0.0, 0.0)
    appended = 0
    for second in range(1_200):
        appended += 100 if second < 300 else 500
        pace.sample(float(second), state(appended))
    assert pace.over_s == pytest.approx(OVER_S, abs=20)
    assert pace.bytes_per_s()[Lane.LIVE] == pytest.approx(500)
    assert pace.bytes_per_s()[Lane.BULK] == 0


def test_the_drain_rate_is_the_best_ten_seconds_with_a_backlog_at_both_ends() -> None:
    pace = Pace()
    pace.sample(0.0, state(9_000, 0))
    pace.sample(10.0, state(9_000, 5_000))
    pace.sample(20.0, state(9_000, 6_000))
    assert pace.drain_bytes_per_s == 500
    pace.sample(30.0, state(99_000, 99_000, frames=0))  # it was empty at the end: how fast it could have gone is not known
    assert pace.drain_bytes_per_s == 500


def test_samples_that_come_often_cost_nothing() -> None:
    pace = Pace()
    for tenth in range(1_000):
        pace.sample(tenth / 10, state(tenth))
    assert pace.over_s == pytest.approx(90, abs=10)
