"""The lights go out while the buffer writes: whatever it acknowledged is there afterwards."""

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e.mutant import mutant
from tests.faults.buffer_oracle import Kept, Promises, Writer, judge, reopen

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("HEARTHLINE_DATA", ROOT.parent / "shared" / "data"))
SHARED = Path(os.environ.get("HEARTHLINE_SHARED", DATA.parent))
TOOL = SHARED / "tools" / "power_cut.py"


def power_cut_tool() -> ModuleType:
    """The tool beside the repository, or a skip that says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("cutting the power of a file system needs root")
    if not TOOL.exists():
        pytest.skip(f"{TOOL} is missing; HEARTHLINE_SHARED names its directory")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing (make ci-deps)")
    spec = importlib.util.spec_from_file_location("power_cut", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def cut_and_reopen(acknowledged: int, code: Path = ROOT) -> tuple[Promises, Kept, int]:
    """What a writer had been promised when the lights went out, what is left, and how the writer ended."""
    tool = power_cut_tool()
    try:
        disk = tool.PowerCut(megabytes=96)
        disk.restore()
    except (OSError, tool.subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop mount here: {error}")
    with disk:
        file = disk.path / "buffer.db"
        writer = Writer(file, code=code)
        writer.wait_for(acknowledged)
        # Counted up to here, not to the process's last word: ext4 answers 0 to some fsyncs that are under way while it is shut
        # down, and loses them (a bare pwrite + fsync loop shows it too). Real lights take the process with them at once.
        promises = writer.promises()
        disk.cut()
        try:
            ended = writer.end()
        finally:
            writer.process.kill()
        disk.restore()
        return promises, await reopen(file), ended


@pytest.mark.root
@pytest.mark.parametrize("acknowledged", [50, 1_000, 8_000])  # early, in the first write-ahead log, after checkpoints have moved pages
async def test_a_power_cut_takes_nothing_that_was_acknowledged(acknowledged: int) -> None:
    promises, kept, ended = await cut_and_reopen(acknowledged)
    judge(promises, kept)
    assert ended == 3, "a writer without a disk must be told, not acknowledged"
    assert kept.boot == 2


@pytest.mark.root
async def test_a_buffer_that_does_not_wait_for_the_disk_is_caught(tmp_path: Path) -> None:
    promises, kept, _ = await cut_and_reopen(1_000, mutant("synchronous_off", tmp_path))
    with pytest.raises(AssertionError, match="acknowledged frames are gone"):
        judge(promises, kept)
