"""Wrong credentials are answered ever more slowly, address by address. Right ones are never delayed: an owner always gets in."""

import math
from typing import Final

FREE: Final = 5
"""Failures in a row that are answered at once: a person mistypes, a device is provisioned a little late."""
FIRST_S: Final = 0.25
LONGEST_S: Final = 15.0
FORGIVE_S: Final = 30.0
"""One failure is forgiven after this long."""
ADDRESSES: Final = 10_000
"""Addresses remembered; beyond them the one that failed longest ago is forgotten."""


class Throttle:
    """A bucket of failures for each address, that leaks one every `FORGIVE_S`."""

    __slots__ = ("_failures", "_most")

    def __init__(self, addresses: int = ADDRESSES) -> None:
        self._most = addresses
        self._failures: dict[str, tuple[float, float]] = {}  # address: level, when it was so; the last to fail is last

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, address: str, now: float) -> float:
        """Another failure; seconds to wait with the answer. `now` is monotonic."""
        level = self._level(address, now) + 1.0
        self._failures.pop(address, None)
        self._failures[address] = level, now
        if len(self._failures) > self._most:
            del self._failures[next(iter(self._failures))]
        over = math.ceil(level) - FREE
        return 0.0 if over <= 0 else min(LONGEST_S, FIRST_S * 2.0 ** min(over - 1, 16))

    def suspected(self, address: str, now: float) -> bool:
        """Whether so much has failed from there that others come first."""
        return math.ceil(self._level(address, now)) >= FREE

    def _level(self, address: str, now: float) -> float:
        level, at = self._failures.get(address, (0.0, now))
        return max(0.0, level - (now - at) / FORGIVE_S)
