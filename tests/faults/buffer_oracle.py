"""Run the buffer writer, and judge what is left against what it acknowledged."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import Quotas
from protocols.edgelink.frame import decode_frame
from protocols.edgelink.lanes import Lane
from tests.faults.buffer_writer import GATEWAY, QUOTA_BYTES
from tests.faults.harness import Tally

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Writer:
    """A writer process and what it acknowledged so far: seq -> number, and the last number of each producer."""

    file: Path
    producers: int = 8
    crash_dir: Path | None = None
    code: Path = ROOT  # the tree whose buffer writes: the project, or a mutant of it
    prefix: tuple[str, ...] = ()  # what runs the command
    acknowledged: dict[int, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)
    _reader: threading.Thread = field(init=False)
    _enough: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        environment = os.environ | ({"HEARTHLINE_CRASH_DIR": str(self.crash_dir)} if self.crash_dir else {})
        environment |= {"PYTHONPATH": str(self.code)}
        command = [*self.prefix, sys.executable, str(ROOT / "tests" / "faults" / "buffer_writer.py"), str(self.file), str(self.producers)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=self.code, env=environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, seq, number = line.split()
            with self._enough:
                self.acknowledged[int(seq)] = int(number)
                self.last[name.decode()] = int(number)
                self._enough.notify_all()
        with self._enough:
            self._enough.notify_all()

    def wait_for(self, count: int, timeout_s: float = 60) -> None:
        """Until so many appends are acknowledged, or the process ended."""
        with self._enough:
            self._enough.wait_for(lambda: len(self.acknowledged) >= count or self.process.poll() is not None, timeout_s)

    def promises(self) -> "Promises":
        """What is acknowledged at this moment."""
        with self._enough:
            return Promises(dict(self.acknowledged), dict(self.last))

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self, timeout_s: float = 30) -> int:
        """Wait for the process and for its last word."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code


@dataclass(frozen=True, slots=True)
class Promises:
    """Acknowledged frames, seq -> number, and the last number of each producer."""

    acknowledged: dict[int, int]
    last: dict[str, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the buffer holds after a fault: seq -> number, marks, boot."""

    frames: dict[int, int]
    marks: dict[str, int]
    boot: int


async def reopen(file: Path) -> Kept:
    outbox = SqliteOutbox(file, quotas=Quotas(QUOTA_BYTES), gateway=GATEWAY, now_ms=lambda: 1)
    try:
        frames: dict[int, int] = {}
        while found := await outbox.next(Lane.LIVE, max(frames, default=0), 500):
            frames |= {seq: int(decode_frame(frame).columns.values[0]) for seq, frame in found}
        marks = {key.removeprefix("last/"): int.from_bytes(value, "big") for key, value in (await outbox.marks("last/")).items()}
        return Kept(frames, marks, outbox.state().boot)
    finally:
        await outbox.close()


def judged(promises: Promises, kept: Kept) -> Tally:
    """Acknowledged frames that are gone or changed, holes in the sequence, numbers that are there twice."""
    gone = sum(kept.frames.get(seq) != number for seq, number in promises.acknowledged.items())
    holes = len(set(range(1, max(kept.frames, default=0) + 1)) - set(kept.frames))
    twice = len(kept.frames) - len(set(kept.frames.values()))
    numbers = set(kept.frames.values())
    early = sum(number not in numbers or number < promises.last.get(name, 0) for name, number in kept.marks.items())
    produced = max(len(kept.frames), len(promises.acknowledged))
    return Tally(produced, len(promises.acknowledged), holes + gone + early, twice, gone)
