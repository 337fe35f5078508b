"""How a product's raw bytes are read and written: a table in its thing model (`rawTable`), data instead of a script. Pure.

`up` lists what devices send; the first message whose `match` and `length` fit is taken. `down` lists what they are told: the message whose
fields are exactly the properties that are set. Offsets count from 0, bytes are written in hex.
"""

import enum
import struct
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

import msgspec

from protocols.errors import Reason, Refused

LONGEST: Final = 4096
"""Bytes of a raw message."""
Number = int | float
Scalar = int | float | str

_Offset = Annotated[int, msgspec.Meta(ge=0, lt=LONGEST)]
_Length = Annotated[int, msgspec.Meta(ge=1, le=LONGEST)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=129)]
FORMATS: Final = {"u8": "B", "u16": "H", "u32": "I", "i8": "b", "i16": "h", "i32": "i", "f32": "f", "f64": "d"}
FieldType = Literal["u8", "u16", "u32", "i8", "i16", "i32", "f32", "f64", "bit", "text", "bytes"]


class Sum(enum.StrEnum):
    """How a checksum is made: of which family, `crc16-modbus` as in Modbus RTU (poly 0xA001, start 0xFFFF)."""

    SUM8 = "sum8"
    XOR8 = "xor8"
    CRC16_MODBUS = "crc16-modbus"

    @property
    def size(self) -> int:
        return 2 if self is Sum.CRC16_MODBUS else 1


