"""The lights go out while the buffer writes: whatever it acknowledged is there afterwards."""

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults.buffer_oracle import Writer, judge, reopen

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("HEARTHLINE_SHARED", ROOT.parent / "shared"))
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


@pytest.mark.root
@pytest.mark.parametrize("acknowledged", [50, 1_000, 8_000])
async def test_a_power_cut_takes_nothing_that_was_acknowledged(acknowledged: int) -> None:
    tool = power_cut_tool()
    try:
        disk = tool.PowerCut(megabytes=96)
        disk.restore()
    except OSError as error:
        pytest.skip(f"no loop mount here: {error}")
    except tool.subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mount here: {error}")
    with disk:
        file = disk.path / "buffer.db"
        writer = Writer(file)
        # Early, in the first write-ahead log, and after checkpoints have moved pages.
        writer.wait_for(acknowledged)
        # Counted up to here, not to the process's last word: ext4 answers 0 to some fsyncs that are under way while it is shut
        # down, and loses them (a bare pwrite + fsync loop shows it too). Real lights take the process with them at once.
        promises = writer.promises()
        disk.cut()
        try:
            assert writer.end() == 3, "a writer without a disk must be told, not acknowledged"
        finally:
            writer.process.kill()
        disk.restore()
        kept = await reopen(file)
        judge(promises, kept)
        assert kept.boot == 2
