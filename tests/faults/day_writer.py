"""A day without the cloud in minutes: what an agent collects of one machine, into its buffer, as fast as the disk takes it.

    python tests/faults/day_writer.py CONFIGURATION PRODUCT_KEY DEVICE BEGIN_MS SECONDS

Into the lane in which an outage's readings lie; a frame a second with ten rows of a hundred properties. Prints the number of readings
acknowledged.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np

from edge_agent.compose import open_outbox
from edge_agent.domain.clock import AgentClock, Machine, Trust
from edge_agent.settings import load
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import Lane

PROPERTIES = 100
ROWS = 10
AT_ONCE = 64


def value_of(property_number: int, time_ms: int) -> float:
    """A wave for each property, with one decimal."""
    return round(200 + 50 * float(np.sin(time_ms / 60_000 + property_number)), 1)


def body(dictionary: tuple[tuple[str, str, str], ...], second_ms: int) -> bytes:
    times = second_ms + np.arange(ROWS, dtype=np.int64) * (1000 // ROWS)
    series = np.tile(np.arange(PROPERTIES, dtype=np.uint32), ROWS)
    phase = np.add.outer(times / 60_000, np.arange(PROPERTIES))
    values = np.round(200 + 50 * np.sin(phase), 1).ravel()
    return encode_body(Columns(dictionary, series, np.repeat(times, PROPERTIES), values))


async def write(file: Path, product_key: str, device: str, begin_ms: int, seconds: int) -> int:
    clock = AgentClock(Machine(), Trust.SYSTEM, {})
    outbox = open_outbox(load(file), lambda: clock)
    dictionary = tuple((product_key, device, f"p{n}") for n in range(PROPERTIES))
    written = 0
    for first in range(0, seconds, AT_ONCE):
        some = range(first, min(first + AT_ONCE, seconds))
        await asyncio.gather(*(outbox.append(Lane.BULK, body(dictionary, begin_ms + 1000 * n), PROPERTIES * ROWS) for n in some))
        written += len(some) * PROPERTIES * ROWS
    await outbox.close()
    return written


if __name__ == "__main__":
    configuration, product_key, device, begin_ms, seconds = sys.argv[1:]
    print(asyncio.run(write(Path(configuration), product_key, device, int(begin_ms), int(seconds))))
