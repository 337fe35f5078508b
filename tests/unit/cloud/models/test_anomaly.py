"""The trained model against scikit-learn's own arithmetic, and every way readings can be unfit for training."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from cloud.models.anomaly import Fit, fit
from cloud.models.onnx_file import to_onnx
from cloud.models.readings import Readings
from protocols.errors import Reason, Refused
from protocols.inference.onnx_card import card_of

SIGNALS = ("Temperature", "Pressure", "Current")
ROWS = 600


def machine(rows: int = ROWS, seed: int = 1) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """A machine whose three signals hang together, with noise."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(rows) / 9) + rng.normal(scale=0.1, size=rows)
    return np.column_stack([20 + 3 * load, 5 - load, 100 + 40 * load]) + rng.normal(scale=(0.2, 0.05, 2.0), size=(rows, 3))


def readings(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", step_ms: int = 1_000) -> Readings:
    return Readings(SIGNALS, np.arange(len(values), dtype=np.int64) * step_ms, values, "0" * 64)


def trained(window_rows: int = 5) -> Fit:
    return fit(readings(machine()), name="m", made_by="a test", window_rows=window_rows, explained=0.95)


def test_scores_are_those_of_scikit_learn_over_the_same_windows() -> None:
    window_rows = 5
    data = to_onnx(trained(window_rows))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    other = machine(rows=200, seed=2)
    other[120:, 1] += 1.0  # a fault
    windows = np.lib.stride_tricks.sliding_window_view(other, window_rows, axis=0).transpose(0, 2, 1).copy()
    score, q, t2, contribution = session.run(["score", "q", "t2", "contribution"], {"window": windows.transpose(1, 0, 2).copy()})

    # The same by hand: which rows are fitted follows from the documented three quarters.
    count = ROWS - window_rows + 1
    fitted = int(0.75 * count)
    scaler = StandardScaler().fit(machine()[: fitted + window_rows - 1])
    flat = np.lib.stride_tricks.sliding_window_view(scaler.transform(machine()), window_rows, axis=0).transpose(0, 2, 1).reshape(count, -1)
    pca = PCA(n_components=0.95, svd_solver="full").fit(flat[:fitted])

    def judged(rows: Any) -> tuple[Any, Any]:
        inside = pca.transform(rows)
        return ((rows - pca.inverse_transform(inside)) ** 2).sum(axis=1), (inside**2 / pca.explained_variance_).sum(axis=1)

    ours = scaler.transform(windows.reshape(-1, 3)).reshape(len(windows), -1)
    expected_q, expected_t2 = judged(ours)
    np.testing.assert_allclose(q, expected_q, rtol=1e-9)
    np.testing.assert_allclose(t2, expected_t2, rtol=1e-9)
    card = card_of(data)
    np.testing.assert_allclose(score, np.maximum(q / card.q_limit, t2 / card.t2_limit), rtol=1e-12)
    assert score[:110].mean() < 1 < score[130:].min()
    assert (contribution[130:].argmax(axis=1) == SIGNALS.index("Pressure")).mean() > 0.9
    np.testing.assert_allclose(contribution.sum(axis=1), q, rtol=1e-9)


def test_the_false_alarm_rate_that_was_asked_for_is_about_what_a_sound_machine_shows() -> None:
    fitted = fit(readings(machine(rows=6_000)), name="m", made_by="a test", window_rows=5, false_alarm_rate=0.01)
    session = onnxruntime.InferenceSession(to_onnx(fitted), providers=["CPUExecutionProvider"])
    fresh = np.lib.stride_tricks.sliding_window_view(machine(rows=6_000, seed=3), 5, axis=0).transpose(0, 2, 1).copy()
    (score,) = session.run(["score"], {"window": fresh.transpose(1, 0, 2).copy()})
    assert 0 < (score > 1).mean() < 0.05


def test_the_same_readings_give_the_same_file_to_the_byte_and_it_stands_alone() -> None:
    data = to_onnx(trained())
    assert data == to_onnx(trained())
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL] == []
    assert card_of(data).signals == SIGNALS


@pytest.mark.refusal(Reason.BAD_TRAINING_DATA)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.first(12), "too few"),
        (lambda r: r.first(100), "at least 40 are needed"),
        (lambda r: Readings(r.signals, r.times, r.values * [1, 0, 1], "0"), "Pressure: never changes"),
        (lambda r: Readings(r.signals, r.times[::-1], r.values, "0"), "sort the rows by time"),
        (lambda r: Readings((), r.times, r.values[:, :0], "0"), "1 to 64 signals"),
        (lambda r: Readings(r.signals, np.cumsum(np.where(np.arange(ROWS) % 9, 1, 99)) * 1_000, r.values, "0"), "at most 10000 ms apart"),
    ],
)
def test_readings_that_cannot_be_learnt_from_are_refused_in_words(change: object, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        fit(change(readings(machine())), name="m", made_by="a test")  # type: ignore[operator]
    assert refused.value.reason is Reason.BAD_TRAINING_DATA


@pytest.mark.parametrize(("option", "value"), [("window_rows", 1), ("explained", 1.0), ("false_alarm_rate", 0.0)])
def test_options_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(Refused, match="choose"):
        fit(readings(machine()), name="m", made_by="a test", **{option: value})  # type: ignore[arg-type]


def test_the_demo_s_model_is_what_its_documented_commands_make(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cloud.cli import app
    from firmware_sim.sample import Machine, write_csv

    shipped = Path(__file__).parents[4] / "firmware_sim" / "models" / "stamping_press.onnx"
    table = tmp_path / "press.csv"
    with table.open("w") as file:
        write_csv(file, Machine.PRESS, rows=5_000, every_ms=200, seed=1)
    card = card_of(shipped.read_bytes())
    out = tmp_path / "press.onnx"
    words = ["train", "anomaly", str(table), "--signals", ",".join(card.signals), "--name", card.name, "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    windows = np.random.default_rng(1).normal(size=(card.window_rows, 50, len(card.signals)))
    one, other = [
        onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(["score"], {"window": windows})[0]
        for path in (shipped, out)
    ]
    np.testing.assert_allclose(one, other, rtol=1e-6)  # another processor's linear algebra ends in other last digits
