from typing import Any

import pytest
from hypothesis import given

from protocols.thing import library
from protocols.thing.export import full_tsl
from protocols.thing.model import parse_thing_model
from tests.unit.protocols.thing.data_types import documents


@given(documents)
def test_an_exported_model_reads_back_as_the_same(document: dict[str, Any]) -> None:
    model = parse_thing_model(document)
    exported = full_tsl(model, "a1")
    again = parse_thing_model(exported)
    assert (again.properties, again.events, again.services) == (model.properties, model.events, model.services)
    assert again.product_key == "a1"
    assert full_tsl(again, "a1") == exported, "and exports as the same"
    assert model.to_dict() == document, "the model stays what it was"


@pytest.mark.parametrize("name", library.names())
def test_an_export_has_the_entries_that_sdks_read(name: str) -> None:
    model = library.load(name)
    exported = full_tsl(model, "a1")
    post, own = exported["events"][0], [entry["identifier"] for entry in exported["events"][1:]]
    assert (post["identifier"], post["method"], own) == ("post", "thing.event.property.post", list(model.events))
    assert [entry["identifier"] for entry in post["outputData"]] == list(model.properties)
    setter, getter = exported["services"][:2]
    assert (setter["method"], getter["method"]) == ("thing.service.property.set", "thing.service.property.get")
    assert [entry["identifier"] for entry in setter["inputData"]] == [key for key, entry in model.properties.items() if entry.writable]
    assert getter["inputData"] == list(model.properties)
    assert all(entry["method"] == f"thing.event.{entry['identifier']}.post" for entry in exported["events"][1:])
    assert exported["link"].startswith("/sys/a1/")
    assert exported["profile"]["productKey"] == "a1"
    assert exported["schema"]
