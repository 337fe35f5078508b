"""The inference worker: a process of its own, so that no model can take the agent down or make a reading wait.

It reads requests from its standard input and answers on its standard output, one at a time, until the input ends. It steps back behind
the agent (nice), may not take more memory than it was told, and ends by itself when it did: the agent starts another.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_agent.domain.scoring import Rows
from edge_agent.inference.onnx import AnomalyModel
from edge_agent.inference.wire import LENGTH, Load, Loaded, framed, size_of
from protocols.errors import Refused

GREW = 75  # exit code: above its memory bound after an answer
MEBIBYTE = 1 << 20
_PR_SET_PDEATHSIG = 1
_NICE = 5


def main() -> int:
    """Serve until the input ends."""
    _end_with_parent()
    answers, requests = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # whatever a library prints must not get between our messages
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    load = msgspec.msgpack.decode(_read(requests) or b"", type=Load)
    models: list[AnomalyModel | None] = []
    faults = []
    for file, machines in zip(load.files, load.machines, strict=True):
        try:
            models.append(AnomalyModel(Path(file), machines))
            faults.append("")
        except Refused as refused:
            models.append(None)
            faults.append(str(refused))
    _write(answers, msgspec.msgpack.encode(Loaded(tuple(faults), _rss())))
    bound = load.memory_mib * MEBIBYTE
    _bound_memory(bound)
    while (request := _read(requests)) is not None:
        rows = Rows.from_bytes(request)
        model = models[rows.model]
        assert model is not None, "the agent does not ask for a model that did not load"
        _write(answers, model.score(rows).to_bytes())
        if _rss() > bound:
            return GREW
    return 0


def _read(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    size = size_of(head)
    body = pipe.read(size)
    return body if len(body) == size else None


def _write(pipe: BinaryIO, body: bytes) -> None:
    pipe.write(framed(body))
    pipe.flush()


def _end_with_parent() -> None:
    """SIGKILL when the agent dies, however it dies (Linux; elsewhere the end of the input has to do)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _rss() -> int:
    """Resident bytes now (Linux), or at most so far (elsewhere)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _bound_memory(more: int) -> None:
    """What is allocated from now on may not exceed `more` bytes: an allocation beyond it fails, which ends this process and no other."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    held = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:")), 0)
    resource.setrlimit(resource.RLIMIT_DATA, (held + more, held + more))


if __name__ == "__main__":
    raise SystemExit(main())
