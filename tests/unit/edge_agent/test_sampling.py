"""What a poll means: every row once, every missed row in a gap, and no gap where nothing was missed."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.domain.sampling import LastRow, Missed, Sampler
from protocols.edgelink.lanes import GapReason


def sampler(last: LastRow | None = None, *, clean: bool = False, bits: int | None = 16, poll_ms: int = 100) -> Sampler:
    return Sampler(last, clean=clean, counter_bits=bits, poll_ms=poll_ms)


def test_an_unchanged_counter_is_no_row() -> None:
    judge = sampler().judge
    assert judge(1000, 1).new
    assert not judge(1000, 1).new


def test_a_jump_is_missed_polls_with_their_exact_number() -> None:
    judge = sampler().judge
    judge(1000, 1)
    assert judge(2000, 5).missed == Missed(1000, 2000, 3, GapReason.MISSED_POLL)


def test_a_counter_that_wraps_missed_nothing() -> None:
    judge = sampler().judge
    judge(1000, 0xFFFF)
    assert judge(1100, 0).missed is None
    assert judge(1300, 2).missed == Missed(1100, 1300, 1, GapReason.MISSED_POLL)


def test_a_counter_that_went_back_leaves_a_gap_of_unknown_size() -> None:
    judge = sampler().judge
    judge(1000, 40_000)
    assert judge(2000, 3).missed == Missed(1000, 2000, None, GapReason.DEVICE_UNREACHABLE)


def test_after_a_restart_what_the_counter_jumped_is_the_agents_absence() -> None:
    for clean in (True, False):
        assert sampler(LastRow(1000, 7), clean=clean).judge(5000, 10).missed == Missed(1000, 5000, 2, GapReason.AGENT_DOWN)


def test_after_a_restart_that_missed_nothing_there_is_no_gap() -> None:
    restarted = sampler(LastRow(1000, 7))
    assert not restarted.judge(1000, 7).new
    assert restarted.judge(1100, 8).missed is None
    # and the agent's absence is over: what is missed now is a missed poll
    assert restarted.judge(1300, 10).missed == Missed(1100, 1300, 1, GapReason.MISSED_POLL)


def test_rows_missed_while_a_device_was_away_are_its_absence() -> None:
    polled = sampler()
    polled.judge(1000, 1)
    polled.unreachable()
    assert polled.judge(2000, 4).missed == Missed(1000, 2000, 2, GapReason.DEVICE_UNREACHABLE)


def test_a_device_that_is_away_when_the_agent_starts_does_not_hide_the_agents_absence() -> None:
    polled = sampler(LastRow(1000, 1))
    polled.unreachable()
    verdict = polled.judge(2000, 4)
    assert verdict.missed is not None
    assert verdict.missed.reason is GapReason.AGENT_DOWN


def test_without_a_counter_an_unclean_stop_always_leaves_a_gap() -> None:
    assert sampler(LastRow(1000), bits=None).judge(1050, None).missed == Missed(1000, 1050, None, GapReason.AGENT_DOWN)


def test_without_a_counter_a_clean_restart_within_two_polls_missed_nothing() -> None:
    assert sampler(LastRow(1000), clean=True, bits=None).judge(1200, None).missed is None
    assert sampler(LastRow(1000), clean=True, bits=None).judge(1201, None).missed == Missed(1000, 1201, None, GapReason.AGENT_DOWN)


def test_without_a_counter_an_outage_of_the_device_leaves_a_gap() -> None:
    polled = sampler(bits=None)
    polled.judge(1000, None)
    polled.unreachable()
    assert polled.judge(1100, None).missed == Missed(1000, 1100, None, GapReason.DEVICE_UNREACHABLE)


def test_a_mark_survives_as_bytes_and_a_foreign_one_says_nothing() -> None:
    assert LastRow.from_bytes(LastRow(5, 6).to_bytes()) == LastRow(5, 6)
    assert LastRow.from_bytes(b"\xff\x00") is None
    assert LastRow.from_bytes(None) is None


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["poll", "kill", "outage"])), max_size=40))
def test_every_row_is_stored_or_in_exactly_one_gap(steps: list[tuple[int, str]]) -> None:
    row, stored, gapped, count = 0, set[int](), list[int](), 0
    polled = sampler()
    durable: LastRow | None = None
    for ahead, what in [(1, "poll"), *steps]:
        row += ahead
        if what == "kill":
            polled = sampler(durable)
        elif what == "outage":
            polled.unreachable()
        verdict = polled.judge(row * 10, row)
        assert verdict.new
        stored.add(row)
        if verdict.missed is not None:
            inside = [n for n in range(1, row) if verdict.missed.from_ms < n * 10 < verdict.missed.to_ms]
            gapped += inside
            count += verdict.missed.rows or 0
        durable = polled.last
    assert sorted(gapped) == [n for n in range(1, row + 1) if n not in stored]
    assert count == len(gapped)
