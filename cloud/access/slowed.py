"""Devices that connect again and again wait before they are let in: of each the newest connection, so what waits is bounded. Pure."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
C = TypeVar("C")


class Slowed(Generic[K, C]):
    """Who waits, one a device. `now` and `due` are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: dict[K, tuple[int, C]] = {}
        self._line: list[tuple[float, int, K]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[K]:
        return iter(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def get(self, key: K) -> C | None:
        """Who waits for this device."""
        waiting = self._waiting.get(key)
        return None if waiting is None else waiting[1]

    def wait(self, key: K, who: C, due: float) -> C | None:
        """`who` waits until `due`; returns who waited for this device before, and does no more."""
        self._number += 1
        before = self._waiting.get(key)
        self._waiting[key] = self._number, who
        heapq.heappush(self._line, (due, self._number, key))
        return None if before is None else before[1]

    def due(self, now: float) -> list[C]:
        """Who has waited long enough; they wait no more."""
        found = list[C]()
        while self._line and self._line[0][0] <= now:
            _, number, key = heapq.heappop(self._line)
            waiting = self._waiting.get(key)
            if waiting is not None and waiting[0] == number:
                del self._waiting[key]
                found.append(waiting[1])
        return found

    def overtaken(self, key: K) -> C | None:
        """A connection of this device is let in at once: who waited for it does no more."""
        waiting = self._waiting.pop(key, None)
        return None if waiting is None else waiting[1]
