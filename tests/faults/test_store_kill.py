"""SIGKILL at any moment while the telemetry store puts its rows in order: what was appended is there, once, in order of arrival."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud.telemetry.duckdb_store import DuckDbStore
from tests.faults.store_writer import EXPIRES_EVERY, LIMITS, rows_of, stored

ROOT = Path(__file__).parents[2]


def run_until(file: Path, acknowledged: int, crash_dir: Path | None = None, keep: int | None = None) -> int:
    """Let a writer run until it printed so many numbers, or died by itself; the last number it printed."""
    command = [sys.executable, str(ROOT / "tests" / "faults" / "store_writer.py"), str(file)]
    command += [str(word) for word in (crash_dir, keep) if word is not None]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    last = seen = 0
    for line in process.stdout:
        last, seen = int(line), seen + 1
        if seen == acknowledged:
            process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return last


def judge(file: Path, last: int) -> int:
    """Hold the store against what its position says, which may be one append further than what was printed; how many rows there are."""
    store = DuckDbStore(file, LIMITS)
    try:
        position = store.position().sequence
        assert last <= position <= last + 1 or last == 0
        expected = [(n, row) for n in range(1, position + 1) for row in rows_of(n)]
        expected.sort(key=lambda one: (one[1][0], one[1][1], one[0]))
        assert list(stored(store)) == [row for _, row in expected]
        return len(expected)
    finally:
        store.close()


def test_a_store_killed_again_and_again_holds_every_row_once(tmp_path: Path) -> None:
    file = tmp_path / "telemetry.duckdb"
    rows = [judge(file, run_until(file, acknowledged)) for acknowledged in (1, 40, 75, 120)]
    assert rows == sorted(rows)
    assert rows[-1] > 2_000


@pytest.mark.parametrize("point", ["core.before_ordering_commit", "core.after_ordering_commit"])
@pytest.mark.parametrize("passes", [0, 5, 21])  # the last is past the first merge
def test_a_store_killed_while_it_replaces_a_segment_holds_every_row_once(tmp_path: Path, point: str, passes: int) -> None:
    file, crash_dir = tmp_path / "telemetry.duckdb", tmp_path / "crash"
    crash_dir.mkdir()
    (crash_dir / point).write_text(str(passes))
    last = run_until(file, 2_000, crash_dir)
    assert not (crash_dir / point).exists()
    assert judge(file, last) > 0
    judge(file, run_until(file, 30))


KEPT = 100  # appends


@pytest.mark.parametrize("point", ["core.before_expiry_commit", "core.after_expiry_commit", "core.after_expiry_delete"])
@pytest.mark.parametrize("passes", [0, 6])
def test_a_store_killed_while_it_lets_go_of_old_rows_holds_every_newer_row_once(tmp_path: Path, point: str, passes: int) -> None:
    file, crash_dir = tmp_path / "telemetry.duckdb", tmp_path / "crash"
    crash_dir.mkdir()
    (crash_dir / point).write_text(str(passes))
    last = run_until(file, 4_000, crash_dir, KEPT)
    assert not (crash_dir / point).exists()
    store = DuckDbStore(file, LIMITS)
    try:
        position = store.position().sequence
        assert last <= position <= last + 1
        held = list(stored(store))
        assert len(held) == len(set(held)), "a row came back, or is there twice"
        made = {row for n in range(1, position + 1) for row in rows_of(n)}
        new = {row for n in range(max(position - KEPT + EXPIRES_EVERY, 1), position + 1) for row in rows_of(n)}
        assert new <= set(held) <= made
        assert len(held) < len(made) or (passes, point) == (0, "core.before_expiry_commit"), "nothing was let go of"
        deadline = time.monotonic() + 20  # a segment that is just being put in order has its turn later
        while min(value for _, _, value in stored(store)) <= position - KEPT:
            assert time.monotonic() < deadline
            store.expire(1000 * (position - KEPT), 0)
    finally:
        store.close()
