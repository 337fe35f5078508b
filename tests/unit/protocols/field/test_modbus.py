"""Registers and values, both ways, and points grouped into reads a device accepts."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Reason, Refused
from protocols.field.modbus import NumberType, Point, Table, WordOrder, decode_number, encode_number, group
from tests.fuzzing import fuzz, thorough

RANGES = {
    NumberType.BOOL: st.integers(0, 1),
    NumberType.UINT16: st.integers(0, 2**16 - 1),
    NumberType.INT16: st.integers(-(2**15), 2**15 - 1),
    NumberType.UINT32: st.integers(0, 2**32 - 1),
    NumberType.INT32: st.integers(-(2**31), 2**31 - 1),
    NumberType.UINT64: st.integers(0, 2**64 - 1),
    NumberType.INT64: st.integers(-(2**63), 2**63 - 1),
    NumberType.FLOAT32: st.floats(allow_nan=False, allow_infinity=False, width=32),
    NumberType.FLOAT64: st.floats(allow_nan=False, allow_infinity=False),
}
typed = st.sampled_from(NumberType).flatmap(lambda kind: st.tuples(st.just(kind), RANGES[kind]))
registers = st.integers(0, 65_535)


@thorough
@given(typed, st.sampled_from(WordOrder))
def test_a_number_comes_back_from_its_registers(number: tuple[NumberType, int | float], order: WordOrder) -> None:
    kind, value = number
    words = encode_number(value, kind, order)
    assert len(words) == kind.registers
    assert all(0 <= word <= 65_535 for word in words)
    back = decode_number(words, kind, order)
    assert back == value
    assert math.copysign(1, back) == math.copysign(1, value)
    assert isinstance(back, float) == kind.is_float


@fuzz
@given(st.sampled_from(NumberType), st.sampled_from(WordOrder), st.lists(registers, max_size=5))
def test_any_registers_end_in_a_finite_number_or_refused(kind: NumberType, order: WordOrder, words: list[int]) -> None:
    try:
        assert math.isfinite(decode_number(words, kind, order))
    except Refused as refused:
        reason = refused.reason
    else:
        reason = Reason.BAD_REGISTER
    assert reason is Reason.BAD_REGISTER


@fuzz
@given(st.sampled_from(NumberType), st.integers(-(2**70), 2**70) | st.floats())
def test_any_number_ends_in_registers_or_refused(kind: NumberType, number: int | float) -> None:
    try:
        words = encode_number(number, kind)
    except Refused:
        return
    back = decode_number(words, kind)
    assert back == number or kind is NumberType.FLOAT32 or abs(number) > 2**53


def test_words_stand_as_the_meter_manual_says() -> None:
    assert decode_number([0x4366, 0x3334], NumberType.FLOAT32) == struct.unpack(">f", bytes.fromhex("43663334"))[0]
    assert decode_number([0x3334, 0x4366], NumberType.FLOAT32, WordOrder.LITTLE) == decode_number([0x4366, 0x3334], NumberType.FLOAT32)
    assert decode_number([0xFFFF, 0xFFFE], NumberType.INT32) == -2
    assert decode_number([1, 2, 3, 4], NumberType.UINT64) == 0x0001_0002_0003_0004


@pytest.mark.parametrize("words", [[0x7FC0, 0], [0x7F80, 0], [0xFF80, 0], [70_000, 0], [-1, 0], [0]])
def test_registers_that_are_no_measurement_are_refused(words: list[int]) -> None:
    with pytest.raises(Refused):
        decode_number(words, NumberType.FLOAT32)


@thorough
@given(st.sampled_from([0.1, 0.01, 0.001, 10.0, 0.5, 1.0]), st.integers(-(2**15), 2**15 - 1))
def test_a_scaled_register_is_the_decimal_that_was_meant_and_goes_back(scale: float, raw: int) -> None:
    point = Point(Table.HOLDING, 0, NumberType.INT16, scale=scale)
    value = point.decode(encode_number(raw, NumberType.INT16))
    if scale == 0.1:
        assert value == float(f"{raw}e-1")
    assert point.encode(value) == encode_number(raw, NumberType.INT16)


def test_a_value_the_register_cannot_hold_is_refused() -> None:
    point = Point(Table.HOLDING, 0, NumberType.UINT16, scale=0.1)
    assert point.encode(12.3) == [123]
    for value in (-0.1, 6553.6, math.nan, math.inf):
        with pytest.raises(Refused) as refused:
            point.encode(value)
        assert refused.value.reason is Reason.OUT_OF_RANGE
    with pytest.raises(Refused):
        Point(Table.HOLDING, 0, NumberType.FLOAT64, scale=5e-324).encode(1e10)


@pytest.mark.parametrize(
    ("table", "address", "kind", "scale"),
    [
        (Table.COIL, 0, NumberType.UINT16, 1.0),
        (Table.HOLDING, -1, NumberType.UINT16, 1.0),
        (Table.HOLDING, 65_535, NumberType.UINT32, 1.0),
        (Table.HOLDING, 0, NumberType.UINT16, 0.0),
        (Table.HOLDING, 0, NumberType.UINT16, math.nan),
    ],
)
@pytest.mark.refusal(Reason.BAD_REGISTER)
def test_a_point_that_cannot_be_is_refused(table: Table, address: int, kind: NumberType, scale: float) -> None:
    with pytest.raises(Refused) as refused:
        Point(table, address, kind, scale=scale)
    assert refused.value.reason is Reason.BAD_REGISTER


@st.composite
def points(draw: st.DrawFn) -> Point:
    table = draw(st.sampled_from(Table))
    kind = NumberType.BOOL if table.is_bits else draw(st.sampled_from(NumberType))
    return Point(table, draw(st.integers(0, 400) | st.integers(65_000, 65_536 - kind.registers)), kind)


@given(st.lists(points(), max_size=40), st.integers(0, 30))
def test_every_point_is_read_once_and_whole_in_reads_a_device_accepts(wanted: list[Point], max_gap: int) -> None:
    blocks = group(wanted, max_gap=max_gap)
    assert sorted(index for block in blocks for index in block.points) == list(range(len(wanted)))
    for block in blocks:
        assert 1 <= block.count <= block.table.most_per_read
        used = set()
        for index in block.points:
            point = wanted[index]
            assert point.table is block.table
            assert block.start <= point.address
            assert point.address + point.size <= block.start + block.count
            used |= set(range(point.address, point.address + point.size))
        unused = [address not in used for address in range(block.start, block.start + block.count)]
        assert max((len(run) for run in "".join("x" if gap else " " for gap in unused).split()), default=0) <= max_gap


def test_neighbours_share_a_read_and_a_short_answer_is_refused() -> None:
    wanted = [
        Point(Table.INPUT, 72, NumberType.FLOAT32),
        Point(Table.INPUT, 0, NumberType.FLOAT32),
        Point(Table.INPUT, 76, NumberType.FLOAT32),
        Point(Table.HOLDING, 74, NumberType.UINT16),
    ]
    blocks = group(wanted, max_gap=2)
    assert [(block.table, block.start, block.count, block.points) for block in blocks] == [
        (Table.HOLDING, 74, 1, (3,)),
        (Table.INPUT, 0, 2, (1,)),
        (Table.INPUT, 72, 6, (0, 2)),
    ]
    assert list(blocks[2].words(wanted[2], [1, 2, 3, 4, 5, 6])) == [5, 6]
    with pytest.raises(Refused):
        blocks[2].words(wanted[2], [1, 2, 3, 4, 5])


def test_a_read_never_exceeds_125_registers() -> None:
    blocks = group([Point(Table.HOLDING, address, NumberType.UINT16) for address in range(300)])
    assert [(block.start, block.count) for block in blocks] == [(0, 125), (125, 125), (250, 50)]
