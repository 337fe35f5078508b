"""Readings as columns and their packing into few bytes: sorted by series, delta times, typed value columns, byte planes.

Packing keeps every finite float64 bit for bit, and the order of readings within a series. It may reorder series among each other.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import Reason, Refused

SeriesKey = tuple[str, str, str]
"""(product_key, device_name, identifier)"""
Text = tuple[int, int, str]
"""(index into the dictionary, time in ms, JSON text) of a value that is no number."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
AnyArray = npt.NDArray[Any]

MAX_READINGS = 100_000
MAX_SERIES = 65_535
MAX_TIME_MS = 253_402_300_799_999
"""Times are epoch ms from 1970 to the end of the year 9999."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Readings as columns of equal length.

    `dictionary[series[i]]` took `values[i]` at `times[i]` (epoch ms). `quality` is 0 for good; None means all good.
    `dictionary_key` is equal for equal dictionaries (set by the decoder): a cheap key for what a reader derives from one.
    """

    dictionary: tuple[SeriesKey, ...]
    series: npt.NDArray[np.uint32]
    times: Ints
    values: Floats
    quality: npt.NDArray[np.uint8] | None = None
    texts: tuple[Text, ...] = ()
    dictionary_key: bytes = b""

    @property
    def count(self) -> int:
        """Readings, texts included."""
        return len(self.values) + len(self.texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Columns):
            return NotImplemented
        mine = np.zeros(len(self.values), np.uint8) if self.quality is None else self.quality
        theirs = np.zeros(len(other.values), np.uint8) if other.quality is None else other.quality
        return (
            self.dictionary == other.dictionary
            and self.texts == other.texts
            and np.array_equal(self.series, other.series)
            and np.array_equal(self.times, other.times)
            and self.values.tobytes() == other.values.tobytes()
            and np.array_equal(mine, theirs)
        )

    __hash__ = None  # type: ignore[assignment]


NO_COLUMNS = Columns((), np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.float64))

# A series' values are whole multiples of 10^-mode (what decimals written by people and meters are), float32 or float64.
_FLOAT32, _FLOAT64 = 14, 15
_POWERS = np.array([1.0, 10.0, 100.0, 1_000.0, 10_000.0])
_SAMPLE = 24
_HEAD_OF_BLOCK = 256
_HEAD = struct.Struct("<IHBBqIBB")  # readings, series, time width, flags, first time, dictionary bytes, value blocks, -
_BLOCK = struct.Struct("<BBIq")  # mode, width (| 0x10 when deltas), values, first
_DELTA = 0x10
_QUALITY, _MODES = 1, 2
_DICTIONARY_ENCODER = msgspec.msgpack.Encoder()
_DICTIONARY_DECODER = msgspec.msgpack.Decoder(tuple[SeriesKey, ...])
_SIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
_FLOAT: dict[int, np.dtype[Any]] = {_FLOAT32: np.dtype("<f4"), _FLOAT64: np.dtype("<f8")}


def pack(columns: Columns) -> bytes:
    """Lay numeric readings out for compression; raises Refused(OUT_OF_RANGE | BAD_TIME | TOO_MANY | BAD_FRAME). Texts stay out."""
    count, known = len(columns.values), len(columns.dictionary)
    _check(columns, count, known)
    series, times, values, quality = columns.series, columns.times, columns.values, columns.quality
    dictionary = _DICTIONARY_ENCODER.encode(columns.dictionary)
    if count == 0:
        return _HEAD.pack(0, known, 1, 0, 0, len(dictionary), 0, 0) + dictionary
    narrow = series.astype(np.uint16)
    if known > 1 and not (narrow[1:] >= narrow[:-1]).all():
        order = narrow.argsort(kind="stable")  # radix: linear for 16 bits
        times, values = times[order], values[order]
        quality = None if quality is None else quality[order]
    counts = np.bincount(narrow, minlength=known).astype(np.uint32)
    width, time_planes = _planes(_deltas(times))
    modes, blocks = _pack_values(values, counts)
    flags = (_QUALITY if quality is not None and quality.any() else 0) | (_MODES if modes is not None else 0)
    parts = [
        _HEAD.pack(count, known, width, flags, int(times[0]), len(dictionary), len(blocks), 0),
        dictionary,
        _shuffle(counts),
        time_planes,
    ]
    if modes is not None:
        parts.append(modes.tobytes())
    for block in blocks:
        parts += block
    if flags & _QUALITY:
        assert quality is not None
        parts.append(quality.tobytes())
    return b"".join(parts)


def unpack(data: bytes) -> Columns:
    """Read what `pack` wrote; raises Refused(BAD_FRAME | BAD_TIME | OUT_OF_RANGE)."""
    try:
        return _unpack(data)
    except (struct.error, ValueError, IndexError, TypeError, OverflowError) as error:
        raise Refused(Reason.BAD_FRAME, f"columns: {error}") from error


