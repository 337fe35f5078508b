"""How long a backup and its restoration take, against copying the same file: `python -m tests.benchmarks.backup_bench [POINTS]`."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cloud.backup.service import make_alone, restore
from cloud.foundation.db import Database
from cloud.foundation.schema import upgrade
from cloud.ingest.model import Effects
from cloud.ingest.service import commit
from cloud.telemetry.duckdb_store import DuckDbStore
from cloud.telemetry.model import Append, Numbers, Position, Series, SeriesKey

POINTS = 40_000_000
SERIES = 80_000
A_BATCH = 400_000


def fill(store: DuckDbStore, points: int) -> None:
    """Points of 10,000 devices with 8 properties each, one after another in time."""
    names = [Series(n + 1, SeriesKey("fleet", f"device-{n // 8:05}", f"p{n % 8}")) for n in range(SERIES)]
    begin, noise = 1_800_000_000_000, np.random.default_rng(1)
    for number, first in enumerate(range(0, points, A_BATCH), 1):
        count = np.arange(first, min(first + A_BATCH, points))
        series = (count % SERIES + 1).astype(np.int32)
        value = noise.normal(230, 3, len(count))  # what no engine packs: a real property's values take less
        rows = Numbers(series, begin + count // SERIES * 1000, value, np.full(len(count), number))
        end = Position("s", number)
        store.append(Append(store.position(), end, names if number == 1 else (), rows, received_ms=begin + 1000 * number))


def main() -> None:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else POINTS
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        database = Database(f"sqlite:///{data / 'meta.db'}")
        upgrade(database)
        store = DuckDbStore(data / "telemetry.duckdb")
        fill(store, points)
        commit(database, 0, Effects(Append(Position(), store.position()), 0, {}, {}, [], [], [], [], [], 0))
        manifest = asyncio.run(make_alone(store, database, data, Path(folder) / "backup"))
        store.close()
        database.close()
        began = time.monotonic()
        restore(Path(folder) / "backup", Path(folder) / "restored", None)
        restored_s = time.monotonic() - began
        began = time.monotonic()
        shutil.copy(data / "telemetry.duckdb", Path(folder) / "copy")
        copied_s = time.monotonic() - began
    size = sum(file.size for file in manifest.files.values())
    print(json.dumps({"points": points, "bytes": size, "backup_s": manifest.took_ms / 1000, "restore_s": restored_s, "copy_s": copied_s}))


if __name__ == "__main__":
    main()
