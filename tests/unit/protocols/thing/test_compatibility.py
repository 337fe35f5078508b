import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.thing import library
from protocols.thing.compatibility import Breaks, Change, Kind, breaking, compare
from protocols.thing.datatypes import DataType, FloatType, IntType
from protocols.thing.model import ThingModel, parse_thing_model
from protocols.thing.narrowing import refused_example
from protocols.thing.slots import TypeConflict, data_types, type_conflicts
from tests.unit.protocols.thing.data_types import data_types as any_type
from tests.unit.protocols.thing.data_types import documents, values_of, written


def property_model(data_type: DataType, mode: str = "r") -> ThingModel:
    return parse_thing_model({"properties": [{"identifier": "P", "accessMode": mode, "dataType": written(data_type)}]})


@given(any_type, st.data())
def test_a_type_takes_what_it_took_unless_the_report_says_that_devices_break(old: DataType, data: st.DataObject) -> None:
    new = data.draw(any_type | st.just(old))
    changes = compare(property_model(old), property_model(new))
    if any(Breaks.DEVICES in change.breaks for change in changes):
        found = refused_example(old, new)
        assert found is not None
        old.coerce(found[0])
        with pytest.raises(Refused):
            new.coerce(found[0])
    else:
        assert refused_example(old, new) is None
        value = data.draw(values_of(old))
        old.coerce(value)
        new.coerce(value)


@given(documents)
def test_a_model_compared_with_itself_has_no_changes(document: dict[str, Any]) -> None:
    model = parse_thing_model(document)
    assert compare(model, parse_thing_model(copy.deepcopy(document))) == ()
    assert type_conflicts([(1, model)], model) == []


def grown(document: dict[str, Any], other: dict[str, Any], mode: str) -> dict[str, Any]:
    """The document with what only `other` has, and every number unbounded: a change that mostly breaks nobody."""
    after = copy.deepcopy(document)
    for group in ("properties", "events", "services"):
        known = {entry["identifier"] for entry in after[group]}
        after[group] += [entry for entry in other[group] if entry["identifier"] not in known]
        for entry in after[group]:
            entry["accessMode"] = mode
            specs = entry.get("dataType", {}).get("specs")
            if isinstance(specs, dict) and "min" in specs:
                specs["min"] = specs["max"] = ""
    return after


