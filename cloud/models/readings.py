"""Readings of one machine from CSV files: a column of times, and a number in every other column."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from protocols.errors import Reason, Refused

TIME_NAMES = ("time", "time_ms", "timestamp", "datetime", "date", "ts")


@dataclass(frozen=True, slots=True)
class Readings:
    """Rows in order of time: `times` [N] in epoch ms, `values` [N, signals]."""

    signals: tuple[str, ...]
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    sha256: str

    def first(self, rows: int) -> "Readings":
        """The first `rows` of them."""
        return _sealed(self.signals, self.times[:rows], self.values[:rows])


def read_readings(
    paths: Sequence[Path], *, signals: Sequence[str] = (), leave_out: Sequence[str] = (), time: str | None = None
) -> Readings:
    """The rows of all files, in the order given. Without `signals` every numeric column but `leave_out` is one.

    Raises Refused(BAD_TRAINING_DATA) naming the file, the column and what to do.
    """
    names, times, values = tuple(signals), [], []
    for path in paths:
        table = _table(path)
        clock = _time_column(path, table, time)
        if not names:
            names = tuple(
                field.name
                for field in table.schema
                if field.name not in (clock, *leave_out) and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
            )
        times.append(_times(path, clock, table[clock]))
        values.append(np.column_stack([_numbers(path, name, table) for name in names]) if names else np.empty((len(table), 0)))
    if not names:
        raise _refused(f"{paths[0]}: holds no column of numbers beside the time")
    return _sealed(names, np.concatenate(times), np.concatenate(values))


def _sealed(signals: tuple[str, ...], times: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Readings:
    digest = hashlib.sha256("\0".join(signals).encode())
    digest.update(np.ascontiguousarray(times).tobytes() + np.ascontiguousarray(values).tobytes())
    return Readings(signals, times, values, digest.hexdigest())


def _table(path: Path) -> Any:
    try:
        table = pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _refused(f"{path}: is no readable CSV file: {error}") from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise _refused(f"{path}: the column {twice[0]!r} stands there twice; rename one")
    if not len(table):
        raise _refused(f"{path}: holds no row")
    return table


def _time_column(path: Path, table: Any, wanted: str | None) -> str:
    names = [wanted] if wanted is not None else [name for name in table.column_names if name.lower() in TIME_NAMES]
    if len(names) != 1 or names[0] not in table.column_names:
        raise _refused(f"{path}: name its column of times with --time; its columns are {', '.join(table.column_names)}")
    return str(names[0])


def _times(path: Path, name: str, column: Any) -> npt.NDArray[np.int64]:
    """Epoch ms: dates as they are (UTC without a zone), whole numbers as epoch ms."""
    if column.null_count:
        raise _refused(f"{path}: column {name}: a time is missing")
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), np.int64)
    try:
        if pa.types.is_string(column.type):
            column = pc.strptime(column, format="%Y-%m-%d %H:%M:%S", unit="ms")
        return np.asarray(column.cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy(), np.int64)
    except pa.ArrowInvalid as error:
        raise _refused(f"{path}: column {name}: times must be epoch ms or ISO 8601: {error}") from error


def _numbers(path: Path, name: str, table: Any) -> npt.NDArray[np.float64]:
    if name not in table.column_names:
        raise _refused(f"{path}: has no column {name!r}; its columns are {', '.join(table.column_names)}")
    column = table[name]
    try:
        numbers = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowInvalid as error:
        raise _refused(f"{path}: column {name}: is not all numbers: {error}") from error
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0]) + 1
        raise _refused(f"{path}: column {name}, row {row}: no finite number; repair or remove the row")
    return numbers


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_TRAINING_DATA, message)
