"""Rows 1 to 9: the edge buffer alone, in a process that dies, on a disk that fails. Judged by numbers the writer printed outside."""

import asyncio
import concurrent.futures
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.e2e.platform import ROOT
from tests.faults.buffer_oracle import Kept, Promises, Writer, judged, reopen
from tests.faults.harness import NotHere, Stage, Tally, fault, need, need_root

DATA = Path(os.environ.get("HEARTHLINE_DATA", ROOT.parent / "shared" / "data"))
SHARED = Path(os.environ.get("HEARTHLINE_SHARED", DATA.parent))
TOOL = SHARED / "tools" / "power_cut.py"


def kill_once(folder: Path, after: int, wait_s: float, code: Path) -> Tally:
    folder.mkdir(parents=True)
    writer = Writer(folder / "buffer.db", code=code)
    writer.wait_for(after)
    time.sleep(wait_s)
    writer.kill()
    tally = judged(writer.promises(), asyncio.run(reopen(folder / "buffer.db")))
    shutil.rmtree(folder)
    return tally


@fault(1, "the buffer's process killed at any moment", runs=200, few=8, mutants=("acknowledge_before_commit",), how="SIGKILL")
def buffer_killed(stage: Stage) -> Tally:
    plan = [(stage.folder / str(n), stage.chance.randrange(1, 400), stage.chance.random() * 0.05, stage.code) for n in range(stage.runs)]
    with concurrent.futures.ThreadPoolExecutor(2) as two:
        return Tally.total(two.map(lambda one: kill_once(*one), plan))


