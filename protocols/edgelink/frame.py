"""A frame: readings and records of one lane in one compressed body, behind a header that can be read and rewritten without it.

Header, 64 bytes, little endian, then the body::

    magic "HLF1" | crc32 of the body, then of the fields behind this one | lane u8 | age when sent u24 | boot u32 | buffer_id 16 bytes
    | seq u64 | floor u64 | covers u64 | created_ms i64

The age says when the frame left, as ms after it was made: 0 unknown, else (n + 1) << 2 | u for n units of 1, 16, 256 or 4,096 ms.

Body: unpacked size u32 | size of the columns u32 | zstd(columns + MessagePack of [texts, records]).
"""

import struct
import threading
import zlib

import msgspec
import zstandard

from protocols.edgelink.columns import NO_COLUMNS, Columns, Text, pack, unpack
from protocols.edgelink.lanes import LANES, Lane
from protocols.edgelink.records import Record
from protocols.errors import Reason, Refused

MAGIC = b"HLF1"
MAX_UNPACKED_BYTES = 16 * 1024 * 1024
MAX_FRAME_BYTES = 256_000
"""What the front door takes as one packet, with room for its topic."""

_HEADER = struct.Struct("<B3sI16sQQQq")
_AGE_UNITS = (1, 16, 256, 4_096)
_MOST_UNITS = (1 << 22) - 2
HEADER_BYTES = 8 + _HEADER.size
_NO_AGE = bytes(3)
_TIME = struct.Struct("<q")
_CRC = struct.Struct("<I")
_BODY = struct.Struct("<II")
MAX_BODY_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[tuple[Text, ...], tuple[Record, ...]])
_MAX_SEQ = (1 << 56) - 1
_zstd = threading.local()  # contexts are costly to make and not to be shared by threads


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """Identity of a frame: (gateway from the topic, buffer_id, boot, lane, seq).

    `floor` is the lowest seq the lane held at sending. `covers` is the first seq this frame accounts for: `seq` itself,
    lower when the frame names what was dropped before it, and 0 stands for `seq`. `sent_ms` is when it was sent by the clock of
    `created_ms`, 0 where that is not known: exact within 70 minutes of it, later to 16 ms (18 h), 256 ms (12 days), 4 s (198 days).
    """

    buffer_id: bytes
    boot: int
    lane: Lane
    seq: int
    floor: int
    created_ms: int
    covers: int = 0
    sent_ms: int = 0

    @property
    def first(self) -> int:
        return self.covers or self.seq


class Frame(msgspec.Struct, frozen=True):
    header: FrameHeader
    columns: Columns
    records: tuple[Record, ...]


def encode_body(columns: Columns, records: tuple[Record, ...] = ()) -> bytes:
    """Compress once; `stamp` puts headers before it.

    Raises Refused(OUT_OF_RANGE) for NaN and infinities, BAD_TIME, and TOO_MANY when the frame would be too large (halve it).
    """
    packed = pack(columns)
    for index, _, _ in columns.texts:
        if not 0 <= index < len(columns.dictionary):
            raise Refused(Reason.BAD_FRAME, "a text names a series outside the dictionary")
    extras = _ENCODER.encode((columns.texts, records)) if columns.texts or records else b""
    unpacked = len(packed) + len(extras)
    if unpacked > MAX_UNPACKED_BYTES:
        raise Refused(Reason.TOO_MANY, f"{unpacked} bytes unpacked, at most {MAX_UNPACKED_BYTES}")
    body = _BODY.pack(unpacked, len(packed)) + _compressor().compress(packed + extras)
    if len(body) > MAX_BODY_BYTES:
        raise Refused(Reason.TOO_MANY, f"a frame of {len(body)} bytes, at most {MAX_BODY_BYTES}")
    return body


