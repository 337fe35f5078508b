"""A full disk: readings are refused and said to be, alarms and the cloud's commits get through, and all goes on when there is room."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.buffer.ballast import Ballast
from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import OutboxUnavailable
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import Lane

NOW_MS = 1_780_000_000_000
MIB = 1 << 20


def body(number: int, readings: int = 4_000) -> bytes:
    """About 32 KB."""
    times = np.arange(number * readings, (number + 1) * readings, dtype=np.int64) + NOW_MS
    values = np.random.default_rng(number).random(readings)
    return encode_body(Columns((("press", "p1", "force"),), np.zeros(readings, np.uint32), times, values))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def opened(disk: Path, ballast: int = 4 * MIB) -> SqliteOutbox:
    return SqliteOutbox(
        disk / "buffer.db", quotas=Quotas(1 << 30), gateway=("gateway", "gw1"), now_ms=lambda: NOW_MS, ballast_bytes=ballast
    )


async def fill(box: SqliteOutbox) -> int:
    """Frames of readings until the disk refuses; how many it took."""
    for number in range(5_000):
        try:
            await box.append(Lane.LIVE, body(number), 4_000)
        except OutboxUnavailable:
            return number
    raise AssertionError("24 MiB took more than 150 MB")


@pytest.mark.root
async def test_alarms_and_commits_get_through_a_full_disk_and_readings_go_on_when_there_is_room(small_disk: Path) -> None:
    box = opened(small_disk)
    assert (small_disk / "buffer.db.ballast").stat().st_size == 4 * MIB
    other = small_disk / "other"  # of another program
    other.write_bytes(b"x" * (17 * MIB))
    taken = await fill(box)
    assert taken > 10
    assert box.state().disk_full
    for number in range(50):
        await box.append(Lane.ALARM, body(number, 10), 10, {"mark": b"%d" % number})
    with pytest.raises(OutboxUnavailable, match="free some space"):
        await box.append(Lane.LIVE, body(1), 4_000)
    await box.committed(Lane.LIVE, 5)
    state = box.state()
    assert (state.lanes[Lane.LIVE].frames, state.lanes[Lane.ALARM].frames) == (taken - 5, 50)
    await box.close()
    box = opened(small_disk)  # an agent that is started on a full disk
    other.unlink()
    await box.append(Lane.LIVE, body(1), 4_000)
    assert not box.state().disk_full
    assert (small_disk / "buffer.db.ballast").exists()
    assert box.state().lanes[Lane.LIVE].frames == taken - 4
    await box.close()


@pytest.mark.root
async def test_nothing_is_acknowledged_that_a_full_disk_did_not_take(small_disk: Path) -> None:
    box = opened(small_disk, ballast=0)
    taken = await fill(box)
    outcomes = await asyncio.gather(*(box.append(Lane.LIVE, body(n), 4_000) for n in range(40)), return_exceptions=True)
    acknowledged = taken + sum(not isinstance(outcome, BaseException) for outcome in outcomes)
    await box.close()
    with pytest.raises(OutboxUnavailable, match="full"):  # without a ballast not even an agent can start
        opened(small_disk, ballast=0)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = opened(small_disk, ballast=0)
    assert again.state().lanes[Lane.LIVE].frames == acknowledged
    await again.close()


def test_a_disk_without_room_for_the_ballast_is_no_error(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "b", 1 << 60)
    assert not ballast.put()
    assert not ballast.drop()
    assert not ballast.has_room()
    assert not Ballast(tmp_path / "b", 0).put()
