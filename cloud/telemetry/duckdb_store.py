"""`TelemetryStore` on DuckDB: a day is a row of tables (segments.py); rows, new series, gaps and the position in one transaction."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from cloud.telemetry import rollups
from cloud.telemetry.charts import Charts
from cloud.telemetry.copying import Copying
from cloud.telemetry.expiry import Expiry
from cloud.telemetry.mentioned import Mentioned
from cloud.telemetry.model import (
    DAY_MS,
    Append,
    Buckets,
    ClockNote,
    Expired,
    Gap,
    Ints64,
    Kind,
    Numbers,
    Points,
    Position,
    Sending,
    Series,
    SeriesKey,
    Text,
    Verdict,
    judge,
    numbers_to_arrow,
)
from cloud.telemetry.ordering import COLUMNS, Ordering
from cloud.telemetry.ports import NoMemoryLeft, QueryTooSlow
from cloud.telemetry.reading import Reading
from cloud.telemetry.segments import Segment, Segments
from cloud.telemetry.tail import SEGMENTS, Tail

RECEIPT_MS: Final = 1_000  # how exactly it is kept when a row came


@dataclass(frozen=True, slots=True)
class Limits:
    """What DuckDB may use, and how long one query may take."""

    memory: str = "512MB"
    threads: int = 2
    checkpoint: str = "128MB"
    query_s: float = 10.0
    segment_rows: int = 1 << 20  # an open segment is scanned whole by a query: 3 ms for a million rows
    segment_texts: int = 1 << 17
    quiet_s: float = 1.0  # see Ordering
    tail_segments: int = SEGMENTS  # held in memory too
    minutes_bytes: int = 64 << 20  # held in memory: those of a day of 850 properties with a value every second
    folded_rows: int = 1_000_000  # that a chart takes into memory; DuckDB, which can go to disk, folds more by itself


class DuckDbStore:
    """The embedded store. One process owns the file; `append` is called by one thread, queries by any, each with its own cursor."""

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:
        config: dict[str, Any] = {"memory_limit": limits.memory, "threads": str(limits.threads), "checkpoint_threshold": limits.checkpoint}
        self._connection: Any = duckdb.connect(str(path), config=config)
        self._query_s = limits.query_s
        self._running: dict[int, tuple[float, Any]] = {}  # cursors at work: deadline, cursor
        self._closing = threading.Event()
        self._series: dict[SeriesKey, int] = {}
        self._by_id: list[Series] = []
        self._position = Position()
        self._base = 0
        self._inserts: dict[str, Any] = {}  # parsed, by table
        self._segments = self._prepare(limits)
        self._tail = Tail(limits.tail_segments)
        self._reading = Reading(self._segments)
        self._minutes = rollups.Held(limits.minutes_bytes)
        self._charts = Charts(self._reading, self._tail, self._minutes, limits.folded_rows)
        self._ordering = Ordering(self._connection, self._segments, self._replaced, limits.quiet_s)
        self._expiry = Expiry(self._connection, self._segments, self._gone)
        (self._move,) = self._connection.extract_statements("UPDATE position SET stream_id = ?, sequence = ?, base = ?")
        self._watchdog = threading.Thread(target=self._interrupt_late, name="query-watchdog", daemon=True)
        self._watchdog.start()

    def _prepare(self, limits: Limits) -> Segments:
        execute = self._connection.execute
        # `base` goes before a sequence: positions of rows count on when a stream is lost and its successor begins at 1.
        execute("CREATE TABLE IF NOT EXISTS position (stream_id VARCHAR NOT NULL, sequence BIGINT NOT NULL, base BIGINT NOT NULL)")
        execute(
            "CREATE TABLE IF NOT EXISTS series"
            " (id INTEGER NOT NULL, product_key VARCHAR NOT NULL, device_name VARCHAR NOT NULL,"
            " identifier VARCHAR NOT NULL, kind VARCHAR NOT NULL)"
        )
        execute(
            "CREATE TABLE IF NOT EXISTS gap (product_key VARCHAR NOT NULL, device_name VARCHAR NOT NULL, identifier VARCHAR NOT NULL,"
            " from_ms BIGINT NOT NULL, to_ms BIGINT NOT NULL, count BIGINT, reason VARCHAR NOT NULL, pos BIGINT NOT NULL)"
        )
        execute(
            "CREATE TABLE IF NOT EXISTS clock_note (product_key VARCHAR NOT NULL, device_name VARCHAR NOT NULL,"
            " from_ms BIGINT NOT NULL, to_ms BIGINT NOT NULL, shift_ms BIGINT, pos BIGINT NOT NULL)"
        )
        execute(
            "CREATE TABLE IF NOT EXISTS sending"
            " (product_key VARCHAR NOT NULL, device_name VARCHAR NOT NULL, pos BIGINT NOT NULL, delay_ms BIGINT NOT NULL)"
        )
        execute("CREATE TABLE IF NOT EXISTS receipt (position BIGINT NOT NULL, received_ms BIGINT NOT NULL)")
        self._received_ms = int(execute("SELECT coalesce(max(received_ms), 0) FROM receipt").fetchone()[0])
        held = execute("SELECT stream_id, sequence, base FROM position").fetchone()
        if held is None:
            execute("INSERT INTO position VALUES ('', 0, 0)")
        else:
            self._position, self._base = Position(held[0], held[1]), held[2]
        for number, product_key, device_name, identifier, kind in execute("SELECT * FROM series ORDER BY id").fetchall():
            self._enter(Series(number, SeriesKey(product_key, device_name, identifier, Kind(kind))))
        self._with_gaps = Mentioned(execute("SELECT DISTINCT product_key, device_name FROM gap").fetchall())
        self._with_notes = Mentioned(execute("SELECT DISTINCT product_key, device_name FROM clock_note").fetchall())
        tables = execute("SELECT table_name, estimated_size FROM duckdb_tables()").fetchall()
        found = [(segment, rows) for name, rows in tables if (segment := Segment.parse(name)) is not None]
        names = {name for name, _ in tables}
        rolled = [segment for segment, _ in found if segment.ordered and rollups.table_of(segment) in names]
        return Segments(found, {Kind.NUMBER: limits.segment_rows, Kind.TEXT: limits.segment_texts}, rolled)

    def _enter(self, series: Series) -> None:
        self._series[series.key] = series.id
        self._by_id.append(series)

    def position(self) -> Position:
        return self._position

    @property
    def newest_received_ms(self) -> int:
        """When the newest of its messages had come, to the second; 0 when it holds none."""
        return self._received_ms

    def series(self, after: int, limit: int) -> Sequence[Series]:
        return self._by_id[after : after + limit]  # ids start at 1 and have no holes

    def find(self, key: SeriesKey) -> int | None:
        return self._series.get(key)

    def base_of(self, append: Append) -> int:
        """What is added to the positions of this append's rows: they count on when a stream is lost and its successor begins at 1."""
        return self._base + (append.start.sequence if append.start.stream_id != append.end.stream_id else 0)

    # --- append ------------------------------------------------------------------------------------------------------------

    def append(self, append: Append) -> Verdict:
        verdict = judge(self._position, append)
        if verdict is not Verdict.APPLIED:
            return verdict
        base = self.base_of(append)
        self._with_gaps.add((gap.product_key, gap.device_name) for gap in append.gaps)
        self._with_notes.add((note.product_key, note.device_name) for note in append.notes)
        self._connection.begin()
        try:
            grown = self._write(append, base)
            self._connection.execute(self._move, [append.end.stream_id, append.end.sequence, base])
            self._connection.commit()
        except BaseException:  # raised again: whatever it was, the transaction must not stay open
            self._connection.rollback()
            raise
        # Readers see new tables, series and the position only now that the rows are durable.
        for segment, rows in grown:
            if isinstance(rows, Numbers):  # before the segment is known: who finds it there must find all of it
                self._tail.add(segment, rows, new=not self._segments.holds(segment))
            if self._segments.appended(segment, len(rows)):
                self._inserts.pop(segment.table, None)
                self._ordering.wake()
        for series in append.series:
            self._enter(series)
        self._position, self._base = append.end, base
        if append.received_ms - self._received_ms >= RECEIPT_MS:
            self._received_ms = append.received_ms
        self._ordering.appended(len(append.numbers))
        return verdict

    def _write(self, append: Append, base: int) -> list[tuple[Segment, Numbers | Sequence[Text]]]:
        """Which segments grew, and by which rows."""
        grown: list[tuple[Segment, Numbers | Sequence[Text]]] = []
        if append.series:
            expected = range(len(self._by_id) + 1, len(self._by_id) + 1 + len(append.series))
            if [series.id for series in append.series] != list(expected):
                raise ValueError(f"new series must be numbered from {expected.start} on")
            named = [(s.id, s.key.product_key, s.key.device_name, s.key.identifier, str(s.key.kind)) for s in append.series]
            self._insert("series", _arrow(named, ("id", "product_key", "device_name", "identifier", "kind")))
        for day, numbers in _numbers_by_day(append.numbers.moved(base)):
            grown.append((segment := self._open(Kind.NUMBER, day), numbers))
            self._insert(segment.table, numbers_to_arrow(numbers))
        for day, texts in _texts_by_day(append.texts):
            rows = [(text.series, text.ts, text.json, base + text.position) for text in texts]
            grown.append((segment := self._open(Kind.TEXT, day), texts))
            self._insert(segment.table, _arrow(rows, ("series", "ts", "v", "pos")))
        end = base + append.end.sequence
        if append.gaps:
            missing = [(*msgspec.structs.astuple(gap), end) for gap in append.gaps]
            self._insert("gap", _arrow(missing, (*Gap.__struct_fields__, "pos")))
        if append.notes:
            noted = [(*msgspec.structs.astuple(note), end) for note in append.notes]
            self._insert("clock_note", _arrow(noted, (*ClockNote.__struct_fields__, "pos")))
        if append.sendings:
            sendings = [(one.product_key, one.device_name, base + one.position, one.delay_ms) for one in append.sendings]
            self._insert("sending", _arrow(sendings, Sending.__struct_fields__))
        if append.received_ms - self._received_ms >= RECEIPT_MS:
            self._insert("receipt", _arrow([(end, append.received_ms)], ("position", "received_ms")))
        return grown

    def _insert(self, table: str, rows: Any) -> None:
        statement = self._inserts.get(table)
        if statement is None:  # parsing is a good part of what a small append costs
            sql = f"INSERT INTO {table} SELECT * FROM incoming"  # noqa: S608 - a name of ours
            (statement,) = self._connection.extract_statements(sql)
            self._inserts[table] = statement
        incoming = pa.Table.from_batches([rows])  # noqa: F841 - DuckDB finds it by its name
        self._connection.execute(statement)

    def _open(self, kind: Kind, day: int) -> Segment:
        segment = self._segments.open(kind, day)
        if not self._segments.holds(segment):
            self._connection.execute(f"CREATE TABLE {segment.table} ({COLUMNS[kind]})")
        return segment

    def _replaced(self, segment: Segment) -> None:
        self._tail.drop(segment)
        self._minutes.drop(segment)

    def _gone(self, segment: Segment) -> None:
        self._replaced(segment)
        self._inserts.pop(segment.table, None)

    def expire(self, before_ms: int, keep_ms: int) -> Expired:
        # Of what came within a second of the last receipt there is no other yet.
        return self._expiry.run(before_ms, keep_ms, self._base + self._position.sequence, self._received_ms + RECEIPT_MS)

    def begin_copy(self, file: Path) -> "Copying":
        return Copying(self._connection.cursor(), file)

    # --- queries -----------------------------------------------------------------------------------------------------------

    def points(self, series: int, start: int, end: int, limit: int) -> Points:
        last = f"SELECT ts, arg_max(v, arrival) AS v, max(pos) AS pos FROM ({{}}) GROUP BY ts ORDER BY ts LIMIT {limit:d}"  # noqa: S608 - an integer
        return self._collect(series, start, end, last, 0, limit)

    def rows(self, series: int, start: int, end: int, limit: int, skip: int) -> Points:
        every = f"SELECT ts, v, pos FROM ({{}}) ORDER BY ts, arrival LIMIT {limit + skip:d}"  # noqa: S608 - an integer
        return self._collect(series, start, end, every, skip, limit)

    def newest(self, series: Sequence[int], start: int, end: int, limit: int) -> Sequence[Text]:
        if not series:
            return []
        which = ", ".join(f"{number:d}" for number in series)
        latest = f"SELECT * FROM ({{}}) ORDER BY ts DESC, pos DESC, arrival DESC LIMIT {limit:d}"  # noqa: S608 - an integer
        found: list[Text] = []

        def ask(segments: Sequence[Segment], _: frozenset[Segment]) -> Any:
            wanted = f"series IN ({which}) AND ts >= {start:d} AND ts < {end:d}"
            branches = [
                f"SELECT series, ts, v, pos, rowid + {segment.arrivals_from} AS arrival FROM {segment.table} WHERE {wanted}"  # noqa: S608 - ours
                for segment in segments
            ]
            return cursor.execute(latest.replace("{}", " UNION ALL ".join(branches))).fetchall() if branches else []

        with self._cursor() as cursor:
            for days in self._reading.days(Kind.TEXT, start, end, newest_first=True):
                rows = self._reading.steady(Kind.TEXT, days, ask)
                found += [Text(number, ts, value, pos) for number, ts, value, pos, _ in rows]
                if len(found) >= limit:
                    break
        return found[:limit]

    def series_of(self, product_key: str, device_name: str, kind: Kind) -> Sequence[Series]:
        keys = [key for key in tuple(self._series) if (key.product_key, key.device_name, key.kind) == (product_key, device_name, kind)]
        return sorted((Series(self._series[key], key) for key in keys), key=lambda one: one.key.identifier)

    def _collect(self, series: int, start: int, end: int, statement: str, skip: int, limit: int) -> Points:
        """Run the statement over the days of the range, in order, a few days at first, until there are enough rows."""
        kind = Kind.NUMBER if self._by_id[series - 1].key.kind is Kind.NUMBER else Kind.TEXT
        ts: list[Ints64] = []
        values: list[Any] = []
        position: list[Ints64] = []
        found = 0
        with self._cursor() as cursor:
            for days in self._reading.days(kind, start, end):
                rows, _ = self._reading.rows(cursor, statement, kind, days, series, start, end)
                ts.append(rows["ts"])
                values.append(rows["v"])
                position.append(rows["pos"])
                found += len(rows["ts"])
                if found >= skip + limit:
                    break
        wanted = slice(skip, skip + limit)
        joined = _join(values, np.float64 if kind is Kind.NUMBER else np.object_)[wanted]
        return Points(_join(ts, np.int64)[wanted], joined if kind is Kind.NUMBER else joined.tolist(), _join(position, np.int64)[wanted])

    def buckets(self, series: int, start: int, end: int, width: int) -> Buckets:
        with self._cursor() as cursor:
            return self._charts.buckets(cursor, series, start, end, width)

    def gaps(self, product_key: str, device_name: str, identifier: str, start: int, end: int, limit: int) -> Sequence[Gap]:
        if not self._with_gaps.may_hold(product_key, device_name):
            return []
        with self._cursor() as cursor:
            rows = cursor.execute(
                "SELECT DISTINCT * EXCLUDE (pos) FROM gap WHERE product_key IN (?, '') AND device_name IN (?, '') AND identifier IN (?, '')"
                " AND from_ms < ? AND to_ms > ? ORDER BY from_ms, to_ms LIMIT ?",
                [product_key, device_name, identifier, end, start, limit],
            ).fetchall()
        return [Gap(*row) for row in rows]

    def notes(self, product_key: str, device_name: str, start: int, end: int, limit: int) -> Sequence[ClockNote]:
        if not self._with_notes.may_hold(product_key, device_name):
            return []
        with self._cursor() as cursor:
            rows = cursor.execute(
                "SELECT DISTINCT * EXCLUDE (pos) FROM clock_note WHERE product_key = ? AND device_name = ? AND from_ms < ? AND to_ms > ?"
                " ORDER BY from_ms, to_ms LIMIT ?",
                [product_key, device_name, end, start, limit],
            ).fetchall()
        return [ClockNote(*row) for row in rows]

    def received(self, positions: Ints64) -> Ints64:
        if not len(positions):
            return positions
        with self._cursor() as cursor:
            low, high = int(positions.min()), int(positions.max())
            found = cursor.execute(
                "SELECT position, received_ms FROM receipt WHERE position >= ?"
                " AND position <= coalesce((SELECT min(position) FROM receipt WHERE position >= ?), ?) ORDER BY position",
                [low, high, high],
            ).fetchnumpy()
        at = np.searchsorted(found["position"], positions)
        times = np.append(np.asarray(found["received_ms"], np.int64), 0)
        return times[at]

    def sent(self, gateways: Sequence[tuple[str, str]], positions: Ints64) -> Ints64:
        times = self.received(positions)
        if not len(positions) or not gateways:
            return np.zeros_like(times)
        which = " OR ".join("product_key = ? AND device_name = ?" for _ in gateways)
        named = [part for gateway in gateways for part in gateway]
        first = f"SELECT coalesce(max(pos), 0) FROM sending WHERE ({which}) AND pos <= ?"  # noqa: S608 - no values in it
        with self._cursor() as cursor:
            known = cursor.execute(
                f"SELECT pos, delay_ms FROM sending WHERE ({which}) AND pos <= ? AND pos >= ({first}) ORDER BY pos",  # noqa: S608 - as above
                [*named, int(positions.max()), *named, int(positions.min())],
            ).fetchnumpy()
        at = np.searchsorted(known["pos"], positions, "right") - 1
        delays = np.append(np.asarray(known["delay_ms"], np.int64), 0)
        return np.where((at >= 0) & (times > 0), times - delays[at], 0)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor of this query's own, interrupted by the watchdog after its time. Raises QueryTooSlow, NoMemoryLeft."""
        cursor = self._connection.cursor()
        self._running[id(cursor)] = (time.monotonic() + self._query_s, cursor)
        try:
            yield cursor
        except duckdb.InterruptException as error:
            raise QueryTooSlow(f"the query took longer than {self._query_s:g} s; ask for a shorter range or fewer buckets") from error
        except duckdb.OutOfMemoryException as error:
            raise NoMemoryLeft(f"the store's memory is taken just now: {error}") from error
        finally:
            del self._running[id(cursor)]
            cursor.close()

    def _interrupt_late(self) -> None:
        while not self._closing.wait(min(0.25, self._query_s / 4)):
            now = time.monotonic()
            for deadline, cursor in list(self._running.values()):
                if now > deadline:
                    cursor.interrupt()

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._ordering.close()
            self._watchdog.join()
            self._connection.close()


