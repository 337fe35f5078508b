"""How often one client may come back: beyond a burst it is let in ever more slowly, and always let in."""

import math
from typing import Final

from protocols.mqtt.throttle import FIRST_S, LONGEST_S

BURST: Final = 10
"""Connects at once that nobody is slowed for: a restart, a network that comes and goes."""
EVERY_S: Final = 2.0
"""One more is free after this long."""
MOST: Final = BURST + 8
"""The bucket holds no more: half a minute of rest is enough for whoever came how often."""
CLIENTS: Final = 50_000
"""Clients remembered; beyond them the one that came longest ago is forgotten, which only makes it faster."""


class Pace:
    """A bucket of connects for each client, that leaks one every `EVERY_S`."""

    __slots__ = ("_empty", "_most")

    def __init__(self, clients: int = CLIENTS) -> None:
        self._most = clients
        self._empty: dict[object, float] = {}  # client: when its bucket will be empty; the last to come is last

    def __len__(self) -> int:
        return len(self._empty)

    def came(self, client: object, now: float) -> float:
        """It comes once more; seconds it has to wait. `now` is monotonic."""
        level = min(MOST, max(0.0, self._empty.pop(client, now) - now) / EVERY_S + 1.0)
        self._empty[client] = now + level * EVERY_S
        if len(self._empty) > self._most:
            del self._empty[next(iter(self._empty))]
        over = math.ceil(level) - BURST
        return 0.0 if over <= 0 else min(LONGEST_S, FIRST_S * 2.0 ** min(over - 1, 16))
