"""Time as a value that is passed in: nobody below the composition root reads a clock of its own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks, never mixed: `now_ms` stamps readings, `monotonic` (seconds) measures durations."""

    def now_ms(self) -> int: ...
    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()
