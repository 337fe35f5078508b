"""What is given up is named: every reading lies inside a gap of its series, and counts add up."""

from collections import Counter

import numpy as np
from hypothesis import given

from protocols.edgelink.columns import NO_COLUMNS, Columns
from protocols.edgelink.lanes import Gap, GapReason
from protocols.edgelink.losses import Losses, gaps_of
from protocols.edgelink.records import EventRecord, GapRecord, PresenceRecord
from tests.unit.protocols.edgelink.frames import columns


def covers(gap: Gap, key: tuple[str, str, str], time_ms: int) -> bool:
    named = (gap.product_key, gap.device_name) == key[:2] and (not gap.identifiers or key[2] in gap.identifiers)
    return named and gap.from_ms < time_ms < gap.to_ms


@given(columns())
def test_every_reading_given_up_lies_in_one_gap(given_columns: Columns) -> None:
    gaps = gaps_of(given_columns, (), GapReason.OVERFLOW)
    lost = [(given_columns.dictionary[index], time) for index, time in zip(given_columns.series, given_columns.times.tolist(), strict=True)]
    lost += [(given_columns.dictionary[index], time) for index, time, _ in given_columns.texts]
    for key, time_ms in lost:
        assert sum(covers(gap, key, time_ms) for gap in gaps) == 1
    assert sum(gap.count or 0 for gap in gaps) == len(lost) == given_columns.count


@given(columns(), columns())
def test_gaps_of_dropped_gap_frames_melt_into_the_next(first: Columns, second: Columns) -> None:
    once = Losses(GapReason.OVERFLOW)
    once.lose(first)
    twice = Losses(GapReason.OVERFLOW)
    twice.lose(NO_COLUMNS, [GapRecord(gap) for gap in once.gaps()])
    twice.lose(second)
    together = Losses(GapReason.OVERFLOW)
    together.lose(first)
    together.lose(second)
    spans = [
        Counter((gap.product_key, gap.device_name, name, gap.from_ms, gap.to_ms) for gap in losses.gaps() for name in gap.identifiers)
        for losses in (twice, together)
    ]
    assert spans[0] == spans[1]
    assert sum(gap.count or 0 for gap in twice.gaps()) == first.count + second.count


def test_series_of_a_device_with_one_range_share_a_gap_with_exclusive_bounds() -> None:
    dictionary = (("press", "p1", "force"), ("press", "p1", "stroke"), ("press", "p2", "force"))
    lost = Columns(dictionary, np.array([0, 1, 2, 0, 1], np.uint32), np.array([10, 10, 12, 20, 20], np.int64), np.zeros(5))
    assert gaps_of(lost, (), GapReason.OVERFLOW) == (
        Gap("press", "p1", ("force", "stroke"), 9, 21, 4, GapReason.OVERFLOW),
        Gap("press", "p2", ("force",), 11, 13, 1, GapReason.OVERFLOW),
    )


def test_gaps_of_other_reasons_are_handed_on_once_and_events_are_named() -> None:
    gap = Gap("press", "p1", (), 1, 9, None, GapReason.AGENT_DOWN)
    records = (GapRecord(gap), GapRecord(gap), EventRecord("press", "p1", "jam", 5, "{}"), PresenceRecord("press", "p1", True, 5))
    assert gaps_of(NO_COLUMNS, records, GapReason.OVERFLOW) == (Gap("press", "p1", ("jam",), 4, 6, 1, GapReason.OVERFLOW), gap)


def test_too_many_gaps_become_few_that_still_cover() -> None:
    losses = Losses(GapReason.OVERFLOW)
    for start in range(3_000):
        losses.add(Gap("press", f"p{start % 3}", ("force",), start * 10, start * 10 + 5, 1, GapReason.DEVICE_UNREACHABLE))
    gaps = losses.gaps()
    assert len(gaps) == 3
    assert sum(gap.count or 0 for gap in gaps) == 3_000
    assert {gap.reason for gap in gaps} == {GapReason.DEVICE_UNREACHABLE}
    assert len(losses.coarse()) == 3
