"""The flash of a device as a value: two slots, two copies of the boot record, the download. It is all that survives a loss of power."""

import enum
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

PAGE = 4_096
"""Bytes; a torn write damages no page before the one it was writing."""
SLOT_BYTES = 16 * 1024 * 1024
MOST_REJECTED = 8
_HEAD = struct.Struct(">II")  # length, CRC-32


class Area(enum.StrEnum):
    """A part of the flash; the values name files."""

    SLOT_A = "slot-a.bin"
    SLOT_B = "slot-b.bin"
    RECORD_0 = "record-0.bin"
    RECORD_1 = "record-1.bin"
    DOWNLOAD = "download.bin"


SLOTS = (Area.SLOT_A, Area.SLOT_B)
RECORDS = (Area.RECORD_0, Area.RECORD_1)


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for an area, from `offset` on; what lies behind them is erased where `erase`, else kept."""

    area: Area
    offset: int
    data: bytes
    erase: bool = False

    def onto(self, held: bytes) -> bytes:
        """The area after it; a hole is filled with 0xFF, as erased flash reads."""
        before = held[: self.offset].ljust(self.offset, b"\xff")
        return before + self.data + (b"" if self.erase else held[self.offset + len(self.data) :])


@dataclass(frozen=True, slots=True)
class Flash:
    """What is written; an area that is not there is empty."""

    areas: dict[Area, bytes] = field(default_factory=dict)

    def read(self, area: Area) -> bytes:
        return self.areas.get(area, b"")

    def after(self, *writes: Write) -> Self:
        """The flash with these carried out."""
        areas = dict(self.areas)
        for write in writes:
            areas[write.area] = write.onto(areas.get(write.area, b""))
        return replace(self, areas=areas)


class Stage(enum.StrEnum):
    """How far an update is."""

    DOWNLOAD = "download"
    INSTALL = "install"
    TRIAL = "trial"


class Offer(msgspec.Struct, frozen=True):
    """A firmware as it was offered (alink.md par. 7); `sign` is lower-case hex."""

    version: str
    size: int
    url: str
    sign: str
    method: str
    module: str = "default"


class Image(msgspec.Struct, frozen=True):
    """What a slot holds, whole and verified when this was written."""

    version: str
    size: int
    sha256: str


class Job(msgspec.Struct, frozen=True):
    """An update that goes on: `tries` counts installations, `boots` the trial boots that began."""

    offer: Offer
    stage: Stage = Stage.DOWNLOAD
    tries: int = 0
    boots: int = 0
    again: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """How an update failed; it stays until the server has it. `step` is one of -1 to -4."""

    step: int
    text: str
    module: str = "default"


class BootRecord(msgspec.Struct, frozen=True):
    """What the bootloader knows. `active` is the slot that is confirmed; `rejected` holds the SHA-256 of images whose trial failed."""

    sequence: int = 0
    active: int = 0
    images: tuple[Image | None, Image | None] = (None, None)
    job: Job | None = None
    outcome: Outcome | None = None
    rejected: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        image = self.images[self.active]
        return "" if image is None else image.version

    @property
    def spare(self) -> int:
        """The slot that an update goes to."""
        return 1 - self.active


def read_record(flash: Flash) -> BootRecord:
    """The newer of the copies that are whole; an empty record when none is, as on a device that never left the factory."""
    found = [record for area in RECORDS if (record := _decode(flash.read(area))) is not None]
    return max(found, key=lambda record: record.sequence, default=BootRecord())


def write_record(flash: Flash, record: BootRecord) -> Write:
    """Replaces the older copy, so that the newer one stays whole whatever happens to the write."""
    held = [_decode(flash.read(area)) for area in RECORDS]
    sequences = [-1 if copy is None else copy.sequence for copy in held]
    place = RECORDS[sequences.index(min(sequences))]
    payload = msgspec.json.encode(msgspec.structs.replace(record, sequence=max(sequences) + 1))
    return Write(place, 0, _HEAD.pack(len(payload), zlib.crc32(payload)) + payload)


def _decode(data: bytes) -> BootRecord | None:
    if len(data) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack_from(data)
    payload = data[_HEAD.size : _HEAD.size + length]
    if len(payload) != length or zlib.crc32(payload) != crc:
        return None
    try:
        return msgspec.json.decode(payload, type=BootRecord)
    except msgspec.DecodeError:
        return None