@given(documents, documents, documents)
def test_two_steps_that_break_nobody_break_nobody_together(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    second, third = grown(one, two, "r"), grown(grown(one, two, "r"), three, "rw")
    models = [parse_thing_model(document) for document in (one, second, third)]
    assume(not breaking(compare(models[0], models[1])) and not breaking(compare(models[1], models[2])))
    assert breaking(compare(models[0], models[2])) == ()


@given(st.lists(any_type, min_size=3, max_size=12))
def test_types_that_narrow_in_no_step_do_not_narrow_in_all(types: list[DataType]) -> None:
    wider = {(a, b) for a in range(len(types)) for b in range(len(types)) if refused_example(types[a], types[b]) is None}
    assert all((a, d) in wider for a, b in wider for c, d in wider if b == c)


@given(documents, documents)
def test_what_is_added_one_way_is_removed_the_other_way(one: dict[str, Any], two: dict[str, Any]) -> None:
    forth, back = (compare(parse_thing_model(a), parse_thing_model(b)) for a, b in ((one, two), (two, one)))
    assert {c.path for c in forth if c.kind is Kind.ADDED} == {c.path for c in back if c.kind is Kind.REMOVED}
    assert all(change.en.endswith(".") and change.zh.endswith("。") for change in (*forth, *back))
    assert all(not change.breaks for change in forth if change.kind in (Kind.ADDED, Kind.WIDENED, Kind.RENAMED))


@given(documents, documents)
def test_a_type_conflict_is_a_type_change_of_the_report(one: dict[str, Any], two: dict[str, Any]) -> None:
    old, new = parse_thing_model(one), parse_thing_model(two)
    changed = {change.path for change in compare(old, new) if change.kind is Kind.TYPE_CHANGED}
    conflicts = {conflict.path for conflict in type_conflicts([(1, old)], new)}
    assert conflicts == {path for path in changed if path in data_types(old)}
    assert changed == conflicts


def typed(identifier: str, kind: str, specs: object, **more: object) -> dict[str, object]:
    return {"identifier": identifier, "dataType": {"type": kind, "specs": specs}, **more}


STOVE = {
    "properties": [
        typed("Power", "int", {"min": "0", "max": "3000", "unit": "W"}, name="Power", accessMode="rw"),
        typed("Mode", "enum", {"0": "auto", "1": "boil"}, accessMode="rw"),
        typed("Place", "struct", [typed("x", "int", {})]),
        typed("Curve", "array", {"size": "8", "item": {"type": "text", "specs": {"length": "8"}}}),
    ],
    "events": [{"identifier": "Alarm", "type": "info", "outputData": [typed("code", "int", {})]}],
    "services": [
        {
            "identifier": "Start",
            "callType": "async",
            "inputData": [typed("minutes", "int", {"max": "60"})],
            "outputData": [typed("ok", "bool", {})],
        }
    ],
}

ALL, READERS, DEVICES = tuple(Breaks), (Breaks.APPLICATIONS, Breaks.RULES), (Breaks.DEVICES,)
REMOVE = object()


def changed(path: str, value: object) -> tuple[Change, ...]:
    """What the report says when one place of the stove's document is set to `value`, or removed."""
    document: Any = copy.deepcopy(STOVE)
    *way, name = path.split("/")
    entry = document
    for step in way:
        entry = entry[int(step) if isinstance(entry, list) else step]
    last = int(name) if isinstance(entry, list) else name
    if value is REMOVE:
        del entry[last]
    elif isinstance(entry, list) and last == len(entry):
        entry.append(value)
    else:
        entry[last] = value
    return compare(parse_thing_model(STOVE), parse_thing_model(document))


@pytest.mark.parametrize(
    ("path", "value", "kind", "at", "breaks"),
    [
        ("properties/0", REMOVE, Kind.REMOVED, "properties.Power", ALL),
        ("properties/0/dataType", {"type": "float", "specs": {}}, Kind.TYPE_CHANGED, "properties.Power.dataType", READERS),
        ("properties/0/dataType", {"type": "bool", "specs": {}}, Kind.TYPE_CHANGED, "properties.Power.dataType", ALL),
        ("properties/0/dataType/specs/max", "2000", Kind.NARROWED, "properties.Power.dataType", ALL),
        ("properties/0/dataType/specs/max", "9000", Kind.WIDENED, "properties.Power.dataType", ()),
        ("properties/0/dataType/specs/unit", "kW", Kind.UNIT_CHANGED, "properties.Power.dataType.unit", READERS),
        ("properties/0/accessMode", "r", Kind.ACCESS_REDUCED, "properties.Power.accessMode", READERS),
        ("properties/2/accessMode", "rw", Kind.ACCESS_EXTENDED, "properties.Place.accessMode", ()),
        ("properties/0/required", True, Kind.NOW_REQUIRED, "properties.Power.required", ()),
        ("properties/0/name", "Heat", Kind.RENAMED, "properties.Power.name", ()),
        ("properties/1/dataType/specs/1", REMOVE, Kind.NARROWED, "properties.Mode.dataType", ALL),
        ("properties/1/dataType/specs/2", "fry", Kind.WIDENED, "properties.Mode.dataType", ()),
        ("properties/1/dataType/specs/1", "cook", Kind.RENAMED, "properties.Mode.dataType.specs", ()),
        ("properties/2/dataType/specs/0", REMOVE, Kind.REMOVED, "properties.Place.dataType.x", ALL),
        ("properties/2/dataType/specs/1", {"identifier": "y", "dataType": {"type": "date"}}, Kind.ADDED, "properties.Place.dataType.y", ()),
        ("properties/3/dataType/specs/size", "4", Kind.NARROWED, "properties.Curve.dataType.size", DEVICES),
        ("properties/3/dataType/specs/size", "9", Kind.WIDENED, "properties.Curve.dataType.size", ()),
        ("properties/3/dataType/specs/item/specs/length", "4", Kind.NARROWED, "properties.Curve.dataType.item", DEVICES),
        ("events/0", REMOVE, Kind.REMOVED, "events.Alarm", ALL),
        ("events/0/outputData/0", REMOVE, Kind.REMOVED, "events.Alarm.outputData.code", ALL),
        ("events/0/type", "error", Kind.LEVEL_CHANGED, "events.Alarm.type", ()),
        ("services/0", REMOVE, Kind.REMOVED, "services.Start", READERS),
        ("services/0/callType", "sync", Kind.CALL_TYPE_CHANGED, "services.Start.callType", ALL),
        ("services/0/inputData/0", REMOVE, Kind.REMOVED, "services.Start.inputData.minutes", READERS),
        ("services/0/inputData/0/dataType/specs/max", "30", Kind.NARROWED, "services.Start.inputData.minutes", READERS),
        ("services/0/inputData/0/required", True, Kind.NOW_REQUIRED, "services.Start.inputData.minutes.required", READERS),
        ("services/0/inputData/1", {"identifier": "level", "dataType": {"type": "date"}}, Kind.ADDED, "services.Start.inputData.level", ()),
        ("services/0/outputData/0", REMOVE, Kind.REMOVED, "services.Start.outputData.ok", ALL),
    ],
)  # fmt: skip
def test_each_change_is_named_with_whom_it_breaks(path: str, value: object, kind: Kind, at: str, breaks: tuple[Breaks, ...]) -> None:
    (change,) = changed(path, value)
    assert (change.kind, change.path, change.breaks) == (kind, at, breaks)


def test_a_required_input_that_is_new_breaks_whoever_calls_without_it() -> None:
    added = {"identifier": "level", "required": True, "dataType": {"type": "date"}}
    changes = changed("services/0/inputData/1", added)
    assert [(change.kind, change.breaks) for change in changes] == [(Kind.ADDED, ()), (Kind.NOW_REQUIRED, READERS)]


def test_a_call_of_before_is_taken_after_a_change_that_breaks_no_application() -> None:
    new = {"identifier": "level", "dataType": {"type": "date"}}
    for extra in ({}, {"required": True}):
        document: Any = copy.deepcopy(STOVE)
        document["services"][0]["inputData"].append(new | extra)
        before, after = parse_thing_model(STOVE), parse_thing_model(document)
        breaks = any(Breaks.APPLICATIONS in change.breaks for change in compare(before, after))
        assert (before.coerce_input("Start", {"minutes": 5}), breaks) == ({"minutes": 5}, bool(extra))
        if extra:
            with pytest.raises(Refused, match="level"):
                after.coerce_input("Start", {"minutes": 5})
        else:
            assert after.coerce_input("Start", {"minutes": 5}) == {"minutes": 5}


def test_a_narrowed_range_names_a_value_that_is_refused() -> None:
    (change,) = changed("properties/0/dataType/specs/max", "2000")
    assert change.en == "It takes [0, 2000], it took [0, 3000]: 3000 is refused from now on."
    assert change.zh == "取值范围由 [0, 3000] 变为 [0, 2000]：例如 3000 今后被拒绝。"


def test_int_to_float_breaks_no_device_and_is_refused_all_the_same() -> None:
    assert refused_example(IntType(), FloatType()) is None
    old, new = property_model(IntType()), property_model(FloatType())
    assert type_conflicts([(1, old)], new) == [TypeConflict("properties.P.dataType", 1, "int", "float")]


def test_a_removed_identifier_comes_back_with_the_type_it_had() -> None:
    had, without = property_model(IntType()), parse_thing_model({})
    assert type_conflicts([(1, had), (2, without)], property_model(IntType(0, 5))) == []
    assert [conflict.number for conflict in type_conflicts([(2, without), (1, had)], property_model(FloatType()))] == [1]


@pytest.mark.parametrize("name", library.names())
def test_the_standard_models_are_compared(name: str) -> None:
    model, nothing = library.load(name), parse_thing_model({})
    assert {change.kind for change in compare(nothing, model)} == {Kind.ADDED}
    assert all(change.breaks for change in compare(model, nothing))
