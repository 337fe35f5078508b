"""Rows as Modbus registers: where each point sits, and the words a master reads there.

The packing is written here with `struct` and not taken from `protocols.field`, so that a mistake there cannot cancel itself out.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from firmware_sim.row_log import Row, Value
from protocols.errors import Reason, Refused

Table = Literal["holding", "input"]

COUNTER: Final = "counter"
TIME_MS: Final = "time_ms"
_CODES: Final[Mapping[str, str]] = {
    "uint16": ">H", "int16": ">h", "uint32": ">I", "int32": ">i", "uint64": ">Q", "int64": ">q", "float32": ">f", "float64": ">d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """One value in a table, high word first; `identifier` is None for the row's own counter and time."""

    name: str
    table: Table
    address: int
    type: str
    identifier: str | None = None

    @property
    def words(self) -> int:
        return struct.calcsize(_CODES[self.type]) // 2

    def pack(self, value: Value | None) -> tuple[int, ...]:
        """The words of a value; a missing one is NaN, which only the float types can carry (the others raise Refused)."""
        code = _CODES[self.type]
        if value is None:
            if self.type not in ("float32", "float64"):
                raise Refused(Reason.BAD_REGISTER, f"{self.name} has no value in this row, and {self.type} cannot say so")
            value = math.nan
        try:
            packed = struct.pack(code, value if code[1] in "fd" else int(value))
        except (struct.error, OverflowError) as error:
            raise Refused(Reason.BAD_REGISTER, f"{self.name}: {value} does not fit {self.type}") from error
        return struct.unpack(f">{len(packed) // 2}H", packed)

    def to_map(self) -> dict[str, object]:
        """The point as the agent's configuration names it."""
        entry: dict[str, object] = {"name": self.name, "table": self.table, "address": self.address, "type": self.type}
        return entry | ({"property": self.identifier} if self.identifier else {})


def lay_out(columns: Sequence[tuple[str, str]], places: Mapping[str, tuple[Table, int, str | None]]) -> tuple[Point, ...]:
    """Points of a row: counter and time first, then `columns` (identifier, type) one after the other in the holding registers.

    `places` moves any of them, by identifier, `counter` or `time_ms`, to (table, address, type or None). Raises Refused for an unknown
    name, an overlap, or an address beyond 65535.
    """
    wanted = [(COUNTER, "uint32", None), (TIME_MS, "uint64", None), *((name, kind, name) for name, kind in columns)]
    unknown = set(places) - {name for name, _, _ in wanted}
    if unknown:
        raise Refused(Reason.BAD_CONFIGURATION, f"--address names {', '.join(sorted(unknown))}, which no column has")
    points, free = [], 0
    for name, kind, identifier in wanted:
        own = f"{name}_column" if identifier in (COUNTER, TIME_MS) else name  # the row's own registers keep their names
        table, address, chosen = places.get(name, ("holding", -1, None))
        point = Point(own, table, address if address >= 0 else free, chosen or kind, identifier)
        if address < 0:
            free += point.words
        points.append(point)
    _refuse_overlap(points)
    return tuple(points)


def _refuse_overlap(points: Iterable[Point]) -> None:
    taken: dict[tuple[str, int], str] = {}
    for point in points:
        if not 0 <= point.address <= 65536 - point.words:
            raise Refused(Reason.BAD_REGISTER, f"{point.name}: address {point.address} is outside the table")
        for word in range(point.address, point.address + point.words):
            other = taken.setdefault((point.table, word), point.name)
            if other != point.name:
                raise Refused(Reason.BAD_REGISTER, f"{point.name} and {other} share {point.table} register {word}")


def parse_place(text: str) -> tuple[str, tuple[Table, int, str | None]]:
    """`NAME=TABLE:ADDRESS[:TYPE]` as given to --address; raises Refused.

    >>> parse_place("Usage_kWh=input:72")
    ('Usage_kWh', ('input', 72, None))
    """
    name, _, place = text.rpartition("=")
    table, _, rest = place.partition(":")
    address, _, kind = rest.partition(":")
    if not name or table not in ("holding", "input") or not address.isdecimal() or (kind and kind not in _CODES):
        types = "|".join(_CODES)
        raise Refused(Reason.BAD_CONFIGURATION, f"{text!r} is not NAME=holding|input:ADDRESS[:{types}]")
    return name, ("input" if table == "input" else "holding", int(address), kind or None)


class RegisterBank:
    """The registers of one unit. A row replaces the one before it whole: no read can see half of each."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)
        self.counter = next(point for point in points if point.name == COUNTER)
        self._words: Mapping[tuple[Table, int], int] = {}

    def span(self, table: Table) -> tuple[int, int] | None:
        """First and one past the last register of a table, None when it is empty."""
        ends = [(point.address, point.address + point.words) for point in self.points if point.table == table]
        return (min(first for first, _ in ends), max(end for _, end in ends)) if ends else None

    def words_of(self, row: Row) -> Mapping[tuple[Table, int], int]:
        """A row as registers, the counter being the row number; raises Refused for a value that does not fit."""
        words: dict[tuple[Table, int], int] = {}
        for point in self.points:
            value = {COUNTER: row.n, TIME_MS: row.time_ms}[point.name] if point.identifier is None else row.values.get(point.identifier)
            for offset, word in enumerate(point.pack(value)):
                words[point.table, point.address + offset] = word
        return words

    def show(self, words: Mapping[tuple[Table, int], int]) -> None:
        """Put a row on the registers, in one step."""
        self._words = words

    def read(self, table: Table, address: int, count: int) -> list[int]:
        """`count` words from `address`; a register no point uses reads as zero, as on the real meters."""
        return [self._words.get((table, word), 0) for word in range(address, address + count)]

    def covers_counter(self, table: Table, address: int, count: int) -> bool:
        """Whether such a read shows the counter."""
        return table == self.counter.table and address <= self.counter.address < address + count