def power_cut_tool() -> ModuleType:
    """The tool beside the repository. Raises NotHere."""
    need_root()
    need("mkfs.ext4")
    if not TOOL.exists():
        raise NotHere(f"{TOOL} is missing; HEARTHLINE_SHARED names its directory")
    spec = importlib.util.spec_from_file_location("power_cut", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def power_cut_disk(mebibytes: int) -> Any:
    """A disk whose power can be cut, to be used in a `with`. Raises NotHere."""
    tool = power_cut_tool()
    try:
        disk = tool.PowerCut(megabytes=mebibytes)
        disk.restore()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotHere(f"no loop mount here: {error}") from error
    return disk


def power_cut_once(acknowledged: int, code: Path) -> Tally:
    with power_cut_disk(96) as disk:
        writer = Writer(disk.path / "buffer.db", code=code)
        writer.wait_for(acknowledged)
        # Counted up to here, not to the process's last word: ext4 answers 0 to some fsyncs that are under way while it is shut
        # down, and loses them (a bare pwrite + fsync loop shows it too). Real lights take the process with them at once.
        promises = writer.promises()
        disk.cut()
        try:
            ended = writer.end()
        finally:
            writer.process.kill()
        assert ended == 3, "a writer without a disk must be told, not acknowledged"
        disk.restore()
        began = time.monotonic()
        kept = asyncio.run(reopen(disk.path / "buffer.db"))
        assert time.monotonic() - began < 5, "it opens in less than five seconds"
        return judged(promises, kept)


@fault(2, "power cut under the buffer", runs=50, few=1, mutants=("synchronous_off",), how="ext4 shut down without its log")
def power_cut(stage: Stage) -> Tally:
    return Tally.total(power_cut_once(stage.chance.choice([50, 300, 1_000, 4_000]), stage.code) for _ in range(stage.runs))


def written(folder: Path, acknowledged: int, code: Path = ROOT) -> tuple[Path, Promises]:
    """A buffer file whose writer was killed, with its write-ahead log beside it."""
    folder.mkdir(parents=True)
    writer = Writer(folder / "buffer.db", code=code)
    writer.wait_for(acknowledged)
    writer.kill()
    return folder / "buffer.db", writer.promises()


@fault(3, "torn tail of the write-ahead log", runs=40, few=4, how="truncated or a bit flipped, anywhere in the last third")
def torn_tail(stage: Stage) -> Tally:
    """What the damage took is gone from the tail, and nothing before it: no holes, no changed frame, no mixed transaction."""
    path, promises = written(stage.folder / "whole", 400)
    total = Tally(runs=0)
    for number in range(stage.runs):
        folder = stage.folder / str(number)
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(path.name + suffix), folder / f"buffer.db{suffix}")
        log = folder / "buffer.db-wal"
        size = log.stat().st_size
        at = stage.chance.randrange(size * 2 // 3, size)
        if stage.chance.random() < 0.5:
            os.truncate(log, at)
        else:
            data = bytearray(log.read_bytes())
            data[at] ^= 1 << stage.chance.randrange(8)
            log.write_bytes(data)
        kept = asyncio.run(reopen(folder / "buffer.db"))
        prefix = {seq: number for seq, number in promises.acknowledged.items() if seq <= max(kept.frames, default=0)}
        total += judged(Promises(prefix, {}), Kept(kept.frames, {}, kept.boot))
        shutil.rmtree(folder)
    return total


@fault(
    4,
    "flipped bits in the buffer file",
    runs=60,
    few=6,
    mutants=("believe_damaged_frames",),
    mutant_runs=20,
    how="1 to 64 bits, anywhere",
)
def flipped_bits(stage: Stage) -> Tally:
    """Every reading is delivered as it was, or in a gap; the file names which. Read by the build under test, in a process of its own."""
    path, _ = written(stage.folder / "whole", 3_000)
    readings = len(asyncio.run(reopen(path)).frames)  # moves the log into the file
    whole = path.read_bytes()
    total = Tally(runs=0)
    for number in range(stage.runs):
        folder = stage.folder / str(number)
        folder.mkdir()
        data = bytearray(whole)
        for _ in range(stage.chance.choice([1, 4, 64])):
            data[stage.chance.randrange(8_192, len(data))] ^= 1 << stage.chance.randrange(8)
        (folder / "buffer.db").write_bytes(data)
        total += read_damaged(folder / "buffer.db", readings, stage.code)
        shutil.rmtree(folder)
    return total


def read_damaged(file: Path, readings: int, code: Path) -> Tally:
    """A counter that was hit may name more in gaps than there were; it must never name fewer."""
    command = [sys.executable, str(ROOT / "tests" / "faults" / "buffer_reader.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(code)}, cwd=code, timeout=60)
    assert done.returncode == 0, done.stderr[-2_000:]
    right, in_gaps, wrong = map(int, done.stdout.split())
    return Tally(readings, readings, max(0, readings - right - in_gaps), wrong + max(0, right - readings), 0)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A tmpfs of this size. Raises NotHere."""
    need_root()
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise NotHere(f"no tmpfs here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def ends_refused(writer: Writer, folder_is_usable: Callable[[], None]) -> Tally:
    """The writer is told that the disk refuses, and what it was promised before is there afterwards."""
    try:
        assert writer.end(15) == 3, "a writer whose disk refuses must be told"
    finally:
        writer.process.kill()
    promises = writer.promises()
    folder_is_usable()
    return judged(promises, asyncio.run(reopen(writer.file)))


@fault(5, "the disk is full", runs=8, few=1, mutants=("refused_is_fine",), mutant_runs=1, how="tmpfs of 4 to 7 MiB")
def disk_full(stage: Stage) -> Tally:
    total = Tally(runs=0)
    for number in range(stage.runs):
        with small_disk(stage.folder / str(number), stage.chance.randrange(4, 8)) as disk:
            writer = Writer(disk / "buffer.db", producers=64, code=stage.code)

            def grow(disk: Path = disk) -> None:
                subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)

            total += ends_refused(writer, grow)
    return total


@fault(6, "the quota is full", runs=6, few=1, mutants=("drop_without_a_gap",), mutant_runs=6, how="1 MiB under every policy")
def quota(stage: Stage) -> Tally:
    total = Tally(runs=0)
    for number in range(stage.runs):
        command = [
            sys.executable,
            str(ROOT / "tests" / "faults" / "buffer_overflow.py"),
            str(stage.folder / f"{number}.db"),
            str(stage.chance.randrange(1 << 30)),
        ]
        environment = os.environ | {"PYTHONPATH": str(stage.code)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=stage.code, timeout=120)
        assert done.returncode == 0, done.stderr[-2_000:]
        produced, delivered, in_gaps, twice = map(int, done.stdout.split())
        total += Tally(
            produced, delivered + in_gaps, max(0, produced - delivered - in_gaps), twice, 0, outcome=f"{in_gaps} of {produced} in gaps"
        )
    return total


def failing(stage: Stage, what: str, probability: float) -> Tally:
    """The writer under libfiu, whose calls fail by chance."""
    need("fiu-run")
    total = Tally(runs=0)
    for number in range(stage.runs):
        folder = stage.folder / str(number)
        folder.mkdir(parents=True)
        prefix = ("fiu-run", "-x", "-c", f"enable_random name={what},probability={probability}")
        writer = Writer(folder / "buffer.db", code=stage.code, prefix=prefix)
        try:
            total += ends_refused(writer, lambda: None)
        finally:
            writer.process.kill()
    return total


@fault(7, "EIO on write", runs=10, few=1, how="libfiu, one write in 300")
def write_fails(stage: Stage) -> Tally:
    return failing(stage, "posix/io/rw/pwrite", 0.003)


@fault(8, "EIO on fsync", runs=10, few=1, mutants=("refused_is_fine",), mutant_runs=1, how="libfiu, one fsync in 300")
def fsync_fails(stage: Stage) -> Tally:
    return failing(stage, "posix/io/sync/fdatasync", 0.003)


@fault(9, "the file system becomes read-only", runs=4, few=1, how="ext4 error with errors=remount-ro")
def read_only(stage: Stage) -> Tally:
    need_root()
    need("mkfs.ext4")
    total = Tally(runs=0)
    for number in range(stage.runs):
        image, place = stage.folder / f"{number}.img", stage.folder / f"disk{number}"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        place.mkdir(parents=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(place)], capture_output=True, text=True)
        if done.returncode:
            raise NotHere(f"no loop mount here: {done.stderr.strip()}")
        try:
            writer = Writer(place / "buffer.db", code=stage.code)
            writer.wait_for(stage.chance.randrange(50, 500))
            promises = writer.promises()  # as with a power cut: what is under way at this moment may be lost with it
            device = Path(subprocess.run(["findmnt", "-no", "SOURCE", str(place)], capture_output=True, text=True).stdout.strip()).name
            trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
            if not trigger.exists():
                writer.kill()
                raise NotHere("this kernel cannot trigger an ext4 error")
            trigger.write_text("test")
            assert writer.end(60) == 3, "a writer whose disk refuses must be told"
            subprocess.run(["umount", str(place)], check=True)
            subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True)
            subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
            total += judged(promises, asyncio.run(reopen(place / "buffer.db")))
        finally:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
    return total
