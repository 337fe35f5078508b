"""The card: found in a real ONNX file without an ONNX library, and refused in words where it is not there or not right."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from protocols.errors import Reason, Refused
from protocols.inference.card import CARD_KEY, ModelCard
from protocols.inference.onnx_card import card_of
from tests.unit.protocols.inference.cards import card


def model(properties: dict[str, str]) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [onnx.ValueInfoProto(name="y")])
    made = helper.make_model(graph)
    helper.set_model_props(made, properties)
    return bytes(made.SerializeToString())


FILE = model({"other": "x" * 300, CARD_KEY: card().to_json().decode(), "last": ""})


def test_the_card_is_found_in_an_onnx_file() -> None:
    assert card_of(FILE) == card()


@pytest.mark.refusal(Reason.BAD_MODEL)
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no model card"),
        (model({"other": "1"}), "no model card"),
        (b"\x0b", "damaged"),
        (b"\xff" * 12, "damaged"),
        (FILE[:-40], "damaged"),
        (model({CARD_KEY: "{}"}), "train the model again"),
        (model({CARD_KEY: card(signals=("A", "A")).to_json().decode()}), "different signals"),
        (model({CARD_KEY: card(window_rows=5_000).to_json().decode()}), "impossible window"),
    ],
)
def test_a_file_that_is_no_model_of_ours_is_refused_in_words(data: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        card_of(data)
    assert refused.value.reason is Reason.BAD_MODEL


@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)))
def test_no_bytes_do_more_than_be_refused(damage: bytes | tuple[int, int]) -> None:
    data = damage if isinstance(damage, bytes) else FILE[: damage[0]] + bytes([damage[1]]) + FILE[damage[0] + 1 :]
    try:
        found = card_of(data)
    except Refused:
        return
    assert isinstance(found, ModelCard)
