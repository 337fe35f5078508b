"""Charts: whatever the order of the rows, each ms counts once, with the value that came last."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cloud.telemetry.buckets import fold, join

rows = st.lists(st.tuples(st.integers(-50, 50), st.integers(-8, 8)), max_size=60)


@given(rows, st.integers(1, 40), st.permutations(range(60)), st.integers(-50, 50))
def test_a_chart_is_what_a_dictionary_makes_of_the_rows(came: list[tuple[int, int]], width: int, order: list[int], cut: int) -> None:
    start = -50
    newest = dict(came)  # a later row of one ms takes the place of an earlier one
    expected: dict[int, list[int]] = {}
    for ts, value in newest.items():
        expected.setdefault((ts - start) // width, []).append(value)
    handed = [n for n in order if n < len(came)]
    pieces = []
    for part in ([n for n in handed if came[n][0] < cut], [n for n in handed if came[n][0] >= cut]):
        times, numbers = np.array([came[n][0] for n in part], np.int64), np.array([came[n][1] for n in part], np.float64)
        pieces.append(fold(times, numbers, np.array(part, np.int64), start, width))
    chart = join(pieces, start, width)
    assert chart.start.tolist() == [start + bucket * width for bucket in sorted(expected)]
    values = [expected[bucket] for bucket in sorted(expected)]
    assert chart.count.tolist() == [len(some) for some in values]
    assert chart.minimum.tolist() == [min(some) for some in values]
    assert chart.maximum.tolist() == [max(some) for some in values]
    assert np.allclose(chart.average, [sum(some) / len(some) for some in values])


def test_no_rows_make_no_buckets() -> None:
    assert len(join([], 0, 10).start) == 0
