"""Raw bytes by the table of a product: read into values, and made of them. Pure."""

import struct
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import lru_cache

from protocols.errors import Reason, Refused
from protocols.thing.raw_table import (
    FORMATS,
    LONGEST,
    DownMessage,
    Field,
    Match,
    Number,
    RawMessage,
    RawTable,
    Scalar,
    UpMessage,
    Whole,
    length_of,
)


def decode(table: RawTable, data: bytes) -> RawMessage:
    """What `data` says. Raises `Refused(BAD_RAW)` naming the field.

    >>> degrees = Field(identifier="t", offset=0, type="i16", scale=0.1)
    >>> decode(RawTable(up=[UpMessage(kind="post", fields=[degrees])]), bytes.fromhex("ff9c")).values
    {'t': -10.0}
    """
    if len(data) > LONGEST:
        raise _unfit(f"{len(data)} bytes, at most {LONGEST} allowed")
    for number, message in enumerate(table.up):
        if message.length in (None, len(data)) and all(_has(data, match) for match in message.match):
            return _read(table, message, data, f"up[{number}]")
    raise _unfit(f"{data[:16].hex()}{'...' if len(data) > 16 else ''} ({len(data)} bytes) is no message of the table")


def _has(data: bytes, match: Match) -> bool:
    return data.startswith(bytes.fromhex(match.hex), match.offset)


def _read(table: RawTable, message: UpMessage, data: bytes, name: str) -> RawMessage:
    end = len(data)
    if message.checksum is not None:
        at = message.checksum.at(len(data))
        if at < message.checksum.start or at + message.checksum.type.size > len(data):
            raise _unfit(f"{name}: {len(data)} bytes are too short for its checksum")
        told = data[at : at + message.checksum.type.size]
        if told != (expected := message.checksum.of(data, at)):
            raise _unfit(f"{name}: the checksum is {told.hex()}, and has to be {expected.hex()}")
        end = at if message.checksum.offset is None else end
    values = {field.identifier: _value(table, field, data[:end], name) for field in message.fields}
    command_id = code = 0
    if message.id is not None:
        command_id = _number(table, "id", message.id, data, name)
        code = 200 if message.code is None else _number(table, "code", message.code, data, name)
    return RawMessage(message.kind, values, message.event, command_id, code, bytes.fromhex(message.answer))


def _number(table: RawTable, what: str, whole: Whole, data: bytes, name: str) -> int:
    raw = _unpacked(table, what, whole.type, whole.offset, data, name)
    return whole.values.get(str(raw), int(raw))


def _unpacked(table: RawTable, what: str, kind: str, offset: int, data: bytes, name: str) -> Number:
    layout = _layout(table.mark + FORMATS[kind])
    if offset + layout.size > len(data):
        raise _unfit(f"{name}: {what} ends at byte {offset + layout.size} of {len(data)}")
    found: Number = layout.unpack_from(data, offset)[0]
    return found


def _value(table: RawTable, field: Field, data: bytes, name: str) -> Scalar:
    if field.type in ("text", "bytes"):
        end = len(data) if field.length is None else field.offset + field.length
        if end > len(data) or field.offset > end:
            raise _unfit(f"{name}: {field.identifier} ends at byte {end} of {len(data)}")
        part = data[field.offset : end]
        if field.type == "bytes":
            return part.hex()
        try:
            return part.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise _unfit(f"{name}: {field.identifier} is no UTF-8") from error
    if field.type == "bit":
        byte = _unpacked(table, field.identifier, "u8", field.offset, data, name)
        raw: Number = int(byte) >> field.bit & 1
    else:
        raw = _unpacked(table, field.identifier, field.type, field.offset, data, name)
    if field.values:
        if str(raw) not in field.values:
            raise _unfit(f"{name}: {field.identifier} is {raw}, which `values` does not name")
        return field.values[str(raw)]
    if isinstance(raw, float):
        if raw - raw != 0:
            raise _unfit(f"{name}: {field.identifier} is not a finite number")
        return raw
    return _scaled(raw, field)


def _scaled(raw: Number, field: Field) -> Number:
    """Exact: 215 times 0.1 is 21.5."""
    if isinstance(field.scale, int) and isinstance(field.base, int):
        return int(raw) * field.scale + field.base
    return float(Decimal(int(raw)) * Decimal(repr(field.scale)) + Decimal(repr(field.base)))


def message_for(table: RawTable, identifiers: Collection[str]) -> DownMessage | None:
    """The message that sets exactly these properties."""
    return next((one for one in table.down if {field.identifier for field in one.fields} == set(identifiers)), None)


def encode(table: RawTable, values: Mapping[str, object], command_id: int) -> bytes:
    """The bytes that set these properties, coerced before. Raises `Refused(BAD_RAW)` naming the field, or what can be set together."""
    message = message_for(table, values)
    if message is None:
        sets = "; ".join(", ".join(field.identifier for field in one.fields) for one in table.down[:8])
        raise _unfit(f"the table has no message that sets {', '.join(values)}; it sets: {sets or 'nothing'}")
    data = bytearray(bytes.fromhex(message.prefix).ljust(length_of(message), b"\0"))
    for field in message.fields:
        _write(table, field, values[field.identifier], data)
    if message.id is not None:
        struct.pack_into(table.mark + "I", data, message.id.offset, command_id)
    if message.checksum is not None:
        at = message.checksum.at(len(data))
        data[at : at + message.checksum.type.size] = message.checksum.of(bytes(data), at)
    return bytes(data)


def _write(table: RawTable, field: Field, value: object, data: bytearray) -> None:
    if field.type in ("text", "bytes"):
        assert field.length is not None
        try:
            part = str(value).encode() if field.type == "text" else bytes.fromhex(str(value))
        except ValueError as error:
            raise _unfit(f"{field.identifier}: expected bytes in hex") from error
        if len(part) > field.length or (field.type == "bytes" and len(part) != field.length):
            raise _unfit(f"{field.identifier}: {len(part)} bytes, and the message has room for {field.length}")
        data[field.offset : field.offset + field.length] = part.ljust(field.length, b"\0")
        return
    raw = _raw_of(field, value)
    if field.type == "bit":
        if raw not in (0, 1):
            raise _unfit(f"{field.identifier}: {value} is no bit")
        data[field.offset] |= int(raw) << field.bit
        return
    try:
        struct.pack_into(table.mark + FORMATS[field.type], data, field.offset, raw)
    except (struct.error, OverflowError) as error:
        raise _unfit(f"{field.identifier}: {value} does not fit into {field.type}") from error


def _raw_of(field: Field, value: object) -> Number:
    if field.values:
        for key, stands_for in field.values.items():
            if stands_for == value and isinstance(stands_for, str) == isinstance(value, str):
                return int(key)
        raise _unfit(f"{field.identifier}: {str(value)[:40]!r} is not named by `values`")
    if not isinstance(value, int | float):
        raise _unfit(f"{field.identifier}: expected a number")
    if field.type in ("f32", "f64"):
        return float(value)
    return round((Decimal(repr(value)) - Decimal(repr(field.base))) / Decimal(repr(field.scale)))


_layout: Callable[[str], struct.Struct] = lru_cache(maxsize=32)(struct.Struct)


def _unfit(message: str) -> Refused:
    return Refused(Reason.BAD_RAW, message)
