"""Frames lose nothing, and no bytes do harm."""

import struct
import zlib

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocols.edgelink.columns import MAX_READINGS, NO_COLUMNS, Columns, unpack
from protocols.edgelink.frame import (
    HEADER_BYTES,
    MAX_BODY_BYTES,
    MAX_UNPACKED_BYTES,
    FrameHeader,
    body_of,
    decode_body,
    decode_frame,
    decode_header,
    encode_body,
    encode_frame,
    sent,
    stamp,
)
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import EventRecord, Record
from protocols.errors import Reason, Refused
from tests.fuzzing import fuzz, thorough
from tests.unit.protocols.edgelink.frames import by_series, columns, headers, is_sane, records

HEADER = FrameHeader(b"0123456789abcdef", 3, Lane.LIVE, 7, 5, 1_760_000_000_000)


def one_series(values: list[float], times: list[int] | None = None) -> Columns:
    at = np.arange(len(values), dtype=np.int64) if times is None else np.array(times, np.int64)
    return Columns((("press", "p1", "force"),), np.zeros(len(values), np.uint32), at, np.array(values, np.float64))


SAMPLE = encode_frame(HEADER, one_series([1.5, 2.25, 0.1]), (EventRecord("press", "p1", "jam", 5, "{}"),))


@thorough
@given(headers(), columns(), records)
def test_a_frame_comes_back_bit_for_bit_ordered_by_series(header: FrameHeader, given_columns: Columns, extra: tuple[Record, ...]) -> None:
    frame = decode_frame(encode_frame(header, given_columns, extra))
    assert frame.header == header
    assert frame.columns == by_series(given_columns)
    assert frame.records == extra
    assert is_sane(frame.columns)


@thorough
@given(headers(), columns(), st.integers(1, 2**62))
def test_a_frame_says_when_it_was_sent_and_is_otherwise_the_same(header: FrameHeader, given_columns: Columns, sent_ms: int) -> None:
    frame = encode_frame(header, given_columns)
    said = decode_frame(sent(frame, sent_ms))
    assert msgspec.structs.replace(said.header, sent_ms=0) == header
    assert said.columns == by_series(given_columns)
    assert sent(sent(frame, sent_ms), 0) == frame
    assert stamp(body_of(frame), msgspec.structs.replace(header, sent_ms=sent_ms)) == sent(frame, sent_ms)


@given(st.integers(-(2**40), 2**40), st.integers(-(2**31), 2**35))
def test_the_time_a_frame_was_sent_is_exact_for_an_hour_and_never_later_than_it_was(created_ms: int, age_ms: int) -> None:
    header = msgspec.structs.replace(HEADER, created_ms=created_ms)
    said = decode_header(sent(encode_frame(header, one_series([1.5])), created_ms + age_ms)).sent_ms
    if 0 <= age_ms <= 70 * 60_000:
        assert said == created_ms + age_ms or said == created_ms + age_ms == 0
    elif 0 <= age_ms <= 198 * 86_400_000:
        assert 0 <= created_ms + age_ms - said < 4_096
    elif age_ms < 0:
        assert said == 0, "a clock that was set back: not known"


@thorough
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_finite_double_survives(values: list[float]) -> None:
    assert decode_frame(encode_frame(HEADER, one_series(values))).columns.values.tobytes() == np.array(values).tobytes()


@fuzz
@given(st.binary(max_size=300))
def test_arbitrary_bytes_end_in_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        decode_frame(data)


@fuzz
@given(st.binary(max_size=300))
def test_arbitrary_bodies_behind_a_valid_header_end_in_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        decode_frame(stamp(body, HEADER))


@fuzz
@given(st.binary(max_size=200), st.integers(0, 200))
def test_arbitrary_columns_end_in_a_value_or_refused(data: bytes, columns_size: int) -> None:
    body = struct.pack("<II", len(data), min(columns_size, len(data))) + zstandard.compress(data)
    try:
        frame = decode_frame(stamp(body, HEADER))
    except Refused:
        return
    assert is_sane(frame.columns)


def mixed() -> Columns:
    """Each of the value modes, quality and texts in one frame."""
    dictionary = tuple(("press", "p1", name) for name in ("count", "force", "angle", "pi", "label"))
    kinds = ([1.0, 2.0, 9_007_199_254_740_991.0], [0.1, 12.5, -0.3], [float(np.float32(1 / 3))] * 3, [3.14159265358979, -0.0, 1e300])
    series = np.repeat(np.arange(4, dtype=np.uint32), 3)
    times = 1_760_000_000_000 + np.tile(np.array([0, 1_000, 2_000]), 4)
    quality = np.array([0, 1, 0] * 4, np.uint8)
    return Columns(dictionary, series, times.astype(np.int64), np.array(kinds, np.float64).reshape(-1), quality, ((4, 5, '"ok"'),))


UNPACKED = tuple(
    (body[:8], zstandard.decompress(body[8:]))
    for body in (
        encode_body(mixed(), (EventRecord("press", "p1", "jam", 5, "{}"),)),
        encode_body(one_series([1.0, 2.0, 3.0])),
        encode_body(one_series([float(number) for number in range(1_000)])),
        encode_body(NO_COLUMNS, (EventRecord("press", "p1", "jam", 5, "{}"),)),
    )
)


