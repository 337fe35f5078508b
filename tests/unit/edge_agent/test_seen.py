"""The memory for repeated messages: bounded, kept across restarts, and never wrong about a different message."""

from edge_agent.domain import seen
from edge_agent.domain.seen import Digests, SeenRing


def test_a_repeat_is_known_also_after_a_restart() -> None:
    ring = SeenRing("seen/", {})
    ring.add(b"12345678")
    stored = ring.take()
    assert b"12345678" in ring
    again = SeenRing("seen/", stored)
    assert b"12345678" in again
    assert b"87654321" not in again


def test_what_never_reached_a_frame_is_not_known_after_a_restart() -> None:
    ring = SeenRing("seen/", {})
    ring.add(b"12345678")  # and the agent is killed before `take`
    assert b"12345678" not in SeenRing("seen/", {})


def test_a_ring_goes_on_behind_its_last_slot_after_a_restart() -> None:
    first = SeenRing("seen/", {})
    first.add(b"aaaaaaaa")
    marks = dict(first.take())
    second = SeenRing("seen/", marks)
    second.add(b"bbbbbbbb")
    marks |= second.take()
    third = SeenRing("seen/", marks)
    assert b"aaaaaaaa" in third
    assert b"bbbbbbbb" in third


def test_it_stays_within_its_bounds_and_frees_what_it_stored() -> None:
    ring = SeenRing("seen/", {})
    stored: dict[str, bytes] = {}
    batch = seen.DIGESTS // 8
    for number in range(20):
        for index in range(batch):
            ring.add((number * batch + index).to_bytes(8, "big"))
        stored |= ring.take()
    kept = [value for value in stored.values() if value]
    assert sum((len(value) - 8) // 8 for value in kept) <= seen.DIGESTS
    assert (20 * batch - 1).to_bytes(8, "big") in ring
    assert (0).to_bytes(8, "big") not in ring


def test_messages_are_taken_together_only_if_all_are_new() -> None:
    ring = SeenRing("seen/", {})
    assert ring.add_new([b"aaaaaaaa", b"bbbbbbbb"])
    assert not ring.add_new([b"cccccccc", b"aaaaaaaa"])
    assert not ring.add_new([b"dddddddd", b"dddddddd"])
    assert b"cccccccc" not in ring
    assert ring.fresh == [b"aaaaaaaa", b"bbbbbbbb"]


def test_digests_tell_topics_and_packets_apart() -> None:
    one, other = Digests("/sys/pk/one"), Digests("/sys/pk/other")
    assert one.of(b"{}") == Digests("/sys/pk/one").of(b"{}")
    assert len({one.of(b"{}"), other.of(b"{}"), one.of(b"{}", b"\0\1"), one.of(b"{}", b"\0\2")}) == 4
    assert len(one.of(b"{}")) == 8


def test_many_runs_of_the_agent_do_not_add_up() -> None:
    stored: dict[str, bytes] = {}
    for run in range(6):
        ring = SeenRing("seen/", stored)
        for number in range(20):
            for index in range(seen.DIGESTS // 16):
                ring.add((run * 10_000_000 + number * 100_000 + index).to_bytes(8, "big"))
            stored |= ring.take()
        stored = {key: value for key, value in stored.items() if value}
    assert sum((len(value) - 8) // 8 for value in stored.values()) <= 2 * seen.DIGESTS
    after = SeenRing("seen/", stored)
    assert len(after.before) <= seen.DIGESTS + seen.DIGESTS // 16
    assert (50_000_000 + 1_900_000).to_bytes(8, "big") in after
