"""The watermark against a model: a buffer that drops, resends and renumbers, over a link that repeats, loses and reorders."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocols.edgelink.lanes import Decision, Standing, Verdict, Watermark, compare
from tests.fuzzing import thorough


@pytest.mark.parametrize(
    ("committed", "seq", "floor", "covers", "expected"),
    [
        (0, 1, 1, 1, Decision(Verdict.APPEND, 1)),
        (4, 5, 3, 5, Decision(Verdict.APPEND, 5)),
        (4, 4, 3, 4, Decision(Verdict.DUPLICATE, 4)),
        (4, 1, 1, 1, Decision(Verdict.DUPLICATE, 4)),
        (4, 7, 3, 7, Decision(Verdict.WAIT, 4)),
        (4, 7, 6, 7, Decision(Verdict.WAIT, 4)),
        (4, 7, 7, 7, Decision(Verdict.APPEND, 7, lost=(5, 6))),
        (4, 7, 7, 5, Decision(Verdict.APPEND, 7)),
        (4, 7, 2, 5, Decision(Verdict.APPEND, 7)),
        (4, 7, 2, 3, Decision(Verdict.APPEND, 7)),
        (4, 7, 7, 6, Decision(Verdict.APPEND, 7, lost=(5, 5))),
        (4, 7, 5, 6, Decision(Verdict.WAIT, 4)),
    ],
)
def test_a_frame_is_judged_by_its_place(committed: int, seq: int, floor: int, covers: int, expected: Decision) -> None:
    assert Watermark(committed).advance(seq, floor, covers) == expected


@thorough
@given(st.integers(0, 40), st.integers(1, 40), st.data())
def test_a_watermark_never_goes_back_and_names_all_it_passes_over(committed: int, seq: int, data: st.DataObject) -> None:
    floor, covers = data.draw(st.integers(1, seq)), data.draw(st.integers(1, seq))
    decision = Watermark(committed).advance(seq, floor, covers)
    assert decision.committed >= committed
    assert decision.resend_from == decision.committed + 1
    if decision.verdict is Verdict.APPEND:
        passed = set(range(committed + 1, seq))
        lost = set(range(decision.lost[0], decision.lost[1] + 1)) if decision.lost else set()
        assert passed == lost | set(range(max(covers, committed + 1), seq))
    else:
        assert decision.committed == committed
        assert decision.lost is None


@dataclass(frozen=True)
class Sent:
    seq: int
    floor: int
    covers: int
    readings: frozenset[int]
    """Readings it carries; what a gap frame names is `named`."""
    named: frozenset[int] = frozenset()


class LinkOfFrames(RuleBasedStateMachine):
    """Every reading is one number. It must end in the store once, or in a gap, and never wait for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.next_seq, self.collected = 1, 0
        self.held: dict[int, Sent] = {}
        self.in_flight: list[Sent] = []
        self.watermark = Watermark()
        self.stored: list[int] = []
        self.named: set[int] = set()
        self.lost_seqs: set[int] = set()
        self.content: dict[int, frozenset[int]] = {}
        self.silently_dropped: set[int] = set()

    def stamped(self, frame: Sent) -> Sent:
        return Sent(frame.seq, min(self.held), frame.covers, frame.readings, frame.named)

    @rule()
    def collect(self) -> None:
        self.collected += 1
        self.held[self.next_seq] = Sent(self.next_seq, 0, self.next_seq, frozenset({self.collected}))
        self.content[self.next_seq] = frozenset({self.collected})
        self.next_seq += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        self.in_flight.append(self.stamped(self.held[data.draw(st.sampled_from(sorted(self.held)))]))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), again=st.booleans())
    def arrive(self, data: st.DataObject, again: bool) -> None:
        """In any order, some more than once."""
        index = data.draw(st.integers(0, len(self.in_flight) - 1))
        self.receive(self.in_flight[index] if again else self.in_flight.pop(index))

    @precondition(lambda self: self.in_flight)
    @rule()
    def lose_all_in_flight(self) -> None:
        self.in_flight.clear()

    def receive(self, frame: Sent) -> None:
        decision = self.watermark.advance(frame.seq, frame.floor, frame.covers)
        if decision.verdict is Verdict.APPEND:
            self.stored += frame.readings
            self.named |= frame.named
            if decision.lost:
                self.lost_seqs |= set(range(decision.lost[0], decision.lost[1] + 1))
        self.watermark = Watermark(decision.committed)

    @rule()
    def commit_message_arrives(self) -> None:
        self.held = {seq: frame for seq, frame in self.held.items() if seq > self.watermark.committed}

    @precondition(lambda self: len(self.held) >= 2 and min(self.held) > self.watermark.committed)
    @rule(count=st.integers(2, 5))
    def overflow_merges_the_oldest_into_a_gap_frame(self, count: int) -> None:
        chosen = [self.held.pop(seq) for seq in sorted(self.held)[:count]]
        # A buffer never drops what may be in flight, so neither does this one.
        self.in_flight = [frame for frame in self.in_flight if frame.seq > chosen[-1].seq]
        named = frozenset().union(*(frame.readings | frame.named for frame in chosen))
        self.held[chosen[-1].seq] = Sent(chosen[-1].seq, 0, chosen[0].covers, frozenset(), named)

    @precondition(lambda self: len(self.held) >= 2 and min(self.held) > self.watermark.committed)
    @rule()
    def the_oldest_frame_vanishes(self) -> None:
        """A disk that forgot: nobody names it, so the cloud has to."""
        frame = self.held.pop(min(self.held))
        self.in_flight = [sent for sent in self.in_flight if sent.seq != frame.seq]
        self.silently_dropped |= frame.readings | frame.named

    @precondition(lambda self: self.held and min(self.held) <= self.watermark.committed + 1)
    @rule()
    def a_resend_from_the_watermark_is_taken(self) -> None:
        behind = [seq for seq in sorted(self.held) if seq > self.watermark.committed]
        if behind:
            before = self.watermark.committed
            self.receive(self.stamped(self.held[behind[0]]))
            assert self.watermark.committed == behind[0] > before

    @invariant()
    def nothing_is_stored_twice_or_both_stored_and_named(self) -> None:
        assert len(self.stored) == len(set(self.stored))
        assert not self.named & set(self.stored)

    def teardown(self) -> None:
        """The link heals: everything held is resent in order, and every reading is accounted for."""
        for seq in sorted(self.held):
            self.receive(self.stamped(self.held[seq]))
        lost = {reading for seq in self.lost_seqs for reading in self.content[seq]}
        accounted = set(self.stored) | self.named | lost | self.silently_dropped
        assert accounted == set(range(1, self.collected + 1))
        if self.held:
            assert self.watermark.committed == max(self.held)


TestLinkOfFrames = LinkOfFrames.TestCase


def buffers() -> Iterator[tuple[int, int]]:
    return ((floor, end) for floor in range(1, 8) for end in range(floor, 8))


def test_an_exchange_never_ends_in_a_wait() -> None:
    """Whatever both ends remember: afterwards the next frame the buffer sends is one the cloud takes."""
    for floor, end in buffers():
        for committed in range(10):
            standing = compare(floor, end, committed)
            if standing is Standing.BUFFER_WENT_BACK:
                floor_after, next_after = committed + 1, committed + 1 + end - floor + 1  # renumbered, and a gap frame behind
            else:
                floor_after, next_after = max(floor, committed + 1), end
            if floor_after == next_after:
                next_after += 1  # the next frame collected
            decision = Watermark(committed).advance(floor_after, floor_after)
            assert decision.verdict is Verdict.APPEND
            assert (decision.lost is not None) == (standing is Standing.CLOUD_WENT_BACK)
