"""The store in InfluxDB: what it writes, against a real VictoriaMetrics; what it asks, against answers as InfluxDB 2 documents them."""

import gzip
import json
import math
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.telemetry.duckdb_store import DuckDbStore, Limits
from cloud.telemetry.influx_store import InfluxAway, InfluxStore
from cloud.telemetry.model import Append, Gap, Kind, Numbers, Position, Series, SeriesKey, Text, Verdict
from tests.contract.victoria_metrics import VictoriaMetrics, victoria_metrics
from tests.e2e.platform import Cloud, wait_gone, wait_until
from tests.faults.appliance import TSL, TestAppliance

DAY = 1_760_000_000_000
POWER = SeriesKey("stove", 'kit,chen =1 "x"', "power")
MODE = SeriesKey("stove", "s1", "mode", Kind.TEXT)
NAMED = (Series(1, POWER), Series(2, MODE))


def numbers(*rows: tuple[int, int, float], position: int = 1) -> Numbers:
    series, ts, value = zip(*rows, strict=True)
    return Numbers(np.array(series, np.int32), np.array(ts, np.int64), np.array(value, np.float64), np.full(len(rows), position))


def at(sequence: int) -> Position:
    return Position("s", sequence) if sequence else Position()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    try:
        with victoria_metrics(tmp_path_factory.mktemp("vm")) as running:
            yield running
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


Open = Callable[..., InfluxStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    """Opens it at an address; opening again means that the process was started again."""
    stores: list[InfluxStore] = []

    def reopen(url: str) -> InfluxStore:
        for store in stores:
            store.close()
        stores.append(InfluxStore(DuckDbStore(tmp_path / "ledger.duckdb", Limits()), url, "token", "org", "bucket", query_s=5))
        return stores[-1]

    yield reopen
    for store in stores:
        store.close()


# --- writes


def test_what_was_appended_is_there_once_at_its_time_whatever_its_name(server: VictoriaMetrics, open_store: Open) -> None:
    store = open_store(server.url)
    rows = numbers((1, DAY + 5, 1.5), (1, DAY, -0.1), (1, DAY + 5, 2.5), (1, DAY + 9, 0.001))
    append = Append(at(0), at(1), NAMED, rows, [Text(2, DAY, '"e\\"co"', 1)], [Gap("stove", "s1", "", 1, 9, None, "x")], received_ms=DAY)
    assert store.append(append) is Verdict.APPLIED
    assert store.append(append) is Verdict.HAVE
    assert store.append(Append(at(3), at(4))) is Verdict.REFUSED
    tags = {"product": POWER.product_key, "device": POWER.device_name, "property": "power"}
    wait_until(lambda: server.samples("reading", "v", **tags), 10, "samples")
    assert server.samples("reading", "v", **tags) == [(DAY, -0.1), (DAY + 5, 2.5), (DAY + 9, 0.001)]
    assert server.samples("reading", "pos", **tags) == [(DAY, 1), (DAY + 5, 1), (DAY + 9, 1)]
    store = open_store(server.url)
    assert (store.position(), store.find(POWER), list(store.series(0, 9))) == (at(1), 1, list(NAMED))
    assert [gap.reason for gap in store.gaps("stove", "s1", "power", 0, 99, 9)] == ["x"]


def test_nothing_counts_as_stored_while_influxdb_is_away_and_a_repeat_changes_nothing(server: VictoriaMetrics, open_store: Open) -> None:
    store = open_store(server.url)
    key = SeriesKey("stove", "away", "power")
    append = Append(at(0), at(1), [Series(1, key)], numbers((1, DAY, 1.0), (1, DAY + 1, 2.0)))
    server.stop()
    with pytest.raises(InfluxAway, match="cannot be reached"):
        store.append(append)
    assert store.position() == Position()
    server.start()
    store._write(store._rows(append))  # as a process does that dies before it notes the position
    store = open_store(server.url)
    assert store.append(append) is Verdict.APPLIED
    found = server.samples("reading", "v", product="stove", device="away", property="power")
    assert sorted(set(found)) == [(DAY, 1.0), (DAY + 1, 2.0)]  # VictoriaMetrics, unlike InfluxDB, lists a repeated sample twice


values = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)  # VictoriaMetrics keeps some 15 decimal digits of a block of samples


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), values), min_size=1, max_size=30, unique_by=lambda row: row[0]))
def test_every_number_arrives(server: VictoriaMetrics, open_store: Open, rows: list[tuple[int, float]]) -> None:
    store = open_store(server.url)
    number = store.position().sequence  # a series for each example: VictoriaMetrics keeps what was there before
    ours = [(number + 1, DAY + offset, value) for offset, value in rows]
    named = [Series(number + 1, SeriesKey("p", f"d{number}", "x"))]
    assert store.append(Append(at(number), at(number + 1), named, numbers(*ours))) is Verdict.APPLIED
    found = dict(server.samples("reading", "v", product="p", device=f"d{number}", property="x"))
    assert set(found) == {ts for _, ts, _ in ours}
    assert all(math.isclose(found[ts], value, rel_tol=1e-9, abs_tol=1e-9) for _, ts, value in ours)


