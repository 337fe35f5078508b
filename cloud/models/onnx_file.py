"""The fitted model as an ONNX file: standard operators only, float64 throughout, the card inside, the same bytes for the same fit."""

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cloud.models.anomaly import Fit
from protocols.inference.card import CARD_KEY, INPUT

OPSET: Final = 18
IR_VERSION: Final = 10


def to_onnx(fit: Fit) -> bytes:
    """The model file. In: `window` [rows, machines, signals]; out: `score`, `q`, `t2` [machines], `contribution` [machines, signals]."""
    card = fit.card
    rows, signals = card.window_rows, len(card.signals)
    # A flat window is a row of numbers in the fit; here it stays [rows, machines, signals], and the components are cut likewise.
    axes = fit.axes.reshape(rows, signals, -1)
    constants = {
        "mean": fit.mean,
        "scale": fit.scale,
        "centre": fit.centre.reshape(rows, 1, signals),
        "axes": axes,
        "axes_transposed": axes.transpose(0, 2, 1),
        "variances": fit.variances,
        "q_limit": np.float64(card.q_limit),
        "t2_limit": np.float64(card.t2_limit),
        "over_rows": np.array([0], np.int64),
        "last_axis": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Sub", [INPUT, "mean"], ["centred"]),
        node("Div", ["centred", "scale"], ["scaled"]),
        node("Sub", ["scaled", "centre"], ["flat"]),
        node("MatMul", ["flat", "axes"], ["inside_by_row"]),
        node("ReduceSum", ["inside_by_row", "over_rows"], ["inside"], keepdims=0),
        node("MatMul", ["inside", "axes_transposed"], ["explained"]),
        node("Sub", ["flat", "explained"], ["outside"]),
        node("Mul", ["outside", "outside"], ["outside_squared"]),
        node("ReduceSum", ["outside_squared", "over_rows"], ["contribution"], keepdims=0),
        node("ReduceSum", ["contribution", "last_axis"], ["q"], keepdims=0),
        node("Mul", ["inside", "inside"], ["inside_squared"]),
        node("Div", ["inside_squared", "variances"], ["inside_weighed"]),
        node("ReduceSum", ["inside_weighed", "last_axis"], ["t2"], keepdims=0),
        node("Div", ["q", "q_limit"], ["q_part"]),
        node("Div", ["t2", "t2_limit"], ["t2_part"]),
        node("Max", ["q_part", "t2_part"], ["score"]),
    ]

    def tensor(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)

    graph = helper.make_graph(
        nodes,
        card.name,
        [tensor(INPUT, rows, "machines", signals)],
        [tensor("score", "machines"), tensor("q", "machines"), tensor("t2", "machines"), tensor("contribution", "machines", signals)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hearthline")
    helper.set_model_props(model, {CARD_KEY: card.to_json().decode()})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
