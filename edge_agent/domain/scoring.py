"""What a model is asked and what it answers, as columns and as the bytes they travel in."""

import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from protocols import errors

Ints32 = npt.NDArray[np.int32]
Ints64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

GATED: Final = -1.0  # a score that is no finite number: the model has no opinion that could be stored
_ROWS: Final = struct.Struct("<III")  # model, rows, signals
_SCORES: Final = struct.Struct("<I")


class BadMessage(errors.Broken):
    """Bytes that are no message: the other end is not what we think."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the machines of one model, in order: whose [N], when [N] (epoch ms), what [N, signals]."""

    model: int
    machines: Ints32
    times: Ints64
    values: Floats

    def to_bytes(self) -> bytes:
        head = _ROWS.pack(self.model, len(self.machines), self.values.shape[1] if self.values.ndim == 2 else 0)
        return b"".join((head, self.machines.tobytes(), self.times.tobytes(), np.ascontiguousarray(self.values).tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises BadMessage."""
        try:
            model, rows, signals = _ROWS.unpack_from(data)
            at = _ROWS.size
            machines = np.frombuffer(data, np.int32, rows, at)
            times = np.frombuffer(data, np.int64, rows, at := at + machines.nbytes)
            values = np.frombuffer(data, np.float64, rows * signals, at := at + times.nbytes)
        except (struct.error, ValueError) as error:
            raise BadMessage(f"rows: {error}") from error
        if at + values.nbytes != len(data):
            raise BadMessage("rows: more bytes than announced")
        return cls(model, machines, times, values.reshape(rows, signals))


@dataclass(frozen=True, slots=True)
class Scores:
    """For each row of a request: its score [N], NaN where its window was not full, GATED; and the signal that stands out [N].

    The signal is 0 for scores that are not above the threshold: nobody asks.
    """

    score: Floats
    signal: Ints32

    def to_bytes(self) -> bytes:
        return b"".join((_SCORES.pack(len(self.score)), self.score.tobytes(), self.signal.tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises BadMessage."""
        try:
            (rows,) = _SCORES.unpack_from(data)
            score = np.frombuffer(data, np.float64, rows, _SCORES.size)
            signal = np.frombuffer(data, np.int32, rows, _SCORES.size + score.nbytes)
        except (struct.error, ValueError) as error:
            raise BadMessage(f"scores: {error}") from error
        if _SCORES.size + score.nbytes + signal.nbytes != len(data):
            raise BadMessage("scores: more bytes than announced")
        return cls(score, signal)
