"""Raw tables: what is told down comes back up, any bytes are read or refused by name, and a wrong table says where."""

import json
import struct
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from protocols.alink.raw import read_raw
from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel, parse_thing_model
from protocols.thing.raw_bytes import decode, encode

NUMBERS = {"min": "-100000", "max": "100000"}


def number(identifier: str, kind: str = "double") -> dict[str, Any]:
    return {"identifier": identifier, "name": identifier, "accessMode": "rw", "dataType": {"type": kind, "specs": NUMBERS}}


PROPERTIES: list[dict[str, Any]] = [
    number("temperature"),
    number("level", "int"),
    {"identifier": "on", "name": "on", "accessMode": "rw", "dataType": {"type": "bool", "specs": {}}},
    {"identifier": "mode", "name": "mode", "accessMode": "rw", "dataType": {"type": "enum", "specs": {"5": "eco", "7": "fast"}}},
    {"identifier": "label", "name": "label", "accessMode": "rw", "dataType": {"type": "text", "specs": {"length": "8"}}},
    {"identifier": "serial", "name": "serial", "accessMode": "r", "dataType": {"type": "text", "specs": {"length": "64"}}},
]
ALARM = {
    "identifier": "alarm",
    "name": "alarm",
    "type": "alert",
    "outputData": [{"identifier": "zone", "name": "zone", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}}],
}
FIELDS: list[dict[str, Any]] = [
    {"identifier": "temperature", "offset": 5, "type": "i16", "scale": 0.1, "base": -40},
    {"identifier": "level", "offset": 7, "type": "u8"},
    {"identifier": "on", "offset": 8, "type": "bit", "bit": 3},
    {"identifier": "mode", "offset": 9, "type": "u8", "values": {"0": 5, "1": 7}},
    {"identifier": "label", "offset": 10, "type": "text", "length": 8},
]
CRC = {"type": "crc16-modbus"}
TABLE: dict[str, Any] = {
    "byteOrder": "little",
    "up": [
        {"kind": "post", "match": [{"hex": "01"}], "length": 20, "fields": FIELDS, "checksum": CRC, "answer": "0100"},
        {"kind": "event", "event": "alarm", "match": [{"hex": "02"}], "fields": [{"identifier": "zone", "offset": 1, "type": "u8"}]},
        {
            "kind": "reply",
            "match": [{"hex": "03"}],
            "id": {"offset": 1},
            "code": {"offset": 5, "type": "u8", "values": {"0": 200, "1": 100001}},
            "checksum": {"type": "xor8"},
        },
        {
            "kind": "post",
            "match": [{"hex": "04"}, {"hex": "ff", "offset": 1}],
            "fields": [{"identifier": "serial", "offset": 2, "type": "bytes"}],
        },
    ],
    "down": [
        {"prefix": "01", "fields": FIELDS, "id": {"offset": 1}, "checksum": CRC},
        {"prefix": "05", "fields": [{"identifier": "level", "offset": 1, "type": "u8"}], "checksum": {"type": "sum8"}},
    ],
}


def model(table: Any = TABLE) -> ThingModel:
    return parse_thing_model({"properties": PROPERTIES, "events": [ALARM], "services": [], "rawTable": table})


MODEL = model()
assert MODEL.raw_table is not None
RAW = MODEL.raw_table


@given(
    st.integers(-(2**15), 2**15 - 1),
    st.integers(0, 255),
    st.integers(0, 1),
    st.sampled_from([5, 7]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).filter(lambda text: len(text.encode()) <= 8),
    st.integers(0, 2**32 - 1),
)
def test_what_is_told_down_reads_back_as_it_was(raw: int, level: int, on: int, mode: int, label: str, command_id: int) -> None:
    values = {"temperature": round(raw * 0.1 - 40, 1), "level": level, "on": on, "mode": mode, "label": label}
    data = encode(RAW, values, command_id)
    assert (len(data), struct.unpack_from("<I", data, 1)) == (20, (command_id,))
    found = decode(RAW, data)
    assert (found.values, found.answer) == (values, b"\x01\x00")


