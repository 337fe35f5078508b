"""SIGKILL at any moment: whatever the outbox acknowledged is there afterwards."""

import signal
from pathlib import Path

import pytest

from tests.faults.buffer_oracle import Writer, judged, reopen


@pytest.mark.parametrize("acknowledged", [1, 300, 3_000])
async def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    writer = Writer(tmp_path / "buffer.db")
    writer.wait_for(acknowledged)
    writer.kill()
    tally = judged(writer.promises(), await reopen(writer.file))
    assert tally.ok, tally


async def test_a_process_killed_between_commit_and_acknowledgement_has_stored(tmp_path: Path) -> None:
    """`buffer.after_commit`: nothing was acknowledged, so the sender will send again; both copies are honest."""
    (tmp_path / "crash").mkdir()
    trigger = tmp_path / "crash" / "buffer.after_commit"
    trigger.write_text("3")
    writer = Writer(tmp_path / "buffer.db", producers=1, crash_dir=tmp_path / "crash")
    assert writer.end() == -signal.SIGKILL
    assert not trigger.exists()
    assert writer.acknowledged == {1: 1, 2: 2, 3: 3}
    kept = await reopen(writer.file)
    assert kept.frames == {1: 1, 2: 2, 3: 3, 4: 4}
    assert kept.boot == 2


async def test_one_file_after_another_kill_keeps_counting(tmp_path: Path) -> None:
    identities = []
    for boot in (1, 3):
        writer = Writer(tmp_path / "buffer.db", producers=2)
        writer.wait_for(20)
        writer.kill()
        kept = await reopen(writer.file)
        assert kept.boot == boot + 1
        identities.append(len(kept.frames))
        assert max(writer.acknowledged) <= len(kept.frames)
    assert identities[0] < identities[1]
