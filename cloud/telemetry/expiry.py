"""Rows of the DuckDB store that came too long ago: whole segments are dropped, and rows deleted from the few that hold newer ones too."""

from collections.abc import Callable
from typing import Any

from cloud.foundation.crashpoint import crash_point
from cloud.foundation.logs import get_logger
from cloud.telemetry import rollups
from cloud.telemetry.model import DAY_MS, Expired
from cloud.telemetry.segments import Segment, Segments

SLACK_SHARE = 10
"""A segment that holds newer rows too loses the old ones only once they are older by a tenth of the time rows are kept, at most a day."""


def slack_ms(keep_ms: int) -> int:
    """How long beyond `keep_ms` a row may stay beside newer ones.

    >>> slack_ms(400 * 86_400_000) // 3_600_000, slack_ms(1_000)
    (24, 100)
    """
    return min(DAY_MS, keep_ms // SLACK_SHARE)


class Expiry:
    """Runs in the thread that appends. A segment is one transaction: a kill at any moment leaves each as it was or as it is to be."""

    def __init__(self, connection: Any, segments: Segments, gone: Callable[[Segment], None]) -> None:
        """`gone` is told of each segment whose rows are no longer what they were."""
        self._connection, self._segments, self._gone = connection, segments, gone
        self._spans: dict[Segment, tuple[int, int, int]] = {}  # of ordered segments, which do not change

    def run(self, before_ms: int, keep_ms: int, end: int, end_ms: int) -> Expired:
        """Let go of what came before `before_ms`; what is at `end`, the last position, came by `end_ms`."""
        newest = end if end_ms <= before_ms else self._position_at(before_ms)
        if newest is None:
            return Expired()
        beside_ms = before_ms - slack_ms(keep_ms)
        beside = end if end_ms <= beside_ms else self._position_at(beside_ms)
        rows = segments = 0
        for segment in self._segments.every():
            with self._segments.claiming([segment]) as free:
                if not free:  # it is being put in order just now; its turn comes again
                    get_logger().info("store.expiry_postponed", segment=segment.table)
                    continue
                lowest, highest, held = self._span(segment)
                if highest <= newest:
                    self._drop(segment)
                    rows, segments = rows + held, segments + 1
                elif beside is not None and lowest <= beside:
                    rows += self._delete(segment, newest)
        self._spans = {segment: span for segment, span in self._spans.items() if self._segments.holds(segment)}
        self._forget_beside(newest, beside)
        return Expired(rows, segments)

    def _position_at(self, time_ms: int) -> int | None:
        """The last position that is known to have come by then."""
        found: int | None = self._connection.execute("SELECT max(position) FROM receipt WHERE received_ms <= ?", [time_ms]).fetchone()[0]
        return found

    def _span(self, segment: Segment) -> tuple[int, int, int]:
        span = self._spans.get(segment)
        if span is None:
            query = f"SELECT coalesce(min(pos), 0), coalesce(max(pos), 0), count(*) FROM {segment.table}"  # noqa: S608 - a name of ours
            span = self._connection.execute(query).fetchone()
            if segment.ordered:
                self._spans[segment] = span
        return span

    def _drop(self, segment: Segment) -> None:
        self._connection.begin()
        try:
            self._connection.execute(f"DROP TABLE {segment.table}")
            rollups.drop(self._connection, segment)
            crash_point("core.before_expiry_commit")
            with self._segments.removing(segment):
                self._connection.commit()
        except BaseException:  # raised again: whatever it was, the transaction must not stay open
            self._connection.rollback()
            raise
        self._gone(segment)
        crash_point("core.after_expiry_commit")

    def _delete(self, segment: Segment, newest: int) -> int:
        self._connection.begin()
        try:
            statement = f"DELETE FROM {segment.table} WHERE pos <= {newest:d}"  # noqa: S608 - a name and an integer
            number: int = self._connection.execute(statement).fetchone()[0]
            rollups.drop(self._connection, segment)
            with self._segments.unrolling(segment):
                self._connection.commit()
        except BaseException:  # raised again: whatever it was, the transaction must not stay open
            self._connection.rollback()
            raise
        self._spans.pop(segment, None)
        self._gone(segment)
        crash_point("core.after_expiry_delete")
        return number

    def _forget_beside(self, newest: int, beside: int | None) -> None:
        """What was known beside the rows: gaps, notes about clocks, and when rows came that are gone."""
        self._connection.execute("DELETE FROM gap WHERE pos <= ?", [newest])
        self._connection.execute("DELETE FROM clock_note WHERE pos <= ?", [newest])
        self._connection.execute(
            "DELETE FROM sending WHERE pos < (SELECT max(pos) FROM sending AS newer WHERE newer.product_key = sending.product_key"
            " AND newer.device_name = sending.device_name AND newer.pos <= ?)",
            [newest],
        )  # the newest of each gateway holds on
        if beside is not None:  # the last of them is the mark by which the next run goes on
            self._connection.execute("DELETE FROM receipt WHERE position < ?", [beside])
