"""How a store divides a day: rows are appended to an open segment, full segments are put in order of series, small ordered ones merged."""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from cloud.telemetry.model import Kind

MERGED_AT_ONCE: Final = 4
WORTH_ORDERING: Final = 8  # a day that rests is put in order from an eighth of a full segment on
MERGED_SPANS: Final = (1, 4)  # segments of a million rows become ones of 4, and these of 16 million: each row is sorted three times
_NUMBER_OF_ROWS_BITS: Final = 40  # of an arrival: rows of one segment

DayKey = tuple[Kind, int]  # kind of table (numbers or texts), day


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of one day's rows, in one table. Segments are numbered in order of arrival; a merged one covers `first` to `last`."""

    kind: Kind
    day: int
    first: int
    last: int
    ordered: bool = False

    @property
    def table(self) -> str:
        """The name of its table, from which it can be told again.

        >>> Segment(Kind.NUMBER, -3, 0, 0).table, Segment(Kind.TEXT, 20_000, 7, 7).table, Segment(Kind.NUMBER, 20_000, 0, 15, True).table
        ('hot_m3', 'hot_text_20000_7', 'run_20000_0_15')
        """
        name = f"{'run' if self.ordered else 'hot'}_{'text_' if self.kind is Kind.TEXT else ''}{self.day}".replace("-", "m")
        if self.ordered:
            return f"{name}_{self.first}_{self.last}"
        return f"{name}_{self.first}" if self.first else name

    @classmethod
    def parse(cls, table: str) -> Self | None:
        """
        >>> Segment.parse('run_text_m3_0_15')
        Segment(kind=<Kind.TEXT: 'text'>, day=-3, first=0, last=15, ordered=True)
        """
        found = re.fullmatch(r"(hot|run)_(text_)?(m?)(\d+)(?:_(\d+))?(?:_(\d+))?", table)
        if found is None:
            return None
        state, text, minus, day, first, last = found.groups()
        begin = int(first or 0)
        return cls(Kind.TEXT if text else Kind.NUMBER, -int(day) if minus else int(day), begin, int(last or begin), state == "run")

    @property
    def span(self) -> int:
        """How many segments it was."""
        return self.last - self.first + 1

    @property
    def arrivals_from(self) -> int:
        """Added to a row's number in its table it orders the rows of a day as they came, but for rows of other series or times."""
        return self.first << _NUMBER_OF_ROWS_BITS


Work = tuple[Sequence[Segment], Segment]  # segments to put in order together, and what becomes of them


