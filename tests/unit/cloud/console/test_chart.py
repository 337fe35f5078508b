"""What a chart shows: gaps as nothing, anomalies joined, the same bucket in the same place a second later."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cloud.console.chart import BUCKETS, History, Range, anomalous, option, points, range_until
from cloud.console.texts import Language
from cloud.telemetry.model import Buckets, Gap

WIDTH = 1_000
SHOWN = Range(0, BUCKETS * WIDTH)


def buckets(values: dict[int, float]) -> Buckets:
    at = np.array(sorted(values), np.int64)
    numbers = np.array([values[int(start)] for start in at])
    return Buckets(at, numbers - 1, numbers + 1, numbers, np.ones(len(at), np.int64))


def gap(from_ms: int, to_ms: int, reason: str = "agent_down") -> Gap:
    return Gap("pk", "d", "p", from_ms, to_ms, None, reason)


def test_a_bucket_that_a_gap_touches_is_nothing_unless_it_has_a_value() -> None:
    average, low, high = points(History(SHOWN, buckets({0: 5.0, 3_000: 6.0}), [gap(500, 2_500)]))
    assert average == [(0, 5.0), (1_000, None), (2_000, None), (3_000, 6.0)]
    assert [value for _, value in low] == [4.0, None, None, 5.0]
    assert [value for _, value in high] == [6.0, None, None, 7.0]


def test_an_empty_bucket_without_a_gap_is_left_out() -> None:
    average, _, _ = points(History(SHOWN, buckets({0: 5.0, 3_000: 6.0}), []))
    assert average == [(0, 5.0), (3_000, 6.0)]


def test_a_gap_longer_than_the_range_fills_it_and_no_more() -> None:
    average, _, _ = points(History(SHOWN, buckets({}), [gap(-5_000, 10**9)]))
    assert [at for at, _ in average] == [place * WIDTH for place in range(BUCKETS)]


@given(
    st.dictionaries(st.integers(0, BUCKETS - 1), st.floats(-1e6, 1e6), max_size=40),
    st.lists(st.tuples(st.integers(-2_000, 260_000), st.integers(1, 60_000)), max_size=6),
)
def test_every_value_is_shown_and_nothing_is_null_without_a_gap(found: dict[int, float], gaps: list[tuple[int, int]]) -> None:
    values = {place * WIDTH: value for place, value in found.items()}
    touching = [gap(start, start + length) for start, length in gaps if start < SHOWN.end and start + length > SHOWN.start]
    average, low, high = points(History(SHOWN, buckets(values), touching))
    assert {at: value for at, value in average if value is not None} == values
    for at, value in average:
        assert SHOWN.start <= at < SHOWN.end
        assert value is not None or any(one.from_ms < at + WIDTH and one.to_ms > at for one in touching)
    assert [at for at, _ in low] == [at for at, _ in high] == [at for at, _ in average]


def test_anomalous_buckets_that_touch_are_one_stretch() -> None:
    scores = buckets({0: -0.5, 1_000: 0.5, 2_000: 3.0, 5_000: 0.1, 6_000: 9.0})  # the highest is one more
    assert anomalous(scores, WIDTH) == [(1_000, 3_000), (5_000, 7_000)]


def test_a_second_later_the_same_bucket_has_the_same_bounds() -> None:
    one, other = range_until(1_760_000_000_000, 900), range_until(1_760_000_001_000, 900)
    assert one.width == other.width == 3_750
    assert (other.start - one.start) % one.width == 0
    assert one.start <= 1_760_000_000_000 < one.end


def test_reasons_and_names_are_in_the_language_of_the_page() -> None:
    history = History(SHOWN, buckets({0: 1.0}), [gap(500, 2_500), gap(3_000, 4_000, "of_a_later_version")], [(5_000, 6_000)])
    marks = {
        language: [mark[0]["name"] for mark in option(history, language, "°C")["series"][0]["markArea"]["data"]] for language in Language
    }
    assert marks[Language.EN] == ["the edge agent was not running", "of_a_later_version", "Anomaly"]
    assert marks[Language.ZH] == ["边缘代理未运行", "of_a_later_version", "异常"]
