import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Reason, Refused
from protocols.thing.datatypes import ArrayType, BoolType, EnumType, FloatType, IntType, StructType, TextType
from protocols.thing.model import parse_thing_model


def tsl() -> dict[str, Any]:
    """A document as the vendor writes it, generated entries included."""
    watts = {"min": "0", "max": "6000", "step": "0.1", "unit": "W"}
    power = {"identifier": "Power", "name": "功率", "accessMode": "r", "required": True, "dataType": {"type": "float", "specs": watts}}
    mode = {"identifier": "Mode", "name": "mode", "accessMode": "rw", "dataType": {"type": "enum", "specs": {"0": "auto", "2": "cool"}}}
    timer = {
        "identifier": "Timer",
        "name": "timer",
        "accessMode": "w",
        "dataType": {"type": "struct", "specs": [{"identifier": "value", "dataType": {"type": "int32", "specs": {"min": "", "max": "9"}}}]},
    }
    light = {"identifier": "Light", "accessMode": "rw", "dataType": {"type": "bool", "specs": {}}}
    curve = {
        "identifier": "Curve",
        "accessMode": "r",
        "dataType": {"type": "array", "specs": {"size": "128", "item": {"type": "float", "specs": {}}}},
    }
    return {
        "schema": "https://example.org/schema.json",
        "link": "/sys/a1/dev/thing/",
        "profile": {"productKey": "a1"},
        "properties": [power, mode, timer, curve],
        "events": [
            {"identifier": "post", "type": "info", "method": "thing.event.property.post", "outputData": [power]},
            {"identifier": "Alarm", "type": "alert", "outputData": [{"identifier": "code", "dataType": {"type": "int", "specs": {}}}]},
        ],
        "services": [
            {"identifier": "set", "callType": "async", "inputData": [mode]},
            {"identifier": "get", "callType": "async", "inputData": ["Power", "Mode"], "outputData": [power]},
            {"identifier": "Blink", "callType": "sync", "inputData": [{"identifier": "times", "dataType": {"type": "int", "specs": {}}}]},
        ],
        "functionBlocks": [{"functionBlockId": "oven", "properties": [light]}],
    }


def test_a_vendor_document_is_understood() -> None:
    model = parse_thing_model(json.dumps(tsl()).encode())
    assert list(model.properties) == ["Power", "Mode", "Timer", "Curve", "oven:Light"]
    power = model.properties["Power"]
    assert (power.data_type, power.required, power.writable, power.name) == (FloatType(0.0, 6000.0, "W", "float"), True, False, "功率")
    assert model.properties["Mode"].data_type == EnumType({0: "auto", 2: "cool"})
    assert model.properties["Timer"].data_type == StructType({"value": IntType(None, 9)})
    assert model.properties["Curve"].data_type == ArrayType(FloatType(kind="float"), 128)
    assert model.product_key == "a1"


def named() -> dict[str, Any]:
    """The same document with names where people look."""
    document = tsl()
    document["properties"][1]["dataType"]["names"] = {"0": {"en": "auto", "zh": "自动"}, "2": {"zh": "制冷"}}
    document["properties"][2]["dataType"]["specs"][0]["names"] = {"en": "Seconds", "zh": "秒数"}
    document["events"][1]["outputData"][0]["names"] = {"en": "Code", "zh": "代码"}
    document["services"][2]["inputData"][0]["names"] = {"en": "Times", "zh": "次数"}
    document["services"][2]["outputData"] = [{"identifier": "done", "names": {"zh": "完成"}, "dataType": {"type": "bool", "specs": {}}}]
    document["functionBlocks"][0]["properties"][0]["dataType"]["names"] = {"1": {"zh": "开"}}
    return document


