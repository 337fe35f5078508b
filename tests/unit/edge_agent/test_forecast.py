"""The outage planner against the buffer itself: what it foretells happens within a tenth."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.buffer.frame_file import FrameFile
from edge_agent.buffer.lane_rows import ROW_OVERHEAD_BYTES
from edge_agent.domain.forecast import drain_time_s, forecast
from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import LANES, Lane
from tests.fuzzing import thorough

NOTHING = dict.fromkeys(LANES, 0.0)
READINGS = 200


def body(number: int) -> bytes:
    values = np.random.default_rng(number).random(READINGS)
    times = np.arange(number * READINGS, (number + 1) * READINGS, dtype=np.int64)
    return encode_body(Columns((("press", "p1", "force"),), np.zeros(READINGS, np.uint32), times, values))


SIZE = len(body(0)) + ROW_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("policies", "per_turn"),
    [
        ({}, {Lane.LIVE: 2}),
        ({}, {Lane.LIVE: 1, Lane.BULK: 3}),
        ({Lane.BULK: LanePolicy(Overflow.DROP_OLDEST, quota_bytes=60 * SIZE)}, {Lane.LIVE: 1, Lane.BULK: 1}),
        ({Lane.LIVE: LanePolicy(Overflow.BLOCK)}, {Lane.LIVE: 1, Lane.BULK: 1}),
        ({Lane.LIVE: LanePolicy(Overflow.DROP_NEWEST, reserve_bytes=150 * SIZE)}, {Lane.LIVE: 1, Lane.BULK: 2}),
        ({}, {Lane.ALARM: 1, Lane.LIVE: 1}),
    ],
)
def test_lanes_lose_when_it_was_foretold(tmp_path: Path, policies: dict[Lane, LanePolicy], per_turn: dict[Lane, int]) -> None:
    """A turn is a second."""
    quotas = Quotas(400 * SIZE, policies)
    foretold = forecast(quotas, NOTHING, {**NOTHING, **{lane: float(many * SIZE) for lane, many in per_turn.items()}}, None)
    happened: dict[Lane, int] = {}
    file = FrameFile(tmp_path / "b.db", quotas=quotas, gateway=("gateway", "gw1"), in_doubt=2, running_s=lambda: 0.0)
    number = 0
    for turn in range(800):
        file.begin()
        for lane, many in per_turn.items():
            for _ in range(many):
                number += 1
                if file.append(lane, body(number % 50), READINGS, 0) is None:
                    happened.setdefault(lane, turn)
        file.commit()
        for lane, held in file.state.lanes.items():
            if held.in_gaps:
                happened.setdefault(lane, turn)
    file.close()
    expected = {lane: found.full_in_s for lane, found in foretold.lanes.items() if found.full_in_s is not None and found.full_in_s < 700}
    assert expected
    assert foretold.first == min(happened, key=lambda lane: happened[lane])
    assert set(happened) == set(expected)
    for lane, turn in happened.items():
        assert expected[lane] == pytest.approx(turn, rel=0.1)


@thorough
@given(
    st.fixed_dictionaries(dict.fromkeys(LANES, st.floats(0, 1_000))),
    st.fixed_dictionaries(dict.fromkeys(LANES, st.floats(0, 200))),
    st.fixed_dictionaries(
        dict.fromkeys(LANES, st.builds(LanePolicy, st.sampled_from(Overflow), st.none() | st.integers(250, 1_000), st.integers(0, 250)))
    ),
)
def test_a_forecast_ends_and_something_that_arrives_without_end_is_lost_somewhere(
    rates: dict[Lane, float], used: dict[Lane, float], policies: dict[Lane, LanePolicy]
) -> None:
    found = forecast(Quotas(1_000, policies), used, rates, 10.0)
    assert all(lane.full_in_s is None or lane.full_in_s >= 0 for lane in found.lanes.values())
    if max(rates.values()) > 1:
        assert found.first is not None


def test_a_lane_that_gives_way_is_named_with_the_one_it_gives_way_to() -> None:
    found = forecast(Quotas(1_000), {**NOTHING, Lane.BULK: 900.0}, {**NOTHING, Lane.LIVE: 1.0}, None)
    assert found.first is Lane.BULK
    assert found.lanes[Lane.BULK].taken_by is Lane.LIVE
    assert found.lanes[Lane.LIVE].taken_by is None


def test_a_drain_takes_what_is_held_by_what_the_uplink_has_over() -> None:
    assert drain_time_s(9_000, 100, 1_000) == 10
    assert drain_time_s(0, 100, None) == 0
    assert drain_time_s(9_000, 1_000, 1_000) is None
    assert drain_time_s(9_000, 100, None) is None
