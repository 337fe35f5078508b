"""Minutes of the DuckDB store: a table of them beside each ordered segment, made and dropped in the segment's own transactions."""

import threading
from collections import OrderedDict
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cloud.foundation.logs import get_logger
from cloud.telemetry.minutes import Minutes, cut, last_minute
from cloud.telemetry.model import Kind
from cloud.telemetry.segments import Segment

WORTH: Final = 4  # rows of a minute, on average; of fewer the rows themselves are as quick
ROWS_AT_ONCE: Final = 1 << 18  # read
_COLUMNS: Final = "series INTEGER, first BIGINT, last BIGINT, low DOUBLE, high DOUBLE, total DOUBLE, number BIGINT"
_NAMES: Final = Minutes.__slots__
_ROW_BYTES: Final = 52


def table_of(segment: Segment) -> str:
    """
    >>> table_of(Segment(Kind.NUMBER, 20_000, 0, 15, True)), table_of(Segment(Kind.NUMBER, 20_000, 0, 0))
    ('minutes_20000_0_15', 'minutes_20000')
    """
    return "minutes_" + segment.table.partition("_")[2]


def make(cursor: Any, segment: Segment, at_once: int = ROWS_AT_ONCE) -> bool:
    """Make the minutes of an ordered segment, inside its transaction; False when there are none: they would be too many."""
    if segment.kind is not Kind.NUMBER:
        return False
    # Rows that are not committed yet are numbered from somewhere far up.
    rows, base = cursor.execute(f"SELECT count(*), min(rowid) FROM {segment.table}").fetchone()  # noqa: S608 - a name of ours
    cursor.execute(f"CREATE TABLE {table_of(segment)} ({_COLUMNS})")
    held: tuple[Any, ...] = (np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0))
    made = read = 0
    while read < rows:
        numbered = f"rowid >= {base + read} AND rowid < {base + read + at_once}"
        chunk = cursor.execute(f"SELECT series, ts, v FROM {segment.table} WHERE {numbered}").fetchnumpy()  # noqa: S608 - a name and integers
        read += at_once
        columns = [np.concatenate([kept, np.asarray(chunk[name])]) for kept, name in zip(held, ("series", "ts", "v"), strict=True)]
        whole = last_minute(columns[0], columns[1]) if read < rows else len(columns[0])
        try:
            minutes = cut(*(column[:whole] for column in columns))
        except ValueError as error:  # charts do without them
            get_logger().error("store.no_minutes", segment=segment.table, error=str(error))
            cursor.execute(f"DROP TABLE {table_of(segment)}")
            return False
        held = tuple(column[whole:] for column in columns)
        made += len(minutes)
        if made * WORTH > rows:
            cursor.execute(f"DROP TABLE {table_of(segment)}")
            return False
        if len(minutes):
            incoming = pa.table({name: getattr(minutes, name) for name in _NAMES})  # noqa: F841 - DuckDB finds it by its name
            cursor.execute(f"INSERT INTO {table_of(segment)} SELECT * FROM incoming")  # noqa: S608 - a name of ours
    return True


def drop(connection: Any, segment: Segment) -> None:
    """Inside a transaction, if there are any."""
    connection.execute(f"DROP TABLE IF EXISTS {table_of(segment)}")


class Held:
    """Minutes of whole segments in memory, those asked for last: a statement over ten tables costs more than all else about a chart.

    Used by any thread. What a segment's minutes are does not change as long as it has some.
    """

    def __init__(self, most_bytes: int) -> None:
        """A segment with more than half of `most_bytes` is not held."""
        self._most_bytes, self._bytes = most_bytes, 0
        self._held: OrderedDict[Segment, Minutes | None] = OrderedDict()
        self._change = threading.Lock()

    def read(self, cursor: Any, segment: Segment, series: int, start: int, end: int) -> Minutes:
        """The minutes of a series that have rows in [start, end), or on both sides of it, from a segment that has some."""
        minutes = self._minutes(cursor, segment)
        if minutes is None:
            return read(cursor, segment, f"series = {series:d} AND last >= {start:d} AND first < {end:d}")
        return minutes.of(series, start, end)

    def drop(self, segment: Segment) -> None:
        """Its minutes are gone."""
        with self._change:
            self._take(segment)

    def _minutes(self, cursor: Any, segment: Segment) -> Minutes | None:
        with self._change:
            if segment in self._held:
                self._held.move_to_end(segment)
                return self._held[segment]
        (rows,) = cursor.execute(f"SELECT count(*) FROM {table_of(segment)}").fetchone()  # noqa: S608 - a name of ours
        found = None if rows * _ROW_BYTES > self._most_bytes // 2 else read(cursor, segment)
        with self._change:
            self._take(segment)  # another thread may have been as quick
            self._held[segment] = found
            self._bytes += 0 if found is None else found.bytes
            while self._bytes > self._most_bytes:
                self._take(next(iter(self._held)))
        return found

    def _take(self, segment: Segment) -> None:
        minutes = self._held.pop(segment, None)
        self._bytes -= 0 if minutes is None else minutes.bytes


def read(cursor: Any, segment: Segment, wanted: str = "true") -> Minutes:
    """What the segment's table has, in order of series and time."""
    rows = cursor.execute(f"SELECT * FROM {table_of(segment)} WHERE {wanted}").fetchnumpy()  # noqa: S608 - names and integers of ours
    return Minutes(*(np.asarray(rows[name]) for name in _NAMES))
