"""Charts from a DuckDB store: from minutes where segments have them, from rows where they do not, or where minutes do not add up."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cloud.telemetry import rollups
from cloud.telemetry.buckets import Piece, fold, join
from cloud.telemetry.minutes import MINUTE_MS, Minutes, clashing, cut_by, fold_minutes
from cloud.telemetry.model import Buckets, Ints64, Kind
from cloud.telemetry.reading import TABLES_A_QUERY, Reading, Rows, branches_of, run
from cloud.telemetry.segments import Segment
from cloud.telemetry.tail import Tail

MOST_CLASHES: Final = 64
"""Minutes that do not add up, of which a chart asks the rows; when there are more it asks all rows."""


class Charts:
    """Used by any thread, each with a cursor of its own."""

    def __init__(self, reading: Reading, tail: Tail, minutes: rollups.Held, folded_rows: int) -> None:
        """`folded_rows` are taken into memory; DuckDB, which can go to disk, folds more by itself."""
        self._reading, self._tail, self._minutes, self._folded_rows = reading, tail, minutes, folded_rows

    def buckets(self, cursor: Any, series: int, start: int, end: int, width: int) -> Buckets:
        """Rows in [start, end), cut into `width` ms from `start` on."""
        pieces: list[Piece] = []
        whole = start % MINUTE_MS == 0 and width % MINUTE_MS == 0
        for days in self._reading.days(Kind.NUMBER, start, end, TABLES_A_QUERY):
            found = self._from_minutes(cursor, days, series, start, end, width) if whole else None
            pieces += self._from_rows(cursor, days, series, start, end, width) if found is None else found
        return join(pieces, start, width)

    def _from_rows(self, cursor: Any, days: Sequence[int], series: int, start: int, end: int, width: int) -> list[Piece]:
        rows, tail = self._reading.rows(cursor, self._some, Kind.NUMBER, days, series, start, end, self._tail)
        if len(rows["ts"]) <= self._folded_rows:  # then this is a third faster than to let DuckDB do it
            return [fold(*_columns(rows, tail), start, width)]
        statement = (
            f"SELECT (ts - {start:d}) // {width:d} AS bucket, min(v) AS low, max(v) AS high, sum(v) AS total, count(*) AS number"  # noqa: S608 - integers
            " FROM (SELECT ts, arg_max(v, arrival) AS v FROM ({}) GROUP BY ts) GROUP BY bucket ORDER BY bucket"
        )
        rows, _ = self._reading.rows(cursor, statement, Kind.NUMBER, days, series, start, end)
        return [Piece(*(np.asarray(rows[name]) for name in ("bucket", "low", "high", "total", "number")))]

    def _from_minutes(self, cursor: Any, days: Sequence[int], series: int, start: int, end: int, width: int) -> list[Piece] | None:
        """None: it takes the rows."""

        def ask(segments: Sequence[Segment], rolled: frozenset[Segment]) -> list[Piece] | None:
            if not rolled:
                return None
            parts = {segment: self._minutes.read(cursor, segment, series, start, end) for segment in segments if segment in rolled}
            minutes = Minutes.concatenate([*parts.values(), Minutes.none()])
            others, tail = branches_of([segment for segment in segments if segment not in rolled], series, start, end, self._tail)

            def rows_of(astray: Ints64) -> list[str]:
                """What has to be asked for the rows of these minutes; every statement costs, so only of tables that have some."""
                spans = " OR ".join(f"ts >= {minute * MINUTE_MS} AND ts < {(minute + 1) * MINUTE_MS}" for minute in astray.tolist())
                theirs = [segment for segment, part in parts.items() if len(part.without(astray)) < len(part)]
                return [f"{branch} AND ({spans})" for branch in branches_of(theirs, series, start, end)[0]]

            cut = cut_by(minutes, start, end)
            branches = others + rows_of(cut)
            rows = _columns(run(cursor, self._some, branches) if branches else None, tail)
            minutes = minutes.without(cut)
            clashes = clashing(minutes, rows[0])
            if len(clashes) > MOST_CLASHES or len(rows[0]) > self._folded_rows:
                return None
            if len(clashes):
                minutes = minutes.without(clashes)
                again = run(cursor, self._some, rows_of(clashes))
                if len(again["ts"]) > self._folded_rows:
                    return None
                rows = _columns(again, [rows])
            return [fold_minutes(minutes, start, width), fold(*rows, start, width)]

        return self._reading.steady(Kind.NUMBER, days, ask)

    @property
    def _some(self) -> str:
        """Rows, at most one more than are folded here."""
        return f"SELECT ts, v, arrival FROM ({{}}) LIMIT {self._folded_rows + 1}"  # noqa: S608 - an integer


def _columns(asked: Any, more: Sequence[Rows]) -> Rows:
    """What a statement gave, and rows from elsewhere."""
    pieces = [*more, (np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))]
    if asked is not None:
        pieces.append((np.asarray(asked["ts"]), np.asarray(asked["v"]), np.asarray(asked["arrival"])))
    ts, value, arrival = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return ts, value, arrival
