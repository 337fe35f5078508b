"""Modbus registers <-> values, and points grouped into few bounded block reads. Requests and sockets are elsewhere.

Register = 16 bits, big-endian on the wire. Limits are those of the Modbus Application Protocol 1.1b3, par. 6.
"""

import enum
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocols.errors import Reason, Refused

Value = int | float


class Table(enum.StrEnum):
    """The four address tables, each from 0 to 65535."""

    INPUT = "input"
    HOLDING = "holding"
    COIL = "coil"
    DISCRETE = "discrete"

    @property
    def is_bits(self) -> bool:
        return self in (Table.COIL, Table.DISCRETE)

    @property
    def most_per_read(self) -> int:
        return 2000 if self.is_bits else 125

    @property
    def is_writable(self) -> bool:
        return self in (Table.HOLDING, Table.COIL)


class NumberType(enum.StrEnum):
    """How registers make a number; `bool` is for coils, discrete inputs and registers that are 0 or not."""

    BOOL = "bool"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    UINT64 = "uint64"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"

    @property
    def registers(self) -> int:
        return _LAYOUT[self][0]

    @property
    def is_float(self) -> bool:
        return self in (NumberType.FLOAT32, NumberType.FLOAT64)


class WordOrder(enum.StrEnum):
    """Which register of several comes first: the most significant (`big`, the rule) or the least."""

    BIG = "big"
    LITTLE = "little"


_LAYOUT = {
    NumberType.BOOL: (1, ">H"),
    NumberType.UINT16: (1, ">H"),
    NumberType.INT16: (1, ">h"),
    NumberType.UINT32: (2, ">I"),
    NumberType.INT32: (2, ">i"),
    NumberType.UINT64: (4, ">Q"),
    NumberType.INT64: (4, ">q"),
    NumberType.FLOAT32: (2, ">f"),
    NumberType.FLOAT64: (4, ">d"),
}
_CODECS = {kind: struct.Struct(code) for kind, (_, code) in _LAYOUT.items()}
_WORDS = {count: struct.Struct(f">{count}H") for count in (1, 2, 4)}


@dataclass(frozen=True, slots=True)
class Point:
    """A number at an address. Its value is the raw number times `scale`.

    Raises Refused(BAD_REGISTER) for an address or type its table cannot have.
    """

    table: Table
    address: int
    type: NumberType
    word_order: WordOrder = WordOrder.BIG
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.table.is_bits and self.type is not NumberType.BOOL:
            raise Refused(Reason.BAD_REGISTER, f"{self.table} {self.address}: a bit has type bool, not {self.type}")
        if not 0 <= self.address <= 65_536 - self.size:
            raise Refused(Reason.BAD_REGISTER, f"{self.table} {self.address}: addresses are 0 to {65_536 - self.size} for {self.type}")
        if not math.isfinite(self.scale) or self.scale == 0:
            raise Refused(Reason.BAD_REGISTER, f"{self.table} {self.address}: scale is a finite number other than 0")

    @property
    def size(self) -> int:
        """Registers, or bits for coils and discrete inputs."""
        return self.type.registers

    def decode(self, words: Sequence[int | bool]) -> Value:
        """The value of this point's registers; raises Refused(BAD_REGISTER), also for NaN and infinities."""
        return scale_up(decode_number(words, self.type, self.word_order), self.scale)

    def encode(self, value: Value) -> list[int]:
        """The registers for a value; raises Refused(OUT_OF_RANGE)."""
        return encode_number(scale_down(value, self.scale, self.type), self.type, self.word_order)


def decode_number(words: Sequence[int | bool], kind: NumberType, order: WordOrder = WordOrder.BIG) -> Value:
    """Registers to a number.

    >>> decode_number([0x4366, 0x3334], NumberType.FLOAT32)
    230.20001220703125
    >>> decode_number([0x0001, 0x0000], NumberType.UINT32, WordOrder.LITTLE)
    1
    """
    if len(words) != kind.registers:
        raise Refused(Reason.BAD_REGISTER, f"{kind} takes {kind.registers} registers, not {len(words)}")
    if kind is NumberType.BOOL:
        return int(bool(words[0]))
    try:
        raw = _WORDS[len(words)].pack(*(words if order is WordOrder.BIG else reversed(words)))
    except struct.error as error:
        raise Refused(Reason.BAD_REGISTER, f"registers are 0 to 65535: {list(words)}") from error
    number: Value = _CODECS[kind].unpack(raw)[0]
    if not math.isfinite(number):
        raise Refused(Reason.BAD_REGISTER, f"{kind}: {number} is no measurement")
    return number


