"""Use cases: history of one property for the API. Everything here blocks: asyncio code runs it in a thread."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from cloud.telemetry.minutes import MINUTE_MS
from cloud.telemetry.model import Buckets, ClockNote, Cursor, Gap, Kind, Points, SeriesKey, Text, after
from cloud.telemetry.ports import TelemetryStore
from protocols.edgelink.lanes import GapReason
from protocols.errors import TryAgain

MOST_GAPS: Final = 10_000
MOST_NOTES: Final = 100_000
NEIGHBOURS_MS: Final = 60_000
MOST_BUCKETS: Final = 10_000
WHOLE_SITE: Final = frozenset({GapReason.BUFFER_RESET, GapReason.BUFFER_DAMAGED, GapReason.REFUSED_FRAME})


class TooManyQueries(TryAgain):
    """Every query slot was taken for a second."""


@dataclass(frozen=True, slots=True)
class Property:
    """Whose history is asked for."""

    product_key: str
    device_name: str
    identifier: str
    gateways: Sequence[tuple[str, str]] = ()
    """(product key, device name) of the gateways through which its readings may have come."""

    def series(self, kind: Kind) -> SeriesKey:
        return SeriesKey(self.product_key, self.device_name, self.identifier, kind)


@dataclass(frozen=True, slots=True)
class Page:
    """Up to `limit` points of a history, and where the next page starts."""

    points: Points
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event that a device announced: its outputs as JSON text, its time in epoch ms."""

    event: str
    ts: int
    output: str


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

    def events(
        self, product_key: str, device_name: str, start: int, end: int, limit: int, cursor: Cursor | None, event: str | None = None
    ) -> tuple[list[Occurrence], Cursor | None]:
        """What a device announced in [start, end), the newest first, of one event or of all, and where the next page starts.

        Raises TryAgain.
        """
        until, skip = (end, 0) if cursor is None or cursor.ts >= end else (cursor.ts + 1, cursor.skip)
        series = self._store.series_of(product_key, device_name, Kind.EVENT)
        names = {one.id: one.key.identifier for one in series if event in (None, one.key.identifier)}
        rows: Sequence[Text] = ()
        if names and start < until:
            with self._slot() as store:
                rows = store.newest(list(names), start, until, skip + limit + 1)[skip:]
        page = [Occurrence(names[row.series], row.ts, row.json) for row in rows[:limit]]
        if len(rows) <= limit:
            return page, None
        last = page[-1].ts
        before = skip if cursor is not None and cursor.ts == last else 0
        return page, Cursor(last, before + sum(one.ts == last for one in page))

    def buckets(self, of: Property, start: int, end: int, width: int) -> Buckets:
        """The range cut into buckets of `width` ms from `start` on; empty ones are left out. Raises TryAgain.

        Where start and width are whole minutes, it need not look at every row.
        """
        series = self._store.find(of.series(Kind.NUMBER))
        if series is None or start >= end:
            nothing = np.empty(0, np.int64)
            return Buckets(nothing, np.empty(0), np.empty(0), np.empty(0), nothing)
        with self._slot() as store:
            return store.buckets(series, start, end, width)

    def notes(self, of: Property, start: int, end: int) -> Sequence[ClockNote]:
        """What is known about the clock behind the device's times in [start, end); neighbours of one shift are one. Raises TryAgain."""
        with self._slot() as store:
            return melted(store.notes(of.product_key, of.device_name, start, end, MOST_NOTES))

    def received(self, points: Points) -> list[int | None]:
        """When each row came; None where that is not known yet. Raises TryAgain."""
        with self._slot() as store:
            return [time_ms or None for time_ms in store.received(points.position).tolist()]

    def sent(self, of: Property, points: Points) -> list[int | None]:
        """When the device's gateway sent each row, to three seconds; None where it did not say. Raises TryAgain."""
        with self._slot() as store:
            return [time_ms or None for time_ms in store.sent(of.gateways, points.position).tolist()]

    def gaps(self, of: Property, start: int, end: int) -> Sequence[Gap]:
        """Gaps that overlap [start, end), whole, in order of time. Raises TryAgain.

        A gap of a gateway is one of every device behind it where nobody can know whose readings were lost.
        """
        with self._slot() as store:
            found = list(store.gaps(of.product_key, of.device_name, of.identifier, start, end, MOST_GAPS))
            for product_key, device_name in of.gateways:
                of_gateway = store.gaps(product_key, device_name, "", start, end, MOST_GAPS)
                found += [gap for gap in of_gateway if gap.reason in WHOLE_SITE and gap not in found]
        return sorted(found, key=lambda gap: (gap.from_ms, gap.to_ms))[:MOST_GAPS]


def grid(start: int, end: int, number: int) -> tuple[int, int, int]:
    """(start, end, width) of a range in `number` buckets. From a minute on all three are whole minutes: there may be one more then.

    >>> grid(0, 1000, 3), grid(90_000, 90_000 + 86_400_000, 24)
    ((0, 1000, 334), (60000, 86520000, 3600000))
    """
    width = -(-(end - start) // number)
    if width < MINUTE_MS:
        return start, end, width
    return start // MINUTE_MS * MINUTE_MS, -(-end // MINUTE_MS) * MINUTE_MS, -(-width // MINUTE_MS) * MINUTE_MS


def melted(notes: Sequence[ClockNote]) -> list[ClockNote]:
    """Notes in order of time, those of one shift that overlap or nearly touch made one: a gateway leaves one a frame.

    >>> melted([ClockNote("p", "d", 0, 10, 5), ClockNote("p", "d", 8, 20, 5), ClockNote("p", "d", 19, 30, None)])  # doctest: +ELLIPSIS
    [ClockNote(product_key='p', device_name='d', from_ms=0, to_ms=20, shift_ms=5), ...]
    """
    found: list[ClockNote] = []
    for note in notes:
        last = found[-1] if found else None
        if last is not None and last.shift_ms == note.shift_ms and note.from_ms <= last.to_ms + NEIGHBOURS_MS:
            to_ms = max(last.to_ms, note.to_ms)
            found[-1] = ClockNote(note.product_key, note.device_name, last.from_ms, to_ms, note.shift_ms)
        else:
            found.append(note)
    return found
