"""Use cases: history of one property for the API. Everything here blocks: asyncio code runs it in a thread."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from cloud.telemetry.model import Buckets, Cursor, Gap, Kind, Points, SeriesKey, after
from cloud.telemetry.ports import TelemetryStore
from protocols.errors import TryAgain

MOST_GAPS: Final = 10_000
MOST_BUCKETS: Final = 10_000


class TooManyQueries(TryAgain):
    """Every query slot was taken for a second."""


@dataclass(frozen=True, slots=True)
class Property:
    """Whose history is asked for."""

    product_key: str
    device_name: str
    identifier: str

    def series(self, kind: Kind) -> SeriesKey:
        return SeriesKey(self.product_key, self.device_name, self.identifier, kind)


@dataclass(frozen=True, slots=True)
class Page:
    """Up to `limit` points of a history, and where the next page starts."""

    points: Points
    next: Cursor | None


class History:
    """Queries on a store, at most `slots` at a time, so that they leave the processor to appends."""

    def __init__(self, store: TelemetryStore, slots: int = 4) -> None:
        self._store = store
        self._slots = threading.BoundedSemaphore(slots)

    @contextmanager
    def _slot(self) -> Iterator[TelemetryStore]:
        if not self._slots.acquire(timeout=1.0):
            raise TooManyQueries("every query slot is taken")
        try:
            yield self._store
        finally:
            self._slots.release()

    def page(self, of: Property, kind: Kind, start: int, end: int, limit: int, cursor: Cursor | None) -> Page:
        """Points in [start, end), one a ms: of several the last. Raises TryAgain."""
        begin = start if cursor is None else max(start, cursor.ts)
        points = Points(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
        series = self._store.find(of.series(kind))
        if series is not None and begin < end:
            with self._slot() as store:
                points = store.points(series, begin, end, limit + 1)
        if len(points) <= limit:
            return Page(points, None)
        return Page(points[:limit], Cursor(int(points.ts[limit])))

    def rows(self, of: Property, kind: Kind, start: int, end: int, limit: int, cursor: Cursor | None) -> Page:
        """Every stored row in [start, end), duplicates too. Raises TryAgain."""
        begin, skip = (start, 0) if cursor is None or cursor.ts < start else (cursor.ts, cursor.skip)
        points = Points(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
        series = self._store.find(of.series(kind))
        if series is not None and begin < end:
            with self._slot() as store:
                points = store.rows(series, begin, end, limit + 1, skip)
        if len(points) <= limit:
            return Page(points, None)
        # The skipped rows are those of the first ms of this page.
        page = points[:limit]
        return Page(page, after(page, skip if cursor is not None and int(page.ts[0]) == cursor.ts else 0))

    def buckets(self, of: Property, start: int, end: int, number: int) -> Buckets:
        """The range cut into `number` buckets of equal width (the last may be shorter); empty ones are left out. Raises TryAgain."""
        series = self._store.find(of.series(Kind.NUMBER))
        if series is None or start >= end:
            nothing = np.empty(0, np.int64)
            return Buckets(nothing, np.empty(0), np.empty(0), np.empty(0), nothing)
        with self._slot() as store:
            return store.buckets(series, start, end, -(-(end - start) // number))

    def gaps(self, of: Property, start: int, end: int) -> Sequence[Gap]:
        """Gaps that overlap [start, end), whole, in order of time. Raises TryAgain."""
        with self._slot() as store:
            return store.gaps(of.product_key, of.device_name, of.identifier, start, end, MOST_GAPS)
