"""The shares of the buffer's lanes: reserves hold whatever the others do, and the total is never passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas
from protocols.edgelink.lanes import LANES, Lane
from tests.fuzzing import thorough

TOTAL = 1_000
NOTHING = dict.fromkeys(LANES, 0)


def policies() -> st.SearchStrategy[dict[Lane, LanePolicy]]:
    one = st.builds(
        LanePolicy,
        st.sampled_from(Overflow),
        st.none() | st.integers(TOTAL // 4, TOTAL),
        st.integers(0, TOTAL // 4),
    )
    return st.fixed_dictionaries(dict.fromkeys(LANES, one))


@thorough
@given(policies(), st.lists(st.tuples(st.sampled_from(LANES), st.integers(1, 200)), max_size=40))
def test_reserves_hold_and_the_total_is_kept_whatever_arrives(lanes: dict[Lane, LanePolicy], arrivals: list[tuple[Lane, int]]) -> None:
    quotas = Quotas(TOTAL, lanes)
    used = dict(NOTHING)
    for lane, size in arrivals:
        if quotas.shortage(lane, size, used) <= 0 and quotas.own_shortage(lane, size, used) <= 0:
            used[lane] += size
        assert sum(used.values()) <= TOTAL
        for other, policy in lanes.items():
            left = policy.reserve_bytes - used[other]
            if left > 0:
                assert quotas.shortage(other, left, used) <= 0
                assert quotas.own_shortage(other, left, used) <= 0


@thorough
@given(policies(), st.sampled_from(LANES), st.fixed_dictionaries(dict.fromkeys(LANES, st.integers(0, 250))))
def test_a_lane_is_asked_only_for_what_lies_above_its_reserve_and_never_by_a_less_urgent_one(
    lanes: dict[Lane, LanePolicy], asking: Lane, used: dict[Lane, int]
) -> None:
    asked = Quotas(TOTAL, lanes).giving_way(asking, used)
    assert all(other.code > asking.code and lanes[other].gives_way and used[other] > lanes[other].reserve_bytes for other in asked)
    assert asked == sorted(asked, key=lambda lane: -lane.code)


def test_without_policies_readings_go_and_alarms_and_replies_have_a_reserve() -> None:
    quotas = Quotas(3_200)
    assert {lane.value: (policy.overflow.value, policy.reserve_bytes) for lane, policy in quotas.lanes.items()} == {
        "alarm": ("block", 100),
        "reply": ("block", 100),
        "live": ("drop_oldest", 0),
        "bulk": ("drop_oldest", 0),
    }
    assert quotas.shortage(Lane.LIVE, 3_000, NOTHING) == 0
    assert quotas.shortage(Lane.LIVE, 3_001, NOTHING) == 1
    assert quotas.shortage(Lane.ALARM, 3_100, NOTHING) == 0  # the reply lane's reserve is not the alarm's


def test_reserves_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="whole buffer"):
        Quotas(100, {lane: LanePolicy(Overflow.BLOCK, reserve_bytes=30) for lane in LANES})
    with pytest.raises(ValueError, match=r"live.*own quota"):
        Quotas(100, {Lane.LIVE: LanePolicy(Overflow.BLOCK, quota_bytes=10, reserve_bytes=11)})