def test_labels_fields_and_arguments_have_names_by_language() -> None:
    model = parse_thing_model(named())
    assert model.properties["Mode"].data_type == EnumType(
        {0: "auto", 2: "cool"}, names={0: {"en": "auto", "zh": "自动"}, 2: {"zh": "制冷"}}
    )
    assert model.properties["Timer"].data_type == StructType({"value": IntType(None, 9)}, names={"value": {"en": "Seconds", "zh": "秒数"}})
    assert model.properties["oven:Light"].data_type == BoolType(names={1: {"zh": "开"}})
    assert model.events["Alarm"].output_names == {"code": {"en": "Code", "zh": "代码"}}
    blink = model.services["Blink"]
    assert (blink.input_names, blink.output_names) == ({"times": {"en": "Times", "zh": "次数"}}, {"done": {"zh": "完成"}})
    assert parse_thing_model(model.to_dict()) == model


def test_a_document_without_names_has_none_anywhere() -> None:
    model = parse_thing_model(tsl())
    assert [event.output_names for event in model.events.values()] == [{}]
    assert [(service.input_names, service.output_names) for service in model.services.values()] == [({}, {})]


def test_generated_entries_are_not_events_or_services_of_the_product() -> None:
    model = parse_thing_model(tsl())
    assert list(model.events) == ["Alarm"]
    assert list(model.services) == ["Blink"]


def test_a_document_comes_back_as_it_was_extra_keys_included() -> None:
    document = tsl() | {"vendorExtra": {"a": [1, 2]}}
    model = parse_thing_model(document)
    assert model.to_dict() == document
    assert parse_thing_model(model.to_dict()) == model
    document["profile"]["productKey"] = "changed"
    assert parse_thing_model(document) != model


def test_changing_the_document_afterwards_does_not_change_the_model() -> None:
    document = tsl()
    model = parse_thing_model(document)
    document["properties"].clear()
    handed_out = model.to_dict()
    handed_out.clear()
    assert model.to_dict()["properties"] == tsl()["properties"]


def test_an_absent_length_is_the_vendors_maximum() -> None:
    entry = {"identifier": "Note", "dataType": {"type": "text"}}
    assert parse_thing_model({"properties": [entry]}).properties["Note"].data_type == TextType(10_240)


def broken(change: Any) -> str:
    document = tsl()
    change(document)
    with pytest.raises(Refused) as refused:
        parse_thing_model(document)
    assert refused.value.reason is Reason.BAD_THING_MODEL
    return str(refused.value).partition(":")[0]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda d: d.update(properties={}), "$.properties"),
        (lambda d: d["properties"].append(7), "$.properties[4]"),
        (lambda d: d["properties"][0].pop("identifier"), "$.properties[0].identifier"),
        (lambda d: d["properties"][1].update(identifier="Power"), "$.properties[1].identifier"),
        (lambda d: d["properties"][1].update(identifier="a b"), "$.properties[1].identifier"),
        (lambda d: d["properties"][0].update(accessMode="x"), "$.properties[0].accessMode"),
        (lambda d: d["properties"][0].update(dataType=None), "$.properties[0].dataType"),
        (lambda d: d["properties"][0]["dataType"].update(type="quaternion"), "$.properties[0].dataType.type"),
        (lambda d: d["properties"][0]["dataType"]["specs"].update(min="low"), "$.properties[0].dataType.specs.min"),
        (lambda d: d["properties"][0]["dataType"]["specs"].update(max="inf"), "$.properties[0].dataType.specs.max"),
        (lambda d: d["properties"][0]["dataType"]["specs"].update(min="7000"), "$.properties[0].dataType.specs.min"),
        (lambda d: d["properties"][1]["dataType"].update(specs={}), "$.properties[1].dataType.specs"),
        (lambda d: d["properties"][1]["dataType"].update(specs={"a": "b"}), "$.properties[1].dataType.specs.a"),
        (lambda d: d["properties"][1]["dataType"].update(names=[]), "$.properties[1].dataType.names"),
        (lambda d: d["properties"][1]["dataType"].update(names={"1": {"zh": "b"}}), "$.properties[1].dataType.names.1"),
        (lambda d: d["properties"][1]["dataType"].update(names={"x": {"zh": "b"}}), "$.properties[1].dataType.names.x"),
        (lambda d: d["properties"][1]["dataType"].update(names={"0": "auto"}), "$.properties[1].dataType.names.0"),
        (lambda d: d["properties"][1]["dataType"].update(names={"0": {"zh": 7}}), "$.properties[1].dataType.names.0.zh"),
        (lambda d: d["properties"][2]["dataType"]["specs"][0].update(names={"zh": 7}), "$.properties[2].dataType.specs[0].names.zh"),
        (lambda d: d["events"][1]["outputData"][0].update(names={"zh": []}), "$.events[1].outputData[0].names.zh"),
        (lambda d: d["services"][2]["inputData"][0].update(names="x"), "$.services[2].inputData[0].names"),
        (
            lambda d: d["properties"][2]["dataType"]["specs"][0]["dataType"].update(type="struct"),
            "$.properties[2].dataType.specs[0].dataType.type",
        ),
        (lambda d: d["properties"][3]["dataType"]["specs"].update(size="0"), "$.properties[3].dataType.specs.size"),
        (lambda d: d["properties"][3]["dataType"]["specs"].pop("item"), "$.properties[3].dataType.specs.item"),
        (lambda d: d["events"][1].update(identifier="property"), "$.events[1].identifier"),
        (lambda d: d["events"][1]["outputData"][0].pop("dataType"), "$.events[1].outputData[0].dataType"),
        (lambda d: d["services"][2].update(callType="later"), "$.services[2].callType"),
        (lambda d: d["functionBlocks"][0].pop("functionBlockId"), "$.functionBlocks[0].functionBlockId"),
        (lambda d: d.update(profile=[]), "$.profile"),
    ],
)
def test_a_refusal_names_the_path_of_what_is_wrong(change: Any, path: str) -> None:
    assert broken(change) == path


