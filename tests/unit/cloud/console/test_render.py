"""What the page of a device shows of its values."""

from cloud.console.live import Details, Line
from cloud.console.render import property_table, shown_value
from cloud.console.texts import Language
from cloud.devices.model import Device
from protocols.thing import library
from protocols.thing.model import ThingModel, parse_thing_model

DEVICE = Device(1, "pk", "hood-1", None, enabled=True, created_ms=0, online=True, since_ms=0, via=None)


def details(model: ThingModel, **reported: object) -> Details:
    return Details(Line(DEVICE, "Hood", None), model, {name: (value, 0) for name, value in reported.items()})


def test_an_enum_and_a_bool_are_shown_by_their_word_in_the_language_of_the_page() -> None:
    hood = details(library.load("range_hood"), FanLevel=3, Light=1)
    assert [shown_value(language, hood, "FanLevel", 3) for language in (Language.EN, Language.ZH)] == ["high", "高速"]
    assert [shown_value(language, hood, "Light", 1) for language in (Language.EN, Language.ZH)] == ["on", "开"]
    assert ">风量档位</td>" in property_table(Language.ZH, hood)
    assert ">高速</td>" in property_table(Language.ZH, hood)


def test_a_model_without_words_in_a_language_shows_those_it_has() -> None:
    mode = {"identifier": "Mode", "dataType": {"type": "enum", "specs": {"0": "auto"}}}
    light = {"identifier": "Light", "dataType": {"type": "bool", "specs": {}}}
    found = details(parse_thing_model({"properties": [mode, light]}))
    assert shown_value(Language.ZH, found, "Mode", 0) == "auto"
    assert shown_value(Language.ZH, found, "Mode", 7) == "7"
    assert shown_value(Language.ZH, found, "Light", 1) == "1"


def test_a_number_is_shown_with_its_unit_in_any_language() -> None:
    hood = details(library.load("range_hood"))
    assert {shown_value(language, hood, "Power", 123.456) for language in Language} == {"123.456 W"}
    assert shown_value(Language.ZH, hood, "NoSuchProperty", 5) == "5"
