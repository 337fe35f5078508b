"""When a score above its threshold becomes an anomaly, and when it is over: one event an excursion, however the score flickers."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Excursion:
    """`raised` while an anomaly lasts; `run` counts scores in a row that speak against the present state."""

    raised: bool = False
    run: int = 0

    def after(self, score: float, threshold: float, *, raise_after: int, clear_after: int) -> tuple[Self, bool]:
        """The state behind one more score, and whether an anomaly begins with it.

        >>> state, begins = Excursion(run=2).after(1.4, 1.0, raise_after=3, clear_after=10)
        >>> state, begins
        (Excursion(raised=True, run=0), True)
        """
        above = score > threshold
        if above is self.raised:
            return (self, False) if not self.run else (replace(self, run=0), False)
        if self.run + 1 >= (clear_after if self.raised else raise_after):
            return replace(self, raised=above, run=0), above
        return replace(self, run=self.run + 1), False