class Segments:
    """Which segments there are. The appending thread adds, two others replace (one orders full ones, one merges), any may look."""

    def __init__(self, found: Iterable[tuple[Segment, int]], full_at: Mapping[Kind, int], rolled: Iterable[Segment] = ()) -> None:
        """`found`: what a store holds, with the number of rows; `full_at`: rows at which a segment takes no more; `rolled`: has minutes."""
        self._full_at = full_at
        self._held: dict[DayKey, tuple[Segment, ...]] = {}
        self._rows: dict[DayKey, int] = {}  # of the newest segment; written by the appending thread only
        self._filled = 0  # how many segments have become full
        self._grew: dict[DayKey, int] = {}  # the same, when the newest segment of a day grew last; the appending thread's too
        self._change = threading.Lock()
        self._claimed: set[Segment] = set()
        self._rolled = frozenset(rolled)
        for segment, rows in sorted(found, key=lambda one: one[0].first):
            key = (segment.kind, segment.day)
            self._held[key] = (*self._held.get(key, ()), segment)
            self._rows[key] = rows
            self._grew[key] = 0

    def open(self, kind: Kind, day: int) -> Segment:
        """The segment that takes rows of this day; a new one, which nobody sees before `appended`, when the newest is full."""
        held = self._held.get((kind, day))
        if held is None:
            return Segment(kind, day, 0, 0)
        newest = held[-1]
        if newest.ordered or self._rows[kind, day] >= self._full_at[kind]:
            return Segment(kind, day, newest.last + 1, newest.last + 1)
        return newest

    def holds(self, segment: Segment) -> bool:
        return segment in self._held.get((segment.kind, segment.day), ())

    def appended(self, segment: Segment, rows: int) -> bool:
        """These rows are durable in what `open` gave; whether the segment is full now."""
        key = (segment.kind, segment.day)
        with self._change:
            if self.holds(segment):
                self._rows[key] += rows
            else:
                self._held = {**self._held, key: (*self._held.get(key, ()), segment)}
                self._rows[key] = rows
        self._grew[key] = self._filled
        if self._rows[key] < self._full_at[segment.kind]:
            return False
        self._filled += 1
        self._close_quiet_days()
        return True

    def _close_quiet_days(self) -> None:
        """A day that did not grow while a segment filled from end to end is put in order too, if it is worth it: yesterday, mostly."""
        for key, grew in list(self._grew.items()):
            if grew + 2 <= self._filled:
                del self._grew[key]
                if self._rows.get(key, 0) >= self._full_at[key[0]] // WORTH_ORDERING:
                    self._rows[key] = self._full_at[key[0]]

    def days(self, kind: Kind, first: int, last: int) -> list[int]:
        """The days from `first` to `last` that have rows, in order."""
        return sorted(day for held, day in self._held if held is kind and first <= day <= last)

    def of(self, kind: Kind, day: int) -> Sequence[Segment]:
        """The segments of a day in order of arrival."""
        return self._held.get((kind, day), ())

    def rolled(self, segment: Segment) -> bool:
        """Whether the segment has its minutes beside it."""
        return segment in self._rolled

    def every(self) -> Sequence[Segment]:
        """All segments of all days."""
        return [segment for held in self._held.values() for segment in held]

    def full(self) -> Work | None:
        """A segment that takes no more rows and is not in order yet."""
        for (kind, _), held in self._held.items():
            for segment in held:
                full = segment is not held[-1] or self._rows[kind, segment.day] >= self._full_at[kind]
                if full and not segment.ordered:
                    return (segment,), Segment(kind, segment.day, segment.first, segment.last, ordered=True)
        return None

    def mergeable(self) -> Work | None:
        """As many adjacent ordered segments of one span as are merged at once."""
        for (kind, day), held in self._held.items():
            for span in MERGED_SPANS:
                alike: list[Segment] = []
                for segment in held:
                    alike = [*alike, segment] if segment.ordered and segment.span == span else []
                    if len(alike) == MERGED_AT_ONCE:
                        return alike, Segment(kind, day, alike[0].first, alike[-1].last, ordered=True)
        return None

    @contextmanager
    def claiming(self, segments: Sequence[Segment]) -> Iterator[bool]:
        """Inside, nobody else rewrites these or deletes from them; False when somebody does just now, or has replaced one of them.

        A delete beside a rewrite would be undone: the rewrite reads the rows as they were when it began, and DuckDB sees no conflict.
        """
        with self._change:
            free = not self._claimed.intersection(segments) and all(self.holds(segment) for segment in segments)
            if free:
                self._claimed.update(segments)
        try:
            yield free
        finally:
            if free:
                with self._change:
                    self._claimed.difference_update(segments)

    @contextmanager
    def replacing(self, old: Sequence[Segment], new: Segment, *, rolled: bool = False) -> Iterator[None]:
        """Inside, `new` becomes durable in place of `old`; whoever finds a table gone looks again after it with `settled`."""
        key = (new.kind, new.day)
        with self._change:
            yield
            held = self._held[key]
            at = held.index(old[0])
            self._held = {**self._held, key: (*held[:at], new, *held[at + len(old) :])}
            self._rolled = self._rolled.difference(old) | ({new} if rolled else set())

    @contextmanager
    def removing(self, segment: Segment) -> Iterator[None]:
        """Inside, the segment's table is dropped durably."""
        key = (segment.kind, segment.day)
        with self._change:
            yield
            left = tuple(one for one in self._held[key] if one != segment)
            self._rolled -= {segment}
            held = {**self._held, key: left}
            if not left:
                del held[key]
            elif segment == self._held[key][-1]:
                self._rows[key] = self._full_at[segment.kind]  # what is newest now takes no more: rows that come are newer than all of it
            self._held = held

    @contextmanager
    def unrolling(self, segment: Segment) -> Iterator[None]:
        """Inside, the segment's minutes are dropped durably, as its rows are not what they were."""
        with self._change:
            yield
            self._rolled -= {segment}

    def settled(self) -> None:
        """Return when nothing is being replaced at this moment."""
        with self._change:
            return
