"""Windows: never across a gap, the same one by one and many at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from protocols.inference.window import Full, Ints64, Windows

ROWS, SIGNALS, GAP_MS = 4, 2, 1_000


def windows(machines: int = 1) -> Windows:
    return Windows(machines, ROWS, SIGNALS, GAP_MS)


def values(count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    return np.arange(2.0 * count).reshape(count, SIGNALS)


def times(*ms: int) -> Ints64:
    return np.array(ms, np.int64)


def test_clean_rows_give_every_window_that_slides_over_them() -> None:
    rows = values(20)
    full = windows().slide(np.arange(20, dtype=np.int64) * 100 + 5, rows)
    expected = np.lib.stride_tricks.sliding_window_view(rows, ROWS, axis=0).transpose(0, 2, 1)
    assert len(full) == 17
    assert np.array_equal(full.windows.transpose(1, 0, 2), expected)
    assert full.times.tolist() == [305 + 100 * n for n in range(17)]


def test_no_window_lies_across_a_gap() -> None:
    at = times(0, 100, 200, 300, 1_301, 1_401, 1_501, 1_601)
    full = windows().slide(at, values(8))
    assert full.times.tolist() == [300, 1_601]
    assert full.windows[:, 1].tolist() == values(8)[4:].tolist()


def test_a_row_at_the_same_time_or_shortly_before_changes_nothing() -> None:
    rows = values(7)
    full = windows().slide(times(0, 100, 100, 50, 200, 300, 400), rows)
    assert full.times.tolist() == [300, 400]
    assert full.windows[:, 0].tolist() == rows[[0, 1, 4, 5]].tolist()


def test_a_clock_set_back_far_begins_a_new_sequence() -> None:
    full = windows().slide(times(10_000, 10_100, 10_200, 10_300, 100, 200, 300, 400), values(8))
    assert full.times.tolist() == [10_300, 400]


def test_a_value_that_is_not_finite_restarts_the_window_and_does_not_enter_it() -> None:
    rows = values(10)
    rows[5, 1] = np.nan
    full = windows().slide(np.arange(10, dtype=np.int64) * 100, rows)
    assert full.times.tolist() == [300, 400, 900]
    assert np.isfinite(full.windows).all()


def test_a_machine_forgotten_begins_anew_and_the_others_do_not() -> None:
    both = windows(2)
    machines = np.array([0, 1], np.int64)
    for n in range(ROWS):
        both.push(machines, times(100 * n, 100 * n), values(2))
    both.forget(0)
    full = both.push(machines, times(400, 400), values(2))
    assert full.machines.tolist() == [1]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-1_500, 1_500), st.floats(-1e3, 1e3) | st.just(float("inf"))), min_size=1, max_size=120
    )
)
def test_many_machines_at_once_give_what_each_gives_alone(rows: list[tuple[int, int, float]]) -> None:
    clock, alone, together = [10_000] * 4, [windows() for _ in range(4)], windows(4)
    expected: dict[int, list[tuple[int, list[list[float]]]]] = {machine: [] for machine in range(4)}
    found: dict[int, list[tuple[int, list[list[float]]]]] = {machine: [] for machine in range(4)}
    turn: dict[int, tuple[int, float]] = {}

    def flush() -> None:
        machines = np.array(list(turn), np.int64)
        _keep(found, together.push(machines, times(*(t for t, _ in turn.values())), np.array([[v, -v] for _, v in turn.values()])))
        turn.clear()

    for machine, step, value in rows:
        clock[machine] += step
        one = alone[machine].slide(times(clock[machine]), np.array([[value, -value]]))
        _keep(expected, Full(np.full(len(one), machine), one.times, one.windows))
        if machine in turn:
            flush()
        turn[machine] = (clock[machine], value)
    flush()
    assert found == expected


def _keep(into: dict[int, list[tuple[int, list[list[float]]]]], full: Full) -> None:
    for machine, time_ms, window in zip(full.machines.tolist(), full.times.tolist(), full.windows.transpose(1, 0, 2).tolist(), strict=True):
        into[machine].append((time_ms, window))
