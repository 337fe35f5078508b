"""Windows of the last rows of many machines: the one code that training and serving share.

Each machine has a ring of `rows` rows. A row fills the window when it is the `rows`-th in a sequence without a hole:

- a row with a value that is not finite restarts the ring, and does not enter it;
- a row further than `max_gap_ms` from the one before, in either direction, restarts the ring and enters it: no window lies across a gap;
- a row at or before the time of the one before, but within `max_gap_ms`, is late: it changes nothing.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from protocols.inference.card import ModelCard

Ints64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Full:
    """Windows that are full after a push: whose, the time of the newest row, and the rows themselves, oldest first."""

    machines: Ints64  # [K]
    times: Ints64  # [K], epoch ms
    windows: Floats  # [K, rows, signals]

    def __len__(self) -> int:
        return len(self.machines)


class Windows:
    """The rings of `machines` machines. Every row lies twice in its ring, so that a window is always one piece of memory."""

    def __init__(self, machines: int, rows: int, signals: int, max_gap_ms: int) -> None:
        self._rows, self._signals, self._max_gap_ms = rows, signals, max_gap_ms
        self._ring: Floats = np.zeros((machines, 2 * rows, signals))
        self._next: Ints64 = np.zeros(machines, np.int64)  # where the next row goes, 0 to rows - 1
        self._held: Ints64 = np.zeros(machines, np.int64)  # rows in sequence, up to `rows`
        self._last: Ints64 = np.zeros(machines, np.int64)  # time of the newest row; means nothing while `_held` is 0
        self._steps: Ints64 = np.arange(rows, dtype=np.int64)

    @classmethod
    def of(cls, card: ModelCard, machines: int = 1) -> Self:
        """The rings that a model needs."""
        return cls(machines, card.window_rows, len(card.signals), card.max_gap_ms)

    def forget(self, machine: int) -> None:
        """The next row of this machine begins a new sequence."""
        self._held[machine] = 0

    def push(self, machines: Ints64, times: Ints64, values: Floats) -> Full:
        """Take rows in: whose [N], when [N] (epoch ms), what [N, signals]; each machine at most once a call. Returns what is full now.

        Columns in, columns out: the cost of a call hardly depends on how many machines it is for.
        """
        held, last = self._held[machines], self._last[machines]
        step = times - last
        begins = held == 0
        keeps = (step > 0) | begins | (step < -self._max_gap_ms)
        restarts = begins | (np.abs(step) > self._max_gap_ms)
        if not (finite := np.isfinite(values).all(axis=1)).all():
            self._held[machines[~finite]] = 0
            keeps &= finite
        if not keeps.all():
            machines, times, values = machines[keeps], times[keeps], values[keeps]
            held, restarts = held[keeps], restarts[keeps]
        if not len(machines):
            return Full(machines, times, np.empty((0, self._rows, self._signals)))
        at = self._next[machines]
        self._ring[machines, at] = values
        self._ring[machines, at + self._rows] = values
        at = (at + 1) % self._rows
        held = np.minimum(np.where(restarts, 0, held) + 1, self._rows)
        self._next[machines], self._held[machines], self._last[machines] = at, held, times
        if not (full := held == self._rows).all():
            machines, times, at = machines[full], times[full], at[full]
        # `at` is now the oldest row; from there on the window is one piece.
        if len(at) and (at == at[0]).all():
            windows = self._ring[machines, at[0] : at[0] + self._rows]
        else:
            windows = self._ring[machines[:, None], at[:, None] + self._steps]
        return Full(machines, times, windows)

    def slide(self, times: Ints64, values: Floats, machine: int = 0) -> Full:
        """Push the rows of one machine one after the other: every window that was full on the way."""
        one = np.array([machine], np.int64)
        pieces = [self.push(one, times[n : n + 1], values[n : n + 1]) for n in range(len(times))]
        nothing = Full(one[:0], one[:0], np.empty((0, self._rows, self._signals)))
        pieces = [piece for piece in pieces if len(piece)] or [nothing]
        return Full(
            np.concatenate([piece.machines for piece in pieces]),
            np.concatenate([piece.times for piece in pieces]),
            np.concatenate([piece.windows for piece in pieces]),
        )
