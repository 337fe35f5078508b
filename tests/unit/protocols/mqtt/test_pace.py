"""How who connects again and again is slowed."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.pace import BURST, EVERY_S, MOST, Pace
from protocols.mqtt.throttle import LONGEST_S


def test_a_burst_is_free_and_what_follows_waits_ever_longer() -> None:
    pace = Pace()
    waits = [pace.came("d", 0.0) for _ in range(BURST + 12)]
    assert waits[:BURST] == [0.0] * BURST
    assert waits[BURST : BURST + 4] == [0.25, 0.5, 1.0, 2.0]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_S
    assert pace.came("another", 0.0) == 0.0


def test_who_connects_every_two_seconds_never_waits() -> None:
    pace = Pace()
    assert [pace.came("d", EVERY_S * n) for n in range(1000)] == [0.0] * 1000


def test_two_devices_that_throw_each_other_out_come_to_rest() -> None:
    """Each comes back as soon as it was thrown out: the rate settles at what the bucket leaks."""
    pace, now, came = Pace(), 0.0, 0
    while now < 600.0:
        now += max(0.05, pace.came("d", now))
        came += 1
    assert came < 600 / EVERY_S + 3 * BURST


@given(st.integers(1, 10_000), st.floats(0, 1e6))
def test_after_half_a_minute_of_rest_nobody_waits(times: int, start: float) -> None:
    pace = Pace()
    for _ in range(min(times, 200)):
        pace.came("d", start)
    assert pace.came("d", start + EVERY_S * MOST) == 0.0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), max_size=200))
def test_the_table_is_bounded_and_waits_too(connects: list[tuple[int, float]]) -> None:
    pace, now = Pace(clients=8), 0.0
    for who, after in connects:
        now += after
        assert 0.0 <= pace.came(who, now) <= LONGEST_S
        assert len(pace) <= 8
