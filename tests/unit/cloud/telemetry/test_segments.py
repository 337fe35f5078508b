"""How a day is divided: which segment takes rows, what is put in order and merged, and that no table's name is used twice."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cloud.telemetry.model import Kind
from cloud.telemetry.segments import MERGED_AT_ONCE, MERGED_SPANS, Segment, Segments, Work

FULL = {Kind.NUMBER: 10, Kind.TEXT: 4}
kinds = st.sampled_from([Kind.NUMBER, Kind.TEXT])
numbers = st.integers(0, 10_000)
unordered = st.builds(lambda kind, day, n: Segment(kind, day, n, n), kinds, st.integers(-40_000, 40_000), numbers)
ordered = st.builds(lambda kind, day, n, more: Segment(kind, day, n, n + more, True), kinds, st.integers(-40_000, 40_000), numbers, numbers)


def work_of(segments: Segments) -> Work | None:
    return segments.full() or segments.mergeable()


@given(unordered | ordered)
def test_a_segment_can_be_told_from_the_name_of_its_table(segment: Segment) -> None:
    assert Segment.parse(segment.table) == segment


def test_other_tables_are_no_segments() -> None:
    assert [Segment.parse(name) for name in ("series", "position", "gap", "hot_", "run_x_1_2", "hot_1_2_3_4")] == [None] * 6


def test_a_day_of_an_older_store_is_its_first_segment() -> None:
    """Before there were segments a day was one table of this name."""
    assert Segment.parse("hot_20000") == Segment(Kind.NUMBER, 20_000, 0, 0)
    assert Segment.parse("hot_text_m3") == Segment(Kind.TEXT, -3, 0, 0)


def test_a_segment_takes_rows_until_it_is_full_and_then_a_new_one_does() -> None:
    segments = Segments([], FULL)
    first = segments.open(Kind.NUMBER, 5)
    assert not segments.holds(first)
    assert segments.appended(first, 6) is False
    assert segments.open(Kind.NUMBER, 5) == first
    assert work_of(segments) is None
    assert segments.appended(first, 6) is True
    second = segments.open(Kind.NUMBER, 5)
    assert (second.first, segments.holds(second)) == (1, False)
    assert work_of(segments) == ((first,), Segment(Kind.NUMBER, 5, 0, 0, ordered=True))


def test_a_day_that_rests_while_another_fills_is_put_in_order_unless_it_is_small() -> None:
    segments = Segments([], {Kind.NUMBER: 16, Kind.TEXT: 4})
    yesterday, small = segments.open(Kind.NUMBER, 5), segments.open(Kind.NUMBER, 4)
    segments.appended(yesterday, 2)
    segments.appended(small, 1)
    put_in_order = []
    for number in range(2):
        assert segments.appended(today := segments.open(Kind.NUMBER, 6), 16)
        assert segments.open(Kind.NUMBER, 5) == (yesterday if number == 0 else Segment(Kind.NUMBER, 5, 1, 1))
        work = segments.full()
        assert work is not None
        put_in_order.append(work[0][0])
        with segments.replacing(*work):
            pass
    assert segments.open(Kind.NUMBER, 4) == small
    last = segments.full()
    assert last is not None
    assert {*put_in_order, last[0][0]} == {yesterday, Segment(Kind.NUMBER, 6, 0, 0), today}


def test_a_store_that_is_opened_again_goes_on_where_it_was() -> None:
    found = [(Segment(Kind.NUMBER, 5, 8, 8), 3), (Segment(Kind.NUMBER, 5, 0, 7, True), 80), (Segment(Kind.TEXT, 5, 0, 0), 4)]
    segments = Segments(found, FULL)
    assert segments.open(Kind.NUMBER, 5) == Segment(Kind.NUMBER, 5, 8, 8)
    assert segments.open(Kind.TEXT, 5) == Segment(Kind.TEXT, 5, 1, 1)
    assert work_of(segments) == ((Segment(Kind.TEXT, 5, 0, 0),), Segment(Kind.TEXT, 5, 0, 0, ordered=True))
    assert [segment.first for segment in segments.of(Kind.NUMBER, 5)] == [0, 8]


def test_a_segment_is_claimed_by_one_at_a_time_and_only_while_it_is_held() -> None:
    first, second = Segment(Kind.NUMBER, 5, 0, 0), Segment(Kind.NUMBER, 5, 1, 1)
    segments = Segments([(first, 10), (second, 10)], FULL)
    with segments.claiming([first]) as free:
        assert free
        with segments.claiming([first, second]) as both, segments.claiming([second]) as other:
            assert (both, other) == (False, True)
    with segments.claiming([first, second]) as free:
        assert free
        with segments.removing(first):
            pass
    with segments.claiming([first]) as free:
        assert not free


@given(st.lists(st.tuples(kinds, st.integers(-2, 2), st.integers(1, 12)), max_size=200), st.randoms(use_true_random=False))
def test_whatever_is_appended_the_segments_of_a_day_cover_it_once_in_order(
    appends: list[tuple[Kind, int, int]], chance: random.Random
) -> None:
    """The rows are followed by hand: every replacement must take adjacent segments, and names must never come again."""
    segments = Segments([], FULL)
    names: set[str] = set()
    for kind, day, rows in appends:
        segment = segments.open(kind, day)
        if not segments.holds(segment):
            assert segment.table not in names
            names.add(segment.table)
        segments.appended(segment, rows)
        while chance.random() < 0.7 and (work := work_of(segments)) is not None:
            old, new = work
            before = list(segments.of(kind, day)) if (new.kind, new.day) == (kind, day) else []
            assert (new.first, new.last) == (old[0].first, old[-1].last)
            assert new.table not in names
            names.add(new.table)
            with segments.replacing(old, new):
                pass
            assert not any(segments.holds(one) for one in old)
            assert not before or len(segments.of(kind, day)) == len(before) - len(old) + 1
    while (work := work_of(segments)) is not None:
        with segments.replacing(*work):
            pass
    for kind in FULL:
        for day in segments.days(kind, -2, 2):
            held = segments.of(kind, day)
            assert [one.first for one in held] == [0, *(one.last + 1 for one in held[:-1])]
            assert all(one.ordered for one in held[:-1])
            for span in MERGED_SPANS:
                assert sum(1 for one in held if one.ordered and one.span == span) < MERGED_AT_ONCE


def test_rows_of_a_later_segment_came_later() -> None:
    merged, following = Segment(Kind.NUMBER, 1, 0, 7, True), Segment(Kind.NUMBER, 1, 8, 8)
    assert merged.arrivals_from + (1 << 39) < following.arrivals_from
