"""How fast the lanes fill and the uplink empties them: averages for the outage planner, from what the buffer counts."""

from collections import deque
from collections.abc import Mapping

from edge_agent.ports import OutboxState
from protocols.edgelink.lanes import LANES, Lane

OVER_S = 600.0
"""The present rate is the average over so long, or since the start."""
EVERY_S = 10.0


class Pace:
    """Fed with the buffer's state now and then. Rates are in bytes/s as counted against the quota."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[Lane, int], int, bool]] = deque()
        self.drain_bytes_per_s: float | None = None
        """The most the cloud committed over ten seconds while something waited at their beginning and end."""

    def sample(self, now_s: float, state: OutboxState) -> None:
        """`now_s` is monotonic."""
        if self._samples and now_s - self._samples[-1][0] < EVERY_S:
            return
        appended = {lane: held.appended_bytes for lane, held in state.lanes.items()}
        delivered = sum(held.delivered_bytes for held in state.lanes.values())
        waiting = any(held.frames for held in state.lanes.values())
        if self._samples:
            before_s, _, before, waited = self._samples[-1]
            if waited and waiting and delivered > before:
                self.drain_bytes_per_s = max(self.drain_bytes_per_s or 0.0, (delivered - before) / (now_s - before_s))
        self._samples.append((now_s, appended, delivered, waiting))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= OVER_S:
            self._samples.popleft()

    @property
    def over_s(self) -> float:
        """The time the averages are over; 0 while there are none."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    def bytes_per_s(self) -> dict[Lane, float]:
        """What arrives in each lane."""
        if not self.over_s:
            return dict.fromkeys(LANES, 0.0)
        first, last = self._samples[0][1], self._samples[-1][1]
        return {lane: (last[lane] - first[lane]) / self.over_s for lane in LANES}

    def summary(self) -> dict[str, object]:
        """The rates as plain JSON values."""
        rates = {lane.value: round(rate, 3) for lane, rate in self.bytes_per_s().items()}
        return {"over_s": round(self.over_s, 1), "bytes_per_s": rates, "drain_bytes_per_s": self.drain_bytes_per_s}