def test_the_platform_writes_what_devices_post(server: VictoriaMetrics, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    cloud.environment = {"HEARTHLINE_INFLUX_URL": server.url, "HEARTHLINE_INFLUX_TOKEN": "t"}
    with cloud:
        key = cloud.product("Stove", TSL)
        device = TestAppliance(cloud.mqtt_port, key, "d1", cloud.device(key, "d1"))
        for n in range(50):
            device.number(DAY + n)
        armed = cloud.crash("core.after_influx_write")  # between the rows and the position
        for n in range(50, 100):
            device.number(DAY + n)
        wait_gone(armed)

        def there() -> list[tuple[int, float]]:
            return server.samples("reading", "v", product=key, device="d1", property="N")

        wait_until(lambda: len(set(there())) >= 100, 30, "every post in VictoriaMetrics")
        assert sorted(set(there())) == [(DAY + n, float(n + 1)) for n in range(100)]
        assert cloud.api.get(f"/v1/telemetry/{key}/d1")["N"]["value"] == 100
        device.close()


# --- an InfluxDB of recorded answers


class Recorded(BaseHTTPRequestHandler):
    """Answers as InfluxDB 2 does (annotated CSV, https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/)."""

    asked: ClassVar[list[str]] = []
    writes: ClassVar[list[list[str]]] = []
    answer: ClassVar[tuple[int, str]] = (200, "")
    refuses: ClassVar[str] = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        status, text = self.answer
        where = urllib.parse.urlsplit(self.path)
        if where.path == "/api/v2/query":
            self.asked.append(json.loads(body)["query"])
        else:
            query = urllib.parse.parse_qs(where.query)
            assert (where.path, query["bucket"], query["org"], query["precision"]) == ("/api/v2/write", ["bucket"], ["org"], ["ms"])
            lines = body.decode().splitlines()
            self.writes.append(lines)
            if self.refuses and any(self.refuses in line for line in lines):
                status, text = 422, '{"code":"unprocessable entity","message":"points beyond retention policy"}'
            elif status == 200:
                status = 204
        assert self.headers["Authorization"] == "Token token"
        self.send_response(status)
        self.send_header("Content-Type", "text/csv" if status == 200 else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorded() -> Iterator[str]:
    Recorded.asked.clear()
    Recorded.writes.clear()
    Recorded.answer, Recorded.refuses = (200, ""), ""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Recorded)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def named(open_store: Open, url: str) -> InfluxStore:
    store = open_store(url)
    store.append(Append(at(0), at(1), NAMED))
    return store


POINTS = """#datatype,string,long,dateTime:RFC3339,double,long\r
#group,false,false,false,false,false\r
#default,_result,,,,\r
,result,table,_time,v,pos\r
,,0,2025-10-09T08:53:20Z,21.5,1\r
,,0,2025-10-09T08:53:20.001Z,22,7\r
\r
"""
TEXTS = (
    """#datatype,string,long,dateTime:RFC3339,string,long\r
#group,false,false,false,false,false\r
#default,_result,,,,\r
,result,table,_time,v,pos\r
,,0,2025-10-09T08:53:20Z,"""
    '"""eco"""'
    """,1\r
\r
"""
)
BUCKETS = """#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,long,double,double,double\r
#group,false,false,false,false,false,false,false,false\r
#default,_result,,,,,,,\r
,result,table,_start,_stop,count,maximum,minimum,sum\r
,,0,2025-10-09T08:53:20.001Z,2025-10-09T08:54:20.001Z,2,3.5,1.5,5\r
,,0,2025-10-09T08:55:20.001Z,2025-10-09T08:55:50Z,1,9,9,9\r
\r
"""


def test_points_are_asked_for_in_flux_and_read_from_annotated_csv(recorded: str, open_store: Open) -> None:
    store = named(open_store, recorded)
    Recorded.answer = (200, POINTS)
    found = store.points(1, DAY, DAY + 1000, 7)
    assert (found.ts.tolist(), list(found.values), found.position.tolist()) == ([DAY, DAY + 1], [21.5, 22.0], [1, 7])
    (flux,) = Recorded.asked
    assert f"range(start: time(v: {DAY}000000), stop: time(v: {DAY + 1000}000000))" in flux
    assert 'r._measurement == "reading" and r.product == "stove" and r.device == "kit,chen =1 \\"x\\"" and r.property == "power"' in flux
    assert "limit(n: 7, offset: 0)" in flux


def test_texts_come_back_as_they_were(recorded: str, open_store: Open) -> None:
    store = named(open_store, recorded)
    Recorded.answer = (200, TEXTS)
    found = store.rows(2, DAY, DAY + 1000, 7, 3)
    assert list(found.values) == ['"eco"']
    assert "limit(n: 7, offset: 3)" in Recorded.asked[0]


def test_the_newest_events_are_asked_for_backwards(recorded: str, open_store: Open) -> None:
    store = named(open_store, recorded)
    Recorded.answer = (200, TEXTS)
    found = store.newest([2], DAY, DAY + 1000, 7)
    assert [(text.series, text.json) for text in found] == [(2, '"eco"')]
    assert 'sort(columns: ["_time"], desc: true)' in Recorded.asked[0]
    assert store.newest([2], DAY, DAY, 7) == []


def test_a_chart_is_folded_where_the_rows_are(recorded: str, open_store: Open) -> None:
    store = named(open_store, recorded)
    Recorded.answer = (200, BUCKETS)
    found = store.buckets(1, DAY + 1, DAY + 150_000, 60_000)
    assert found.start.tolist() == [DAY + 1, DAY + 120_001]
    assert [column.tolist() for column in (found.minimum, found.maximum, found.average, found.count)] == [
        [1.5, 9.0],
        [3.5, 9.0],
        [2.5, 9.0],
        [2, 1],
    ]
    assert f"window(every: 60000ms, offset: {(DAY + 1) % 60_000}ms)" in Recorded.asked[0]


def test_an_empty_range_asks_nobody_and_the_ends_of_time_fit(recorded: str, open_store: Open) -> None:
    store = named(open_store, recorded)
    assert len(store.points(1, DAY, DAY, 7)) == 0
    assert Recorded.asked == []
    Recorded.answer = (200, "\r\n")
    assert len(store.points(1, -(2**53), 2**53, 7)) == 0
    assert "time(v: -9223372036854000000)" in Recorded.asked[0]


@pytest.mark.parametrize(
    ("status", "says"), [(401, "HEARTHLINE_INFLUX_TOKEN"), (404, "HEARTHLINE_INFLUX_BUCKET"), (503, "busy"), (429, "busy")]
)
def test_an_influxdb_that_refuses_says_what_to_do_and_nothing_counts_as_stored(
    recorded: str, open_store: Open, status: int, says: str
) -> None:
    store = named(open_store, recorded)
    Recorded.answer = (status, '{"code":"x","message":"busy"}')
    with pytest.raises(InfluxAway, match=says):
        store.append(Append(at(1), at(2), (), numbers((1, DAY, 1.0))))
    with pytest.raises(InfluxAway, match=says):
        store.points(1, DAY, DAY + 9, 7)
    assert store.position() == at(1)


def test_rows_that_influxdb_refuses_by_themselves_become_gaps_and_the_others_are_written(recorded: str, open_store: Open) -> None:
    store = named(open_store, recorded)
    Recorded.refuses = "v=13.0,"
    rows = numbers(*((1, DAY + n, float(n)) for n in range(20)))
    assert store.append(Append(at(1), at(2), (), rows)) is Verdict.APPLIED
    assert store.position() == at(2)
    written = {line.rsplit(" ", 1)[1] for lines in Recorded.writes for line in lines if not any("v=13.0," in other for other in lines)}
    assert written == {str(DAY + n) for n in range(20) if n != 13}
    (gap,) = store.gaps(POWER.product_key, POWER.device_name, "power", DAY, DAY + 99, 9)
    assert (gap.from_ms, gap.to_ms, gap.count, gap.reason) == (DAY + 12, DAY + 14, 1, "refused_value")
