"""Rows in InfluxDB 2, through influxdb-client; all else about them (position, series, gaps, clock notes) in an embedded store (ADR 17).

Rows are written first and the position after them. A crash between the two repeats the append, and InfluxDB takes a row of the same series
and time in place of the one it has: a repeat changes nothing. For the same reason of several samples in one ms only the last is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import numpy as np
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError

from cloud.foundation.crashpoint import crash_point
from cloud.foundation.logs import get_logger
from cloud.telemetry.duckdb_store import DuckDbStore
from cloud.telemetry.model import (
    Append,
    Buckets,
    ClockNote,
    Expired,
    Gap,
    Ints64,
    Kind,
    Points,
    Position,
    Series,
    SeriesKey,
    Text,
    Verdict,
    judge,
)
from cloud.telemetry.ports import QueryTooSlow
from protocols.edgelink.lanes import GapReason
from protocols.errors import Broken, TryAgain

LINES_A_REQUEST: Final = 10_000
WRITE_S: Final = 10.0
FURTHEST_MS: Final = 9_223_372_036_854  # InfluxDB counts nanoseconds in 64 bits: the years 1677 to 2262
MEASUREMENT: Final = {Kind.NUMBER: "reading", Kind.TEXT: "text", Kind.EVENT: "event"}
REFUSED: Final = frozenset({400, 422})  # for what is in the request; anything else is for how, and may get better


class InfluxAway(TryAgain):
    """InfluxDB did not take or answer a request, for no reason of the request's own."""


