"""The outage planner: were the cloud away from now on, when would each lane first lose something, and how long is the way back?

Lanes are fluids: each grows at its present rate into the shared buffer, and what is full takes from others by the rules of quotas.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.domain.quotas import Overflow, Quotas
from protocols.edgelink.lanes import LANES, Lane

_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class LaneForecast:
    """`full_in_s`: until the lane gives something up or makes its producers wait; None: never at these rates.

    `then` is what it does at that moment: its overflow policy. `taken_by` names the lane that it gives way to, if not itself.
    """

    bytes_per_s: float
    used_bytes: float
    full_in_s: float | None
    then: Overflow
    taken_by: Lane | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """`first` is the lane that loses first; `drain_s` the time to send what is held while as much goes on arriving (None: not known)."""

    lanes: Mapping[Lane, LaneForecast]
    first: Lane | None
    drain_s: float | None


def in_an_outage(rates: Mapping[Lane, float]) -> dict[Lane, float]:
    """Where present rates go while the cloud is away: readings lie in `bulk`, all but the first seconds.

    >>> in_an_outage({**dict.fromkeys(LANES, 1.0), Lane.LIVE: 100.0})[Lane.BULK]
    101.0
    """
    return {**rates, Lane.LIVE: 0.0, Lane.BULK: rates[Lane.LIVE] + rates[Lane.BULK]}


def forecast(quotas: Quotas, used: Mapping[Lane, float], rates: Mapping[Lane, float], drain_bytes_per_s: float | None) -> Forecast:
    """Bytes held and bytes/s arriving by lane; `drain_bytes_per_s` is what the uplink carried at its best.

    >>> live = {**dict.fromkeys(LANES, 0.0), Lane.LIVE: 100.0}
    >>> found = forecast(Quotas(96_000), dict.fromkeys(LANES, 0.0), live, None)
    >>> found.first.value, found.lanes[Lane.LIVE].full_in_s, found.lanes[Lane.BULK].full_in_s
    ('live', 900.0, None)
    """
    lost = _first_losses(quotas, dict(used), rates)
    lanes = {
        lane: LaneForecast(rates[lane], used[lane], lost[lane][0] if lane in lost else None, quotas.lanes[lane].overflow,
                           lost[lane][1] if lane in lost else None)
        for lane in LANES
    }  # fmt: skip
    first = min(lost, key=lambda lane: lost[lane][0], default=None)
    return Forecast(lanes, first, drain_time_s(sum(used.values()), sum(rates.values()), drain_bytes_per_s))


def drain_time_s(backlog_bytes: float, arriving_bytes_per_s: float, drain_bytes_per_s: float | None) -> float | None:
    """Seconds to send a backlog at `drain_bytes_per_s` while more arrives; None when it would never end, or the uplink is unknown."""
    if backlog_bytes <= 0:
        return 0.0
    if drain_bytes_per_s is None or drain_bytes_per_s <= arriving_bytes_per_s:
        return None
    return backlog_bytes / (drain_bytes_per_s - arriving_bytes_per_s)


def _first_losses(quotas: Quotas, used: dict[Lane, float], rates: Mapping[Lane, float]) -> dict[Lane, tuple[float, Lane | None]]:
    lost: dict[Lane, tuple[float, Lane | None]] = {}
    now = 0.0
    while True:
        net = _net_rates(quotas, used, rates, now, lost)
        step = min((wait for lane in LANES if (wait := _until_change(quotas, used, net, lane)) is not None), default=None)
        pool = _pool(quotas, used)
        drawn = sum(net[lane] for lane in LANES if used[lane] + _EPS >= quotas.lanes[lane].reserve_bytes)
        if drawn > _EPS and pool > _EPS:
            step = min(pool / drawn, step) if step is not None else pool / drawn
        if step is None:
            return lost
        now += step
        for lane in LANES:
            used[lane] = max(0.0, used[lane] + net[lane] * step)


def _pool(quotas: Quotas, used: Mapping[Lane, float]) -> float:
    """Bytes that belong to nobody."""
    return quotas.total_bytes - sum(max(used[lane], policy.reserve_bytes) for lane, policy in quotas.lanes.items())


def _net_rates(
    quotas: Quotas, used: Mapping[Lane, float], rates: Mapping[Lane, float], now: float, lost: dict[Lane, tuple[float, Lane | None]]
) -> dict[Lane, float]:
    """How each lane grows at this moment; notes who begins to lose."""
    net = {lane: rates[lane] for lane in LANES}
    full = _pool(quotas, used) <= _EPS
    for lane in LANES:
        if rates[lane] <= 0:
            continue
        policy = quotas.lanes[lane]
        if policy.quota_bytes is not None and used[lane] + _EPS >= policy.quota_bytes:
            payer = lane
        elif full and used[lane] + _EPS >= policy.reserve_bytes:
            giving = [
                other
                for other in reversed(LANES[lane.code + 1 :])
                if quotas.lanes[other].gives_way and used[other] > quotas.lanes[other].reserve_bytes + _EPS
            ]
            payer = giving[0] if giving else lane
        else:
            continue
        net[payer] -= rates[lane]
        lost.setdefault(payer, (now, None if payer is lane else lane))
    return net


def _until_change(quotas: Quotas, used: Mapping[Lane, float], net: Mapping[Lane, float], lane: Lane) -> float | None:
    """Seconds until this lane meets its reserve or its own quota; None: it does not."""
    policy = quotas.lanes[lane]
    marks = [policy.reserve_bytes] if policy.quota_bytes is None else [policy.reserve_bytes, policy.quota_bytes]
    waits = []
    for mark in marks:
        way = mark - used[lane]
        if abs(way) > _EPS and abs(net[lane]) > _EPS and way / net[lane] > 0:
            waits.append(way / net[lane])
    return min(waits, default=None)
