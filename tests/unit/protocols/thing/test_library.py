import pytest

from protocols.errors import Reason, Refused
from protocols.thing import library
from protocols.thing.model import Event, Property, Service, parse_thing_model


def test_the_library_holds_the_standard_products() -> None:
    assert set(library.names()) >= {"gateway", "integrated_stove", "power_meter", "range_hood", "stamping_press"}


@pytest.mark.parametrize("name", library.names())
def test_everything_has_a_chinese_and_an_english_name(name: str) -> None:
    model = library.load(name)
    entries: list[Property | Event | Service] = [*model.properties.values(), *model.events.values(), *model.services.values()]
    for entry in entries:
        assert set(entry.names) == {"en", "zh"}, entry.identifier
        assert all(entry.names.values())
        assert entry.name == entry.names["en"]
    assert set(model.to_dict()["names"]) == {"en", "zh"}  # type: ignore[call-overload]  # a JSON object


@pytest.mark.parametrize("name", library.names())
def test_a_library_model_survives_the_round_trip(name: str) -> None:
    model = library.load(name)
    assert parse_thing_model(model.to_dict()) == model


@pytest.mark.parametrize("name", library.names())
def test_a_library_model_has_something_to_report(name: str) -> None:
    assert len(library.load(name).properties) >= 8


@pytest.mark.parametrize("name", ["", "no_such", "../model", "__init__"])
def test_an_unknown_name_is_refused_and_told_what_there_is(name: str) -> None:
    with pytest.raises(Refused, match="power_meter") as refused:
        library.load(name)
    assert refused.value.reason is Reason.UNKNOWN_PRODUCT
