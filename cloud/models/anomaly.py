"""Fits the anomaly model: PCA over windows of a machine's first readings, judged by Q and Hotelling's T2.

Q is the squared length of what the components do not explain, T2 the squared length of what they do, each component in units of its own
standard deviation (Jackson and Mudholkar 1979; Hotelling 1947; over lagged rows: Ku, Storer and Georgakis 1995). The components come from
the first three quarters of the windows and the limits from the rest, which they have not seen: limits from the fitted windows themselves
are too tight by far. Both statistics are close to log-normal there, so the limit is read off at the asked false-alarm rate even where
fewer windows are held out than that rate would need.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from cloud.models.readings import Readings
from protocols.errors import Reason, Refused
from protocols.inference.card import MOST_SIGNALS, ModelCard
from protocols.inference.window import Windows

FITTED_PART: Final = 0.75
LEAST_WINDOWS: Final = 40  # held out: below that the spread of a statistic is a guess
GAP_ROWS: Final = 10  # rows further apart than ten usual steps are not consecutive
SMALLEST: Final = 1e-12  # a statistic of exactly zero has no logarithm

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Everything the graph needs. `mean` and `scale` by signal [C]; `centre` [D] and `axes` [D, k] of flat windows, D = rows x signals."""

    card: ModelCard
    mean: Floats
    scale: Floats
    centre: Floats
    axes: Floats
    variances: Floats  # [k]


def fit(
    readings: Readings, *, name: str, made_by: str, window_rows: int = 10, explained: float = 0.99, false_alarm_rate: float = 0.001
) -> Fit:
    """Fit the model on these readings; raises Refused(BAD_TRAINING_DATA) saying what to change."""
    _check(readings, window_rows, explained, false_alarm_rate)
    row_ms = int(np.median(np.diff(readings.times)))
    max_gap_ms = GAP_ROWS * row_ms
    full = Windows(1, window_rows, len(readings.signals), max_gap_ms).slide(readings.times, readings.values)
    windows = full.windows.transpose(1, 0, 2)  # [N, rows, signals]
    # No row in both parts: the held-out windows begin a whole window behind the last fitted one.
    fitted = int(FITTED_PART * len(full))
    held = windows[fitted + window_rows - 1 :]
    if len(held) < LEAST_WINDOWS:
        raise _refused(
            f"{len(readings.times)} rows give {len(full)} windows of {window_rows} rows without a gap, {len(held)} of them to find the"
            f" limits with; at least {LEAST_WINDOWS} are needed: give more rows, a smaller --window, or rows at most {max_gap_ms} ms apart"
        )
    last = int(np.searchsorted(readings.times, full.times[fitted - 1], side="right"))
    scaler = StandardScaler().fit(readings.values[:last])
    constant = [signal for signal, spread in zip(readings.signals, np.ptp(readings.values[:last], axis=0), strict=True) if spread == 0]
    if constant:
        raise _refused(f"{', '.join(constant)}: never changes in the fitted rows, so it says nothing; leave it out with --signals")
    mean, scale = scaler.mean_, scaler.scale_
    flat = _flat(windows[:fitted], mean, scale)
    pca = PCA(n_components=explained, svd_solver="full").fit(flat)
    kept = min(int(pca.n_components_), flat.shape[1] - 1)  # something has to be left over for Q
    axes, variances = pca.components_[:kept].T.copy(), pca.explained_variance_[:kept]
    draft = {"mean": mean, "scale": scale, "centre": pca.mean_, "axes": axes, "variances": variances}
    q, t2 = statistics(held, **draft)
    if q.max() <= SMALLEST:
        raise _refused("the components explain everything, so nothing is left to judge by; lower --explained or give more rows")
    q_limit, t2_limit = _limit(q, false_alarm_rate), _limit(t2, false_alarm_rate)
    card = ModelCard(
        name=name,
        signals=tuple(readings.signals),
        window_rows=window_rows,
        row_ms=row_ms,
        max_gap_ms=max_gap_ms,
        false_alarm_rate=false_alarm_rate,
        held_out_false_alarm_rate=float((np.maximum(q / q_limit, t2 / t2_limit) > 1).mean()),
        components=kept,
        explained_variance=float(pca.explained_variance_ratio_[:kept].sum()),
        q_limit=q_limit,
        t2_limit=t2_limit,
        fitted_rows=len(readings.times),
        fitted_windows=fitted,
        held_out_windows=len(held),
        fitted_from_ms=int(readings.times[0]),
        fitted_to_ms=int(readings.times[-1]),
        data_sha256=readings.sha256,
        made_by=made_by,
    )
    return Fit(card, **draft)


def statistics(windows: Floats, *, mean: Floats, scale: Floats, centre: Floats, axes: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Q and T2 of windows [N, rows, signals]. Q is summed over the residual: as a difference of two sums it would lose its digits."""
    flat = _flat(windows, mean, scale) - centre
    inside = flat @ axes
    outside = flat - inside @ axes.T
    return (outside**2).sum(axis=1), (inside**2 / variances).sum(axis=1)


def _flat(windows: Floats, mean: Floats, scale: Floats) -> Floats:
    return ((windows - mean) / scale).reshape(len(windows), -1)


def _limit(statistic: Floats, false_alarm_rate: float) -> float:
    """Where a log-normal variable with the mean and spread of these values lies in all but `false_alarm_rate` of cases."""
    logs = np.log(np.maximum(statistic, SMALLEST))
    return float(np.exp(logs.mean() + NormalDist().inv_cdf(1 - false_alarm_rate) * logs.std(ddof=1)))


def _check(readings: Readings, window_rows: int, explained: float, false_alarm_rate: float) -> None:
    if not 0 < len(readings.signals) <= MOST_SIGNALS:
        raise _refused(
            f"a model takes 1 to {MOST_SIGNALS} signals, these readings have {len(readings.signals)}; choose some with --signals"
        )
    if not 2 <= window_rows <= 256:
        raise _refused(f"a window of {window_rows} rows; choose 2 to 256")
    if not 0 < explained < 1:
        raise _refused(f"the components cannot explain {explained:g} of the variance; choose a part between 0 and 1, such as 0.99")
    if not 0 < false_alarm_rate < 0.5:
        raise _refused(f"a false-alarm rate of {false_alarm_rate:g}; choose one between 0 and 0.5, such as 0.001")
    if len(readings.times) < 2 * window_rows:
        raise _refused(f"{len(readings.times)} rows are too few for windows of {window_rows}; a few hundred are needed")
    if (np.diff(readings.times) <= 0).any():
        first = int(np.flatnonzero(np.diff(readings.times) <= 0)[0]) + 2
        raise _refused(f"row {first} is not later than the row before it; sort the rows by time and remove repeats")


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_TRAINING_DATA, message)
