"""What every simulated machine shares: lags and chances, over any step length."""

import math
from random import Random


def happens(mean_s: float, dt_s: float, rng: Random) -> bool:
    """Whether something that comes every `mean_s` on average came within `dt_s`."""
    return rng.random() < 1 - math.exp(-dt_s / mean_s)


def towards(value: float, target: float, dt_s: float, tau_s: float) -> float:
    """`value` on its way to `target` with time constant `tau_s`."""
    return target + (value - target) * math.exp(-dt_s / tau_s)


def wandering(value: float, target: float, dt_s: float, tau_s: float, spread: float, rng: Random) -> float:
    """A value that strays from `target` by `spread` (standard deviation) and remembers itself for `tau_s`."""
    kept = math.exp(-dt_s / tau_s)
    return towards(value, target, dt_s, tau_s) + rng.gauss(0.0, spread) * math.sqrt(1 - kept * kept)
