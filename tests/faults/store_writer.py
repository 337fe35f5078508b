"""Append to a telemetry store for ever; print the number of each append once it is durable. What append n holds follows from n alone.

    python tests/faults/store_writer.py FILE [CRASH_DIR [KEEP]]

Segments are tiny, so that rows are put in order all the time. Append n comes at second n; with KEEP the store is told again and again
to let go of what came more than so many seconds ago.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cloud.foundation.crashpoint import arm
from cloud.foundation.logs import configure
from cloud.telemetry.duckdb_store import DuckDbStore, Limits
from cloud.telemetry.model import Append, Kind, Numbers, Position, Series, SeriesKey, Text

LIMITS = Limits(segment_rows=40, segment_texts=16, quiet_s=0)
SERIES = [Series(n, SeriesKey("stove", f"s{n}", "power", Kind.NUMBER if n < 4 else Kind.TEXT)) for n in range(1, 6)]
ROWS = 12
EXPIRES_EVERY = 5  # appends

Row = tuple[int, int, int]  # series, ts, value


def rows_of(number: int) -> list[Row]:
    """Twelve rows of five series, now and then at a time that an earlier append has used: the value says which append it was."""
    return [(n % 5 + 1, (number * 7919 + n * 31) % 997, number) for n in range(ROWS)]


def append_of(number: int) -> Append:
    rows = rows_of(number)
    series, ts, value = (np.array(column) for column in zip(*(row for row in rows if row[0] < 4), strict=True))
    return Append(
        Position("s", number - 1) if number > 1 else Position(),
        Position("s", number),
        series=SERIES if number == 1 else (),
        numbers=Numbers(series.astype(np.int32), ts.astype(np.int64), value.astype(np.float64), np.full(len(ts), number)),
        texts=[Text(one, at, str(value), number) for one, at, value in rows if one >= 4],
        received_ms=1000 * number,
    )


def stored(store: DuckDbStore) -> Iterator[Row]:
    """Every row, duplicates too; of each series in order of time and arrival."""
    for series in SERIES:
        found = store.rows(series.id, -(2**53), 2**53, 1_000_000, 0)
        yield from ((series.id, ts, int(value)) for ts, value in zip(found.ts.tolist(), list(found.values), strict=True))


def write(path: Path, keep: int | None) -> None:
    store = DuckDbStore(path, LIMITS)
    number = store.position().sequence
    while True:
        number += 1
        store.append(append_of(number))
        os.write(1, b"%d\n" % number)
        if keep is not None and number % EXPIRES_EVERY == 0:
            store.expire(1000 * (number - keep), 1000 * keep)


if __name__ == "__main__":
    configure("store_writer", "error")
    arm(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    write(Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
