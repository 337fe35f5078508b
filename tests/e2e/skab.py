"""The reference for anomaly scores, computed with scikit-learn and NumPy from a machine's own rows. It imports nothing of ours.

What it follows is written in docs/reference/anomaly-model.md: windows of consecutive rows, three quarters of them for the components, the
rest behind one window's length for the limits.
"""

import csv
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

LABELS = ("anomaly", "changepoint")
FITTED_ROWS, WINDOW_ROWS, EXPLAINED, FALSE_ALARM_RATE = 400, 10, 0.99, 0.001
PART, GAP_ROWS = 0.75, 10


@dataclass(frozen=True)
class Bench:
    """One file: identifiers, times (epoch ms), values [rows, signals], labels."""

    identifiers: dict[str, str]
    times: Any
    values: Any
    anomaly: Any


def read(path: Path) -> Bench:
    """One experiment of the benchmark, its headers as identifiers."""
    with gzip.open(path, "rt") as file:
        header, *rows = list(csv.reader(file))
    signals = [name for name in header if name not in ("datetime", *LABELS)]
    at = {name: header.index(name) for name in header}
    times = [int(datetime.fromisoformat(row[at["datetime"]]).replace(tzinfo=UTC).timestamp() * 1000) for row in rows]
    values = [[float(row[at[name]]) for name in signals] for row in rows]
    anomaly = [float(row[at["anomaly"]]) for row in rows]
    return Bench({name: name.replace(" ", "") for name in signals}, np.array(times), np.array(values), np.array(anomaly))


def write_csv(bench: Bench, path: Path, rows: int) -> None:
    """The first rows without their labels, as the training command takes them."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time_ms", *bench.identifiers.values()])
        for time_ms, values in zip(bench.times[:rows].tolist(), bench.values[:rows].tolist(), strict=True):
            writer.writerow([time_ms, *(repr(value) for value in values)])


def expected_scores(times: Any, values: Any) -> dict[int, float]:
    """Event time -> score of every row whose window is full; fitted on the first rows."""
    step = np.median(np.diff(times[:FITTED_ROWS]))
    ends = _full_windows(times, GAP_ROWS * int(step))
    train = ends[ends < FITTED_ROWS]
    fitted = int(PART * len(train))
    scaler = StandardScaler().fit(values[: train[fitted - 1] + 1])
    scaled = scaler.transform(values)
    flat = np.array([scaled[end - WINDOW_ROWS + 1 : end + 1].ravel() for end in ends])
    pca = PCA(n_components=EXPLAINED, svd_solver="full").fit(flat[:fitted])
    inside = pca.transform(flat)
    q = ((flat - pca.inverse_transform(inside)) ** 2).sum(axis=1)
    t2 = (inside**2 / pca.explained_variance_).sum(axis=1)
    held = slice(fitted + WINDOW_ROWS - 1, len(train))
    score = np.maximum(q / _limit(q[held]), t2 / _limit(t2[held]))
    return dict(zip(times[ends].tolist(), score.tolist(), strict=True))


def _limit(statistic: Any) -> float:
    logs = np.log(statistic)
    return float(np.exp(logs.mean() + NormalDist().inv_cdf(1 - FALSE_ALARM_RATE) * logs.std(ddof=1)))


def _full_windows(times: Any, max_gap_ms: int) -> Any:
    """Places of the rows that end a window of consecutive rows."""
    run, ends = 0, []
    for place in range(len(times)):
        run = 1 if place == 0 or times[place] - times[place - 1] > max_gap_ms else run + 1
        if run >= WINDOW_ROWS:
            ends.append(place)
    return np.array(ends)
