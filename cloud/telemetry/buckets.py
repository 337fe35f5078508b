"""Rows of one series to buckets of equal width: of several rows in one ms the last that came counts. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud.telemetry.model import Buckets, Floats64, Ints64


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a chart: which buckets (numbered from the start of the range), and what fell into each; all columns of one length."""

    bucket: Ints64
    low: Floats64
    high: Floats64
    total: Floats64
    number: Ints64


def fold(ts: Ints64, value: Floats64, arrival: Ints64, start: int, width: int) -> Piece:
    """Cut rows in any order into buckets of `width` ms from `start` on. `arrival` says which of two rows with one ms came later."""
    if not len(ts):
        return Piece(ts, value, value, value, ts)
    if (ts[1:] < ts[:-1]).any():
        came = np.lexsort((arrival, ts))
        ts, value, arrival = ts[came], value[came], arrival[came]
    again = ts[1:] == ts[:-1]
    if again.any():
        if (again & (arrival[1:] < arrival[:-1])).any():  # in order of time, and not of arrival within a ms
            came = np.lexsort((arrival, ts))
            ts, value = ts[came], value[came]
        newest = np.append(~again, True)
        ts, value = ts[newest], value[newest]
    # Rows are in order: a bucket begins where its edge would stand. Dividing every time by the width takes longer than all the rest.
    low, high = (int(ts[0]) - start) // width, (int(ts[-1]) - start) // width
    bucket = np.arange(low, high + 1)
    edge = np.searchsorted(ts, start + width * np.append(bucket, high + 1))
    number = np.diff(edge)
    held = number > 0
    bucket, first, number = bucket[held], edge[:-1][held], number[held]
    return Piece(bucket, np.minimum.reduceat(value, first), np.maximum.reduceat(value, first), np.add.reduceat(value, first), number)


def join(pieces: Sequence[Piece], start: int, width: int) -> Buckets:
    """Pieces of different ms as one chart: a bucket that several have something of is made one."""
    bucket = np.concatenate([np.empty(0, np.int64), *(piece.bucket for piece in pieces)])
    low, high, total = (
        np.concatenate([np.empty(0), *columns])
        for columns in ([p.low for p in pieces], [p.high for p in pieces], [p.total for p in pieces])
    )
    number = np.concatenate([np.empty(0, np.int64), *(piece.number for piece in pieces)])
    order = np.argsort(bucket, kind="stable")
    bucket, low, high, total, number = (column[order] for column in (bucket, low, high, total, number))
    distinct, first = np.unique(bucket, return_index=True)
    if not len(distinct):
        return Buckets(distinct, low, high, total, number)
    total, number = np.add.reduceat(total, first), np.add.reduceat(number, first)
    return Buckets(distinct * width + start, np.minimum.reduceat(low, first), np.maximum.reduceat(high, first), total / number, number)
