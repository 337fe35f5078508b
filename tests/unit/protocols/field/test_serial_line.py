"""The serial line's frames: whatever is sent comes back, in any pieces, and noise costs what it hit."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from protocols.errors import Refused
from protocols.field.serial_line import Kind, SerialDecoder, SerialFrame, TagType, decode_value, encode_serial, encode_value
from tests.fuzzing import fuzz, thorough

FRAMES = st.builds(
    SerialFrame,
    st.sampled_from(list(Kind)),
    st.integers(0, 2**32 - 1),
    st.dictionaries(st.integers(0, 255), st.binary(max_size=40), max_size=12),
)


@given(st.lists(FRAMES, max_size=6), st.data())
def test_frames_come_back_in_order_in_any_pieces(frames: list[SerialFrame], data: st.DataObject) -> None:
    line = b"".join(map(encode_serial, frames))
    decoder, found, at = SerialDecoder(), [], 0
    while at < len(line):
        size = data.draw(st.integers(1, len(line) - at))
        found += decoder.feed(line[at : at + size])
        at += size
    assert found == frames
    assert decoder.damaged == 0


@fuzz
@given(st.binary(max_size=3_000))
def test_any_bytes_end_in_frames_or_are_counted_and_the_next_frame_is_read(noise: bytes) -> None:
    decoder = SerialDecoder()
    decoder.feed(noise)
    after = SerialFrame(Kind.ROW, 7, {1: b"x"})
    assert decoder.feed(encode_serial(after))[-1:] == [after]


@thorough
@given(FRAMES, st.data())
def test_a_flipped_bit_is_never_taken_for_another_frame(frame: SerialFrame, data: st.DataObject) -> None:
    line = bytearray(encode_serial(frame))
    bit = data.draw(st.integers(0, 8 * len(line) - 1))
    line[bit // 8] ^= 1 << bit % 8
    decoder = SerialDecoder()
    found = decoder.feed(bytes(line) + bytes((0x7E,)))
    assert found in ([], [frame])


@given(st.sampled_from(list(TagType)), st.floats(allow_nan=False) | st.integers(-(2**65), 2**65))
def test_a_number_comes_back_or_is_refused(kind: TagType, value: float) -> None:
    try:
        data = encode_value(kind, value)
    except Refused:
        return
    back = decode_value(kind, data)
    if kind is TagType.FLOAT32:
        assert back == pytest.approx(value, rel=1e-6, abs=1e-44)
    elif kind is TagType.FLOAT64:
        assert back == float(value)
    else:
        assert back == value


def test_what_does_not_fit_is_refused_and_says_so() -> None:
    with pytest.raises(Refused, match="at most 255"):
        encode_serial(SerialFrame(Kind.ROW, 1, {1: b"x" * 256}))
    with pytest.raises(Refused, match="at most 1024"):
        encode_serial(SerialFrame(Kind.ROW, 1, dict.fromkeys(range(6), b"x" * 200)))
    with pytest.raises(Refused, match="no whole number"):
        encode_value(TagType.UINT8, 1.5)
    with pytest.raises(Refused, match="2 bytes, uint32 has 4"):
        decode_value(TagType.UINT32, b"ab")
