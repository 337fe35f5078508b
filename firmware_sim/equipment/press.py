"""A stamping press: strokes, tonnage, heat, and the stops of an ordinary shift."""

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from random import Random

from firmware_sim.physics import happens, towards
from firmware_sim.row_log import Value
from firmware_sim.wire.registers import Point, lay_out

AMBIENT_C = 24.0
NOMINAL_T = 160.0


class RunState(IntEnum):
    """The keys of the thing model's enum."""

    STOPPED, IDLE, RUNNING, FAULT, MAINTENANCE = range(5)


@dataclass(frozen=True, slots=True)
class Press:
    """`turns` counts crank revolutions; a stroke is done at each whole one."""

    run_state: RunState = RunState.RUNNING
    target_spm: float = 42.0
    spm: float = 42.0
    turns: float = 120_000.0
    scrap: int = 311
    tonnage: float = NOMINAL_T
    balance: float = 0.5
    wear: float = 0.0
    motor_c: float = 48.0
    bearing_c: float = 41.0
    oil_bar: float = 62.0
    air_bar: float = 5.8
    misaligned: bool = False  # the die sits askew: one side bears more, the frame shakes, the slide works against it

    @property
    def strokes(self) -> int:
        return math.floor(self.turns)

    @property
    def power_w(self) -> float:
        """Flywheel and work; what the meter of the line sees."""
        return 3_200.0 + self.spm * 620.0 * self.tonnage / NOMINAL_T


# Mean seconds to leave a state, and where to: a shift in one table.
_MOVES = {
    RunState.RUNNING: ((600.0, RunState.IDLE), (3_600.0, RunState.FAULT), (14_400.0, RunState.MAINTENANCE)),
    RunState.IDLE: ((45.0, RunState.RUNNING),),
    RunState.FAULT: ((120.0, RunState.RUNNING),),
    RunState.MAINTENANCE: ((600.0, RunState.RUNNING),),
    RunState.STOPPED: ((60.0, RunState.RUNNING),),
}


def step(state: Press, dt_s: float, rng: Random) -> Press:
    """The press after `dt_s` (seconds of the machine's time)."""
    run_state = state.run_state
    for mean_s, following in _MOVES[run_state]:
        if happens(mean_s, dt_s, rng):
            run_state = following
            break
    wanted = state.target_spm if run_state is RunState.RUNNING else 0.0
    spm = towards(state.spm, wanted, dt_s, 2.0)
    turns = state.turns + spm / 60 * dt_s
    done = math.floor(turns) - state.strokes
    wear = 0.0 if run_state is RunState.MAINTENANCE else state.wear + done * 2e-6
    tonnage, balance, scrap = state.tonnage, state.balance, state.scrap
    if done:  # the last stroke of the interval is the one that shows
        tonnage = NOMINAL_T * (1 + wear + 0.04 * state.misaligned) + rng.gauss(0.0, 1.6)
        balance = min(0.6, max(0.4, 0.5 + wear + 0.05 * state.misaligned + rng.gauss(0.0, 0.006)))
        scrap += sum(rng.random() < 0.002 + wear for _ in range(min(done, 1_000)))
    return replace(
        state,
        run_state=run_state,
        spm=spm,
        turns=turns,
        scrap=scrap,
        tonnage=tonnage,
        balance=balance,
        wear=wear,
        motor_c=towards(state.motor_c, AMBIENT_C + 0.9 * spm, dt_s, 420.0) + rng.gauss(0.0, 0.03),
        bearing_c=towards(state.bearing_c, AMBIENT_C + 0.5 * spm + 40 * wear, dt_s, 600.0) + rng.gauss(0.0, 0.02),
        oil_bar=towards(state.oil_bar, 62.0 if spm > 1 else 55.0, dt_s, 8.0) + rng.gauss(0.0, 0.2),
        air_bar=min(7.0, max(4.0, towards(state.air_bar, 5.8, dt_s, 30.0) + rng.gauss(0.0, 0.01))),
    )


def readings(state: Press) -> dict[str, Value]:
    """What the registers say, at the resolution of the thing model `stamping_press`."""
    turning = state.spm > 0.5
    tonnage = round(state.tonnage, 1) if turning else 0.0
    return {
        "RunState": int(state.run_state),
        "StrokeCount": state.strokes,
        "StrokeRate": round(state.spm, 1),
        "Tonnage": tonnage,
        "TonnageLeft": round(tonnage * state.balance, 1),
        "TonnageRight": round(tonnage * (1 - state.balance), 1),
        "ShutHeight": round(420.0 - state.wear * 10, 2),
        "SlideAngle": round(state.turns % 1 * 360, 1),
        "MotorCurrent": round(state.power_w / 690, 1),
        "MotorTemperature": round(state.motor_c, 1),
        "BearingTemperature": round(state.bearing_c, 1),
        "Vibration": round((0.4 + state.spm * 0.03) * (1 + 20 * state.wear + 0.5 * state.misaligned), 2),
        "OilPressure": round(state.oil_bar, 1),
        "AirPressure": round(state.air_bar, 2),
        "TargetRate": round(state.target_spm, 1),
        "GoodCount": state.strokes - state.scrap,
        "ScrapCount": state.scrap,
    }


def points() -> tuple[Point, ...]:
    """Everything in the holding table, one after the other: counter, time, then the values in the order of `readings`."""
    kinds = {"RunState": "uint16", "StrokeCount": "uint32", "GoodCount": "uint32", "ScrapCount": "uint32"}
    return lay_out([(name, kinds.get(name, "float32")) for name in readings(Press())], {})
