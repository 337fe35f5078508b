"""An integrated stove: two gas burners over a steam oven, with the hood in the same cabinet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from random import Random

from firmware_sim.physics import happens, towards
from firmware_sim.row_log import Value

AMBIENT_C = 23.0
GAS_M3_H_PER_LEVEL = 0.045
HOOD_W = (0.0, 55.0, 90.0, 140.0, 210.0)


class Flame(IntEnum):
    """The keys of the thing model's enum."""

    OFF, IGNITING, BURNING, LOST = range(4)


@dataclass(frozen=True, slots=True)
class Burner:
    """`level` is the knob, 0 to 9."""

    level: int = 0
    flame: Flame = Flame.OFF
    pan_c: float = AMBIENT_C


@dataclass(frozen=True, slots=True)
class Stove:
    """`commanded` holds the identifiers that a property set has touched: the cook leaves those alone."""

    on: int = 1
    left: Burner = field(default_factory=Burner)
    right: Burner = field(default_factory=Burner)
    oven_mode: int = 0
    oven_target_c: int = 180
    oven_c: float = AMBIENT_C
    oven_left_s: float = 0.0
    water: float = 90.0
    hood_level: int = 0
    light: int = 0
    child_lock: int = 0
    energy_kwh: float = 212.4
    gas_m3: float = 96.2
    commanded: frozenset[str] = frozenset()


def step(state: Stove, dt_s: float, rng: Random) -> Stove:
    """The stove after `dt_s` (seconds of its own time)."""
    if state.on:
        state = _cook(state, dt_s, rng)
    left = _burn(state.left, dt_s, rng, lit=bool(state.on))
    right = _burn(state.right, dt_s, rng, lit=bool(state.on))
    heating = state.on and state.oven_mode
    oven_left_s = max(0.0, state.oven_left_s - dt_s) if heating else 0.0
    return replace(
        state,
        left=left,
        right=right,
        oven_c=towards(state.oven_c, state.oven_target_c if heating else AMBIENT_C, dt_s, 240.0) + rng.gauss(0.0, 0.05),
        oven_left_s=oven_left_s,
        water=max(0.0, state.water - dt_s * 0.01) if heating and state.oven_mode in (1, 4) else state.water,
        energy_kwh=state.energy_kwh + power_w(state) * dt_s / 3.6e6,
        gas_m3=state.gas_m3 + gas_m3_h(state) * dt_s / 3600,
    )


def _cook(state: Stove, dt_s: float, rng: Random) -> Stove:
    if "LeftBurnerLevel" not in state.commanded and happens(90.0, dt_s, rng):
        state = replace(state, left=replace(state.left, level=rng.choice((0, 3, 5, 7, 9))))
    if "RightBurnerLevel" not in state.commanded and happens(90.0, dt_s, rng):
        state = replace(state, right=replace(state.right, level=rng.choice((0, 3, 5, 7, 9))))
    if "OvenMode" not in state.commanded and happens(600.0, dt_s, rng):
        mode = rng.choice((0, 1, 2))
        state = replace(state, oven_mode=mode, oven_left_s=1200.0 if mode else 0.0)
    if "HoodLevel" not in state.commanded:
        state = replace(state, hood_level=min(3, (state.left.level + state.right.level + 4) // 5))
    return state


def _burn(burner: Burner, dt_s: float, rng: Random, *, lit: bool) -> Burner:
    if not (lit and burner.level):
        flame = Flame.OFF
    elif burner.flame in (Flame.OFF, Flame.LOST):
        flame = Flame.IGNITING
    else:
        flame = Flame.LOST if happens(7_200.0, dt_s, rng) else Flame.BURNING
    heat = 24.0 * burner.level if flame is Flame.BURNING else 0.0
    return replace(burner, flame=flame, pan_c=towards(burner.pan_c, AMBIENT_C + heat, dt_s, 75.0) + rng.gauss(0.0, 0.1))


def power_w(state: Stove) -> float:
    """Electric power: electronics, lamp, oven, hood."""
    oven = (1_850.0 if state.oven_c < state.oven_target_c - 2 else 520.0) if state.on and state.oven_mode else 0.0
    return 2.5 + 12.0 * state.light + oven + HOOD_W[state.hood_level]


def gas_m3_h(state: Stove) -> float:
    """Gas that flows now; igniting counts."""
    return GAS_M3_H_PER_LEVEL * sum(burner.level for burner in (state.left, state.right) if burner.flame in (Flame.IGNITING, Flame.BURNING))


def readings(state: Stove) -> dict[str, Value]:
    """What the stove posts, at the resolution of the thing model `integrated_stove`."""
    return {
        "PowerSwitch": state.on,
        "LeftBurnerLevel": state.left.level,
        "RightBurnerLevel": state.right.level,
        "LeftBurnerState": int(state.left.flame),
        "RightBurnerState": int(state.right.flame),
        "LeftPanTemperature": round(state.left.pan_c, 1),
        "RightPanTemperature": round(state.right.pan_c, 1),
        "GasFlow": round(gas_m3_h(state), 3),
        "GasConcentration": 6.5 if Flame.LOST in (state.left.flame, state.right.flame) else 0.0,
        "OvenMode": state.oven_mode,
        "OvenTargetTemperature": state.oven_target_c,
        "OvenTemperature": round(state.oven_c, 1),
        "OvenRemaining": int(state.oven_left_s),
        "WaterLevel": int(state.water),
        "HoodLevel": state.hood_level,
        "Light": state.light,
        "ChildLock": state.child_lock,
        "Power": round(power_w(state), 1),
        "Energy": round(state.energy_kwh, 3),
        "GasVolume": round(state.gas_m3, 3),
    }


_SETTERS: dict[str, Callable[[Stove, int], Stove]] = {
    "PowerSwitch": lambda state, value: replace(state, on=value),
    "LeftBurnerLevel": lambda state, value: replace(state, left=replace(state.left, level=value)),
    "RightBurnerLevel": lambda state, value: replace(state, right=replace(state.right, level=value)),
    "OvenMode": lambda state, value: replace(state, oven_mode=value, oven_left_s=1200.0 if value else 0.0),
    "OvenTargetTemperature": lambda state, value: replace(state, oven_target_c=value),
    "HoodLevel": lambda state, value: replace(state, hood_level=value),
    "Light": lambda state, value: replace(state, light=value),
    "ChildLock": lambda state, value: replace(state, child_lock=value),
}


def obey(state: Stove, params: Mapping[str, Value]) -> Stove:
    """The stove after a property set; identifiers it does not know are left alone (the thing model has refused those)."""
    for identifier, value in params.items():
        if setter := _SETTERS.get(identifier):
            state = setter(state, int(value))
    return replace(state, commanded=state.commanded | frozenset(params))


def serve(state: Stove, service: str, given: Mapping[str, Value]) -> tuple[Stove, Mapping[str, Value]] | None:
    """The stove after a service of its thing model, and the output; None for a service that it does not have."""
    match service:
        case "StartOven":
            if not state.on:
                return state, {"Accepted": 0}
            mode, target, left_s = int(given["Mode"]), int(given["Temperature"]), float(given["Duration"])
            state = replace(state, oven_mode=mode, oven_target_c=target, oven_left_s=left_s if mode else 0.0)
            return replace(state, commanded=state.commanded | {"OvenMode"}), {"Accepted": 1}
        case "CloseGas":
            closed = {"LeftBurnerLevel": 0, "RightBurnerLevel": 0}
            return obey(state, closed), {}
    return None
