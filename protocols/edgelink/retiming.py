"""Moving the times of a frame that was stamped before the clock was known, with a record that says so."""

from typing import assert_never

import msgspec

from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import decode_body, encode_body
from protocols.edgelink.records import ClockRecord, EventRecord, GapRecord, PresenceRecord, Record, ReplyRecord, TallyRecord
from protocols.errors import Refused


def retimed(body: bytes, begin_ms: int, shift_ms: int | None) -> bytes:
    """The body with every time from `begin_ms` on moved by `shift_ms` (None: where they are), and a `ClockRecord` for each device.

    Earlier times stay: a gap reaches back to a reading of a time that was known. Raises what `decode_body` raises.
    """
    columns, records = decode_body(body)
    by = shift_ms or 0
    times = columns.times
    if by and len(times):
        times = times.copy()
        times[times >= begin_ms] += by
    texts = tuple((series, _moved(time_ms, begin_ms, by), text) for series, time_ms, text in columns.texts)
    moved = Columns(columns.dictionary, columns.series, times, columns.values, columns.quality, texts)
    others = tuple(_record(record, begin_ms, by) for record in records)
    try:
        return encode_body(moved, (*others, *_notes(moved, others, begin_ms + by, shift_ms)))
    except Refused:  # no room for the notes: the times matter more
        return encode_body(moved, others)


def _moved(time_ms: int, begin_ms: int, by: int) -> int:
    return time_ms + by if time_ms >= begin_ms else time_ms


def _record(record: Record, begin_ms: int, by: int) -> Record:
    match record:
        case EventRecord() | PresenceRecord():
            return msgspec.structs.replace(record, time_ms=_moved(record.time_ms, begin_ms, by))
        case GapRecord(gap):
            ends = {"from_ms": _moved(gap.from_ms, begin_ms, by), "to_ms": _moved(gap.to_ms, begin_ms, by)}
            return GapRecord(msgspec.structs.replace(gap, **ends))
        case ReplyRecord() | ClockRecord() | TallyRecord():
            return record
    assert_never(record)


def _notes(columns: Columns, records: tuple[Record, ...], begin_ms: int, shift_ms: int | None) -> list[ClockRecord]:
    """One note for each device that has readings or events in the frame."""
    spans: dict[tuple[str, str], tuple[int, int]] = {}

    def widen(product_key: str, device_name: str, time_ms: int) -> None:
        if time_ms >= begin_ms:
            first, last = spans.get((product_key, device_name), (time_ms, time_ms))
            spans[product_key, device_name] = (min(first, time_ms), max(last, time_ms))

    for index, (product_key, device_name, _) in enumerate(columns.dictionary):
        mine = columns.times[columns.series == index]
        for time_ms in (int(mine.min()), int(mine.max())) if len(mine) else ():
            widen(product_key, device_name, time_ms)
    for index, time_ms, _ in columns.texts:
        widen(*columns.dictionary[index][:2], time_ms)
    for record in records:
        if isinstance(record, EventRecord):
            widen(record.product_key, record.device_name, record.time_ms)
    return [ClockRecord(*who, first - 1, last + 1, shift_ms) for who, (first, last) in spans.items()]
