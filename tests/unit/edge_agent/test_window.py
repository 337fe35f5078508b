"""How much is under way: a fat link is filled, a thin one is not queued upon, a long one is not taken for thin."""

import heapq

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edge_agent.domain.window import ALWAYS, LEAST_BYTES, Bandwidth, DailyHours, SendWindow


def run(window: SendWindow, bytes_per_s: float, delay_s: float, size: int, seconds: float, begin: float = 0.0) -> tuple[float, float]:
    """A link that carries so much and is so long: (bytes/s that got through, the longest a frame was under way in the second half)."""
    now, link_free, carried, worst = begin, begin, 0, 0.0
    under_way: list[tuple[float, float]] = []  # (acknowledged at, sent at)
    while now < begin + seconds:
        while window.room():
            window.sent(size)
            link_free = max(link_free, now) + size / bytes_per_s
            heapq.heappush(under_way, (link_free + delay_s, now))
        acked, sent = heapq.heappop(under_way)
        now = acked
        window.acknowledged(size, sent, now)
        carried += size
        if now > begin + seconds / 2:
            worst = max(worst, now - sent)
    return carried / (now - begin), worst


def test_on_32_kbit_s_an_alarm_waits_for_seconds_and_not_for_the_backlog() -> None:
    through, worst = run(SendWindow(16), 4_000, 0.1, 2_000, 300)
    assert through > 0.9 * 4_000
    assert worst < 5


@pytest.mark.parametrize("delay_s", [0.01, 0.2, 4.0])
def test_a_long_link_is_filled_as_far_as_the_frames_reach(delay_s: float) -> None:
    window = SendWindow(64)
    through, _ = run(window, 1_000_000, delay_s, 10_000, 300)
    assert through > 0.8 * min(1_000_000, 64 * 10_000 / (delay_s + 0.01))


def test_a_link_that_becomes_thin_is_noticed() -> None:
    window = SendWindow(64)
    run(window, 1_000_000, 0.05, 2_000, 20)
    window.frames = window.bytes = 0
    _, worst = run(window, 4_000, 0.05, 2_000, 200, begin=100.0)
    assert worst < 5


def test_a_frame_larger_than_the_budget_leaves_alone() -> None:
    window = SendWindow(16)
    window.sent(10 * LEAST_BYTES)
    assert not window.room()
    window.acknowledged(10 * LEAST_BYTES, 0.0, 1.0)
    assert window.room()


@given(st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 100)), max_size=60))
def test_the_budget_stays_between_its_bounds_and_nothing_in_flight_is_forgotten(acks: list[tuple[int, float]]) -> None:
    window, now = SendWindow(16), 0.0
    for size, took in acks:
        window.sent(size)
        now += took
        window.acknowledged(size, now - took, now)
        assert LEAST_BYTES <= window.budget <= window.most_bytes
        assert (window.frames, window.bytes) == (0, 0)
        assert window.room()


def test_a_cap_holds_on_average_whatever_the_frames_size() -> None:
    cap, now, carried = Bandwidth(4_000), 0.0, 0
    while now < 100:
        now += cap.wait_s(now)
        cap.charge(10_000)
        carried += 10_000
    assert carried <= 4_000 * 100 + 20_000
    assert Bandwidth(0).wait_s(5.0) == 0.0


def test_hours_run_over_midnight_and_always_is_always() -> None:
    night = DailyHours(22 * 60, 6 * 60)
    assert [night.holds(60 * hour) for hour in (21, 22, 23, 0, 5, 6)] == [False, True, True, True, True, False]
    assert all(ALWAYS.holds(minute) for minute in range(24 * 60))