def _check(columns: Columns, count: int, known: int) -> None:
    if count > MAX_READINGS or known > MAX_SERIES:
        raise Refused(Reason.TOO_MANY, f"{count} readings of {known} series, at most {MAX_READINGS} of {MAX_SERIES} in a frame")
    if not (len(columns.series) == len(columns.times) == count) or (columns.quality is not None and len(columns.quality) != count):
        raise Refused(Reason.BAD_FRAME, "columns differ in length")
    if count:
        if int(columns.series.max()) >= known:
            raise Refused(Reason.BAD_FRAME, "a reading names a series outside the dictionary")
        _check_times(columns.times)
        _check_finite(columns.values)


def _check_times(times: Ints) -> None:
    if int(times.min()) < 0 or int(times.max()) > MAX_TIME_MS:
        raise Refused(Reason.BAD_TIME, "a time lies outside 1970 to 9999")


def _check_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise Refused(Reason.OUT_OF_RANGE, "a value is not a finite number")


def _deltas(numbers: Ints) -> Ints:
    deltas = np.empty_like(numbers)
    deltas[0] = 0
    np.subtract(numbers[1:], numbers[:-1], out=deltas[1:])  # wraps at 2^64; so does the sum that undoes it
    return deltas


def _shuffle(numbers: AnyArray) -> bytes:
    """Bytes of equal significance beside each other: the upper ones hardly change, so they shrink to nothing."""
    size = numbers.dtype.itemsize
    if size == 1:
        return numbers.tobytes()
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, size).T.tobytes()


def _fits(width: int, low: int, high: int) -> bool:
    limit = 1 << (8 * width - 1)
    return -limit <= low and high < limit


def _planes(numbers: Ints) -> tuple[int, bytes]:
    low, high = int(numbers.min()), int(numbers.max())
    width = 1 if _fits(1, low, high) else 2 if _fits(2, low, high) else 4 if _fits(4, low, high) else 8
    return width, _shuffle(numbers.astype(_SIGNED[width]))


