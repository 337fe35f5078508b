"""A three-phase power meter as an SDM630 shows itself: float32 input registers at the addresses of the vendor's map."""

import math
from dataclasses import dataclass, replace
from random import Random

from firmware_sim.physics import wandering
from firmware_sim.row_log import Value
from firmware_sim.wire.registers import Point, lay_out

PHASE_SHARE = (0.36, 0.33, 0.31)  # single-phase loads are never spread evenly


@dataclass(frozen=True, slots=True)
class Meter:
    """`load_w` is what hangs on it now; energies count up for ever, as on the real one."""

    load_w: float = 0.0
    volts: tuple[float, float, float] = (230.0, 230.4, 229.7)
    hertz: float = 50.0
    power_factor: float = 0.9
    import_kwh: float = 18_432.5
    reactive_kvarh: float = 5_210.25


def step(state: Meter, dt_s: float, rng: Random) -> Meter:
    """The mains after `dt_s`: voltages wander and sag with the load, the factor follows the load."""
    sag = 230.0 - state.load_w / 25_000
    factor = wandering(state.power_factor, min(0.95, 0.72 + state.load_w / 200_000), dt_s, 5.0, 0.01, rng)
    factor = min(0.99, max(0.5, factor))
    reactive_w = state.load_w * math.sqrt(1 / factor**2 - 1)
    a, b, c = (wandering(volts, sag, dt_s, 20.0, 0.8, rng) for volts in state.volts)
    return replace(
        state,
        volts=(a, b, c),
        hertz=wandering(state.hertz, 50.0, dt_s, 10.0, 0.015, rng),
        power_factor=factor,
        import_kwh=state.import_kwh + state.load_w * dt_s / 3.6e6,
        reactive_kvarh=state.reactive_kvarh + reactive_w * dt_s / 3.6e6,
    )


def readings(state: Meter) -> dict[str, Value]:
    """What the registers say, at the resolution of the thing model `power_meter`."""
    apparent = state.load_w / state.power_factor
    values: dict[str, Value] = {}
    for phase, (volts, share) in enumerate(zip(state.volts, PHASE_SHARE, strict=True), 1):
        values[f"VoltageL{phase}"] = round(volts, 1)
        values[f"CurrentL{phase}"] = round(apparent * share / volts, 2)
        values[f"PowerL{phase}"] = round(state.load_w * share, 1)
    return values | {
        "Power": round(state.load_w, 1),
        "ApparentPower": round(apparent, 1),
        "ReactivePower": round(math.sqrt(apparent**2 - state.load_w**2), 1),
        "PowerFactor": round(state.power_factor, 3),
        "Frequency": round(state.hertz, 2),
        "EnergyImport": round(state.import_kwh, 3),
        "ReactiveEnergy": round(state.reactive_kvarh, 3),
    }


ADDRESSES = {
    "VoltageL1": 0, "VoltageL2": 2, "VoltageL3": 4, "CurrentL1": 6, "CurrentL2": 8, "CurrentL3": 10, "PowerL1": 12, "PowerL2": 14,
    "PowerL3": 16, "Power": 52, "ApparentPower": 56, "ReactivePower": 60, "PowerFactor": 62, "Frequency": 70, "EnergyImport": 72,
    "ReactiveEnergy": 344,
}  # fmt: skip


def points() -> tuple[Point, ...]:
    """Values in the input table as on an SDM630; the row's counter and time in the holding table, which the real one lacks."""
    return lay_out([(name, "float32") for name in ADDRESSES], {name: ("input", address, None) for name, address in ADDRESSES.items()})
