"""Raw register values become the thing model's own, and what does not fit is named."""

import math

import pytest

from edge_agent.domain.normalise import Normaliser
from protocols.errors import Reason, Refused
from protocols.thing.model import parse_thing_model

MODEL = parse_thing_model(
    {
        "properties": [
            {"identifier": "Volts", "name": "v", "accessMode": "r", "dataType": {"type": "float", "specs": {"min": "0", "max": "500"}}},
            {"identifier": "Strokes", "name": "s", "accessMode": "r", "dataType": {"type": "int", "specs": {}}},
            {"identifier": "Running", "name": "r", "accessMode": "r", "dataType": {"type": "bool", "specs": {"0": "no", "1": "yes"}}},
        ],
        "events": [],
        "services": [],
    }
)


def test_a_row_that_fits_keeps_its_identifiers_object() -> None:
    normaliser = Normaliser(MODEL, ["Volts", "Strokes", "Running"])
    (one, values), refused = normaliser.row([230, 7, 1.0])
    (two, _), _ = normaliser.row([231.5, 8, 0])
    assert one is two
    assert values == (230.0, 7, 1)
    assert not refused


def test_an_integer_seen_through_a_scale_is_that_integer() -> None:
    (_, values), refused = Normaliser(MODEL, ["Strokes"]).row([23.000000000001])
    assert values == (23,)
    assert not refused


def test_what_does_not_fit_is_named_and_the_rest_goes_on() -> None:
    (names, values), refused = Normaliser(MODEL, ["Volts", "Strokes", "Running"]).row([501.0, 1.5, 1])
    assert (names, values) == (("Running",), (1,))
    assert {name: problem.reason for name, problem in refused.items()} == {"Volts": Reason.OUT_OF_RANGE, "Strokes": Reason.WRONG_TYPE}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_in_every_type(value: float) -> None:
    (names, _), refused = Normaliser(MODEL, ["Volts", "Strokes", "Running"]).row([value, value, value])
    assert names == ()
    assert set(refused) == {"Volts", "Strokes", "Running"}


def test_a_property_the_model_lacks_is_refused_at_once() -> None:
    with pytest.raises(Refused, match="Amps"):
        Normaliser(MODEL, ["Amps"])
