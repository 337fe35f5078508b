"""Turning frames that are given up into gap records, and many gap records into few."""

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from protocols.edgelink.columns import Columns, SeriesKey
from protocols.edgelink.lanes import Gap, GapReason
from protocols.edgelink.records import EventRecord, GapRecord, Record

_MANY = 1_000
_K = TypeVar("_K")


class _Span:
    __slots__ = ("count", "first_ms", "last_ms")

    def __init__(self, first_ms: int, last_ms: int, count: int | None) -> None:
        self.first_ms, self.last_ms, self.count = first_ms, last_ms, count

    def widen(self, first_ms: int, last_ms: int, count: int | None) -> None:
        self.first_ms, self.last_ms = min(self.first_ms, first_ms), max(self.last_ms, last_ms)
        self.count = None if self.count is None or count is None else self.count + count


class Losses:
    """What is lost for one reason, per series; gaps of other reasons found in lost frames are handed on."""

    def __init__(self, reason: GapReason) -> None:
        self.reason = reason
        self._series: dict[SeriesKey, _Span] = {}
        self._devices: dict[tuple[str, str], _Span] = {}  # gaps of whole devices
        self._others: dict[Gap, None] = {}

    def lose(self, columns: Columns, records: Iterable[Record] = ()) -> None:
        """Readings, texts and events of a frame are given up. Replies and presence have no place in a history."""
        if len(columns.values):
            order = columns.series.argsort(kind="stable")
            series, times = columns.series[order], columns.times[order]
            starts = np.flatnonzero(np.diff(series, prepend=np.int64(-1)))
            firsts, lasts = np.minimum.reduceat(times, starts).tolist(), np.maximum.reduceat(times, starts).tolist()
            counts = np.diff(starts, append=len(series)).tolist()
            for index, first_ms, last_ms, count in zip(series[starts].tolist(), firsts, lasts, counts, strict=True):
                self._widen(columns.dictionary[index], first_ms, last_ms, count)
        for index, time_ms, _ in columns.texts:
            self._widen(columns.dictionary[index], time_ms, time_ms, 1)
        for record in records:
            if isinstance(record, GapRecord):
                self.add(record.gap)
            elif isinstance(record, EventRecord):
                self._widen((record.product_key, record.device_name, record.identifier), record.time_ms, record.time_ms, 1)

    def add(self, gap: Gap) -> None:
        """A gap known already: one of the same reason melts in, another is handed on."""
        if gap.reason is not self.reason:
            self._others[gap] = None
            return
        first_ms, last_ms = gap.from_ms + 1, gap.to_ms - 1
        if not gap.identifiers:
            _widen(self._devices, (gap.product_key, gap.device_name), first_ms, last_ms, gap.count)
            return
        share, rest = divmod(gap.count or 0, len(gap.identifiers))
        for place, identifier in enumerate(gap.identifiers):
            count = None if gap.count is None else share + (place < rest)
            self._widen((gap.product_key, gap.device_name, identifier), first_ms, last_ms, count)

    def _widen(self, key: SeriesKey, first_ms: int, last_ms: int, count: int | None) -> None:
        _widen(self._series, key, first_ms, last_ms, count)

    def gaps(self) -> tuple[Gap, ...]:
        """One gap per device and distinct range of its series, then those handed on (few: see `_few`)."""
        alike: dict[tuple[str, str, int, int], tuple[list[str], _Span]] = {}
        for (product_key, device_name, identifier), span in self._series.items():
            group = alike.get((product_key, device_name, span.first_ms, span.last_ms))
            if group is None:
                copy = _Span(span.first_ms, span.last_ms, span.count)
                alike[product_key, device_name, span.first_ms, span.last_ms] = ([identifier], copy)
            else:
                group[0].append(identifier)
                group[1].widen(span.first_ms, span.last_ms, span.count)
        of_series = [self._gap(key[0], key[1], tuple(names), span) for key, (names, span) in alike.items()]
        of_devices = [self._gap(key[0], key[1], (), span) for key, span in self._devices.items()]
        return (*of_series, *of_devices, *_few(self._others))

    def coarse(self) -> tuple[Gap, ...]:
        """One gap per device over everything it lost: wider than the truth, for when the exact list has no room."""
        devices: dict[tuple[str, str], _Span] = {}
        for gap in self.gaps():
            _widen(devices, (gap.product_key, gap.device_name), gap.from_ms + 1, gap.to_ms - 1, gap.count)
        return tuple(self._gap(product_key, device_name, (), span) for (product_key, device_name), span in devices.items())

    def _gap(self, product_key: str, device_name: str, names: tuple[str, ...], span: _Span) -> Gap:
        return Gap(product_key, device_name, names, span.first_ms - 1, span.last_ms + 1, span.count, self.reason)


def _widen(spans: dict[_K, _Span], key: _K, first_ms: int, last_ms: int, count: int | None) -> None:
    span = spans.get(key)
    if span is None:
        spans[key] = _Span(first_ms, last_ms, count)
    else:
        span.widen(first_ms, last_ms, count)


def _few(gaps: Iterable[Gap]) -> list[Gap]:
    """As they are up to a thousand; beyond, those of the same series and reason become one."""
    kept = list(gaps)
    if len(kept) <= _MANY:
        return kept
    spans: dict[tuple[str, str, tuple[str, ...], GapReason], _Span] = {}
    for gap in kept:
        _widen(spans, (gap.product_key, gap.device_name, gap.identifiers, gap.reason), gap.from_ms, gap.to_ms, gap.count)
    return [
        Gap(product_key, device_name, names, span.first_ms, span.last_ms, span.count, reason)
        for (product_key, device_name, names, reason), span in spans.items()
    ]


def gaps_of(columns: Columns, records: Iterable[Record], reason: GapReason) -> tuple[Gap, ...]:
    """The gaps that remain when one frame is given up."""
    losses = Losses(reason)
    losses.lose(columns, records)
    return losses.gaps()
