"""The library as a whole: what there is, what it says of each product, and that all of it is in two languages."""

import re
import subprocess
import sys
from typing import Any

import pytest

from protocols.errors import Reason, Refused
from protocols.thing import library
from protocols.thing.library import Entry, Kind
from protocols.thing.model import parse_thing_model
from tests.unit.protocols.thing.documents import parts, typed

APPLIANCES = {
    "air_conditioner", "air_purifier", "clothes_dryer", "dehumidifier", "dishwasher", "disinfection_cabinet", "electric_oven",
    "electric_water_heater", "fan", "gas_stove", "gas_water_heater", "induction_cooktop", "integrated_stove", "light", "microwave_oven",
    "range_hood", "refrigerator", "rice_cooker", "robot_vacuum", "steam_oven", "washing_machine", "water_purifier",
}  # fmt: skip
EQUIPMENT = {
    "air_compressor", "assembly_conveyor", "chiller", "cnc_machining_centre", "coating_oven", "electrical_safety_tester",
    "injection_moulding_machine", "leak_tester", "power_meter", "stamping_press", "torque_screwdriver", "welding_robot",
}  # fmt: skip
CHINESE = re.compile("[\u4e00-\u9fff]")
NOT_ENGLISH = re.compile("[\u2e80-\u9fff\uff00-\uffef]")  # full-width forms too

products = pytest.mark.parametrize("entry", library.entries(), ids=lambda entry: entry.key)


def document(entry: Entry) -> dict[str, Any]:
    return library.load(entry.key).to_dict()


def of_kind(kind: Kind) -> set[str]:
    return {entry.key for entry in library.entries() if entry.kind is kind}


def test_the_library_holds_the_standard_products() -> None:
    assert (of_kind(Kind.APPLIANCE), of_kind(Kind.EQUIPMENT), of_kind(Kind.GATEWAY)) == (APPLIANCES, EQUIPMENT, {"gateway"})
    assert len(APPLIANCES) >= 16
    assert len(EQUIPMENT) >= 8


def test_there_is_an_entry_for_every_model_in_the_order_of_keys() -> None:
    assert tuple(entry.key for entry in library.entries()) == library.names() == tuple(sorted(library.names()))


@products
def test_an_entry_names_its_product_as_the_model_does(entry: Entry) -> None:
    assert entry is library.entry(entry.key)
    assert entry.names == document(entry)["names"]
    assert document(entry)["name"] == entry.names["en"]


def test_a_matter_device_type_has_one_name_and_a_name_one_device_type() -> None:
    found = {entry.matter for entry in library.entries() if entry.matter is not None}
    assert len(found) >= 16
    assert len({matter.id for matter in found}) == len({matter.name for matter in found}) == len(found)
    for matter in found:
        assert re.fullmatch(r"0x[0-9A-F]{4}", matter.id)
        assert re.fullmatch(r"[A-Z][A-Za-z]+( [A-Z][A-Za-z]+)*", matter.name)


def test_no_two_products_have_the_same_name() -> None:
    for language in ("en", "zh"):
        assert len({entry.names[language] for entry in library.entries()}) == len(library.entries())


@products
def test_everything_people_see_is_in_english_and_in_chinese(entry: Entry) -> None:
    shown = [("names", document(entry)["names"])]
    for part in parts(document(entry)):
        shown.append((part.place, part.entry["names"]))
        assert part.entry["name"] == part.entry["names"]["en"], part.place
    for place, data_type in typed(document(entry)):
        if data_type["type"] in ("bool", "enum"):
            assert data_type["names"].keys() == data_type["specs"].keys(), place
            assert {key: label["en"] for key, label in data_type["names"].items()} == data_type["specs"], place
            shown += [(f"{place}.names.{key}", label) for key, label in data_type["names"].items()]
    for place, names in shown:
        assert names.keys() == {"en", "zh"}, place
        assert names["en"].strip(), place
        assert not NOT_ENGLISH.search(names["en"]), place
        assert CHINESE.search(names["zh"]), place
    for part in parts(document(entry)):
        if "desc" in part.entry:  # one text for both
            english, _, chinese = part.entry["desc"].rpartition(". ")
            assert english, part.place
            assert not NOT_ENGLISH.search(english), part.place
            assert CHINESE.search(chinese), part.place


@products
def test_no_two_labels_of_an_enum_read_the_same(entry: Entry) -> None:
    for place, data_type in typed(document(entry)):
        if data_type["type"] in ("bool", "enum"):
            for language in ("en", "zh"):
                assert len({label[language] for label in data_type["names"].values()}) == len(data_type["specs"]), place


@products
def test_no_two_properties_events_or_services_of_a_product_have_the_same_name(entry: Entry) -> None:
    for role in ("property", "event", "service"):
        for language in ("en", "zh"):
            names = [part.entry["names"][language] for part in parts(document(entry)) if part.role == role]
            assert len(set(names)) == len(names), role


@products
def test_a_model_parses_with_its_names_and_survives_the_round_trip(entry: Entry) -> None:
    model = library.load(entry.key)
    assert parse_thing_model(model.to_dict()) == model
    for event in model.events.values():
        assert {name: set(names) for name, names in event.output_names.items()} == {name: {"en", "zh"} for name in event.output}
    for service in model.services.values():
        assert service.input_names.keys() == service.input.keys()
        assert service.output_names.keys() == service.output.keys()


@products
def test_a_model_has_as_much_as_a_maker_needs_and_no_more(entry: Entry) -> None:
    model = library.load(entry.key)
    assert 8 <= len(model.properties) <= 25
    assert 2 <= len(model.events) <= 6
    assert (0 if entry.kind is Kind.GATEWAY else 1) <= len(model.services) <= 5


@pytest.mark.parametrize("name", ["", "no_such", "../model", "__init__"])
@pytest.mark.parametrize("ask", [library.load, library.entry])
def test_an_unknown_name_is_refused_and_told_what_there_is(ask: Any, name: str) -> None:
    with pytest.raises(Refused, match="power_meter") as refused:
        ask(name)
    assert refused.value.reason is Reason.UNKNOWN_PRODUCT


def test_importing_the_library_reads_no_model() -> None:
    code = "from protocols.thing import library as l; print([f.cache_info().currsize for f in (l.names, l.entry, l.entries, l.load)])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[0, 0, 0, 0]\n"
