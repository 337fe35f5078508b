"""How much may be under way on the uplink, by what the link shows: a thin one must not hold an alarm behind minutes of backlog."""

from dataclasses import dataclass

QUEUE_S = 1.0
"""How long frames may wait in the link's own queues before less is put there."""
LEAST_BYTES = 8 * 1024
FRAME_BYTES = 64 * 1024


@dataclass(slots=True)
class SendWindow:
    """Frames and bytes in flight. The byte budget grows with acknowledgements that come fast and shrinks when queues build up.

    Fast means: not more than `QUEUE_S` slower than the fastest of this connection, so that a long link is not taken for a thin one.
    One frame is always let through, however large.
    """

    most_frames: int
    budget: float = 4.0 * LEAST_BYTES
    frames: int = 0
    bytes: int = 0
    fastest_s: float = float("inf")
    shrunk_at_s: float = float("-inf")

    @property
    def most_bytes(self) -> int:
        return self.most_frames * FRAME_BYTES

    def room(self) -> bool:
        """Whether another frame may leave."""
        return self.frames < self.most_frames and (self.frames == 0 or self.bytes < self.budget)

    def sent(self, size: int) -> None:
        self.frames += 1
        self.bytes += size

    def acknowledged(self, size: int, sent_at_s: float, now_s: float) -> None:
        """A frame's PUBACK came; times are monotonic."""
        used = self.bytes
        self.frames -= 1
        self.bytes -= size
        took_s = now_s - sent_at_s
        self.fastest_s = min(self.fastest_s, took_s)
        queued_s = took_s - self.fastest_s
        if queued_s <= QUEUE_S:
            if used >= self.budget / 2:  # a budget that nobody used up says nothing about the link
                self.budget = min(self.budget + size, float(self.most_bytes))
        elif sent_at_s > self.shrunk_at_s:  # once for what was under way together
            self.shrunk_at_s = now_s
            self.budget = max(float(LEAST_BYTES), self.budget * max(0.25, QUEUE_S / queued_s))

    def connected(self) -> None:
        """A new connection: nothing is in flight, the link may be another one; begin with half of what was right before."""
        self.frames = self.bytes = 0
        self.fastest_s, self.shrunk_at_s = float("inf"), float("-inf")
        self.budget = min(max(4.0 * LEAST_BYTES, self.budget / 2), float(self.most_bytes))


@dataclass(slots=True)
class Bandwidth:
    """A cap in bytes/s (0: none). A frame may leave while the account is not overdrawn, and is charged whole."""

    bytes_per_s: float
    _owed: float = 0.0
    _at_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next frame may leave."""
        if not self.bytes_per_s:
            return 0.0
        self._owed = max(0.0, self._owed - (now_s - self._at_s) * self.bytes_per_s)
        self._at_s = now_s
        return self._owed / self.bytes_per_s

    def charge(self, size: int) -> None:
        if self.bytes_per_s:
            self._owed += size


@dataclass(frozen=True, slots=True)
class DailyHours:
    """A stretch of every day, minutes since midnight; one that ends before it begins runs over midnight."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """
        >>> DailyHours(22 * 60, 6 * 60).holds(60), DailyHours(22 * 60, 6 * 60).holds(12 * 60)
        (True, False)
        """
        if self.begin <= self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


ALWAYS = DailyHours(0, 24 * 60)
