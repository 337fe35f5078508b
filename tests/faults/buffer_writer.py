"""Append to a buffer for ever, from several producers; print `seq number` for each append once it is acknowledged.

    python tests/faults/buffer_writer.py FILE PRODUCERS

Frame `number` holds one reading whose value is the number. Ends when the disk refuses.
"""

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.crashpoint import arm_crash_points
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import OutboxUnavailable
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import Lane

GATEWAY = ("gateway", "gw1")
QUOTA_BYTES = 1 << 26


def body(number: int) -> bytes:
    at, value = np.array([number], np.int64), np.array([number], np.float64)
    return encode_body(Columns((("meter", "m1", "number"),), np.zeros(1, np.uint32), at, value))


def opened(path: Path) -> SqliteOutbox:
    """The buffer; a disk that refuses now and then is asked again, as who starts the agent again would."""
    for _ in range(50):
        try:
            return SqliteOutbox(path, quotas=Quotas(QUOTA_BYTES), gateway=GATEWAY, now_ms=lambda: time.time_ns() // 1_000_000)
        except OutboxUnavailable:
            continue
    os._exit(3)


async def write(path: Path, producers: int) -> None:
    outbox = opened(path)
    numbers = itertools.count(1)

    async def produce(name: int) -> None:
        for number in numbers:
            mark = number.to_bytes(8, "big")
            seq = await outbox.append(Lane.LIVE, body(number), 1, {f"last/{name}": mark})
            os.write(1, b"%d %d %d\n" % (name, seq, number))  # acknowledged, outside the faulted disk

    try:
        async with asyncio.TaskGroup() as tasks:
            for name in range(producers):
                tasks.create_task(produce(name))
    except* OutboxUnavailable:
        os._exit(3)


if __name__ == "__main__":
    directory = os.environ.get("HEARTHLINE_CRASH_DIR")
    arm_crash_points(Path(directory) if directory else None)
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
