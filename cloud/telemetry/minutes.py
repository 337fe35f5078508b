"""Minutes: what fell into each minute of a series, kept beside rows that are in order, so that a chart of a day reads 1,440 of them. Pure.

Two tables can hold rows of one minute. As long as their times do not interleave, their minutes add up; where they do, a ms may be in both,
and the rows themselves have to be asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cloud.telemetry.buckets import Piece
from cloud.telemetry.model import Floats64, Ints32, Ints64

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Minutes:
    """Columns of one length: the first and the last ms of each minute that has a row, and what its rows add up to, each ms once."""

    series: Ints32
    first: Ints64
    last: Ints64
    low: Floats64
    high: Floats64
    total: Floats64
    number: Ints64

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: "slice | NDArray[np.int64] | NDArray[np.bool_]") -> "Minutes":
        return Minutes(*(getattr(self, name)[rows] for name in self.__slots__))

    @property
    def bytes(self) -> int:
        return sum(int(getattr(self, name).nbytes) for name in self.__slots__)

    def of(self, series: int, start: int, end: int) -> "Minutes":
        """Those of one series that have rows in [start, end), or on both sides of it, of minutes in order of series and time."""
        low, high = np.searchsorted(self.series, (series, series + 1))
        begin = np.searchsorted(self.last[low:high], start)
        stop = np.searchsorted(self.first[low:high], end)
        return self[int(low + begin) : int(low + stop)]

    def without(self, minutes: Ints64) -> "Minutes":
        """Those that are not among these minutes (since 1970)."""
        return self[~np.isin(self.first // MINUTE_MS, minutes)]

    @classmethod
    def concatenate(cls, pieces: "Sequence[Minutes]") -> Self:
        return cls(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in cls.__slots__))

    @classmethod
    def none(cls) -> Self:
        whole, real = np.empty(0, np.int64), np.empty(0)
        return cls(np.empty(0, np.int32), whole, whole, real, real, real, whole)


def cut(series: Ints32, ts: Ints64, value: Floats64) -> Minutes:
    """Rows in order of (series, time, arrival) to minutes. Raises ValueError when they are in another order."""
    if not len(ts):
        return Minutes.none()
    same = series[1:] == series[:-1]
    if (series[1:] < series[:-1]).any() or (same & (ts[1:] < ts[:-1])).any():
        raise ValueError("rows are not in order of series and time")
    newest = np.append(~(same & (ts[1:] == ts[:-1])), True)
    if not newest.all():
        series, ts, value = series[newest], ts[newest], value[newest]
    minute = ts // MINUTE_MS
    begins = np.flatnonzero(np.append(True, (series[1:] != series[:-1]) | (minute[1:] != minute[:-1])))
    ends = np.append(begins[1:], len(ts))
    return Minutes(
        series[begins],
        ts[begins],
        ts[ends - 1],
        np.minimum.reduceat(value, begins),
        np.maximum.reduceat(value, begins),
        np.add.reduceat(value, begins),
        ends - begins,
    )


def last_minute(series: Ints32, ts: Ints64) -> int:
    """Where the last minute of ordered rows begins among them: it may go on in the next ones."""
    same = (series == series[-1]) & (ts // MINUTE_MS == ts[-1] // MINUTE_MS)
    return int(len(ts) - np.count_nonzero(same))


def cut_by(minutes: Minutes, start: int, end: int) -> Ints64:
    """Which minutes (since 1970) have rows in [start, end), and others that are not."""
    return np.unique(minutes.first[(minutes.first < start) | (minutes.last >= end)] // MINUTE_MS)


def clashing(minutes: Minutes, ts: Ints64) -> Ints64:
    """Which minutes (since 1970) of one series interleave with others of it, or with rows at `ts`, and so do not add up."""
    if not len(minutes):
        return np.empty(0, np.int64)
    order = np.argsort(minutes.first, kind="stable")
    first, last = minutes.first[order], minutes.last[order]
    overlap = last[:-1] >= first[1:]
    at = np.searchsorted(first, ts, "right") - 1
    inside = (at >= 0) & (ts <= last[at])
    found = [first[:-1][overlap], first[1:][overlap], ts[inside]]
    return np.unique(np.concatenate(found) // MINUTE_MS)


def fold_minutes(minutes: Minutes, start: int, width: int) -> Piece:
    """Minutes of one series, in any order, to buckets of `width` ms from `start` on; both are whole minutes."""
    bucket = (minutes.first - start) // width
    order = np.argsort(bucket, kind="stable")
    bucket, minutes = bucket[order], minutes[order]
    if not len(bucket):
        return Piece(bucket, minutes.low, minutes.high, minutes.total, minutes.number)
    begins = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
    return Piece(
        bucket[begins],
        np.minimum.reduceat(minutes.low, begins),
        np.maximum.reduceat(minutes.high, begins),
        np.add.reduceat(minutes.total, begins),
        np.add.reduceat(minutes.number, begins),
    )
