"""How wrong credentials are slowed down."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.throttle import FORGIVE_S, FREE, LONGEST_S, Throttle


def test_a_few_failures_are_answered_at_once_and_more_ever_more_slowly() -> None:
    throttle = Throttle()
    delays = [throttle.failed("a", 0.0) for _ in range(30)]
    assert delays[:FREE] == [0.0] * FREE
    assert delays[FREE : FREE + 4] == [0.25, 0.5, 1.0, 2.0]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_S


def test_another_address_is_not_slowed() -> None:
    throttle = Throttle()
    for _ in range(100):
        throttle.failed("attacker", 0.0)
    assert throttle.suspected("attacker", 0.0)
    assert not throttle.suspected("owner", 0.0)
    assert throttle.failed("owner", 0.0) == 0.0


def test_failures_are_forgiven_with_time() -> None:
    throttle = Throttle()
    for _ in range(FREE + 2):
        throttle.failed("a", 0.0)
    assert throttle.failed("a", 0.0) > 0
    assert throttle.suspected("a", 3 * FORGIVE_S)
    assert not throttle.suspected("a", 10 * FORGIVE_S)
    assert throttle.failed("a", 10 * FORGIVE_S) == 0.0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), max_size=200))
def test_the_table_is_bounded_and_delays_too(failures: list[tuple[int, float]]) -> None:
    throttle, now = Throttle(addresses=8), 0.0
    for who, after in failures:
        now += after
        assert 0.0 <= throttle.failed(f"10.0.0.{who}", now) <= LONGEST_S
        assert len(throttle) <= 8
