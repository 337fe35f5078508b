"""The serial line between an appliance's controller (MCU) and the module that carries the agent: frames, tags, acknowledgement.

A frame is stuffed like HDLC (RFC 1662 par. 4.2: flag 0x7E, escape 0x7D, escaped bytes xor 0x20) and ends in a CRC-16/XMODEM, big endian::

    flag | kind u8 | number u32 | tags | crc u16 | flag          tags: (tag u8 | length u8 | value) ...

The controller numbers its rows and sends each again until it is acknowledged; the agent acknowledges what is on its disk, and sets, which
the controller answers by their number. A row's number is the controller's boot (u8, counts up) and a count from 1 in that boot (u24,
wraps). `FLOOR_TAG` says which row is the oldest that the controller still holds: what came before it and was not taken is gone.
Everything is big endian.
"""

import binascii
import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocols.errors import Reason, Refused

FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
MOST_BYTES = 1_024
"""Of a frame before stuffing; more is noise."""
TIME_TAG = 0
"""u64, epoch ms: the row's time, from a controller that has a clock."""
FLOOR_TAG = 254
"""u32: number of the oldest row that the controller holds; without it that is the row itself."""
AGE_TAG = 255
"""u32, ms since the row was taken: from a controller without a clock, which may send it late."""
VALUE_TAGS = range(1, 254)
_COUNTS = 1 << 24
_HEAD = struct.Struct(">BI")
_CRC = struct.Struct(">H")


class Kind(enum.IntEnum):
    """What a frame is."""

    ROW = 1
    """Controller to module: values, numbered; sent again until acknowledged."""
    ACK = 2
    """Module to controller: every row up to this number is on disk."""
    SET = 3
    """Module to controller: take these values; numbered by the module, sent again until answered."""
    SET_REPLY = 4
    """Controller to module: what became of a set; tag 1 holds its code (u16, 200 is done)."""


class TagType(enum.StrEnum):
    """How a tag's value reads."""

    BOOL = "bool"
    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


def boot_of(number: int) -> int:
    """The controller's boot in which a row was numbered."""
    return number >> 24


def rows_between(one: int, other: int) -> int:
    """How many rows of one boot `other` lies behind `one`; negative when it lies before. Counts wrap.

    >>> rows_between(0x0500_0001, 0x0500_0004), rows_between(0x05FF_FFFF, 0x0500_0001), rows_between(0x0500_0001, 0x05FF_FFFF)
    (3, 2, -2)
    """
    ahead = (other - one) % _COUNTS
    return ahead if ahead < _COUNTS // 2 else ahead - _COUNTS


def next_number(number: int) -> int:
    """The number behind this one, in the same boot.

    >>> hex(next_number(0x05FF_FFFF))
    '0x5000000'
    """
    return number & ~(_COUNTS - 1) | (number + 1) % _COUNTS


_FORMS = {
    TagType.BOOL: struct.Struct(">B"),
    TagType.UINT8: struct.Struct(">B"),
    TagType.INT8: struct.Struct(">b"),
    TagType.UINT16: struct.Struct(">H"),
    TagType.INT16: struct.Struct(">h"),
    TagType.UINT32: struct.Struct(">I"),
    TagType.INT32: struct.Struct(">i"),
    TagType.UINT64: struct.Struct(">Q"),
    TagType.FLOAT32: struct.Struct(">f"),
    TagType.FLOAT64: struct.Struct(">d"),
}


@dataclass(frozen=True, slots=True)
class SerialFrame:
    """One frame; `tags` in order, values as they travel."""

    kind: Kind
    number: int
    tags: Mapping[int, bytes] = field(default_factory=dict)


def encode_value(kind: TagType, value: float) -> bytes:
    """A number as a tag's value. Raises Refused(OUT_OF_RANGE).

    >>> encode_value(TagType.INT16, -2)
    b'\\xff\\xfe'
    """
    try:
        whole = kind not in (TagType.FLOAT32, TagType.FLOAT64)
        if whole and value != int(value):
            raise Refused(Reason.OUT_OF_RANGE, f"{value!r} is no whole number, and {kind} holds nothing else")
        if kind is TagType.BOOL and value not in (0, 1):
            raise Refused(Reason.OUT_OF_RANGE, f"{value!r} is neither 0 nor 1")
        return _FORMS[kind].pack(int(value) if whole else value)
    except (struct.error, OverflowError, ValueError) as error:
        raise Refused(Reason.OUT_OF_RANGE, f"{value!r} does not fit {kind}: {error}") from error


def decode_value(kind: TagType, data: bytes) -> float:
    """A tag's value as a number. Raises Refused(BAD_REGISTER) for another length."""
    form = _FORMS[kind]
    if len(data) != form.size:
        raise Refused(Reason.BAD_REGISTER, f"{len(data)} bytes, {kind} has {form.size}")
    (value,) = form.unpack(data)
    return bool(value) if kind is TagType.BOOL else value


def encode_serial(frame: SerialFrame) -> bytes:
    """A frame as bytes on the line, flags at both ends. Raises Refused(TOO_MANY)."""
    body = bytearray(_HEAD.pack(frame.kind, frame.number))
    for tag, value in frame.tags.items():
        if len(value) > 255:
            raise Refused(Reason.TOO_MANY, f"tag {tag}: {len(value)} bytes, at most 255")
        body += bytes((tag, len(value))) + value
    body += _CRC.pack(binascii.crc_hqx(body, 0))
    if len(body) > MOST_BYTES:
        raise Refused(Reason.TOO_MANY, f"a frame of {len(body)} bytes, at most {MOST_BYTES}")
    stuffed = bytearray((FLAG,))
    for byte in body:
        if byte in (FLAG, ESCAPE):
            stuffed += bytes((ESCAPE, byte ^ FLIP))
        else:
            stuffed.append(byte)
    stuffed.append(FLAG)
    return bytes(stuffed)


class SerialDecoder:
    """Bytes as they come, in any pieces; noise is skipped and counted, and never costs more than the frame it hit and the next."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._escaped = self._overlong = False
        self.damaged = 0
        """Frames that were begun and not whole: a wrong CRC, a cut one, one too long."""

    def feed(self, data: bytes) -> list[SerialFrame]:
        """The whole frames that end in this piece."""
        found: list[SerialFrame] = []
        for byte in data:
            if byte == FLAG:
                frame = self._end()
                if frame is not None:
                    found.append(frame)
            elif self._overlong:
                continue
            elif byte == ESCAPE:
                self._escaped = True
            else:
                self._body.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
                self._overlong = len(self._body) > MOST_BYTES
        return found

    def _end(self) -> SerialFrame | None:
        body, whole = bytes(self._body), not (self._escaped or self._overlong)
        empty = not self._body and whole
        self._body.clear()
        self._escaped = self._overlong = False
        if empty:  # two flags in a row: the end of one frame, the beginning of the next
            return None
        frame = _parse(body) if whole else None
        if frame is None:
            self.damaged += 1
        return frame


def _parse(body: bytes) -> SerialFrame | None:
    """A frame without its stuffing; None when it is not whole."""
    if len(body) < _HEAD.size + _CRC.size or binascii.crc_hqx(body[:-2], 0) != _CRC.unpack(body[-2:])[0]:
        return None
    kind, number = _HEAD.unpack_from(body)
    tags: dict[int, bytes] = {}
    at, end = _HEAD.size, len(body) - _CRC.size
    while at < end:
        if at + 2 > end or at + 2 + body[at + 1] > end:
            return None
        tags[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
        at += 2 + body[at + 1]
    try:
        return SerialFrame(Kind(kind), number, tags)
    except ValueError:
        return None
