"""Charts of a store whose segments have minutes: they are used, they say what the rows say, and they go when rows go."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloud.telemetry.duckdb_store import DuckDbStore, Limits
from cloud.telemetry.model import Append, Kind, Numbers, Position, Series, SeriesKey
from cloud.telemetry.rollups import table_of

SERIES = (Series(1, SeriesKey("stove", "s1", "power")), Series(2, SeriesKey("stove", "s2", "power")))
SECONDS = 1_200


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDbStore]:
    store = DuckDbStore(tmp_path / "t.duckdb", Limits(segment_rows=400, quiet_s=0, tail_segments=0))
    for number in range(SECONDS // 100):
        second = np.repeat(np.arange(100 * number, 100 * number + 100), 2)
        series = np.tile(np.array([1, 2], np.int32), 100)
        rows = Numbers(series, second * 1000, second.astype(np.float64), np.full(200, number + 1))
        told = SERIES if number == 0 else ()
        store.append(Append(store.position(), Position("s", number + 1), told, rows, received_ms=1000 * number))
    yield store
    store.close()


def ordered(store: DuckDbStore, segments: int) -> None:
    """Once nothing is left to be put in order or merged."""
    deadline = time.monotonic() + 10
    held = store._segments.of(Kind.NUMBER, 0)
    while (len(held) > segments or not all(segment.ordered for segment in held)) and time.monotonic() < deadline:
        time.sleep(0.01)
        held = store._segments.of(Kind.NUMBER, 0)
    assert len(held) == segments


def test_a_chart_is_made_from_minutes(store: DuckDbStore) -> None:
    ordered(store, 3)  # one of four and two of one
    rolled = [segment for segment in store._segments.of(Kind.NUMBER, 0) if store._segments.rolled(segment)]
    assert len(rolled) == 3
    chart = store.buckets(1, 0, SECONDS * 1000 - 30_000, 120_000)
    assert chart.count.tolist() == [120] * 9 + [90]
    assert chart.average.tolist() == [119 / 2 + 120 * place for place in range(9)] + [1080 + 89 / 2]
    for segment in rolled:  # a chart that did not read them would not notice
        store._connection.execute(f"UPDATE {table_of(segment)} SET high = 77777")
        store._minutes.drop(segment)
    assert set(store.buckets(1, 0, SECONDS * 1000, 120_000).maximum.tolist()) == {77777.0}
    assert store.buckets(1, 0, SECONDS * 1000, 90_000).maximum.max() < SECONDS, "of half minutes: from the rows"


def test_minutes_go_with_the_rows_they_were_made_of(store: DuckDbStore) -> None:
    ordered(store, 3)
    assert store.buckets(1, 0, SECONDS * 1000, 60_000).count.sum() == SECONDS
    store.append(Append(store.position(), Position("s", 13), received_ms=20_000))
    gone = store.expire(3_500, 100)  # the first four of the eight hundred rows of the first segment
    assert gone.rows == 800
    first, *others = store._segments.of(Kind.NUMBER, 0)
    assert [store._segments.rolled(segment) for segment in (first, *others)] == [False, True, True]
    chart = store.buckets(1, 0, SECONDS * 1000, 60_000)
    assert (chart.start.min(), chart.count.sum()) == (360_000, SECONDS - 400)
    gone = store.expire(15_000, 100)
    assert gone.segments == 3
    assert not len(store.buckets(1, 0, SECONDS * 1000, 60_000).start)
    left = store._connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'minutes%'").fetchall()
    assert left == []
