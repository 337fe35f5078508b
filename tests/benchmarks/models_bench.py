"""What scoring costs beside the bare runtime: windows and inference as a gateway serves them, against `InferenceSession.run` alone."""

import time
from pathlib import Path

import numpy as np
import onnxruntime

from edge_agent.domain.scoring import Rows
from edge_agent.inference.onnx import AnomalyModel
from firmware_sim.sample import Machine, rows_of
from protocols.inference.card import INPUT
from tests.benchmarks.row import Row

MODEL = Path(__file__).parent.parent.parent / "firmware_sim" / "models" / "stamping_press.onnx"
MACHINES, ROUNDS, TAKES = 1_000, 200, 5


def rows() -> list[Row]:
    """`models.overhead`: the median of some takes, each with both sides in turn."""
    ratios, ours, bare = [], [], []
    for _ in range(TAKES):
        served, alone, scored = _take()
        assert scored == MACHINES * ROUNDS, scored
        ratios.append(served / alone)
        ours.append(served)
        bare.append(alone)
    middle = sorted(ratios)[TAKES // 2]
    per_row_us = 1e6 * sorted(ours)[TAKES // 2] / (MACHINES * ROUNDS)
    return [
        Row(
            "models.overhead",
            middle,
            "x the bare run",
            target="<= 1.3",
            met=middle <= 1.3,
            note=f"{MACHINES:,} machines a request, one thread; {per_row_us:.2f} us a row; ratios of each take: "
            + ", ".join(f"{ratio:.2f}" for ratio in ratios),
        )
    ]


def _take() -> tuple[float, float, int]:
    """Seconds of serving and of the bare runs over the same windows; rows scored."""
    model = AnomalyModel(MODEL, MACHINES)
    card = model.card
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODEL.read_bytes(), options, providers=["CPUExecutionProvider"])
    machines = np.arange(MACHINES, dtype=np.int32)
    count = card.window_rows + ROUNDS
    press = rows_of(Machine.PRESS, MACHINES + count, card.row_ms, seed=2)
    shown = np.array([[row[signal] for signal in card.signals] for row in press], np.float64)  # machine m shows row n + m in round n
    windows = np.lib.stride_tricks.sliding_window_view(shown, card.window_rows, axis=0)[:MACHINES].transpose(2, 0, 1).copy()

    def request(n: int) -> Rows:
        return Rows(0, machines, np.full(MACHINES, (n + 1) * card.row_ms, np.int64), shown[n : n + MACHINES])

    for n in range(card.window_rows):
        model.score(request(n))
    served = alone = 0.0
    scored = 0
    outputs = ("score", "contribution")
    for n in range(ROUNDS):  # both in turn, so that a slow moment of the machine meets both
        asked = request(card.window_rows + n)
        begun = time.perf_counter()
        scores = model.score(asked)
        between = time.perf_counter()
        session.run(outputs, {INPUT: windows})
        alone += time.perf_counter() - between
        served += between - begun
        scored += int(np.isfinite(scores.score).sum())
    return served, alone, scored