def encode_number(number: Value, kind: NumberType, order: WordOrder = WordOrder.BIG) -> list[int]:
    """A number to registers; raises Refused(OUT_OF_RANGE) for what the type cannot hold, fractions for integers included."""
    if not math.isfinite(number):
        raise Refused(Reason.OUT_OF_RANGE, f"{number} is not a finite number")
    if kind is NumberType.BOOL:
        if number not in (0, 1):
            raise Refused(Reason.OUT_OF_RANGE, f"bool: {number} is neither 0 nor 1")
        return [int(number)]
    if not kind.is_float:
        if number != int(number):
            raise Refused(Reason.OUT_OF_RANGE, f"{kind}: {number} is not a whole number")
        number = int(number)
    try:
        raw = _CODECS[kind].pack(number)
    except (struct.error, OverflowError) as error:
        raise Refused(Reason.OUT_OF_RANGE, f"{kind} cannot hold {number}") from error
    words = list(_WORDS[kind.registers].unpack(raw))
    return words if order is WordOrder.BIG else words[::-1]


def scale_up(number: Value, scale: float) -> Value:
    """Raw number to value; 1 changes nothing, so integers stay integers.

    >>> scale_up(2302, 0.1)
    230.2
    """
    if scale == 1.0:
        return number
    # A scale of 0.1 stands for "tenths": dividing by 10 gives the decimal that was meant, multiplying by 0.1 its neighbour.
    inverse = round(1 / scale)
    scaled = number / inverse if inverse and 1 / inverse == scale else number * scale
    if not math.isfinite(scaled):
        raise Refused(Reason.BAD_REGISTER, f"{number} times {scale} is no finite number")
    return scaled


def scale_down(value: Value, scale: float, kind: NumberType) -> Value:
    """Value to raw number, rounded to the nearest for integer types."""
    if scale == 1.0:
        return value
    try:
        number = value / scale
        return number if kind.is_float else round(number)
    except (OverflowError, ValueError) as error:
        raise Refused(Reason.OUT_OF_RANGE, f"{kind} cannot hold {value} / {scale}") from error


@dataclass(frozen=True, slots=True)
class Block:
    """One read: `count` registers or bits of `table` from `start`; `points` are indices into what was grouped."""

    table: Table
    start: int
    count: int
    points: tuple[int, ...]

    def words(self, point: Point, answer: Sequence[int | bool]) -> Sequence[int | bool]:
        """The registers of one of its points within the block's answer; raises Refused(BAD_REGISTER) for a short answer."""
        offset = point.address - self.start
        found = answer[offset : offset + point.size]
        if len(found) != point.size:
            raise Refused(Reason.BAD_REGISTER, f"{self.table} {self.start}: {len(answer)} of {self.count} registers answered")
        return found


def group(points: Iterable[Point], *, max_gap: int = 8) -> list[Block]:
    """Few reads for many points: neighbours share one, up to `max_gap` unused registers are read along, no point is cut in two.

    Reading unused registers is refused by some devices: `max_gap=0` for these.
    """
    placed = sorted(enumerate(points), key=lambda item: (item[1].table, item[1].address, item[0]))
    blocks: list[Block] = []
    for index, point in placed:
        if blocks:
            last = blocks[-1]
            end = max(last.start + last.count, point.address + point.size)
            near = last.table is point.table and point.address <= last.start + last.count + max_gap
            if near and end - last.start <= point.table.most_per_read:
                blocks[-1] = Block(last.table, last.start, end - last.start, (*last.points, index))
                continue
        blocks.append(Block(point.table, point.address, point.size, (index,)))
    return blocks
