"""One vocabulary across the products: an identifier means the same thing wherever it stands."""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from protocols.thing import library
from tests.unit.protocols.thing.documents import parts, typed

RESERVED = {"set", "get", "post", "property", "event", "time", "value"}  # alink.md par. 12
FAMILIES = {"int": "whole", "int32": "whole", "float": "number", "double": "number"}
STATES = ("WorkState", "RunState", "TestResult")

products = pytest.mark.parametrize("key", library.names())


def document(key: str) -> dict[str, Any]:
    return library.load(key).to_dict()


def identifiers(role: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(product, identifier, entry) of every product."""
    for key in library.names():
        for part in parts(document(key)):
            if part.role == role:
                yield key, part.entry["identifier"], part.entry


def kind_of(data_type: dict[str, Any]) -> tuple[str, str]:
    """Family and unit; of an array those of its items."""
    if data_type["type"] == "array":
        family, unit = kind_of(data_type["specs"]["item"])
        return f"array of {family}", unit
    specs = data_type["specs"]
    return FAMILIES.get(data_type["type"], data_type["type"]), specs.get("unit", "") if isinstance(specs, dict) else ""


def disagreeing(found: Iterator[tuple[str, str, object]]) -> dict[str, dict[object, list[str]]]:
    """The identifiers that are not the same in all products, with who says what."""
    said: dict[str, dict[object, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key, identifier, what in found:
        said[identifier][what].append(key)
    return {identifier: dict(whats) for identifier, whats in said.items() if len(whats) > 1}


@pytest.mark.parametrize("role", ["property", "argument", "field"])
def test_an_identifier_has_one_family_of_types_and_one_unit(role: str) -> None:
    assert disagreeing((key, name, kind_of(entry["dataType"])) for key, name, entry in identifiers(role)) == {}


def test_an_event_has_one_level_and_a_service_one_call_type() -> None:
    assert disagreeing((key, name, entry["type"]) for key, name, entry in identifiers("event")) == {}
    assert disagreeing((key, name, entry["callType"]) for key, name, entry in identifiers("service")) == {}


def test_a_state_has_the_same_keys_in_every_product() -> None:
    found = [(key, name, str(entry["dataType"]["names"])) for key, name, entry in identifiers("property") if name in STATES]
    assert len(found) > 12
    assert disagreeing(iter(found)) == {}


@products
def test_an_argument_named_as_an_enum_property_has_its_keys(key: str) -> None:
    properties = {part.entry["identifier"]: part.entry["dataType"] for part in parts(document(key)) if part.role == "property"}
    for part in parts(document(key)):
        of_property = properties.get(part.entry["identifier"], {})
        if part.role == "argument" and of_property.get("type") == "enum":
            assert part.entry["dataType"] == of_property, part.place


@products
def test_a_fault_has_the_codes_of_the_property_and_none_is_zero(key: str) -> None:
    found = {part.entry["identifier"]: part.entry for part in parts(document(key))}
    fault = found["Fault"]
    code, detail = fault["outputData"]
    assert (fault["type"], code["identifier"], detail["identifier"]) == ("error", "Code", "Detail")
    assert code["dataType"]["names"]["0"] == {"en": "none", "zh": "无故障"}
    assert found.get("FaultCode", code)["dataType"] == code["dataType"]


@products
def test_identifiers_are_english_words_and_none_is_reserved(key: str) -> None:
    for part in parts(document(key)):
        name = part.entry["identifier"]
        assert name.lower() not in RESERVED, part.place
        assert name[0].isupper(), part.place
        assert name.isascii(), part.place
        assert name.isalnum(), part.place


@products
def test_a_method_is_the_one_the_protocol_gives_it(key: str) -> None:
    for event in document(key)["events"]:
        assert event["method"] == f"thing.event.{event['identifier']}.post"
    for service in document(key)["services"]:
        assert service["method"] == f"thing.service.{service['identifier']}"


@products
def test_a_range_begins_below_its_end_and_is_a_whole_number_of_steps(key: str) -> None:
    numbers = [(place, data_type["specs"]) for place, data_type in typed(document(key)) if data_type["type"] in FAMILIES]
    assert numbers
    for place, specs in numbers:
        assert all(isinstance(part, str) for part in specs.values()), place
        low, high, step = (Decimal(specs[name]) for name in ("min", "max", "step"))
        assert low < high, place
        assert step > 0, place
        assert (high - low) % step == 0, place
        assert ("unit" in specs) == ("unitName" in specs), place


@products
def test_what_can_be_set_has_few_enough_steps_to_choose_from(key: str) -> None:
    for part in parts(document(key)):
        data_type = part.entry.get("dataType", {})
        if part.role == "property" and "w" in part.entry["accessMode"] and data_type["type"] in FAMILIES:
            low, high, step = (Decimal(data_type["specs"][name]) for name in ("min", "max", "step"))
            assert (high - low) / step <= 1_000_000, part.place
