"""The demo's second account: how the score of a gateway's model reacted to a fault, as the API tells it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reaction:
    """Scores by when their rows were produced: before the fault and while it lasted; and the events of that time."""

    before: tuple[float, ...]
    during: tuple[float, ...]
    events: tuple[tuple[int, str], ...]  # event time, the signal that stood out
    fault_ms: int

    @property
    def seen(self) -> bool:
        """Whether the model told the fault from the machine as it was: quiet before, above 1 during, and an event."""
        return bool(self.before and self.during and self.events) and _middle(self.before) < 1 < _middle(self.during)

    def sentence(self) -> str:
        scores = f"score {_middle(self.before):.2f} before, {_middle(self.during):.2f} during the fault"
        if not self.events:
            return f"{scores}; no event"
        time_ms, signal = self.events[0]
        return f"{scores}; {len(self.events)} event, {(time_ms - self.fault_ms) / 1000:.1f} s into it, {signal} stands out"


def reaction(scores: Sequence[tuple[int, object]], events: Sequence[tuple[int, object]], fault_ms: int, end_ms: int) -> Reaction:
    """From stored points (time, value) of score and event; the fault lasted from `fault_ms` to `end_ms`."""
    floats = [(time_ms, float(value)) for time_ms, value in scores if isinstance(value, int | float)]
    return Reaction(
        tuple(value for time_ms, value in floats if time_ms < fault_ms),
        tuple(value for time_ms, value in floats if fault_ms <= time_ms < end_ms),
        tuple((time_ms, str(value.get("Signal"))) for time_ms, value in events if isinstance(value, dict) and fault_ms <= time_ms < end_ms),
        fault_ms,
    )


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")
