"""Who connects again and again waits, one connection a device."""

from hypothesis import given
from hypothesis import strategies as st

from cloud.access.slowed import Slowed


def test_only_the_newest_of_a_device_waits() -> None:
    slowed = Slowed[str, str]()
    assert slowed.wait("d", "first", 1.0) is None
    assert slowed.wait("e", "other", 1.0) is None
    assert slowed.wait("d", "second", 2.0) == "first"
    assert slowed.due(1.5) == ["other"]
    assert slowed.due(2.0) == ["second"]
    assert (slowed.due(9.0), len(slowed)) == ([], 0)


def test_who_is_overtaken_waits_no_more() -> None:
    slowed = Slowed[str, str]()
    slowed.wait("d", "first", 1.0)
    assert slowed.overtaken("d") == "first"
    assert slowed.overtaken("d") is None
    assert slowed.due(2.0) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 10), st.floats(0, 3)), max_size=60))
def test_everybody_who_waits_is_let_in_once_or_told_no_once(comings: list[tuple[int, float, float]]) -> None:
    slowed, now, ended = Slowed[int, int](), 0.0, list[int]()
    for number, (device, wait_s, after_s) in enumerate(comings):
        now += after_s
        ended += slowed.due(now)
        before = slowed.wait(device, number, now + wait_s)
        ended += [] if before is None else [before]
        assert len(slowed) <= 6
    ended += slowed.due(now + 11)
    assert sorted(ended) == list(range(len(comings)))
