"""A range hood: smoke comes, the fan answers, the filter fills."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from firmware_sim.physics import happens, towards
from firmware_sim.row_log import Value

AMBIENT_C = 23.0
RPM = (0.0, 780.0, 1_050.0, 1_320.0, 1_560.0)
AIR_M3_H = (0.0, 480.0, 720.0, 960.0, 1_200.0)
MOTOR_W = (0.0, 55.0, 90.0, 140.0, 210.0)


@dataclass(frozen=True, slots=True)
class Hood:
    """`source` is how much smoke the pans below make (mg/m3 per second); `commanded` as in the stove."""

    on: int = 1
    fan_level: int = 1
    auto: int = 1
    light: int = 0
    light_level: int = 80
    delay_off_s: int = 120
    source: float = 0.2
    smoke: float = 1.0
    rpm: float = 0.0
    ambient_c: float = AMBIENT_C
    filter_life: float = 96.0
    energy_kwh: float = 31.7
    commanded: frozenset[str] = frozenset()


def step(state: Hood, dt_s: float, rng: Random) -> Hood:
    """The hood after `dt_s` (seconds of its own time)."""
    source = state.source
    if happens(60.0, dt_s, rng):
        source = rng.choice((0.02, 0.2, 0.6, 1.4))
    level = state.fan_level
    if state.auto and "FanLevel" not in state.commanded:
        level = next((step for step, bound in enumerate((2.0, 8.0, 20.0, 45.0)) if state.smoke < bound), 4)
    level = level if state.on else 0
    extracted = AIR_M3_H[level] / 1_000 * 0.12 + 0.01  # share of the smoke taken per second, the rest settles
    return replace(
        state,
        fan_level=level if state.on else state.fan_level,
        source=source,
        smoke=min(100.0, max(0.0, towards(state.smoke, source / extracted, dt_s, 1 / extracted) + rng.gauss(0.0, 0.05))),
        rpm=towards(state.rpm, RPM[level], dt_s, 1.5),
        ambient_c=towards(state.ambient_c, AMBIENT_C + 4 * source, dt_s, 300.0) + rng.gauss(0.0, 0.02),
        filter_life=max(0.0, state.filter_life - state.smoke * dt_s * 1e-6),
        energy_kwh=state.energy_kwh + power_w(state) * dt_s / 3.6e6,
    )


def power_w(state: Hood) -> float:
    """Motor at the level it runs, lamp, electronics."""
    return 1.8 + (MOTOR_W[state.fan_level] if state.on else 0.0) + 0.12 * state.light_level * state.light


def readings(state: Hood) -> dict[str, Value]:
    """What the hood posts, at the resolution of the thing model `range_hood`."""
    flow = AIR_M3_H[4] * state.rpm / RPM[4]
    return {
        "PowerSwitch": state.on,
        "FanLevel": state.fan_level,
        "FanSpeed": round(state.rpm),
        "AirFlow": round(flow, 1),
        "Light": state.light,
        "LightLevel": state.light_level,
        "AutoMode": state.auto,
        "DelayOff": state.delay_off_s,
        "SmokeLevel": round(state.smoke, 1),
        "PM25": round(state.smoke * 38, 1),
        "AmbientTemperature": round(state.ambient_c, 1),
        "DuctPressure": round((flow / 100) ** 2 * 2.4, 1),
        "FilterLife": int(state.filter_life),
        "Power": round(power_w(state), 1),
        "Energy": round(state.energy_kwh, 3),
    }


_SETTERS: dict[str, Callable[[Hood, int], Hood]] = {
    "PowerSwitch": lambda state, value: replace(state, on=value),
    "FanLevel": lambda state, value: replace(state, fan_level=value),
    "Light": lambda state, value: replace(state, light=value),
    "LightLevel": lambda state, value: replace(state, light_level=value),
    "AutoMode": lambda state, value: replace(state, auto=value),
    "DelayOff": lambda state, value: replace(state, delay_off_s=value),
}


def obey(state: Hood, params: Mapping[str, Value]) -> Hood:
    """The hood after a property set; AutoMode takes the fan back from a level set before."""
    for identifier, value in params.items():
        if setter := _SETTERS.get(identifier):
            state = setter(state, int(value))
    commanded = state.commanded | frozenset(params)
    return replace(state, commanded=commanded - {"FanLevel"} if params.get("AutoMode") else commanded)


def serve(state: Hood, service: str, _given: Mapping[str, Value]) -> tuple[Hood, Mapping[str, Value]] | None:
    """The hood after a service of its thing model, and the output; None for a service that it does not have."""
    if service == "ResetFilter":
        return replace(state, filter_life=100.0), {}
    return None
