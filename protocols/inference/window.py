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
    windows: Floats  # [rows, K, signals]: all machines' oldest rows first, their newest last

    def __len__(self) -> int:
        return len(self.machines)


class Windows:
    """The rings of `machines` machines. Every row lies twice in its ring, so that a window is always one stretch of it.

    What all machines showed at one place of the ring lies together: where they go abreast, nothing is copied to make their windows.
    """

    def __init__(self, machines: int, rows: int, signals: int, max_gap_ms: int) -> None:
        self._rows, self._signals, self._max_gap_ms = rows, signals, max_gap_ms
        self._ring: Floats = np.zeros((2 * rows, machines, signals))
        self._next: Ints64 = np.zeros(machines, np.int64)  # where the next row goes, 0 to rows - 1
        self._held: Ints64 = np.zeros(machines, np.int64)  # rows in sequence, up to `rows`
        self._last: Ints64 = np.zeros(machines, np.int64)  # time of the newest row; means nothing while `_held` is 0
        self._steps: Ints64 = np.arange(rows, dtype=np.int64)
        self._everybody: Ints64 = np.arange(machines, dtype=np.int64)

    @classmethod
    def of(cls, card: ModelCard, machines: int = 1) -> Self:
        """The rings that a model needs."""
        return cls(machines, card.window_rows, len(card.signals), card.max_gap_ms)

    def forget(self, machine: int) -> None:
        """The next row of this machine begins a new sequence."""
        self._held[machine] = 0

    def push(self, machines: Ints64, times: Ints64, values: Floats) -> Full:
        """Take rows in: whose [N], when [N] (epoch ms), what [N, signals]; each machine at most once a call. Returns what is full now.

        The windows may be a view of the rings: use them before the next call. Columns in, columns out: the cost of a call hardly depends
        on how many machines it is for.
        """
        held, last = self._held[machines], self._last[machines]
        step = times - last
        begins = held == 0
        keeps = (step > 0) | begins | (step < -self._max_gap_ms)
        restarts = begins | (np.abs(step) > self._max_gap_ms)
        if not np.isfinite(values).all():
            finite = np.isfinite(values).all(axis=1)
            self._held[machines[~finite]] = 0
            keeps &= finite
        if not keeps.all():
            machines, times, values = machines[keeps], times[keeps], values[keeps]
            held, restarts = held[keeps], restarts[keeps]
        if not len(machines):
            return Full(machines, times, np.empty((self._rows, 0, self._signals)))
        at = self._next[machines]
        place = int(at[0])
        abreast = bool((at == place).all())  # machines that began together and never stopped: one place for all of them
        to = place if abreast else at
        self._ring[to, machines] = values
        self._ring[to + self._rows, machines] = values
        at = (at + 1) % self._rows
        held = np.minimum(np.where(restarts, 0, held) + 1, self._rows)
        self._next[machines], self._held[machines], self._last[machines] = at, held, times
        if not (full := held == self._rows).all():
            machines, times, at = machines[full], times[full], at[full]
        # `at` is now the oldest row.
        if abreast and len(machines) == self._ring.shape[1]:
            oldest = (place + 1) % self._rows
            windows = self._ring[oldest : oldest + self._rows]
            if not (machines == self._everybody).all():
                windows = windows[:, machines]
        else:
            windows = self._ring[at[None, :] + self._steps[:, None], machines[None, :]]
        return Full(machines, times, windows)

    def slide(self, times: Ints64, values: Floats, machine: int = 0) -> Full:
        """Push the rows of one machine one after the other: every window that was full on the way."""
        one = np.array([machine], np.int64)
        pieces = []
        for n in range(len(times)):
            full = self.push(one, times[n : n + 1], values[n : n + 1])
            pieces.append(Full(full.machines, full.times, full.windows.copy()))
        pieces = [piece for piece in pieces if len(piece)] or [Full(one[:0], one[:0], np.empty((self._rows, 0, self._signals)))]
        return Full(
            np.concatenate([piece.machines for piece in pieces]),
            np.concatenate([piece.times for piece in pieces]),
            np.concatenate([piece.windows for piece in pieces], axis=1),
        )
