"""Open a damaged buffer as an agent does, read everything, and print: delivered right, in gaps, wrong. Its account has to balance.

    python tests/faults/buffer_reader.py FILE

The writer (buffer_writer.py) put one reading into each frame, whose value and time are the same number.
"""

import asyncio
import sys
from pathlib import Path

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import OutboxDamaged
from protocols.edgelink.frame import decode_frame
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import GapRecord

QUOTA_BYTES = 1 << 26
EVERYTHING = 1 << 40


async def read(path: Path) -> tuple[int, int, int]:
    try:
        outbox = SqliteOutbox(path, quotas=Quotas(QUOTA_BYTES), gateway=("gateway", "gw1"), now_ms=lambda: 1)
    except OutboxDamaged:  # beyond help, and said so: moved away by whoever looks after it, with the file as the evidence
        return 0, EVERYTHING, 0
    right = wrong = after = 0
    try:
        while found := await outbox.next(Lane.LIVE, after, 500):
            for seq, data in found:
                after = seq
                frame = decode_frame(data)
                if any(isinstance(record, GapRecord) for record in frame.records):
                    continue
                values, times = frame.columns.values.tolist(), frame.columns.times.tolist()
                if len(values) == 1 and values[0] == times[0]:
                    right += 1
                else:
                    wrong += 1
        held = outbox.state().lanes[Lane.LIVE]
        assert held.collected == held.delivered + held.in_gaps + held.readings, held
        assert held.in_gaps >= 0, held
        return right, held.in_gaps, wrong
    finally:
        await outbox.close()


if __name__ == "__main__":
    print(*asyncio.run(read(Path(sys.argv[1]))))
