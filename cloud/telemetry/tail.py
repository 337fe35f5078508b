"""The rows that came last, in memory beside their tables: until a segment is in order, a chart finds its rows here ten times faster."""

from typing import Final

import numpy as np
import numpy.typing as npt

from cloud.telemetry.model import Floats64, Ints64, Numbers
from cloud.telemetry.segments import Segment

SEGMENTS: Final = 3  # the open one of a day, and those that wait to be put in order; about 30 MB each when full
_FIRST: Final = 1 << 14


class _Rows:
    """Columns that grow at their end. One thread appends; `number` is written last, so that whoever reads sees whole rows."""

    __slots__ = ("_series", "_ts", "_value", "number")

    def __init__(self) -> None:
        self._series: npt.NDArray[np.int32] = np.empty(_FIRST, np.int32)
        self._ts: Ints64 = np.empty(_FIRST, np.int64)
        self._value: Floats64 = np.empty(_FIRST)
        self.number = 0

    def add(self, rows: Numbers) -> None:
        begin, end = self.number, self.number + len(rows)
        while end > len(self._series):
            size = 2 * len(self._series)
            # Never in place: a reader may hold the old columns.
            self._series = np.concatenate([self._series[:begin], np.empty(size - begin, np.int32)])
            self._ts = np.concatenate([self._ts[:begin], np.empty(size - begin, np.int64)])
            self._value = np.concatenate([self._value[:begin], np.empty(size - begin)])
        self._series[begin:end] = rows.series
        self._ts[begin:end] = rows.ts
        self._value[begin:end] = rows.value
        self.number = end

    def of(self, series: int, start: int, end: int) -> tuple[Ints64, Floats64, Ints64]:
        number = self.number  # first: the columns are then at least as long
        columns, ts, value = self._series, self._ts, self._value
        found = np.flatnonzero(columns[:number] == series)
        times = ts[found]
        wanted = (times >= start) & (times < end)
        found = found[wanted]
        return times[wanted], value[found], found


class Tail:
    """The numbers of the segments opened last, each whole or not at all."""

    def __init__(self, segments: int = SEGMENTS) -> None:
        self._most = segments
        self._held: dict[Segment, _Rows] = {}  # in the order they were opened; looked up, entered and popped by different threads

    def add(self, segment: Segment, rows: Numbers, *, new: bool) -> None:
        """Rows that are durable in this segment; of a segment that is not held from its first row on none is kept."""
        if new and self._most:
            self._held[segment] = _Rows()
            for old in list(self._held)[: -self._most]:
                self.drop(old)
        held = self._held.get(segment)
        if held is not None:
            held.add(rows)

    def drop(self, segment: Segment) -> None:
        """Hold it no longer, as it has been put in order."""
        self._held.pop(segment, None)

    def of(self, segment: Segment, series: int, start: int, end: int) -> tuple[Ints64, Floats64, Ints64] | None:
        """Time, value and number in its table of the rows of one series with start <= time < end; None: ask the table."""
        held = self._held.get(segment)
        return None if held is None else held.of(series, start, end)
