"""`fwsim sample`: rows of a sound simulated machine as CSV, to train a model on. The same seed gives the same rows."""

import csv
from collections.abc import Callable, Iterator
from enum import StrEnum
from random import Random
from typing import Any, TextIO

from firmware_sim.equipment import meter, press
from firmware_sim.row_log import Value

FIRST_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class Machine(StrEnum):
    """What can be sampled."""

    PRESS = "press"
    METER = "meter"


_MACHINES: dict[Machine, tuple[Any, Callable[..., Any], Callable[..., dict[str, Value]]]] = {
    Machine.PRESS: (press.Press, press.step, press.readings),
    Machine.METER: (meter.Meter, meter.step, meter.readings),
}


def rows_of(machine: Machine, rows: int, every_ms: int, seed: int) -> Iterator[dict[str, Value]]:
    """Rows of a sound machine, `every_ms` of its own time apart."""
    begin, step, readings = _MACHINES[machine]
    state, rng = begin(), Random(f"{seed} {machine.value}")  # noqa: S311  physics, not secrets
    for _ in range(rows):
        state = step(state, every_ms / 1000, rng)
        yield readings(state)


def write_csv(file: TextIO, machine: Machine, rows: int, every_ms: int, seed: int) -> None:
    """Header, then a row a line: `time_ms` and every property."""
    writer = csv.writer(file, lineterminator="\n")
    for n, row in enumerate(rows_of(machine, rows, every_ms, seed)):
        if n == 0:
            writer.writerow(["time_ms", *row])
        writer.writerow([FIRST_MS + n * every_ms, *row.values()])
