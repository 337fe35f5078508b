"""What a device of any product of the library sends is taken as it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.alink.messages import decode_event, event_post, post_decoder, property_post
from protocols.thing import library
from protocols.thing.model import ThingModel
from tests.fuzzing import thorough
from tests.unit.protocols.thing.values import fitting

T = 1524448722000

products = pytest.mark.parametrize("model", [library.load(name) for name in library.names()], ids=library.names())
each = settings(thorough, max_examples=thorough.max_examples // 10)  # of every product


@products
@each
@given(st.data())
def test_a_post_of_every_property_at_once_is_read_without_a_refusal(model: ThingModel, data: st.DataObject) -> None:
    values = data.draw(st.fixed_dictionaries({name: fitting(entry.data_type) for name, entry in model.properties.items()}))
    found = post_decoder(model).decode(property_post(7, values))
    assert (dict(found.refused), set(found.identifiers)) == ({}, set(model.properties))


@products
@each
@given(st.data(), st.none() | st.just(T))
def test_a_post_of_values_that_fit_is_read_without_a_refusal(model: ThingModel, data: st.DataObject, time_ms: int | None) -> None:
    types = {name: fitting(entry.data_type) for name, entry in model.properties.items()}
    values = data.draw(st.fixed_dictionaries({}, optional=types))
    found = post_decoder(model).decode(property_post(7, values, time_ms))
    assert dict(found.refused) == {}
    coerced = {name: model.properties[name].data_type.coerce(value) for name, value in values.items()}
    assert dict(zip(found.identifiers, found.values, strict=True)) == coerced
    assert set(found.times or ()) == ({T} if values and time_ms else set())


@products
@each
@given(st.data())
def test_an_event_of_values_that_fit_is_read_without_a_refusal(model: ThingModel, data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(list(model.events.values())))
    output = data.draw(st.fixed_dictionaries({name: fitting(data_type) for name, data_type in event.output.items()}))
    found = decode_event(model, event.identifier, event_post(7, event.identifier, output, T))
    assert (dict(found.refused), found.output.keys(), found.time) == ({}, output.keys(), T)


@products
@each
@given(st.data())
def test_what_a_property_can_be_set_to_is_what_it_can_report(model: ThingModel, data: st.DataObject) -> None:
    writable = {name: fitting(entry.data_type) for name, entry in model.properties.items() if entry.writable}
    wanted = model.coerce_set(data.draw(st.fixed_dictionaries({}, optional=writable)))
    found = post_decoder(model).decode(property_post(7, wanted))
    assert dict(found.refused) == {}
    assert dict(zip(found.identifiers, found.values, strict=True)) == wanted