def _pack_values(values: Floats, counts: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint8] | None, list[tuple[bytes, bytes]]]:
    """Blocks of values of one mode each; the modes of the series are None when one block has them all."""
    with np.errstate(invalid="ignore", over="ignore"):
        sample = values[:: max(1, len(values) // _SAMPLE)]
        candidates = _exact(sample, _POWERS[:, None])[1].all(axis=1)
        if candidates.any():
            mode = int(candidates.argmax())
            whole, exact = _exact(values, _POWERS[mode])
            if exact.all():
                return None, [_integer_block(mode, whole)]
        return _pack_by_series(values, counts)


def _exact(values: Floats, power: Any) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Values in units of 1/power, and where the reader's division gives back the very same bits (-0.0 does not)."""
    scratch: Floats = values * power
    whole = np.rint(scratch, out=scratch).astype(np.int64)
    np.divide(whole, power, out=scratch)
    exact: npt.NDArray[np.bool_] = scratch.view(np.int64) == values.view(np.int64)
    return whole, exact


def _pack_by_series(values: Floats, counts: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint8], list[tuple[bytes, bytes]]]:
    used = counts > 0
    starts = (np.cumsum(counts, dtype=np.int64) - counts)[used]
    modes = np.full(len(starts), _FLOAT64, np.uint8)
    firsts = _exact(values[starts], _POWERS[:, None])[1]  # a series' first value rules most modes out
    for mode in range(len(_POWERS)):
        likely = (modes == _FLOAT64) & firsts[mode]
        if likely.any():
            modes[likely & np.logical_and.reduceat(_exact(values, _POWERS[mode])[1], starts)] = mode
    if (modes == _FLOAT64).any():
        single: Floats = values.astype(np.float32).astype(np.float64)
        modes[(modes == _FLOAT64) & np.logical_and.reduceat(single.view(np.int64) == values.view(np.int64), starts)] = _FLOAT32
    every = np.zeros(len(counts), np.uint8)
    every[used] = modes
    of_reading = np.repeat(every, counts)
    blocks = []
    for mode in np.unique(modes).tolist():
        chosen = values[of_reading == mode]
        if mode in _FLOAT:
            blocks.append((_BLOCK.pack(mode, _FLOAT[mode].itemsize, len(chosen), 0), _shuffle(chosen.astype(_FLOAT[mode]))))
        else:
            blocks.append(_integer_block(mode, _exact(chosen, _POWERS[mode])[0]))
    return every, blocks


def _integer_block(mode: int, whole: Ints) -> tuple[bytes, bytes]:
    deltas = _deltas(whole)
    # Slow signals shrink as deltas, noise does not; the first few readings tell which this is.
    head, steps = whole[:_HEAD_OF_BLOCK], deltas[:_HEAD_OF_BLOCK]
    first = int(head[0])
    if float(np.abs(steps).sum(dtype=np.float64)) < 0.5 * float(np.abs(head - first).sum(dtype=np.float64)):
        width, planes = _planes(deltas)
        return _BLOCK.pack(mode, width | _DELTA, len(whole), first), planes
    width, planes = _planes(whole)
    return _BLOCK.pack(mode, width, len(whole), 0), planes


@lru_cache(maxsize=256)
def _small_dictionary(packed: bytes) -> tuple[SeriesKey, ...]:
    return _read_dictionary(packed)


def _read_dictionary(packed: bytes) -> tuple[SeriesKey, ...]:
    try:
        return _DICTIONARY_DECODER.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(Reason.BAD_FRAME, f"series dictionary: {error}") from error


class _Reader:
    """A cursor over packed columns; every step is checked against the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> int:
        start = self.at
        if size < 0 or start + size > len(self.data):
            raise Refused(Reason.BAD_FRAME, "columns end early")
        self.at = start + size
        return start

    def planes(self, count: int, dtype: np.dtype[Any]) -> AnyArray:
        """`count` numbers from byte planes."""
        size = dtype.itemsize
        start = self.take(count * size)
        if size == 1:
            return np.frombuffer(self.data, dtype, count, start)
        turned = np.frombuffer(self.data, np.uint8, count * size, start).reshape(size, count).T
        return np.ascontiguousarray(turned).view(dtype).reshape(count)


def _unpack(data: bytes) -> Columns:
    count, known, width, flags, first, dictionary_size, blocks, reserved = _HEAD.unpack_from(data)
    if count > MAX_READINGS or width not in _SIGNED or reserved or flags & ~(_QUALITY | _MODES):
        raise Refused(Reason.BAD_FRAME, "columns: impossible header")
    reader = _Reader(data, _HEAD.size)
    start = reader.take(dictionary_size)
    packed = data[start : reader.at]
    # A gateway sends the same few dictionaries all day; large ones are not kept.
    dictionary = _small_dictionary(packed) if dictionary_size <= 16_384 else _read_dictionary(packed)
    if len(dictionary) != known:
        raise Refused(Reason.BAD_FRAME, "series dictionary: wrong length")
    if count == 0:
        if reader.at != len(data) or blocks or flags:
            raise Refused(Reason.BAD_FRAME, "columns: bytes behind the end")
        return Columns(dictionary, NO_COLUMNS.series, NO_COLUMNS.times, NO_COLUMNS.values, dictionary_key=packed)
    counts = reader.planes(known, np.dtype("<u4"))
    if int(counts.sum(dtype=np.uint64)) != count:
        raise Refused(Reason.BAD_FRAME, "columns: counts do not add up")
    deltas = reader.planes(count, _SIGNED[width])
    times = np.cumsum(deltas, dtype=np.int64)
    times += first
    _check_times(times)
    values = _unpack_values(reader, count, counts, blocks, bool(flags & _MODES))
    _check_finite(values)
    quality = np.frombuffer(data, np.uint8, count, reader.take(count)) if flags & _QUALITY else None
    if reader.at != len(data):
        raise Refused(Reason.BAD_FRAME, "columns: bytes behind the end")
    series = np.arange(known, dtype=np.uint32).repeat(counts)
    return Columns(dictionary, series, times, values, quality, dictionary_key=packed)


def _unpack_values(reader: _Reader, count: int, counts: AnyArray, blocks: int, by_series: bool) -> Floats:
    if not by_series:
        if blocks != 1:
            raise Refused(Reason.BAD_FRAME, "columns: one value block expected")
        return _unpack_block(reader, count)[1]
    modes = np.frombuffer(reader.data, np.uint8, len(counts), reader.take(len(counts)))
    of_reading = modes.repeat(counts)
    values = np.full(count, np.nan)  # what no block fills is caught as not finite
    for _ in range(blocks):
        mode, block = _unpack_block(reader, None)
        where = of_reading == mode
        if int(np.count_nonzero(where)) != len(block):
            raise Refused(Reason.BAD_FRAME, "columns: a value block of the wrong length")
        values[where] = block
    return values


def _unpack_block(reader: _Reader, expected: int | None) -> tuple[int, Floats]:
    mode, width, size, first = _BLOCK.unpack_from(reader.data, reader.take(_BLOCK.size))
    if size > MAX_READINGS or (expected is not None and size != expected):
        raise Refused(Reason.BAD_FRAME, "columns: a value block of the wrong length")
    if mode in _FLOAT:
        if width != _FLOAT[mode].itemsize:
            raise Refused(Reason.BAD_FRAME, "columns: impossible float width")
        return mode, reader.planes(size, _FLOAT[mode]).astype(np.float64)
    if mode >= len(_POWERS) or width & ~_DELTA not in _SIGNED:
        raise Refused(Reason.BAD_FRAME, "columns: unknown value mode")
    whole = reader.planes(size, _SIGNED[width & ~_DELTA])
    if width & _DELTA:
        whole = np.cumsum(whole, dtype=np.int64)
        whole += first
    if mode == 0:
        return mode, whole.astype(np.float64)
    return mode, np.divide(whole, _POWERS[mode], dtype=np.float64)