class Checksum(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Over the bytes from `start` to where it stands: at `offset`, or at the message's end without one."""

    type: Sum
    start: _Offset = 0
    offset: _Offset | None = None
    byte_order: Literal["big", "little"] = "little"

    def at(self, length: int) -> int:
        """Where it stands in a message of so many bytes; negative when there is no room."""
        return length - self.type.size if self.offset is None else self.offset

    def of(self, data: bytes, at: int) -> bytes:
        """The checksum's own bytes."""
        return checksum_of(self.type, data[self.start : at]).to_bytes(self.type.size, self.byte_order)


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that tell a message from others."""

    hex: str
    offset: _Offset = 0


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of a message: of a property, or of an output of its event.

    A whole number n stands for `n * scale + base`, or for what `values` says of it. `bit` counts from the lowest, 0 to 7. `length` is of
    text and bytes; without it they go on to the end of the message, or to its checksum.
    """

    identifier: _Name
    offset: _Offset
    type: FieldType
    bit: Annotated[int, msgspec.Meta(ge=0, le=7)] = 0
    length: _Length | None = None
    scale: Number = 1
    base: Number = 0
    values: dict[str, Scalar] = {}


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole number beside the fields: the id of a command, or the code of an answer."""

    offset: _Offset
    type: Literal["u8", "u16", "u32", "i8", "i16", "i32"] = "u32"
    values: dict[str, int] = {}


class UpMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device sends: a property post, an event, or the answer to a property set. `answer` is sent back as it is."""

    kind: Literal["post", "event", "reply"]
    match: list[Match] = []
    length: _Length | None = None
    event: str = ""
    fields: Annotated[list[Field], msgspec.Meta(max_length=200)] = []
    id: Whole | None = None
    code: Whole | None = None
    checksum: Checksum | None = None
    answer: str = ""


class DownMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device is told when exactly these properties are set: `prefix`, then zeros, the fields, the command's id, the checksum."""

    fields: Annotated[list[Field], msgspec.Meta(min_length=1, max_length=200)]
    prefix: str = ""
    length: _Length | None = None
    id: Whole | None = None
    checksum: Checksum | None = None


class RawTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole table."""

    up: Annotated[list[UpMessage], msgspec.Meta(max_length=64)] = []
    down: Annotated[list[DownMessage], msgspec.Meta(max_length=64)] = []
    byte_order: Literal["big", "little"] = "big"

    @property
    def mark(self) -> str:
        """The byte order as `struct` has it."""
        return ">" if self.byte_order == "big" else "<"


class RawMessage(msgspec.Struct, frozen=True):
    """What bytes say, not yet held against the thing model's types. `command_id` and `code` are of a reply."""

    kind: Literal["post", "event", "reply"]
    values: dict[str, Scalar]
    event: str = ""
    command_id: int = 0
    code: int = 200
    answer: bytes = b""


def parse_raw_table(
    document: object, path: str, properties: Iterable[str], writable: Iterable[str], events: Mapping[str, Iterable[str]]
) -> RawTable:
    """Raises `Refused(BAD_THING_MODEL)` naming the JSON path. `events` holds the outputs of each."""
    try:
        table = msgspec.convert(document, RawTable)
    except msgspec.ValidationError as error:
        words, _, at = str(error).partition(" - at `$")
        raise _bad(path + at.removesuffix("`"), words) from error
    known, can_set = set(properties), set(writable)
    for index, message in enumerate(table.up):
        where = f"{path}.up[{index}]"
        names = known
        if message.kind == "event":
            if message.event not in events:
                raise _bad(f"{where}.event", f"{message.event[:64]!r} is no event of the thing model")
            names = set(events[message.event])
        elif message.event:
            raise _bad(f"{where}.event", "only a message of kind event has one")
        if message.kind == "reply" and (message.id is None or message.id.type != "u32" or message.id.values):
            raise _bad(f"{where}.id", "an answer needs the command's id: a u32 without `values`")
        if message.kind == "reply" and message.fields:
            raise _bad(f"{where}.fields", "an answer carries no properties: the device posts what has changed")
        if message.kind != "reply" and (message.id is not None or message.code is not None):
            raise _bad(f"{where}.id", "only a message of kind reply has an id and a code")
        for number, match in enumerate(message.match):
            _bytes(match.hex, f"{where}.match[{number}].hex", least=1)
        _bytes(message.answer, f"{where}.answer")
        if message.code is not None:
            _keys(message.code.values, f"{where}.code.values")
        _check_fields(message.fields, f"{where}.fields", names)
    sets: set[frozenset[str]] = set()
    for index, told in enumerate(table.down):
        where = f"{path}.down[{index}]"
        if told.id is not None and (told.id.type != "u32" or told.id.values):
            raise _bad(f"{where}.id", "a command's id is a u32 without `values`")
        _check_fields(told.fields, f"{where}.fields", can_set)
        if (names_told := frozenset(field.identifier for field in told.fields)) in sets:
            raise _bad(f"{where}.fields", "another message is sent for exactly these properties already")
        sets.add(names_told)
        _check_room(told, where)
    return table


def _check_fields(fields: list[Field], path: str, names: set[str]) -> None:
    seen: set[str] = set()
    for index, field in enumerate(fields):
        where = f"{path}[{index}]"
        if field.identifier not in names:
            raise _bad(f"{where}.identifier", f"{field.identifier[:64]!r}: no such property (that can be set), or output of the event")
        if field.identifier in seen:
            raise _bad(f"{where}.identifier", f"{field.identifier} appears twice")
        seen.add(field.identifier)
        whole = field.type[0] in "ui"
        if (field.scale, field.base) != (1, 0) and (not whole or field.values):
            raise _bad(f"{where}.scale", "only a whole number without `values` has a scale and a base")
        if not (1e-12 <= abs(field.scale) <= 1e12 and abs(field.base) <= 1e12):
            raise _bad(f"{where}.scale", "expected a scale of 1e-12 to 1e12 and a base within 1e12, either sign")
        if field.length is not None and field.type not in ("text", "bytes"):
            raise _bad(f"{where}.length", "only text and bytes have one")
        if field.values and not (whole or field.type == "bit"):
            raise _bad(f"{where}.values", "only a whole number or a bit has them")
        _keys(field.values, f"{where}.values")
        if len({(type(value) is str, value) for value in field.values.values()}) < len(field.values):
            raise _bad(f"{where}.values", "two numbers stand for the same value: which of them to send nobody could tell")


def _check_room(told: DownMessage, path: str) -> None:
    """Nothing that is written may lie on another thing."""
    prefix = _bytes(told.prefix, f"{path}.prefix")
    taken: dict[tuple[int, int], str] = {(at, bit): "the prefix" for at in range(len(prefix)) for bit in range(8)}
    parts = [(field.identifier, field.offset, size_of(field)) for field in told.fields if field.type != "bit"]
    if told.id is not None:
        parts.append(("the id", told.id.offset, 4))
    for field in told.fields:
        if field.type in ("text", "bytes") and field.length is None:
            raise _bad(f"{path}.fields", f"{field.identifier}: on the way down its length has to be given")
    spots = [(name, (at, bit)) for name, start, size in parts for at in range(start, start + size) for bit in range(8)]
    spots += [(field.identifier, (field.offset, field.bit)) for field in told.fields if field.type == "bit"]
    length = length_of(told)
    if length > LONGEST:
        raise _bad(f"{path}.length", f"at most {LONGEST} bytes")
    if told.checksum is not None:
        at = told.checksum.at(length)
        spots += [("the checksum", (byte, bit)) for byte in range(at, at + told.checksum.type.size) for bit in range(8)]
    for name, spot in spots:
        if spot[0] >= length or spot[0] < 0:
            raise _bad(f"{path}.length", f"{name} lies beyond its {length} bytes")
        if spot in taken:
            raise _bad(path, f"{name} and {taken[spot]} both take byte {spot[0]}")
        taken[spot] = name


def size_of(field: Field) -> int:
    if field.type in ("text", "bytes"):
        return field.length or 0
    return 1 if field.type == "bit" else struct.calcsize("<" + FORMATS[field.type])


def length_of(message: DownMessage) -> int:
    """Bytes of the whole message: as given, or as far as anything in it reaches."""
    if message.length is not None:
        return message.length
    ends = [field.offset + size_of(field) for field in message.fields] + [len(message.prefix) // 2]
    ends += [] if message.id is None else [message.id.offset + 4]
    if message.checksum is None:
        return max(ends)
    own = message.checksum.type.size
    return max(ends) + own if message.checksum.offset is None else max(*ends, message.checksum.offset + own)


def checksum_of(kind: Sum, data: bytes) -> int:
    """
    >>> checksum_of(Sum.CRC16_MODBUS, b"123456789") == 0x4B37
    True
    """
    if kind is Sum.SUM8:
        return sum(data) & 0xFF
    if kind is Sum.XOR8:
        found = 0
        for byte in data:
            found ^= byte
        return found
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def _keys(values: Mapping[str, object], path: str) -> None:
    for key in values:
        if not key.removeprefix("-").isdecimal() or str(int(key)) != key:
            raise _bad(f"{path}.{key[:20]}", "expected a whole number as the key")


def _bytes(text: str, path: str, least: int = 0) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError as error:
        raise _bad(path, "expected bytes in hex") from error
    if not least <= len(found) <= LONGEST or len(found) * 2 != len(text):
        raise _bad(path, f"expected {least} to {LONGEST} bytes in hex, without blanks")
    return found


def _bad(path: str, message: str) -> Refused:
    return Refused(Reason.BAD_THING_MODEL, f"{path}: {message}")
