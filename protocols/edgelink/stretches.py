"""The account by stretches of time: a reading belongs to the ten minutes in which its frame was made, wherever it ends.

Both ends keep such an account, and both say the same of every stretch: a frame that takes the place of others carries a `TallyRecord`.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from protocols.edgelink.lanes import GapReason
from protocols.edgelink.records import MOST_IN_A_STRETCH, MOST_STRETCHES, GapRecord, Record, TallyRecord

STRETCH_MS: Final = 600_000
STRETCHES: Final = MOST_STRETCHES
"""That are kept of a buffer: three months of ten minutes each."""
_MOST_MS: Final = 1 << 53
GIVEN_UP: Final = frozenset({GapReason.OVERFLOW, GapReason.THINNED, GapReason.EXPIRED, GapReason.BUFFER_DAMAGED, GapReason.REFUSED_FRAME})
"""Reasons for which readings that were in the buffer are not delivered."""


def stretch_of(time_ms: int) -> int:
    """When the stretch of a time began; times beyond 2^53 ms, which are wrong, belong to the last ones.

    >>> stretch_of(1_199_999), stretch_of(-1), stretch_of(1 << 63)
    (600000, -600000, 9007199254200000)
    """
    time_ms = max(-_MOST_MS, min(time_ms, _MOST_MS))
    return time_ms - time_ms % STRETCH_MS


def given_up(created_ms: int, records: Iterable[Record]) -> dict[int, int]:
    """Readings that a frame's records say the buffer gave up, by stretch: its tally, or without one the gaps of its own time."""
    total = 0
    for record in records:
        if isinstance(record, TallyRecord):
            return {place * STRETCH_MS: count for place, count in record.stretches}
        if isinstance(record, GapRecord) and record.gap.reason in GIVEN_UP:
            total += record.gap.count or 0
    return {stretch_of(created_ms): min(total, MOST_IN_A_STRETCH)} if total > 0 else {}


def tally(counts: Mapping[int, int]) -> tuple[TallyRecord, ...]:
    """The record that says so; none when nothing was given up. Of more stretches than a record takes the oldest are counted as one."""
    held = sorted((from_ms // STRETCH_MS, count) for from_ms, count in counts.items() if count)
    beyond = held[: max(0, len(held) - MOST_STRETCHES)]
    if beyond:
        place, count = held[len(beyond)]
        held = [(place, count + sum(more for _, more in beyond)), *held[len(beyond) + 1 :]]
    return (TallyRecord(tuple((place, min(count, MOST_IN_A_STRETCH)) for place, count in held)),) if held else ()
