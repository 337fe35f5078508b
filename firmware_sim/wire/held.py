"""QoS 1 as a device with memory keeps it: a message is held until its PUBACK, and after a lost connection sent again in order."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """One message; `number` counts up from 1 in the order in which messages came."""

    number: int
    topic: str
    payload: bytes


class HeldMessages:
    """At most `window` messages wait for their PUBACK, at most `limit` are held; who adds more has to wait (`full`)."""

    def __init__(self, window: int = 20, limit: int = 100_000) -> None:
        self._window, self._limit = window, limit
        self._waiting: deque[Held] = deque()
        self._sent: dict[int, Held] = {}  # in the order of sending
        self._last = 0
        self.resent = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def full(self) -> bool:
        return len(self) >= self._limit

    def add(self, topic: str, payload: bytes) -> int:
        """Hold a message behind the others; its number."""
        self._last += 1
        self._waiting.append(Held(self._last, topic, payload))
        return self._last

    def take(self) -> Held | None:
        """The next message to send now; None while the window is full or nothing waits."""
        if len(self._sent) >= self._window or not self._waiting:
            return None
        held = self._waiting.popleft()
        self._sent[held.number] = held
        return held

    def acked(self, held: Held) -> None:
        """Its PUBACK came: forget it."""
        self._sent.pop(held.number, None)

    def lost(self) -> None:
        """The connection ended: everything without a PUBACK goes out again, oldest first."""
        self.resent += len(self._sent)
        self._waiting.extendleft(reversed(self._sent.values()))
        self._sent.clear()
