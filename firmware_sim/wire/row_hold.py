"""How long a row stays on the registers: a pure rule, the clock is passed in."""

from dataclasses import dataclass


@dataclass(slots=True)
class RowHold:
    """A row moves on after its period, once its counter was read `reads` times (a poll reads it before and after: 4 = two polls).

    When nobody has read for `idle_s` it moves on with the period alone: a line does not stop because its gateway is down. The very first
    row waits for the first reader, so that nothing is produced before there is anyone to lose it. `max_age_s` bounds any wait but that.
    """

    reads: int = 4
    idle_s: float = 1.0
    max_age_s: float | None = None
    _seen: int = 0
    _shown: float = 0.0
    _period_s: float = 0.0
    _last_read: float | None = None

    def show(self, now: float, period_s: float) -> None:
        """A new row is on the registers; it wants to stay `period_s`."""
        self._seen, self._shown, self._period_s = 0, now, period_s

    def touched(self, now: float, *, counter: bool) -> None:
        """Somebody read registers; `counter` says whether the row's counter was among them."""
        self._last_read = now
        self._seen += counter

    @property
    def settled(self) -> bool:
        """Whether whoever polls has had this row, or nobody has ever polled."""
        return self._seen >= self.reads or self._last_read is None

    def deserted_at(self) -> float:
        """From when on nobody polls, if nobody reads before."""
        return self.idle_s + (self._last_read or 0.0)

    def moves_at(self) -> float | None:
        """When the row moves on as things stand; None = not before somebody reads."""
        if self._last_read is None:
            return None
        earliest = self._shown + self._period_s
        if self._seen >= self.reads:
            return earliest
        at = max(earliest, self._last_read + self.idle_s)
        return at if self.max_age_s is None else min(at, max(earliest, self._shown + self.max_age_s))
