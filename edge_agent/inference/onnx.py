"""A model in ONNX Runtime with the windows it looks at: rows in, scores out. Runs in the worker process and nowhere else."""

from pathlib import Path

import numpy as np
import onnxruntime  # only the worker imports this module

from edge_agent.domain.scoring import GATED, Ints32, Rows, Scores
from protocols.errors import Reason, Refused
from protocols.inference.card import INPUT, OUTPUTS
from protocols.inference.onnx_card import card_of
from protocols.inference.window import Windows

_WANTED = (OUTPUTS[0], OUTPUTS[3])  # score and contribution


class AnomalyModel:
    """One model and the rings of the machines it watches. One thread: the machine belongs to the readings."""

    def __init__(self, path: Path, machines: int) -> None:
        """Load and try it; raises Refused(BAD_MODEL) for a file that cannot serve."""
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise Refused(Reason.BAD_MODEL, f"{path}: cannot be read: {problem.strerror}") from problem
        self.card = card_of(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            trial = self._session.run(_WANTED, {INPUT: np.zeros((self.card.window_rows, 1, len(self.card.signals)))})
        except Exception as problem:
            raise Refused(Reason.BAD_MODEL, f"{path}: ONNX Runtime does not take it: {str(problem)[:300]}") from problem
        if [output.shape for output in trial] != [(1,), (1, len(self.card.signals))] or any(o.dtype != np.float64 for o in trial):
            raise Refused(Reason.BAD_MODEL, f"{path}: its outputs have other shapes than its card says; train it again")
        self._windows = Windows.of(self.card, machines)

    def score(self, rows: Rows) -> Scores:
        """Score each row whose window is full with it; a machine may come several times, in order."""
        scores = Scores(np.full(len(rows.machines), np.nan), np.zeros(len(rows.machines), np.int32))
        for places in _rounds(rows.machines):
            whole = len(places) == len(rows.machines)
            machines = rows.machines if whole else rows.machines[places]
            times, values = (rows.times, rows.values) if whole else (rows.times[places], rows.values[places])
            full = self._windows.push(machines.astype(np.int64), times, values)
            if not len(full):
                continue
            score, contribution = self._session.run(_WANTED, {INPUT: full.windows})
            at = places if len(full) == len(places) else places[np.isin(machines, full.machines)]
            scores.score[at] = np.where(np.isfinite(score), score, GATED)
            if (high := score > self.card.threshold).any():  # nobody asks for the others
                scores.signal[at[high]] = contribution[high].argmax(axis=1)
        return scores


def _rounds(machines: Ints32) -> "list[np.ndarray[tuple[int], np.dtype[np.int64]]]":
    """Places of the rows in rounds of one row a machine, in order."""
    if (np.diff(machines) > 0).all():
        return [np.arange(len(machines))]
    order = np.argsort(machines, kind="stable")
    ordered = machines[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    sizes = np.diff(np.append(starts, len(ordered)))
    turn = np.arange(len(ordered)) - np.repeat(starts, sizes)
    return [np.sort(order[turn == n]) for n in range(int(turn.max()) + 1)]