def test_the_same_function_block_twice_is_refused() -> None:
    assert broken(lambda d: d["functionBlocks"].append(d["functionBlocks"][0])) == "$.functionBlocks[1].functionBlockId"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'"x"', b"\xff", b'{"properties":[{"identifier":' + b"[" * 100_000])
@pytest.mark.refusal(Reason.BAD_THING_MODEL)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_thing_model(data)
    assert refused.value.reason is Reason.BAD_THING_MODEL


words = st.sampled_from(["identifier", "dataType", "type", "specs", "item", "int", "struct", "array", "enum", "Power", "min", "1"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


def parse_or_refuse(document: dict[str, Any]) -> None:
    """Anything but a model or a refusal of the right kind goes up."""
    try:
        parse_thing_model(document)
    except Refused as refused:
        if refused.reason is not Reason.BAD_THING_MODEL:
            raise


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("profile", "properties", "events", "services", "functionBlocks"), documents)))
def test_any_document_is_a_model_or_refused(document: dict[str, object]) -> None:
    parse_or_refuse(document)


@given(st.lists(st.sampled_from(range(4)), max_size=6), st.sampled_from(["properties", "events", "services"]), documents, st.data())
def test_a_good_document_with_one_place_changed_is_a_model_or_refused(
    path: list[int], key: str, replacement: object, data: st.DataObject
) -> None:
    document = tsl()
    place: Any = document[key]
    for _ in path:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            break
        chosen = data.draw(st.sampled_from(keys))
        if not isinstance(place[chosen], dict | list):
            place[chosen] = replacement
            break
        place = place[chosen]
    parse_or_refuse(document)


@pytest.mark.refusal(Reason.NOT_WRITABLE)
def test_a_property_set_is_checked_by_identifier() -> None:
    model = parse_thing_model(tsl())
    assert model.coerce_set({"Mode": 2.0, "oven:Light": True}) == {"Mode": 2, "oven:Light": 1}
    for params, reason in (
        ({"Nope": 1}, Reason.UNKNOWN_IDENTIFIER),
        ({"Power": 1}, Reason.NOT_WRITABLE),
        ({"Mode": 1}, Reason.OUT_OF_RANGE),
    ):
        with pytest.raises(Refused, match=next(iter(params))) as refused:
            model.coerce_set(params)
        assert refused.value.reason is reason