@given(st.binary(max_size=40) | st.binary(min_size=1, max_size=40).map(lambda data: bytes([data[0] % 6]) + data[1:]))
def test_any_bytes_are_read_or_refused_by_name(data: bytes) -> None:
    try:
        found = read_raw(MODEL, data)
    except Refused as error:
        reason = error.reason
    else:
        reason = Reason.BAD_RAW
        assert found.values or found.event or found.reply or found.refused
    assert reason is Reason.BAD_RAW


@given(
    st.sampled_from(["u8", "u16", "u32", "i8", "i16", "i32"]),
    st.sampled_from(["big", "little"]),
    st.floats(1e-6, 1e6),
    st.floats(-1e6, 1e6),
    st.data(),
)
def test_a_scaled_number_comes_back_to_its_bytes(kind: str, order: str, scale: float, base: float, data: st.DataObject) -> None:
    field = {"identifier": "temperature", "offset": 0, "type": kind, "scale": scale, "base": base}
    table = model({"byteOrder": order, "up": [{"kind": "post", "fields": [field]}], "down": [{"fields": [field]}]}).raw_table
    assert table is not None
    size = {"8": 1, "6": 2, "2": 4}[kind[-1]]
    raw = data.draw(st.binary(min_size=size, max_size=size))
    assert len(encode(table, decode(table, raw).values, 1)) == size
    if scale >= 1e-3 and abs(base) <= 1e3:  # a double holds the value finely enough
        assert encode(table, decode(table, raw).values, 1) == raw


def test_an_event_and_a_reply_are_told_apart_and_the_command_is_named() -> None:
    event = read_raw(MODEL, bytes([2, 4])).event
    assert event is not None
    assert (event.identifier, event.output) == ("alarm", {"zone": 4})
    body = b"\x03" + struct.pack("<I", 77) + b"\x00"
    done = read_raw(MODEL, body + bytes([0x03 ^ 77])).reply
    assert done is not None
    assert (done.id, done.code) == ("77", 200)
    body = b"\x03" + struct.pack("<I", 77) + b"\x01"
    failed = read_raw(MODEL, body + bytes([0x03 ^ 77 ^ 1])).reply
    assert failed is not None
    assert failed.code == 100001
    assert read_raw(MODEL, b"\x04\xffabc").values == {"serial": "616263"}


def test_a_value_beyond_its_data_type_is_refused_alone() -> None:
    event = read_raw(MODEL, bytes([2, 10])).event
    assert event is not None
    assert event.output == {}
    assert {name: error.reason for name, error in event.refused.items()} == {"zone": Reason.OUT_OF_RANGE}


@pytest.mark.refusal(Reason.BAD_RAW)
@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("09", "no message of the table"),
        ("02", "zone ends at byte 2 of 1"),
        ("034d0000000000", "checksum is 00"),
        ("01" + "00" * 19, "checksum"),
    ],
)
def test_bytes_that_do_not_fit_name_the_field(data: str, named: str) -> None:
    with pytest.raises(Refused, match=named) as refused:
        read_raw(MODEL, bytes.fromhex(data))
    assert refused.value.reason is Reason.BAD_RAW


@pytest.mark.refusal(Reason.BAD_RAW)
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"level": 256}, "level: 256 does not fit into u8"),
        ({"on": 1}, "no message that sets on; it sets: temperature, level, on, mode, label; level"),
        ({"temperature": 1e9, "level": 1, "on": 1, "mode": 5, "label": ""}, "temperature"),
        ({"temperature": 1.0, "level": 1, "on": 1, "mode": 6, "label": ""}, "mode: '6' is not named"),
        ({"temperature": 1.0, "level": 1, "on": 1, "mode": 5, "label": "äöüäö"}, "label: 10 bytes"),
    ],
)
def test_what_cannot_be_told_in_bytes_names_the_field(values: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named) as refused:
        encode(RAW, values, 1)
    assert refused.value.reason is Reason.BAD_RAW


@pytest.mark.refusal(Reason.NO_RAW_TABLE)
def test_without_a_table_nothing_is_read() -> None:
    with pytest.raises(Refused, match="give it one") as refused:
        read_raw(parse_thing_model({"properties": PROPERTIES}), b"\x01")
    assert refused.value.reason is Reason.NO_RAW_TABLE


