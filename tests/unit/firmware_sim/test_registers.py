"""Rows as registers."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.row_log import Row
from firmware_sim.wire.registers import Point, RegisterBank, lay_out, parse_place
from protocols.errors import Refused


def test_counter_and_time_come_first_and_columns_follow_unless_placed() -> None:
    points = lay_out([("Usage_kWh", "float32"), ("NSM", "float32"), ("Load", "uint16")], dict([parse_place("Usage_kWh=input:72")]))
    assert [(point.name, point.table, point.address, point.type, point.identifier) for point in points] == [
        ("counter", "holding", 0, "uint32", None),
        ("time_ms", "holding", 2, "uint64", None),
        ("Usage_kWh", "input", 72, "float32", "Usage_kWh"),
        ("NSM", "holding", 6, "float32", "NSM"),
        ("Load", "holding", 8, "uint16", "Load"),
    ]
    assert points[2].to_map() == {"name": "Usage_kWh", "property": "Usage_kWh", "table": "input", "address": 72, "type": "float32"}


@pytest.mark.parametrize("place", ["Usage_kWh", "Usage_kWh=coil:1", "Usage_kWh=input:x", "Usage_kWh=input:1:text"])
def test_a_place_that_cannot_be_read_is_refused(place: str) -> None:
    with pytest.raises(Refused, match="NAME=holding"):
        parse_place(place)


@pytest.mark.parametrize("place", ["a=holding:3", "a=input:65535", "nobody=input:1"])
def test_an_overlap_an_end_of_table_and_an_unknown_name_are_refused(place: str) -> None:
    with pytest.raises(Refused):
        lay_out([("a", "float32")], dict([parse_place(place)]))


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**63), st.floats(width=32, allow_nan=False))
def test_what_is_read_is_what_was_shown_high_word_first(n: int, time_ms: int, value: float) -> None:
    bank = RegisterBank(lay_out([("a", "float32")], {}))
    bank.show(bank.words_of(Row(n, time_ms, {"a": value})))
    words = struct.pack(">8H", *bank.read("holding", 0, 8))
    assert struct.unpack(">IQf", words) == (n, time_ms, value)


def test_a_missing_value_is_nan_and_unused_registers_are_zero() -> None:
    bank = RegisterBank(lay_out([("a", "float32")], dict([parse_place("a=input:4")])))
    bank.show(bank.words_of(Row(1, 2, {})))
    assert bank.read("input", 3, 3) == [0, 0x7FC0, 0]
    assert bank.covers_counter("holding", 0, 8)
    assert not bank.covers_counter("input", 0, 8)
    assert not bank.covers_counter("holding", 2, 4)


def test_a_value_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="speed: 70000 does not fit uint16"):
        Point("speed", "holding", 0, "uint16", "speed").pack(70000)
    with pytest.raises(Refused, match="speed has no value"):
        Point("speed", "holding", 0, "uint16", "speed").pack(None)
