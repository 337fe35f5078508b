"""A query for which there is no memory now is refused for the moment, and takes nobody else with it."""

from pathlib import Path

import numpy as np
import pytest

from cloud.telemetry.duckdb_store import DuckDbStore, Limits
from cloud.telemetry.model import Append, Kind, Numbers, Position, Series, SeriesKey
from cloud.telemetry.ports import NoMemoryLeft
from protocols.errors import TryAgain

ROWS, EVERY_MS = 900_000, 90


def test_a_query_without_memory_is_asked_to_come_again_and_the_next_one_is_answered(tmp_path: Path) -> None:
    store = DuckDbStore(tmp_path / "t.duckdb", Limits(quiet_s=1_000, tail_segments=0, folded_rows=1))
    times = np.arange(ROWS, dtype=np.int64) * EVERY_MS
    numbers = Numbers(np.ones(ROWS, np.int32), times, np.random.default_rng(1).random(ROWS), np.ones(ROWS, np.int64))
    series = [Series(1, SeriesKey("stove", "s1", "power", Kind.NUMBER))]
    store.append(Append(Position(), Position("s", 1), series=series, numbers=numbers, received_ms=1))
    whole = ROWS * EVERY_MS
    try:
        store._connection.execute("SET memory_limit = '16MB'")
        store._connection.execute("SET temp_directory = ''")  # and nowhere to put it aside
        with pytest.raises(NoMemoryLeft) as refused:
            store.points(1, 0, whole, ROWS)
        assert isinstance(refused.value, TryAgain), "which the API answers with 503 and Retry-After"
        assert len(store.points(1, 0, EVERY_MS * 10, 100).ts) == 10, "a small one has room"
        store._connection.execute("SET memory_limit = '512MB'")
        assert len(store.buckets(1, 0, whole, whole // 300).start) == 300
    finally:
        store.close()