def _up(identifier: str, offset: int = 0, kind: str = "u8", **more: Any) -> dict[str, Any]:
    return {"up": [{"kind": "post", "fields": [{"identifier": identifier, "offset": offset, "type": kind, **more}]}]}


def _down(**more: Any) -> dict[str, Any]:
    return {"down": [{"fields": [{"identifier": "level", "offset": 1, "type": "u8"}], **more}]}


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ([], "$.rawTable: "),
        ({"byteOrder": "middle"}, "$.rawTable.byteOrder"),
        (
            _up("nope"),
            "$.rawTable.up[0].fields[0].identifier",
        ),
        (_up("level", -1), "$.rawTable.up[0].fields[0].offset"),
        ({"up": [{"kind": "post", "script": "eval"}]}, "$.rawTable.up[0]"),
        ({"up": [{"kind": "event", "event": "nope"}]}, "$.rawTable.up[0].event"),
        ({"up": [{"kind": "post", "match": [{"hex": "0"}]}]}, "$.rawTable.up[0].match[0].hex"),
        ({"up": [{"kind": "reply"}]}, "$.rawTable.up[0].id"),
        ({"up": [{"kind": "reply", "id": {"offset": 0, "type": "u8"}}]}, "$.rawTable.up[0].id"),
        ({"up": [{"kind": "post", "id": {"offset": 0}}]}, "$.rawTable.up[0].id"),
        (
            {"up": [{"kind": "reply", "id": {"offset": 0}, "fields": [{"identifier": "mode", "offset": 4, "type": "u8"}]}]},
            "$.rawTable.up[0].fields",
        ),
        (
            {"down": [{"fields": [{"identifier": "serial", "offset": 0, "type": "bytes", "length": 2}]}]},
            "$.rawTable.down[0].fields[0].identifier",
        ),
        ({"down": [{"fields": [{"identifier": "label", "offset": 0, "type": "text"}]}]}, "$.rawTable.down[0].fields"),
        (_down(prefix="0102"), "$.rawTable.down[0]"),
        (_down(id={"offset": 0}), "$.rawTable.down[0]"),
        (_down(length=1), "$.rawTable.down[0].length"),
        (_down(checksum={"type": "sum8", "offset": 1}), "$.rawTable.down[0]"),
        ({"down": _down()["down"] * 2}, "$.rawTable.down[1].fields"),
        (
            _up("mode", values={"0": 5, "1": 5}),
            "$.rawTable.up[0].fields[0].values",
        ),
        (
            _up("mode", values={"x": 5}),
            "$.rawTable.up[0].fields[0].values.x",
        ),
        (
            _up("level", scale=0),
            "$.rawTable.up[0].fields[0].scale",
        ),
        (
            _up("temperature", kind="f32", scale=2),
            "$.rawTable.up[0].fields[0].scale",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_its_path(table: Any, path: str) -> None:
    with pytest.raises(Refused) as refused:
        model(table)
    assert refused.value.reason is Reason.BAD_THING_MODEL
    assert str(refused.value).startswith(path), str(refused.value)


def test_the_table_is_kept_with_the_thing_model() -> None:
    assert MODEL.to_dict()["rawTable"] == TABLE
    assert parse_thing_model(MODEL.to_dict()) == MODEL


def test_the_example_of_the_reference_page_reads_as_it_says() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reference" / "raw-tables.md").read_text(encoding="utf-8")
    table = json.loads(page.partition("```json\n")[2].partition("```")[0])
    event = {**ALARM, "identifier": "overheated"}
    described = parse_thing_model({"properties": PROPERTIES, "events": [event], "rawTable": table})
    assert described.raw_table is not None
    assert "`0100d70108a9ae`" in page
    assert "`100000004d015e`" in page
    post = read_raw(described, bytes.fromhex("0100d70108a9ae"))
    assert (post.values, post.answer) == ({"temperature": 21.5, "mode": 7, "on": 1}, bytes.fromhex("8100"))
    assert encode(described.raw_table, {"mode": 7}, 77).hex() == "100000004d015e"
    done = read_raw(described, bytes.fromhex("030000004d00")).reply
    assert done is not None
    assert (done.id, done.code) == ("77", 200)