@fuzz
@given(st.sampled_from(UNPACKED), st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_under_a_valid_checksum_ends_in_a_value_or_refused(sample: tuple[bytes, bytes], damage: list[tuple[int, int]]) -> None:
    sizes, unpacked = sample[0], bytearray(sample[1])
    for at, byte in damage:
        unpacked[at % len(unpacked)] = byte
    try:
        frame = decode_frame(stamp(sizes + zstandard.compress(bytes(unpacked)), HEADER))
    except Refused:
        return
    assert is_sane(frame.columns)


def test_every_kind_of_value_finds_its_place_in_one_frame() -> None:
    frame = decode_frame(encode_frame(HEADER, mixed()))
    assert frame.columns == mixed()


@fuzz
@given(st.integers(0, 8 * len(SAMPLE) - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(SAMPLE)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Refused):
        decode_header(bytes(damaged))
    with pytest.raises(Refused):
        decode_frame(bytes(damaged))


def test_a_frame_cut_at_any_offset_is_refused() -> None:
    for end in range(len(SAMPLE)):
        with pytest.raises(Refused):
            decode_frame(SAMPLE[:end])


def test_a_body_cut_at_any_offset_is_refused() -> None:
    body = body_of(SAMPLE)
    for end in range(len(body)):
        with pytest.raises(Refused):
            decode_body(body[:end])


def test_packed_columns_cut_at_any_offset_are_refused() -> None:
    packed = zstandard.decompress(encode_body(one_series([1.0, 2.5, 1e-9]))[8:])
    for end in range(len(packed)):
        with pytest.raises(Refused):
            unpack(packed[:end])


def test_a_body_is_encoded_once_and_stamped_often() -> None:
    body = encode_body(one_series([1.0]))
    again = stamp(body, msgspec.structs.replace(HEADER, floor=6))
    assert decode_header(again).floor == 6
    assert body_of(again) == body
    assert stamp(body, HEADER, zlib.crc32(body)) == stamp(body, HEADER)


def test_the_header_is_read_without_the_body_being_unpacked() -> None:
    assert decode_header(stamp(b"not zstd at all", HEADER)) == msgspec.structs.replace(HEADER, covers=7)


@pytest.mark.parametrize(("seq", "floor", "covers"), [(0, 0, 0), (5, 0, 5), (5, 6, 5), (5, 5, 6), (2**56, 1, 1)])
def test_an_impossible_header_is_refused(seq: int, floor: int, covers: int) -> None:
    frame = stamp(encode_body(NO_COLUMNS), FrameHeader(bytes(16), 1, Lane.LIVE, seq, floor, 0, covers))
    with pytest.raises(Refused) as refused:
        decode_header(frame)
    assert refused.value.reason is Reason.BAD_FRAME


def test_a_wrong_checksum_has_its_own_reason() -> None:
    with pytest.raises(Refused) as refused:
        decode_header(SAMPLE[:-1] + bytes([SAMPLE[-1] ^ 1]))
    assert refused.value.reason is Reason.BAD_CHECKSUM


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_by_the_writer(value: float) -> None:
    with pytest.raises(Refused) as refused:
        encode_body(one_series([1.0, value]))
    assert refused.value.reason is Reason.OUT_OF_RANGE


@pytest.mark.parametrize("time_ms", [-1, 253_402_300_800_000, 2**63 - 1, -(2**63)])
def test_a_time_outside_the_calendar_is_refused_by_the_writer(time_ms: int) -> None:
    with pytest.raises(Refused) as refused:
        encode_body(one_series([1.0], [time_ms]))
    assert refused.value.reason is Reason.BAD_TIME


def test_a_compression_bomb_is_refused_before_it_unpacks() -> None:
    for claimed in (MAX_UNPACKED_BYTES + 1, 100):
        bomb = struct.pack("<II", claimed, 0) + zstandard.compress(bytes(MAX_UNPACKED_BYTES + 1))
        with pytest.raises(Refused):
            decode_body(bomb)
    nameless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(Refused):
        decode_body(struct.pack("<II", 100, 100) + nameless)


def test_more_than_fits_a_frame_is_refused_by_the_writer() -> None:
    with pytest.raises(Refused) as refused:
        encode_body(one_series([1.0] * (MAX_READINGS + 1)))
    assert refused.value.reason is Reason.TOO_MANY
    noise = np.random.default_rng(1).random(50_000).tolist()
    with pytest.raises(Refused) as refused:
        encode_body(one_series(noise))
    assert refused.value.reason is Reason.TOO_MANY


def test_bytes_behind_the_compressed_body_are_refused() -> None:
    with pytest.raises(Refused):
        decode_frame(stamp(encode_body(one_series([1.0])) + b"x", HEADER))


def test_values_with_one_decimal_take_at_most_two_bytes_a_reading() -> None:
    random = np.random.default_rng(7)
    rows, width = 250, 40
    series = np.tile(np.arange(width, dtype=np.uint32), rows)
    times = 1_760_000_000_000 + np.repeat(np.arange(rows) * 1_000, width) + np.tile(random.integers(0, 50, width), rows)
    dictionary = tuple(("meter", f"m{index // 4}", f"phase_{index % 4}") for index in range(width))
    values = random.integers(0, 3_000, rows * width) / 10  # no two alike: the worst a sensor can do
    frame = encode_frame(HEADER, Columns(dictionary, series, times.astype(np.int64), values))
    assert len(frame) / len(values) <= 2.0
    assert len(frame) <= MAX_BODY_BYTES + HEADER_BYTES


def test_equal_dictionaries_have_equal_keys_and_are_read_once() -> None:
    first, second = (decode_frame(encode_frame(HEADER, one_series(values))).columns for values in ([1.0], [2.0, 3.0]))
    assert first.dictionary_key == second.dictionary_key != b""
    assert first.dictionary is second.dictionary
