"""`fwsim replay`: the rows of a file as a Modbus slave, or as Alink appliances."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from firmware_sim.devices import DeviceSpec
from firmware_sim.process import remark, say, until
from firmware_sim.row_log import Row, RowLog
from firmware_sim.series import Series, thing_model
from firmware_sim.wire.alink_device import AlinkDevice, run_devices
from firmware_sim.wire.modbus_server import ModbusLine, Unit, run_rows, settle
from firmware_sim.wire.registers import RegisterBank, Table, lay_out
from firmware_sim.wire.row_hold import RowHold

SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The file's own steps `speed` times faster, or `rate` rows a wall second."""

    speed: float = 1.0
    rate: float | None = None

    def rows(self, series: Series) -> Iterator[tuple[Row, float]]:
        """Each row with the wall seconds it wants to stay."""
        return zip(series.rows(), series.periods_s(speed=self.speed, rate=self.rate), strict=True)


@dataclass(frozen=True, slots=True)
class ModbusReplay:
    """A file on one slave; `places` moves registers, as --address says."""

    host: str
    port: int
    device_name: str
    log_dir: Path
    pace: Pace
    unit_id: int = 1
    idle_s: float = 1.0
    max_age_s: float | None = None
    map_out: Path | None = None


def write_thing_model(path: Path, series: Series, *, registers: bool, access: Literal["r", "rw"] = "r") -> None:
    """The thing model of the file's columns, for whoever makes the product."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = thing_model(series.columns, "float" if registers else "double", access)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def register_types(series: Series) -> list[tuple[str, str]]:
    """(identifier, register type) of every column: float32, and one word for an enum that has a value in every row."""
    full = [None not in column for column in zip(*series.cells, strict=True)]
    return [
        (column.identifier, "uint16" if column.labels and whole else "float32") for column, whole in zip(series.columns, full, strict=True)
    ]


async def as_modbus(series: Series, options: ModbusReplay, places: Mapping[str, tuple[Table, int, str | None]], stop: asyncio.Event) -> int:
    """Show every row, then keep the last one on the registers until stopped; returns the exit code (1 = stopped before the end)."""
    for text in series.remarks:
        remark(text)
    points = lay_out(register_types(series), places)
    if options.map_out is not None:
        options.map_out.parent.mkdir(parents=True, exist_ok=True)
        options.map_out.write_text(json.dumps([point.to_map() for point in points], indent=1) + "\n", encoding="utf-8")
    unit = Unit(
        options.unit_id,
        RegisterBank(points),
        RowHold(idle_s=options.idle_s, max_age_s=options.max_age_s),
        RowLog(options.log_dir, options.device_name),
    )
    server = ModbusLine([unit], options.host, options.port)
    port = await server.start()
    say("ready", host=options.host, port=port, devices=[options.device_name], rows=len(series.times), log_dir=str(options.log_dir))
    try:
        finished = await until(stop, run_rows(unit, options.pace.rows(series)))
        if finished:
            say("done", rows=unit.log.rows, readings=unit.log.readings)
            await stop.wait()
        settled = await settle([unit], SETTLE_S)
    finally:
        await server.stop()
        unit.log.close()
    say("stopped", rows=unit.log.rows, readings=unit.log.readings, settled=settled)
    return 0 if finished else 1


@dataclass(frozen=True, slots=True)
class AlinkReplay:
    """A file as appliances, each with columns of its own."""

    host: str
    port: int
    log_dir: Path
    pace: Pace
    window: int = 20
    hold: int = 100_000
    drain_s: float = 8.0


async def as_alink(parts: Sequence[tuple[DeviceSpec, Series]], options: AlinkReplay, stop: asyncio.Event) -> int:
    """Post every row of every device; returns 0 when the last one has its PUBACK, 1 when stopped with messages unsent."""
    devices = [
        AlinkDevice(
            spec.identity(),
            spec.host or options.host,
            spec.port or options.port,
            RowLog(options.log_dir, spec.device_name),
            window=options.window,
            limit=options.hold,
        )
        for spec, _ in parts
    ]
    for _, series in parts:
        for text in series.remarks:
            remark(text)
    say(
        "ready",
        devices=[spec.device_name for spec, _ in parts],
        rows=[len(series.times) for _, series in parts],
        log_dir=str(options.log_dir),
    )

    async def post(device: AlinkDevice, series: Series) -> None:
        due = asyncio.get_running_loop().time()
        for row, period_s in options.pace.rows(series):
            if row.values:
                await device.post(row)
            due += period_s
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    async def post_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for device, (spec, series) in zip(devices, parts, strict=True):
                tasks.create_task(post(device, series), name=f"replay.{spec.device_name}")

    return await run_devices(devices, post_all(), stop, options.drain_s)