def _arrow(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> Any:
    return pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*rows, strict=True)], names=list(names))


def _numbers_by_day(numbers: Numbers) -> Iterator[tuple[int, Numbers]]:
    """The rows of each day, in the order they came."""
    if not len(numbers):
        return
    day = numbers.ts // DAY_MS
    first = int(day[0])
    if (day == first).all():
        yield first, numbers
        return
    order = np.argsort(day, kind="stable")
    day = day[order]
    starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    for begin, stop in zip(starts, [*starts[1:], len(day)], strict=True):
        rows = order[begin:stop]
        yield int(day[begin]), Numbers(numbers.series[rows], numbers.ts[rows], numbers.value[rows], numbers.position[rows])


def _texts_by_day(texts: Sequence[Text]) -> Iterator[tuple[int, list[Text]]]:
    days: dict[int, list[Text]] = {}
    for text in texts:
        days.setdefault(text.ts // DAY_MS, []).append(text)
    yield from sorted(days.items())


def _join(pieces: Sequence[Any], dtype: Any) -> Any:
    """The pieces as one array, plain (DuckDB hands out masked arrays where a column could hold NULL)."""
    if not pieces:
        return np.empty(0, dtype)
    return np.concatenate([np.asarray(piece) for piece in pieces]).astype(dtype, copy=False)
