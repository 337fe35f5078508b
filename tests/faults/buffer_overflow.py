"""Fill a small buffer from several lanes under every policy, drain it as a cloud would, and print: produced, delivered, in gaps, twice.

    python tests/faults/buffer_overflow.py FILE SEED

Gaps are counted from the records that leave the buffer, not from its own counters.
"""

import asyncio
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from edge_agent.buffer.outbox import SqliteOutbox
from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import decode_frame, encode_body
from protocols.edgelink.lanes import LANES, Lane
from protocols.edgelink.records import GapRecord

TOTAL = 1 << 20
FRAMES = 3_000
READINGS = 500


def body(number: int, chance: random.Random) -> tuple[bytes, int]:
    count = chance.randrange(1, READINGS)
    times = np.arange(number * READINGS, number * READINGS + count, dtype=np.int64)
    columns = Columns((("pk", "d1", "A"),), np.zeros(count, np.uint32), times, np.random.default_rng(number).random(count))
    return encode_body(columns), count


async def run(path: Path, seed: int) -> tuple[int, int, int, int]:
    chance = random.Random(seed)
    policies = [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.THIN]
    lanes = {
        Lane.ALARM: LanePolicy(Overflow.BLOCK, TOTAL, TOTAL // 32, 10, None),
        Lane.REPLY: LanePolicy(Overflow.BLOCK, TOTAL, TOTAL // 32, 10, None),
        Lane.LIVE: LanePolicy(chance.choice(policies), TOTAL, 0, chance.randrange(2, 20), None),
        Lane.BULK: LanePolicy(chance.choice(policies), TOTAL, 0, chance.randrange(2, 20), None),
    }
    outbox = SqliteOutbox(path, quotas=Quotas(TOTAL, lanes), gateway=("gateway", "gw1"), now_ms=lambda: 1, in_doubt=4)
    produced = delivered = in_gaps = twice = 0
    seen: dict[Lane, Counter[int]] = {lane: Counter() for lane in LANES}
    done: dict[Lane, int] = dict.fromkeys(LANES, 0)

    async def drain(share: float) -> None:
        nonlocal delivered, in_gaps
        for lane in LANES:
            held = outbox.state().lanes[lane]
            for seq, data in await outbox.next(lane, done[lane], max(1, int(held.frames * share))):
                frame = decode_frame(data)
                done[lane] = seq
                delivered += len(frame.columns.values)
                seen[lane].update(frame.columns.times.tolist())
                in_gaps += sum(record.gap.count or 0 for record in frame.records if isinstance(record, GapRecord))
            if done[lane]:
                await outbox.committed(lane, done[lane])

    for number in range(FRAMES):
        data, count = body(number, chance)
        produced += count
        await outbox.append(chance.choice([Lane.LIVE, Lane.LIVE, Lane.BULK]), data, count)
        if chance.random() < 0.002:
            await drain(chance.random())
    while any(held.frames for held in outbox.state().lanes.values()):
        await drain(1.0)
    twice = sum(count - 1 for times in seen.values() for count in times.values())
    await outbox.close()
    return produced, delivered, in_gaps, twice


if __name__ == "__main__":
    print(*asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]))))
