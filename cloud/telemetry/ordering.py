"""Puts full segments of the DuckDB store in order of series and time, so that a chart reads its own rows and not the whole day's."""

import threading
from collections.abc import Sequence
from typing import Any, Final

import duckdb

from cloud.foundation.crashpoint import crash_point
from cloud.foundation.logs import get_logger
from cloud.telemetry.model import Kind
from cloud.telemetry.segments import Segment, Segments
from protocols.errors import Broken

RETRY_S: Final = 30.0
CATCHING_UP: Final = 200_000  # rows of one append: ingest makes such batches only while it is behind, and then it has the machine
MOST_UNORDERED: Final = 64  # segments of one day, however busy appends are: a chart of such a day scans 64 million rows
COLUMNS: Final = {
    Kind.NUMBER: "series INTEGER NOT NULL, ts BIGINT NOT NULL, v DOUBLE NOT NULL, pos BIGINT NOT NULL",
    Kind.TEXT: "series INTEGER NOT NULL, ts BIGINT NOT NULL, v VARCHAR NOT NULL, pos BIGINT NOT NULL",
}


class Ordering:
    """One thread beside appends and queries. A segment is replaced in one transaction, every row kept; a failure leaves it as it was."""

    def __init__(self, connection: Any, segments: Segments, look_s: float) -> None:
        """Before each segment it looks for `look_s` whether ingest is behind; 0 never waits."""
        self._cursor = connection.cursor()
        self._segments = segments
        self._look_s = look_s
        self._largest = 0  # append since the last look
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-ordering", daemon=True)
        self._wanted.set()  # a process that ended may have left some
        self._thread.start()

    def wake(self) -> None:
        """A segment is full."""
        self._wanted.set()

    def appended(self, rows: int) -> None:
        """An append had so many rows; called by the one thread that appends."""
        self._largest = max(self._largest, rows)

    def close(self) -> None:
        """Give up what is under way, which leaves the segments as they were."""
        self._closing.set()
        self._wanted.set()
        while self._thread.is_alive():
            self._cursor.interrupt()  # it may just be between two statements
            self._thread.join(0.05)
        self._cursor.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wanted.wait()
            self._wanted.clear()
            try:
                while not self._closing.is_set() and (work := self._segments.work()) is not None:
                    self._give_way(work[1])
                    if not self._closing.is_set():
                        self._replace(*work)
            except (duckdb.Error, Broken) as error:
                if not self._closing.is_set():
                    get_logger().warning("store.ordering_failed", error=str(error))
                    self._closing.wait(RETRY_S)
                    self._wanted.set()

    def _give_way(self, to: Segment) -> None:
        """Return once ingest has caught up, or has left too much to be put in order."""
        while self._look_s:
            self._largest = 0
            if self._closing.wait(self._look_s) or self._largest < CATCHING_UP:
                return
            if sum(not segment.ordered for segment in self._segments.of(to.kind, to.day)) > MOST_UNORDERED:
                return

    def _replace(self, old: Sequence[Segment], new: Segment) -> None:
        cursor = self._cursor
        cursor.begin()
        try:
            held = sum(cursor.execute(f"SELECT count(*) FROM {segment.table}").fetchone()[0] for segment in old)  # noqa: S608 - names of ours
            cursor.execute(f"CREATE TABLE {new.table} ({COLUMNS[new.kind]})")
            # Arrival breaks ties: of several rows with one time the last that came has to stay the last.
            every = " UNION ALL ".join(
                f"SELECT series, ts, v, pos, rowid + {segment.arrivals_from} AS arrival FROM {segment.table}"  # noqa: S608 - names of ours
                for segment in old
            )
            moved = cursor.execute(
                f"INSERT INTO {new.table} SELECT series, ts, v, pos FROM ({every}) ORDER BY series, ts, arrival"  # noqa: S608
            ).fetchone()[0]
            if moved != held:
                raise Broken(f"{moved} of {held} rows came into {new.table}")
            for segment in old:
                cursor.execute(f"DROP TABLE {segment.table}")
            crash_point("core.before_ordering_commit")
            with self._segments.replacing(old, new):
                cursor.commit()
        except BaseException:
            cursor.rollback()
            raise
        crash_point("core.after_ordering_commit")
