"""What telemetry needs of an engine."""

from collections.abc import Sequence
from typing import Protocol

from cloud.telemetry.model import Append, Buckets, ClockNote, Expired, Gap, Ints64, Kind, Points, Position, Series, SeriesKey, Text, Verdict
from protocols.errors import TryAgain


class QueryTooSlow(TryAgain):
    """A query ran into its time limit and was interrupted."""


class NoMemoryLeft(TryAgain):
    """A query found the store's memory taken by what goes on beside it."""


class TelemetryStore(Protocol):
    """Columns with a position. Calls block: `append` is for one thread, the others for any. Ranges are [start, end) in ms."""

    def position(self) -> Position:
        """The end of the last append that was applied."""
        ...

    def series(self, after: int, limit: int) -> Sequence[Series]:
        """Up to `limit` series with an id above `after`, in order of id."""
        ...

    def find(self, key: SeriesKey) -> int | None:
        """The id of a series, or None when nothing was ever stored in it."""
        ...

    def append(self, append: Append) -> Verdict:
        """Apply it durably and whole, or say why not. Repeating one that was applied answers HAVE and changes nothing."""
        ...

    def points(self, series: int, start: int, end: int, limit: int) -> Points:
        """The first `limit` samples; of several with one ms the last appended."""
        ...

    def rows(self, series: int, start: int, end: int, limit: int, skip: int) -> Points:
        """Every stored row, duplicates too, in order of ms and arrival, after leaving out the first `skip`."""
        ...

    def newest(self, series: Sequence[int], start: int, end: int, limit: int) -> Sequence[Text]:
        """Of several series of texts or events together the newest rows, the newest first; of one ms those that came last first.

        Duplicates too: whoever sends an event twice is shown twice.
        """
        ...

    def series_of(self, product_key: str, device_name: str, kind: Kind) -> Sequence[Series]:
        """The series of one device and kind, by identifier."""
        ...

    def buckets(self, series: int, start: int, end: int, width: int) -> Buckets:
        """Minimum, maximum, average and count of each `width` ms from `start` on, duplicates removed; numeric series only."""
        ...

    def gaps(self, product_key: str, device_name: str, identifier: str, start: int, end: int, limit: int) -> Sequence[Gap]:
        """Gaps of this property, or of all of its device, that overlap the range; in order of time."""
        ...

    def notes(self, product_key: str, device_name: str, start: int, end: int, limit: int) -> Sequence[ClockNote]:
        """What is known about the clock behind this device's times, where they overlap the range; in order of time."""
        ...

    def received(self, positions: Ints64) -> Ints64:
        """When the message at each position had come (epoch ms, up to a second later than it did); 0 where that is not known yet."""
        ...

    def sent(self, gateways: Sequence[tuple[str, str]], positions: Ints64) -> Ints64:
        """When one of these (product key, device name) sent the message at each position, to three seconds; 0 where nobody said."""
        ...

    def expire(self, before_ms: int, keep_ms: int) -> Expired:
        """Let go of the rows, gaps and notes that came before `before_ms`; for the thread that appends.

        Rows that share their place with newer ones stay for up to a tenth of `keep_ms`, at most a day, longer.
        """
        ...

    def close(self) -> None:
        """Let go of the files. Closing twice is harmless."""
        ...
