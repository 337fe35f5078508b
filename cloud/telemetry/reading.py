"""Statements over the segments of a DuckDB store: which tables hold the days of a range, asked again when one was replaced just before."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import duckdb

from cloud.telemetry.model import DAY_MS, Kind
from cloud.telemetry.segments import Segment, Segments
from cloud.telemetry.tail import Tail

TABLES_A_QUERY: Final = 64  # in one statement, of whole days: a year of small days is six statements, not one of 365 branches
NO_TAIL: Final = Tail(0)
_NOTHING: Final = "SELECT 0::BIGINT AS ts, 0::DOUBLE AS v, 0::BIGINT AS pos, 0::BIGINT AS arrival WHERE false"
_T = TypeVar("_T")

Rows = tuple[Any, Any, Any]
"""Columns of one length: time, value, arrival."""


class Reading:
    """Used by any thread, each with a cursor of its own."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def days(self, kind: Kind, start: int, end: int, tables: int = 1, *, newest_first: bool = False) -> Iterator[list[int]]:
        """The days that the range touches, by statement: those of few `tables` first, then ever more, so that a short page stays cheap."""
        days = self._segments.days(kind, start // DAY_MS, (end - 1) // DAY_MS)
        days = days[::-1] if newest_first else days
        while days:
            number, held = 1, len(self._segments.of(kind, days[0]))
            while number < len(days) and (held := held + len(self._segments.of(kind, days[number]))) <= tables:
                number += 1
            yield days[:number]
            days, tables = days[number:], min(2 * tables, TABLES_A_QUERY)

    def steady(self, kind: Kind, days: Sequence[int], ask: Callable[[Sequence[Segment], frozenset[Segment]], _T]) -> _T:
        """What `ask` says of the segments of these days, and of those among them that have minutes.

        It is asked again when it finds a table gone: a segment was put in order, or lost rows, just before.
        """
        while True:
            segments, rolled = self._held(kind, days)
            try:
                return ask(segments, rolled)
            except duckdb.CatalogException:
                self._segments.settled()
                if (segments, rolled) == self._held(kind, days):
                    raise

    def _held(self, kind: Kind, days: Sequence[int]) -> tuple[list[Segment], frozenset[Segment]]:
        segments = [segment for day in days for segment in self._segments.of(kind, day)]
        return segments, frozenset(segment for segment in segments if self._segments.rolled(segment))

    def rows(
        self, cursor: Any, statement: str, kind: Kind, days: Sequence[int], series: int, start: int, end: int, tail: Tail = NO_TAIL
    ) -> tuple[Any, list[Rows]]:
        """Run the statement over these days, but for the segments held by `tail`, whose rows come apart."""

        def ask(segments: Sequence[Segment], _: frozenset[Segment]) -> tuple[Any, list[Rows]]:
            branches, apart = branches_of(segments, series, start, end, tail)
            return run(cursor, statement, branches), apart

        return self.steady(kind, days, ask)


def branches_of(segments: Sequence[Segment], series: int, start: int, end: int, tail: Tail = NO_TAIL) -> tuple[list[str], list[Rows]]:
    """What has to be asked of tables, and the rows that `tail` holds."""
    wanted = f"series = {series:d} AND ts >= {start:d} AND ts < {end:d}"
    apart: list[Rows] = []
    branches: list[str] = []
    for segment in segments:
        if (held := tail.of(segment, series, start, end)) is not None:
            apart.append((held[0], held[1], held[2] + segment.arrivals_from))
            continue
        columns = f"ts, v, pos, rowid + {segment.arrivals_from} AS arrival"
        branches.append(f"SELECT {columns} FROM {segment.table} WHERE {wanted}")  # noqa: S608 - names and integers of ours
    return branches, apart


def run(cursor: Any, statement: str, branches: Sequence[str]) -> Any:
    """The statement over the branches, in place of its `{}`; columns by name."""
    return cursor.execute(statement.replace("{}", " UNION ALL ".join(branches or [_NOTHING]))).fetchnumpy()
