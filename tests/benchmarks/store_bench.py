"""A chart while data comes in: 24 h of one property, in buckets, through the HTTP API, with forty million points in the store.

The points lie over 24 h, as many of each of the 400 properties; they come in frames, in order of time. Then the platform takes posts (or
frames) at half the rate that the same platform reached at its best just before, and a client asks for one chart after another. Every chart
is held against what was stored before; what came meanwhile is counted at the end.
"""

import argparse
import http.client
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import FrameHeader, encode_body, stamp
from protocols.edgelink.lanes import Lane
from tests.benchmarks import ingest_bench
from tests.benchmarks.ingest_bench import ALINK_WINDOW, DEVICES, FRAME_READINGS, FRAME_WINDOW, GATEWAYS, PROPERTIES, START_MS, Bench
from tests.benchmarks.row import Row
from tests.benchmarks.uplink import Stream

ROOT = Path(__file__).parent.parent.parent
DAY_MS = 86_400_000
POINTS = 40_000_000
BUCKETS = 300
PAUSE_S = 0.01  # between one chart and the next
TARGET_MS = 50.0
ROWS_A_FRAME = FRAME_READINGS // (DEVICES // GATEWAYS * PROPERTIES)
WARM_FRAMES, BEST_FRAMES = 10, 500  # of each gateway
BEST_MS = START_MS + 3_600_000  # where measuring the best rate leaves its points, outside the charts


