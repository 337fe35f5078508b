"""Puts full segments of the DuckDB store in order of series and time, so that a chart reads its own rows and not the whole day's."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import duckdb

from cloud.foundation.crashpoint import crash_point
from cloud.foundation.logs import get_logger
from cloud.foundation.priority import stand_back
from cloud.telemetry import rollups
from cloud.telemetry.model import Kind
from cloud.telemetry.segments import Segment, Segments, Work
from protocols.errors import Broken

RETRY_S: Final = 30.0
CLAIMED_S: Final = 0.05
CATCHING_UP: Final = 200_000  # rows of one append: ingest makes such batches only while it is behind, and then it has the machine
MOST_UNORDERED: Final = 64  # segments of one day, however busy appends are: a chart of such a day scans 64 million rows
COLUMNS: Final = {
    Kind.NUMBER: "series INTEGER NOT NULL, ts BIGINT NOT NULL, v DOUBLE NOT NULL, pos BIGINT NOT NULL",
    Kind.TEXT: "series INTEGER NOT NULL, ts BIGINT NOT NULL, v VARCHAR NOT NULL, pos BIGINT NOT NULL",
}


class Ordering:
    """Two threads beside appends and queries: one orders full segments, the other merges ordered ones, which takes long.

    A segment is replaced in one transaction, every row kept; a failure leaves it as it was.
    """

    def __init__(self, connection: Any, segments: Segments, replaced: Callable[[Segment], None], quiet_s: float) -> None:
        """`replaced` is told of each segment that is gone.

        They begin with no segment before `quiet_s` have passed since ingest was behind; 0 never waits.
        """
        self._segments = segments
        self._replaced = replaced
        self._quiet_s = quiet_s
        self._behind_at = -quiet_s  # when ingest was last behind, on the monotonic clock
        self._closing = threading.Event()
        self._threads: list[tuple[threading.Thread, threading.Event, Any]] = []
        for name, find in (("store-ordering", segments.full), ("store-merging", segments.mergeable)):
            wanted, cursor = threading.Event(), connection.cursor()
            wanted.set()  # a process that ended may have left some
            thread = threading.Thread(target=self._run, args=(find, wanted, cursor), name=name, daemon=True)
            self._threads.append((thread, wanted, cursor))
        for thread, _, _ in self._threads:
            thread.start()

    def wake(self) -> None:
        """A segment is full, or has been put in order."""
        for _, wanted, _ in self._threads:
            wanted.set()

    def appended(self, rows: int) -> None:
        """An append had so many rows; called by the one thread that appends."""
        if rows >= CATCHING_UP:
            self._behind_at = time.monotonic()

    def close(self) -> None:
        """Give up what is under way, which leaves the segments as they were."""
        self._closing.set()
        self.wake()
        for thread, _, cursor in self._threads:
            while thread.is_alive():
                cursor.interrupt()  # it may just be between two statements
                thread.join(0.05)
            cursor.close()

    def _run(self, find: Callable[[], Work | None], wanted: threading.Event, cursor: Any) -> None:
        stand_back(10)
        while not self._closing.is_set():
            wanted.wait()
            wanted.clear()
            try:
                while not self._closing.is_set() and (work := find()) is not None:
                    self._give_way(work[1])
                    with self._segments.claiming(work[0]) as free:
                        if free and not self._closing.is_set():
                            self._replace(cursor, *work)
                            self.wake()
                    if not free:  # rows are being deleted from it
                        self._closing.wait(CLAIMED_S)
            except (duckdb.Error, Broken) as error:
                if not self._closing.is_set():
                    get_logger().warning("store.ordering_failed", error=str(error))
                    self._closing.wait(RETRY_S)
                    wanted.set()

    def _give_way(self, to: Segment) -> None:
        """Return once ingest has caught up, or has left too much to be put in order."""
        while (wait_s := self._behind_at + self._quiet_s - time.monotonic()) > 0 and not self._closing.wait(wait_s):
            if sum(not segment.ordered for segment in self._segments.of(to.kind, to.day)) > MOST_UNORDERED:
                return

    def _replace(self, cursor: Any, old: Sequence[Segment], new: Segment) -> None:
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
            rolled = rollups.make(cursor, new)
            for segment in old:
                cursor.execute(f"DROP TABLE {segment.table}")
                rollups.drop(cursor, segment)
            crash_point("core.before_ordering_commit")
            with self._segments.replacing(old, new, rolled=rolled):
                cursor.commit()
        except BaseException:  # raised again: whatever it was, the transaction must not stay open
            cursor.rollback()
            raise
        for segment in old:
            self._replaced(segment)
        crash_point("core.after_ordering_commit")