def decode_body(body: bytes) -> tuple[Columns, tuple[Record, ...]]:
    """Undo `encode_body` within bounds; raises Refused(BAD_FRAME | BAD_TIME | OUT_OF_RANGE | TOO_MANY)."""
    if len(body) < _BODY.size:
        raise Refused(Reason.BAD_FRAME, "a frame without a body")
    unpacked, columns_size = _BODY.unpack_from(body)
    compressed = memoryview(body)[_BODY.size :]
    try:
        declared = zstandard.frame_content_size(compressed)
    except zstandard.ZstdError as error:
        raise Refused(Reason.BAD_FRAME, f"not zstd: {error}") from error
    # The decompressor allocates what the zstd frame declares, so that is what has to be bounded.
    if declared != unpacked or unpacked > MAX_UNPACKED_BYTES or columns_size > unpacked:
        raise Refused(Reason.TOO_MANY if unpacked > MAX_UNPACKED_BYTES else Reason.BAD_FRAME, "body sizes do not agree")
    try:
        data = _decompressor().decompress(compressed, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Refused(Reason.BAD_FRAME, f"not zstd: {error}") from error
    if len(data) != unpacked:
        raise Refused(Reason.BAD_FRAME, "body sizes do not agree")
    if columns_size == unpacked:
        return unpack(data), ()
    columns = unpack(data[:columns_size])
    try:
        texts, records = _DECODER.decode(memoryview(data)[columns_size:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Reason.BAD_FRAME, f"texts and records: {error}") from error
    known = len(columns.dictionary)
    if any(not 0 <= index < known for index, _, _ in texts):
        raise Refused(Reason.BAD_FRAME, "a text names a series outside the dictionary")
    whole = Columns(columns.dictionary, columns.series, columns.times, columns.values, columns.quality, texts, columns.dictionary_key)
    return whole, records


def stamp(body: bytes, header: FrameHeader, body_crc: int | None = None) -> bytes:
    """Put a header before an encoded body. With the body's `zlib.crc32` at hand it costs next to nothing."""
    age = _pack_age(header.sent_ms - header.created_ms) if header.sent_ms else _NO_AGE
    fields = _HEADER.pack(header.lane.code, age, header.boot, header.buffer_id, header.seq, header.floor, header.first, header.created_ms)
    crc = zlib.crc32(fields, zlib.crc32(body) if body_crc is None else body_crc)
    return b"".join((MAGIC, _CRC.pack(crc), fields, body))


def sent(frame: bytes, sent_ms: int) -> bytes:
    """The frame with the time it leaves; 0: not known. Costs a checksum over it."""
    fields = bytearray(frame[8:HEADER_BYTES])
    (created_ms,) = _TIME.unpack_from(fields, _HEADER.size - _TIME.size)
    fields[1:4] = _pack_age(sent_ms - created_ms) if sent_ms else _NO_AGE
    body = memoryview(frame)[HEADER_BYTES:]
    return b"".join((MAGIC, _CRC.pack(zlib.crc32(fields, zlib.crc32(body))), fields, body))


def encode_frame(header: FrameHeader, columns: Columns = NO_COLUMNS, records: tuple[Record, ...] = ()) -> bytes:
    return stamp(encode_body(columns, records), header)


def decode_header(frame: bytes | memoryview) -> FrameHeader:
    """Read a header after checking the CRC over header and body; raises Refused(BAD_FRAME | BAD_CHECKSUM)."""
    if len(frame) < HEADER_BYTES + _BODY.size or frame[:4] != MAGIC:
        raise Refused(Reason.BAD_FRAME, "not a frame")
    view = memoryview(frame)
    if zlib.crc32(view[8:HEADER_BYTES], zlib.crc32(view[HEADER_BYTES:])) != _CRC.unpack_from(frame, 4)[0]:
        raise Refused(Reason.BAD_CHECKSUM, "frame checksum")
    lane, age, boot, buffer_id, seq, floor, covers, created_ms = _HEADER.unpack_from(frame, 8)
    if lane >= len(LANES) or not 1 <= covers <= seq <= _MAX_SEQ or not 1 <= floor <= seq:
        raise Refused(Reason.BAD_FRAME, "impossible frame header")
    return FrameHeader(buffer_id, boot, LANES[lane], seq, floor, created_ms, covers, _sent_ms(created_ms, age))


def decode_frame(frame: bytes | memoryview) -> Frame:
    """Check and read a whole frame; raises Refused(BAD_CHECKSUM | BAD_FRAME | BAD_TIME | OUT_OF_RANGE | TOO_MANY)."""
    header = decode_header(frame)
    columns, records = decode_body(bytes(memoryview(frame)[HEADER_BYTES:]))
    return Frame(header, columns, records)


def body_of(frame: bytes) -> bytes:
    """The body behind a header, as `stamp` took it."""
    return frame[HEADER_BYTES:]


def _pack_age(age_ms: int) -> bytes:
    """
    >>> _sent_ms(1_000, _pack_age(4_000_000)), _sent_ms(1_000, _pack_age(4_200_000)), _sent_ms(1_000, _pack_age(-1))
    (4001000, 4200984, 0)
    """
    for code, unit in enumerate(_AGE_UNITS):
        if 0 <= age_ms // unit <= _MOST_UNITS:
            return ((age_ms // unit + 1) << 2 | code).to_bytes(3, "little")
    return _NO_AGE


def _sent_ms(created_ms: int, packed: bytes) -> int:
    age = int.from_bytes(packed, "little")
    return created_ms + ((age >> 2) - 1) * _AGE_UNITS[age & 3] if age >> 2 else 0


def _compressor() -> zstandard.ZstdCompressor:
    try:
        return _zstd.compressor  # type: ignore[no-any-return]
    except AttributeError:
        _zstd.compressor = zstandard.ZstdCompressor(level=1)
        return _zstd.compressor  # type: ignore[no-any-return]


def _decompressor() -> zstandard.ZstdDecompressor:
    try:
        return _zstd.decompressor  # type: ignore[no-any-return]
    except AttributeError:
        _zstd.decompressor = zstandard.ZstdDecompressor()
        return _zstd.decompressor  # type: ignore[no-any-return]