def _day(bench: Bench, gateway: int, count: int, each: int) -> list[bytes]:
    """Frames of 100 series over the 24 h before START_MS, row after row as time goes; `each` points of a series in all."""
    dictionary = tuple((bench.product_key, f"d{d}", f"p{p}") for d in range(gateway, DEVICES, GATEWAYS) for p in range(PROPERTIES))
    rows = FRAME_READINGS // len(dictionary)
    noise, frames = np.random.default_rng(gateway), []
    for n in range(count):
        steps = np.repeat(n * rows + np.arange(rows), len(dictionary))
        series = np.tile(np.arange(len(dictionary), dtype=np.uint32), rows)
        values = np.round(230 + noise.normal(0, 3, FRAME_READINGS), 1)
        header = FrameHeader(bytes([gateway + 101]) * 16, 1, Lane.LIVE, n + 1, 1, START_MS + n)
        frames.append(stamp(encode_body(Columns(dictionary, series, START_MS - DAY_MS + steps * (DAY_MS // each), values)), header))
    return frames


def fill(bench: Bench, points: int) -> int:
    """Store `points` over the day; how many each series got. Raises RuntimeError when one is missing."""
    each = points // (DEVICES * PROPERTIES)
    count = points // FRAME_READINGS // GATEWAYS
    streams = [ingest_bench.stream_of(client, _day(bench, n, count, each), FRAME_WINDOW) for n, client in enumerate(bench.gateways)]
    ingest_bench.send(bench, streams)
    ingest_bench.until_stored(bench, START_MS - DAY_MS + (each - 1) * (DAY_MS // each))
    ingest_bench.check_count(bench, START_MS - DAY_MS, START_MS - 1, points)
    return each


@contextmanager
def _load(bench: Bench, streams: Sequence[Stream], per_second: float) -> Iterator["subprocess.Popen[bytes]"]:
    """Send at a steady rate in another process."""
    plan = bench.folder / "steady.pickle"
    plan.write_bytes(pickle.dumps(("flood", bench.cloud.mqtt_port, list(streams), per_second)))
    process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.uplink", str(plan)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def charts(bench: Bench, end_ms: int, least: int, stop: "subprocess.Popen[bytes]", warm_s: float) -> list[float]:
    """Ask for one chart of the 24 h before `end_ms` after another until `stop` ends; the times of all after `warm_s`, ms.

    Raises AssertionError when one holds fewer than `least` points.
    """
    connection = http.client.HTTPConnection("127.0.0.1", bench.cloud.api_port, timeout=30)
    headers = {"Authorization": f"Bearer {bench.cloud.admin_key}"}
    times, number, begun = [], 0, time.monotonic()
    while stop.poll() is None:
        device, identifier = number * 37 % DEVICES, number % PROPERTIES
        path = f"/v1/telemetry/{bench.product_key}/d{device}/p{identifier}?from={end_ms - DAY_MS}&to={end_ms}&buckets={BUCKETS}"
        asked = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        took = (time.perf_counter() - asked) * 1000
        found = json.loads(body)
        if answer.status != 200 or sum(bucket["count"] for bucket in found["buckets"]) < least:
            raise AssertionError(f"{path}: {answer.status} {body[:200]!r}")
        if time.monotonic() - begun > warm_s:
            times.append(took)
        number += 1
        time.sleep(PAUSE_S)
    connection.close()
    return sorted(times)


def measure(kind: str, points: int, seconds: float) -> dict[str, Any]:
    """`kind` is `posts` or `frames`: what comes in meanwhile."""
    with tempfile.TemporaryDirectory() as folder, ingest_bench.platform(Path(folder)) as bench:
        each = fill(bench, points)
        if kind == "posts":
            ingest_bench.alink(bench, 20_000, first=2 * (BEST_MS - START_MS) // 10)
            best = ingest_bench.alink(bench, 400_000, first=(BEST_MS - START_MS) // 10)["rate"]
            values, window, clients = PROPERTIES, ALINK_WINDOW, bench.devices
        else:
            ingest_bench.frames(bench, WARM_FRAMES * GATEWAYS * FRAME_READINGS, start_ms=BEST_MS)
            readings = BEST_FRAMES * GATEWAYS * FRAME_READINGS
            best = ingest_bench.frames(bench, readings, first=WARM_FRAMES, start_ms=BEST_MS)["rate"]
            values, window, clients = FRAME_READINGS, FRAME_WINDOW, bench.gateways
        per_second = best / 2 / values
        sent = int(per_second * seconds / len(clients))
        if kind == "posts":
            payloads = [ingest_bench.posts_of(0, sent, n, ack=0) for n in range(len(clients))]
            rows = sent
        else:
            first = WARM_FRAMES + BEST_FRAMES  # a lane counts on
            start_ms = START_MS - 10 * ROWS_A_FRAME * first
            payloads = [ingest_bench.frames_of(bench, n, first, sent, start_ms) for n in range(len(clients))]
            rows = sent * ROWS_A_FRAME
        streams = [ingest_bench.stream_of(client, some, window) for client, some in zip(clients, payloads, strict=True)]
        end_ms = START_MS + 10 * rows
        least = each - 10 * rows // (DAY_MS // each) - 1
        before, begun = bench.cpu(), time.monotonic()
        with _load(bench, streams, per_second) as load:
            times = charts(bench, end_ms, least, load, warm_s=2.0)
            assert load.stdout is not None
            result: dict[str, Any] = json.loads(load.stdout.read())
        wall = time.monotonic() - begun
        shares = ingest_bench.cpu_shares(before, bench.cpu(), wall)
        ingest_bench.until_stored(bench, end_ms - 10)
        ingest_bench.check_count(bench, START_MS, end_ms - 1, rows * DEVICES * PROPERTIES)
        return {
            "p50": times[len(times) // 2],
            "p99": times[int(len(times) * 0.99)],
            "max": times[-1],
            "charts": len(times),
            "best": best,
            "reached": sent * len(clients) * values / (result["last_ack"] - result["first"]),
            "cpu": {"generator": round(result["cpu_share"], 2)} | shares,
        }


def _row(name: str, kind: str, points: int, seconds: float, target: float | None) -> Row:
    found = measure(kind, points, seconds)
    half = found["best"] / 2
    kept = found["reached"] >= 0.95 * half
    least = points // (DEVICES * PROPERTIES)
    note = f"p50 {found['p50']:.1f}, max {found['max']:.1f}, {found['charts']} charts of {least:,} points and more;"
    note += f" {kind}: best {found['best']:,.0f}/s, half {half:,.0f}/s, reached {found['reached']:,.0f}/s; CPU {found['cpu']}"
    if not kept:
        note += "; the load did not keep its rate: the figure says nothing"
    wanted = None if target is None else f"<= {target:g} ms with {points:,} points"
    met = None if target is None else kept and found["p99"] <= target
    return Row(name, round(found["p99"], 2), "ms", target=wanted, met=met, note=note)


def rows(points: int = POINTS, seconds: float = 15.0) -> list[Row]:
    """The rows of `make bench`."""
    return [
        _row("store.chart_p99", "posts", points, seconds, TARGET_MS),
        _row("store.chart_p99.frames", "frames", points, seconds, None),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "posts", "frames"), default="all")
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    if options.what != "all":
        print(json.dumps(measure(options.what, options.points, options.seconds)))
        return 0
    for row in rows(options.points, options.seconds):
        print(json.dumps(row.as_dict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
