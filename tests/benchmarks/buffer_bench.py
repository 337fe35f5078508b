"""The edge buffer by itself: how fast frames become durable, how long a reading waits for the disk, what a backlog costs whoever reads it.

`edge.append`: frames of 1,000 readings, encoded and fsynced, against SQLite alone with the same bodies, one transaction each.
`edge.fsync_p99`: 10,000 readings/s through the collector, from the row to its fsync. `edge.backlog`: reading 16 frames of a buffer of
5 GB, against one of 1 MB.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.batch import Shape
from edge_agent.domain.quotas import Quotas
from edge_agent.pipeline.collect import Collector
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import Lane
from protocols.thing.model import parse_thing_model
from tests.benchmarks.row import Row

READINGS = 1_000
PROPERTIES = 10
START_MS = 1_760_000_000_000
APPEND_TARGET, FSYNC_TARGET_MS, BACKLOG_TARGET = 500_000, 60.0, 1.2
GATEWAY = ("gateway", "gw1")
DICTIONARY = tuple(("press", "p1", f"x{n}") for n in range(PROPERTIES))


def columns(number: int) -> Columns:
    """A thousand readings of a machine that drifts: a hundred rows of ten values, a tenth of a second apart."""
    noise = np.random.default_rng(number)
    times = START_MS + 100 * (number * READINGS // PROPERTIES + np.repeat(np.arange(READINGS // PROPERTIES), PROPERTIES))
    values = np.round(230 + noise.normal(0, 3, READINGS), 1)
    return Columns(DICTIONARY, np.tile(np.arange(PROPERTIES, dtype=np.uint32), READINGS // PROPERTIES), times, values)


def opened(file: Path, gigabytes: int = 16) -> SqliteOutbox:
    return SqliteOutbox(file, quotas=Quotas(gigabytes << 30), gateway=GATEWAY, now_ms=lambda: time.time_ns() // 1_000_000)


async def append(folder: Path, frames: int, at_once: int = 16) -> float:
    """Readings/s, durable; the count is held against the file's own."""
    made = [columns(number) for number in range(frames)]
    outbox = opened(folder / "append.db")
    began = time.perf_counter()
    for first in range(0, frames, at_once):
        some = made[first : first + at_once]
        await asyncio.gather(*(outbox.append(Lane.LIVE, encode_body(one), READINGS) for one in some))
    took = time.perf_counter() - began
    held = outbox.state().lanes[Lane.LIVE].readings
    await outbox.close()
    if held != frames * READINGS:
        raise AssertionError(f"{held} readings are held, not {frames * READINGS}")
    return held / took


def bare(folder: Path, frames: int) -> float:
    """The same bodies, made beforehand, into SQLite alone: one row, one transaction, one fsync each."""
    bodies = [encode_body(columns(number)) for number in range(frames)]
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("create table frame (id integer primary key, body blob)")
    began = time.perf_counter()
    for body in bodies:
        db.execute("insert into frame (body) values (?)", (body,))
    took = time.perf_counter() - began
    db.close()
    return frames * READINGS / took


async def fsync(folder: Path, seconds: float, per_second: int = 10_000) -> list[float]:
    """Milliseconds from each row to its fsync, in order of size; a row of ten values every millisecond."""
    properties = [
        {"identifier": f"x{n}", "name": f"x{n}", "accessMode": "r", "dataType": {"type": "double", "specs": {}}} for n in range(PROPERTIES)
    ]
    model = parse_thing_model({"properties": properties, "events": [], "services": []})
    shape = Shape("press", "p1", model, [f"x{n}" for n in range(PROPERTIES)])
    outbox = opened(folder / "fsync.db")
    collector = Collector(outbox, {}, close_after_s=0.05)
    running = asyncio.create_task(collector.run())
    took: list[float] = []
    rows, began = int(seconds * per_second / PROPERTIES), time.perf_counter()
    for number in range(rows):
        while (wait_s := began + number * PROPERTIES / per_second - time.perf_counter()) > 0:
            await asyncio.sleep(min(wait_s, 0.001))
        await collector.room()
        at = time.perf_counter()
        collector.row(shape, [230.0 + number % 7] * PROPERTIES, START_MS + number)
        collector.when_durable(lambda at=at: took.append(1000 * (time.perf_counter() - at)))  # type: ignore[misc]
    await collector.flush()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await outbox.close()
    if len(took) != rows:
        raise AssertionError(f"{len(took)} of {rows} rows became durable")
    return sorted(took)


async def read_cost(folder: Path, megabytes: int, body_bytes: int = 60_000, reads: int = 300) -> float:
    """Milliseconds that reading the oldest 16 frames takes behind a backlog of this size, the median."""
    file = folder / f"backlog-{megabytes}.db"
    outbox = opened(file)
    body = encode_body(columns(0)) + os.urandom(body_bytes)  # it is never decoded: what counts is its size
    count = max(16, (megabytes << 20) // len(body))
    for first in range(0, count, 64):
        await asyncio.gather(*(outbox.append(Lane.LIVE, body, READINGS) for _ in range(min(64, count - first))))
    took = []
    for number in range(reads):
        began = time.perf_counter()
        found = await outbox.next(Lane.LIVE, number % max(1, count - 16), 16)
        took.append(1000 * (time.perf_counter() - began))
        if len(found) != 16 and count > 16:
            raise AssertionError(f"{len(found)} frames were read")
    await outbox.close()
    file.unlink()
    return statistics.median(took)


def rows(frames: int = 5_000, seconds: float = 20.0, megabytes: int = 5_000) -> list[Row]:
    """The rows of `make bench`."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("HEARTHLINE_BENCH_DIR")) as name:
        folder = Path(name)
        rate, alone = asyncio.run(append(folder, frames)), bare(folder, min(frames, 2_000))
        times = asyncio.run(fsync(folder, seconds))
        small, large = asyncio.run(read_cost(folder, 1)), asyncio.run(read_cost(folder, megabytes))
    p99 = times[int(len(times) * 0.99)]
    cost = large / small
    return [
        Row(
            "edge.append",
            round(rate),
            "readings/s",
            peer="SQLite alone, the bodies made beforehand, a transaction each",
            peer_value=round(alone),
            target=f">= {APPEND_TARGET:,} readings/s in frames",
            met=rate >= APPEND_TARGET,
            note=f"{frames:,} frames of {READINGS:,} readings, 16 at once, encoded and fsynced",
        ),
        Row(
            "edge.fsync_p99",
            round(p99, 1),
            "ms",
            target=f"<= {FSYNC_TARGET_MS:g} ms at 10,000 readings/s",
            met=p99 <= FSYNC_TARGET_MS,
            note=f"p50 {times[len(times) // 2]:.1f}, max {times[-1]:.1f} of {len(times):,} rows; a frame closes after 50 ms",
        ),
        Row(
            "edge.backlog",
            round(cost, 2),
            "x",
            target=f"<= {BACKLOG_TARGET:g}",
            met=cost <= BACKLOG_TARGET,
            note=f"reading 16 frames of 60 KB: {large:.2f} ms of {megabytes:,} MB, {small:.2f} ms of 1 MB",
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--megabytes", type=int, default=5_000)
    options = parser.parse_args()
    for row in rows(options.frames, options.seconds, options.megabytes):
        print(json.dumps(row.as_dict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
