"""`fwsim line`: a power meter (unit 1) and the stamping press on its circuit (unit 2), behind one Modbus TCP port."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from firmware_sim.equipment import meter, press
from firmware_sim.process import say, until
from firmware_sim.row_log import Row, RowLog
from firmware_sim.wire.alink_device import now_after
from firmware_sim.wire.modbus_server import ModbusLine, Unit, run_rows, settle
from firmware_sim.wire.registers import Point, RegisterBank
from firmware_sim.wire.row_hold import RowHold


@dataclass(frozen=True, slots=True)
class LineOptions:
    """`rate` is rows per wall second, `speed` the machine's seconds per wall second, `settle_s` bounds the end."""

    host: str
    port: int
    log_dir: Path
    seed: int = 1
    rate: float = 2.0
    speed: float = 1.0
    idle_s: float = 1.0
    settle_s: float = 5.0
    meter_name: str = "meter-1"
    press_name: str = "press-1"
    map_out: Path | None = None
    fault_file: Path | None = None


class Circuit:
    """The machines' one electric circuit: the press draws what the meter shows."""

    def __init__(self, seed: int, dt_s: float, fault_file: Path | None = None) -> None:
        self._dt_s, self._fault_file = dt_s, fault_file
        self._meter, self._meter_rng = meter.Meter(), Random(f"{seed} meter")  # noqa: S311  physics, not secrets
        self._press, self._press_rng = press.Press(), Random(f"{seed} press")  # noqa: S311

    def meter_rows(self) -> Iterator[Row]:
        """Rows of the meter, one a step, for ever."""
        n, last_ms = 0, 0
        while True:
            self._meter = meter.step(replace(self._meter, load_w=self._press.power_w), self._dt_s, self._meter_rng)
            n, last_ms = n + 1, now_after(last_ms, time.time_ns() // 1_000_000)
            yield Row(n, last_ms, meter.readings(self._meter))

    def press_rows(self) -> Iterator[Row]:
        """Rows of the press, one a step, for ever."""
        n, last_ms = 0, 0
        while True:
            misaligned = self._fault_file is not None and self._fault_file.exists()
            self._press = press.step(replace(self._press, misaligned=misaligned), self._dt_s, self._press_rng)
            n, last_ms = n + 1, now_after(last_ms, time.time_ns() // 1_000_000)
            yield Row(n, last_ms, press.readings(self._press))


def write_map(path: Path, units: dict[str, tuple[int, tuple[Point, ...]]]) -> None:
    """What a gateway needs to know, as JSON: device -> unit id and points as in its configuration."""
    entries = {name: {"unit_id": unit_id, "points": [point.to_map() for point in points]} for name, (unit_id, points) in units.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


async def serve(options: LineOptions, stop: asyncio.Event) -> int:
    """Run the line until stopped; returns the exit code."""
    units = {options.meter_name: (1, meter.points()), options.press_name: (2, press.points())}
    if options.map_out is not None:
        write_map(options.map_out, units)
    circuit = Circuit(options.seed, options.speed / options.rate, options.fault_file)
    slaves = [
        Unit(unit_id, RegisterBank(points), RowHold(idle_s=options.idle_s), RowLog(options.log_dir, name))
        for name, (unit_id, points) in units.items()
    ]
    server = ModbusLine(slaves, options.host, options.port)
    port = await server.start()
    say("ready", host=options.host, port=port, devices=list(units), log_dir=str(options.log_dir))

    async def turn() -> None:
        period_s = 1 / options.rate
        async with asyncio.TaskGroup() as tasks:
            for slave, rows in zip(slaves, (circuit.meter_rows(), circuit.press_rows()), strict=True):
                tasks.create_task(run_rows(slave, ((row, period_s) for row in rows)), name=f"line.{slave.log.device}")

    try:
        await until(stop, turn())
        settled = await settle(slaves, options.settle_s)
    finally:
        await server.stop()
        for slave in slaves:
            slave.log.close()
    rows, readings = sum(slave.log.rows for slave in slaves), sum(slave.log.readings for slave in slaves)
    say("stopped", rows=rows, readings=readings, settled=settled)
    return 0
