"""Minutes: what they add up to is what the rows say, and where they would not add up it is seen."""

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.telemetry import rollups
from cloud.telemetry.buckets import join
from cloud.telemetry.minutes import MINUTE_MS, Minutes, clashing, cut, cut_by, fold_minutes
from cloud.telemetry.model import Kind
from cloud.telemetry.ordering import COLUMNS
from cloud.telemetry.segments import Segment

came = st.lists(st.tuples(st.integers(1, 3), st.integers(-300, 300), st.integers(-9, 9)), max_size=80)
SEGMENT = Segment(Kind.NUMBER, 5, 0, 3, ordered=True)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In order of series and time; of one time as they came."""
    ordered = sorted(rows, key=lambda row: row[:2])
    series, second, value = (np.array([row[place] for row in ordered], kind) for place, kind in enumerate((np.int32, np.int64, float)))
    return series, second * 1000, value


def as_dictionary(minutes: Minutes) -> dict[tuple[int, int], tuple[float, ...]]:
    listed = zip(*(getattr(minutes, name).tolist() for name in Minutes.__slots__), strict=True)
    return {(series, first // MINUTE_MS): (first, *others) for series, first, *others in listed}


def expected(rows: list[tuple[int, int, int]]) -> dict[tuple[int, int], tuple[float, ...]]:
    newest = {(series, second): value for series, second, value in rows}
    minutes: dict[tuple[int, int], dict[int, int]] = {}
    for (series, second), value in newest.items():
        minutes.setdefault((series, second // 60), {})[second * 1000] = value
    return {
        key: (min(held), max(held), min(held.values()), max(held.values()), sum(held.values()), len(held)) for key, held in minutes.items()
    }


@given(came)
def test_minutes_are_what_a_dictionary_makes_of_the_rows(rows: list[tuple[int, int, int]]) -> None:
    assert as_dictionary(cut(*columns(rows))) == expected(rows)


@given(came.filter(bool), st.integers(1, 40), st.sampled_from([0, 500, 100_000]))
def test_a_table_of_them_is_made_piece_by_piece_and_read_from_memory_or_not(
    rows: list[tuple[int, int, int]], at_once: int, most_bytes: int
) -> None:
    with duckdb.connect() as connection:
        connection.begin()  # as ordering does it
        connection.execute(f"CREATE TABLE {SEGMENT.table} ({COLUMNS[Kind.NUMBER]})")
        series, ts, value = columns(rows)
        connection.executemany(
            f"INSERT INTO {SEGMENT.table} VALUES (?, ?, ?, 1)", list(zip(series.tolist(), ts.tolist(), value.tolist(), strict=True))
        )
        made = rollups.make(connection, SEGMENT, at_once)
        assert made == (len(expected(rows)) * rollups.WORTH <= len(rows))
        if made:
            found: dict[tuple[int, int], tuple[float, ...]] = {}
            held = rollups.Held(most_bytes)
            for number in (1, 2, 3, 1):
                found |= as_dictionary(held.read(connection, SEGMENT, number, -600_000, 600_000))
                assert (held._held[SEGMENT] is None) == (2 * len(expected(rows)) * 52 > most_bytes)
            assert found == expected(rows)
        else:
            assert connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (1,), "no table is left behind"


def test_what_is_held_in_memory_has_a_bound_and_the_last_asked_stays() -> None:
    segments = [Segment(Kind.NUMBER, 5, place, place, ordered=True) for place in range(5)]
    with duckdb.connect() as connection:
        for segment in segments:
            connection.execute(
                f"CREATE TABLE {segment.table} AS SELECT 1::INTEGER AS series, range::BIGINT AS ts, 1.0::DOUBLE AS v FROM range(4000)"
            )
            connection.execute(f"UPDATE {segment.table} SET ts = ts * 1000")
            assert rollups.make(connection, segment)
        held = rollups.Held(3 * 67 * 52)
        for place in (0, 1, 2, 0, 3, 4):
            assert len(held.read(connection, segments[place], 1, 0, 4_000_000)) == 67
        assert [segment.first for segment in held._held] == [0, 3, 4]
        held.drop(segments[0])
        assert held._bytes == 2 * 67 * 52


def test_rows_in_another_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        cut(np.array([1, 1], np.int32), np.array([5, 4]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="order"):
        cut(np.array([2, 1], np.int32), np.array([4, 5]), np.array([1.0, 2.0]))


@given(came, st.integers(-300, 300), st.integers(0, 300))
def test_a_range_has_its_minutes_and_those_it_cuts_are_named(rows: list[tuple[int, int, int]], start_s: int, length_s: int) -> None:
    end_s = start_s + length_s
    for series in (1, 2, 3):
        found = cut(*columns(rows)).of(series, start_s * 1000, end_s * 1000)
        seconds = {second for one, second, _ in rows if one == series}
        inside = {second // 60 for second in seconds if start_s <= second < end_s}
        outside = {second // 60 for second in seconds if not start_s <= second < end_s}
        assert inside <= set((found.first // MINUTE_MS).tolist())
        named = set(cut_by(found, start_s * 1000, end_s * 1000).tolist())
        assert inside & outside <= named
        assert set(found.without(np.array(sorted(named), np.int64)).first // MINUTE_MS) == inside - outside


one_series = st.lists(st.tuples(st.just(1), st.integers(0, 300), st.integers(-9, 9)), max_size=40)


@given(st.lists(one_series, max_size=4), st.lists(st.integers(0, 300), max_size=20), st.integers(1, 3))
def test_minutes_of_several_tables_add_up_or_are_named(tables: list[list[tuple[int, int, int]]], others: list[int], width: int) -> None:
    parts = [cut(*columns(rows)) for rows in tables]
    joined = Minutes(*(np.concatenate([getattr(part, name) for part in [*parts, Minutes.none()]]) for name in Minutes.__slots__))
    ts = np.array(others, np.int64) * 1000
    named = set(clashing(joined, ts).tolist())
    seconds = [(place, second) for place, rows in enumerate(tables) for _, second, _ in rows]
    for place, second in seconds:
        twice = any(other == second and there != place for there, other in seconds) or second in others
        assert not twice or second // 60 in named, "a ms that two hold is in a minute that is named"
    sound = joined[~np.isin(joined.first // MINUTE_MS, list(named))] if named else joined
    chart = join([fold_minutes(sound, 0, width * MINUTE_MS)], 0, width * MINUTE_MS)
    left = [(second, value) for rows in tables for second, value in {s: v for _, s, v in rows}.items() if second // 60 not in named]
    assert chart.count.sum() == len(left)
    assert np.allclose((chart.average * chart.count).sum(), sum(value for _, value in left))


def test_a_table_of_minutes_is_no_segment() -> None:
    assert rollups.table_of(SEGMENT) == "minutes_5_0_3"
    assert Segment.parse(rollups.table_of(SEGMENT)) is None