class InfluxStore:
    """`TelemetryStore`. One process owns the ledger; `append` is called by one thread, queries by any."""

    def __init__(self, ledger: DuckDbStore, url: str, token: str, org: str, bucket: str, *, query_s: float = 30.0) -> None:
        self._ledger, self._org, self._bucket, self._query_s = ledger, org, bucket, query_s
        self._client = InfluxDBClient(url, token, org=org, timeout=int(1000 * max(WRITE_S, query_s)), enable_gzip=True)
        self._writes = self._client.write_api(write_options=SYNCHRONOUS)
        self._queries = self._client.query_api()
        self._prefixes: dict[int, str] = {}  # measurement and tags of a series, as they begin a line

    @property
    def newest_received_ms(self) -> int:
        return self._ledger.newest_received_ms

    def position(self) -> Position:
        return self._ledger.position()

    def series(self, after: int, limit: int) -> Sequence[Series]:
        return self._ledger.series(after, limit)

    def find(self, key: SeriesKey) -> int | None:
        return self._ledger.find(key)

    def gaps(self, product_key: str, device_name: str, identifier: str, start: int, end: int, limit: int) -> Sequence[Gap]:
        return self._ledger.gaps(product_key, device_name, identifier, start, end, limit)

    def notes(self, product_key: str, device_name: str, start: int, end: int, limit: int) -> Sequence[ClockNote]:
        return self._ledger.notes(product_key, device_name, start, end, limit)

    def received(self, positions: Ints64) -> Ints64:
        return self._ledger.received(positions)

    def sent(self, gateways: Sequence[tuple[str, str]], positions: Ints64) -> Ints64:
        return self._ledger.sent(gateways, positions)

    def expire(self, before_ms: int, keep_ms: int) -> Expired:
        """Gaps and notes; rows go by the retention of the bucket, which counts from their own time."""
        return self._ledger.expire(before_ms, keep_ms)

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]  # theirs
        self._ledger.close()

    # --- append ------------------------------------------------------------------------------------------------------------

    def append(self, append: Append) -> Verdict:
        """Raises InfluxAway, with nothing counted as stored."""
        verdict = judge(self._ledger.position(), append)
        if verdict is not Verdict.APPLIED:
            return verdict
        rows = self._rows(append)
        refused = [row for first in range(0, len(rows), LINES_A_REQUEST) for row in self._write(rows[first : first + LINES_A_REQUEST])]
        crash_point("core.after_influx_write")
        gaps = [*append.gaps, *(self._gap(series, ts, append) for series, ts, _ in refused)]
        return self._ledger.append(replace(append, numbers=append.numbers[:0], texts=(), gaps=gaps))

    def _rows(self, append: Append) -> list[tuple[int, int, str]]:
        """(series, ms, line), one for each series and ms: the last."""
        base, keys = self._ledger.base_of(append), {series.id: series.key for series in append.series}
        lines: dict[tuple[int, int], str] = {}
        numbers = append.numbers
        for series, ts, value, position in zip(
            numbers.series.tolist(), numbers.ts.tolist(), numbers.value.tolist(), numbers.position.tolist(), strict=True
        ):
            lines[series, ts] = f"{self._prefix(series, keys)} v={value!r},pos={base + position}i {ts}"
        for text in append.texts:
            quoted = text.json.replace("\\", "\\\\").replace('"', '\\"')
            lines[text.series, text.ts] = f'{self._prefix(text.series, keys)} v="{quoted}",pos={base + text.position}i {text.ts}'
        return [(series, ts, line) for (series, ts), line in lines.items()]

    def _prefix(self, series: int, new: dict[int, SeriesKey]) -> str:
        prefix = self._prefixes.get(series)
        if prefix is None:
            key = new.get(series) or self._key(series)
            tags = {"product": key.product_key, "device": key.device_name, "property": key.identifier}
            line = Point.from_dict({"measurement": MEASUREMENT[key.kind], "tags": tags, "fields": {"v": 0}}).to_line_protocol()
            prefix = self._prefixes[series] = line.rsplit(" ", 1)[0]
        return prefix

    def _key(self, series: int) -> SeriesKey:
        found = self._ledger.series(series - 1, 1)
        if not found or found[0].id != series:
            raise Broken(f"series {series} was never named")
        return found[0].key

    def _gap(self, series: int, ts: int, append: Append) -> Gap:
        key = {one.id: one.key for one in append.series}.get(series) or self._key(series)
        return Gap(key.product_key, key.device_name, key.identifier, ts - 1, ts + 1, 1, GapReason.REFUSED_VALUE)

    def _write(self, rows: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        """Write the rows; those that InfluxDB refuses by themselves (older than the bucket keeps, for one) come back."""
        if not rows:
            return []
        try:
            self._writes.write(self._bucket, self._org, [line for _, _, line in rows], write_precision=WritePrecision.MS)  # type: ignore[arg-type]  # constants of a class
        except ApiException as error:
            if error.status not in REFUSED:
                raise InfluxAway(f"InfluxDB answered {error.status}: {_said(error)}{_hint(error.status)}") from error
            if len(rows) == 1:
                get_logger().warning("influx.refused", line=rows[0][2][:300], error=_said(error))
                return list(rows)
            half = len(rows) // 2
            return [*self._write(rows[:half]), *self._write(rows[half:])]
        except (HTTPError, OSError) as error:
            raise InfluxAway(f"InfluxDB cannot be reached: {error}") from error
        return []

    # --- queries: not run against a real InfluxDB here, but against recorded answers ----------------------------------------

    def points(self, series: int, start: int, end: int, limit: int) -> Points:
        return self.rows(series, start, end, limit, 0)

    def rows(self, series: int, start: int, end: int, limit: int, skip: int) -> Points:
        key = self._key(series)
        if _nanoseconds(start) >= _nanoseconds(end):
            records: list[dict[str, Any]] = []
        else:
            flux = f"""{self._of(key, start, end)}
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> group()
  |> sort(columns: ["_time"])
  |> limit(n: {limit:d}, offset: {skip:d})
  |> keep(columns: ["_time", "v", "pos"])"""
            records = list(self._ask(flux))
        ts = np.array([_ms(record["_time"]) for record in records], np.int64)
        values = [record["v"] for record in records]
        position = np.array([record["pos"] for record in records], np.int64)
        return Points(ts, np.array(values, np.float64) if key.kind is Kind.NUMBER else [str(value) for value in values], position)

    def newest(self, series: Sequence[int], start: int, end: int, limit: int) -> Sequence[Text]:
        found: list[Text] = []
        for number in series:
            if _nanoseconds(start) >= _nanoseconds(end):
                break
            flux = f"""{self._of(self._key(number), start, end)}
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> group()
  |> sort(columns: ["_time"], desc: true)
  |> limit(n: {limit:d})
  |> keep(columns: ["_time", "v", "pos"])"""
            found += [Text(number, _ms(record["_time"]), str(record["v"]), int(record["pos"])) for record in self._ask(flux)]
        return sorted(found, key=lambda text: (text.ts, text.position), reverse=True)[:limit]

    def series_of(self, product_key: str, device_name: str, kind: Kind) -> Sequence[Series]:
        return self._ledger.series_of(product_key, device_name, kind)

    def buckets(self, series: int, start: int, end: int, width: int) -> Buckets:
        key = self._key(series)
        records: list[dict[str, Any]] = []
        if _nanoseconds(start) < _nanoseconds(end):
            flux = f"""import "math"
{self._of(key, start, end)}
  |> filter(fn: (r) => r._field == "v")
  |> group()
  |> window(every: {width:d}ms, offset: {start % width:d}ms)
  |> reduce(
      identity: {{count: 0, sum: 0.0, minimum: math.mInf(sign: 1), maximum: math.mInf(sign: -1)}},
      fn: (r, accumulator) => ({{
          count: accumulator.count + 1,
          sum: accumulator.sum + r._value,
          minimum: if r._value < accumulator.minimum then r._value else accumulator.minimum,
          maximum: if r._value > accumulator.maximum then r._value else accumulator.maximum,
      }}),
  )
  |> group()
  |> sort(columns: ["_start"])"""
            records = list(self._ask(flux))
        count = np.array([record["count"] for record in records], np.int64)
        total = np.array([record["sum"] for record in records], np.float64)
        begins = [start + (_ms(record["_start"]) - start) // width * width for record in records]  # the first is cut off at `start`
        return Buckets(
            np.array(begins, np.int64),
            np.array([record["minimum"] for record in records], np.float64),
            np.array([record["maximum"] for record in records], np.float64),
            total / np.maximum(count, 1),
            count,
        )

    def _of(self, key: SeriesKey, start: int, end: int) -> str:
        named = (("product", key.product_key), ("device", key.device_name), ("property", key.identifier))
        tags = " and ".join(f"r.{tag} == {_quoted(value)}" for tag, value in named)
        return f"""from(bucket: {_quoted(self._bucket)})
  |> range(start: time(v: {_nanoseconds(start)}), stop: time(v: {_nanoseconds(end)}))
  |> filter(fn: (r) => r._measurement == {_quoted(MEASUREMENT[key.kind])} and {tags})"""

    def _ask(self, flux: str) -> Iterator[dict[str, Any]]:
        try:
            for table in self._queries.query(flux, org=self._org):
                for record in table.records:
                    yield record.values
        except ApiException as error:
            raise InfluxAway(f"InfluxDB answered {error.status}: {_said(error)}{_hint(error.status)}") from error
        except (HTTPError, OSError) as error:
            if "timed out" in str(error).lower():
                raise QueryTooSlow(
                    f"InfluxDB did not answer within {self._query_s:g} s; ask for a shorter range or fewer buckets"
                ) from error
            raise InfluxAway(f"InfluxDB cannot be reached: {error}") from error


def _nanoseconds(ms: int) -> int:
    return min(max(ms, -FURTHEST_MS), FURTHEST_MS) * 1_000_000


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _quoted(text: str) -> str:
    """A string of Flux.

    >>> _quoted('a"b')
    '"a\\\\"b"'
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${") + '"'


def _said(error: ApiException) -> str:
    return str(error.body or error.reason)[:300]


def _hint(status: int | None) -> str:
    if status in (401, 403):
        return "; HEARTHLINE_INFLUX_TOKEN has to be a token that may read and write the bucket"
    return "; create the bucket, or correct HEARTHLINE_INFLUX_BUCKET and HEARTHLINE_INFLUX_ORG" if status == 404 else ""
