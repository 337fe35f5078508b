"""Hypothesis strategies for frames."""

import math

import numpy as np
from hypothesis import strategies as st

from protocols.edgelink.columns import MAX_TIME_MS, Columns
from protocols.edgelink.frame import FrameHeader
from protocols.edgelink.lanes import Gap, GapReason, Lane
from protocols.edgelink.records import EventRecord, GapRecord, PresenceRecord, Record, ReplyRecord, TallyRecord

names = st.text(min_size=1, max_size=6)
keys = st.tuples(names, names, names)
times = st.one_of(st.integers(1_700_000_000_000, 1_700_000_100_000), st.integers(0, MAX_TIME_MS))
finite = st.floats(allow_nan=False, allow_infinity=False)
awkward = st.sampled_from(
    [0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 2.0**53, 2.0**63, -(2.0**63), 0.1 + 0.2, 1e22, 3e-5]
)
decimals = st.integers(-(10**6), 10**6).map(lambda number: number / 10)
flats = st.one_of(
    st.just(decimals),
    st.just(st.integers(-(2**53), 2**53).map(float)),
    st.just(st.floats(allow_nan=False, allow_infinity=False, width=32)),
    st.just(st.one_of(finite, awkward)),
    st.just(st.integers(0, 1).map(float)),
)


@st.composite
def columns(draw: st.DrawFn) -> Columns:
    """Up to 5 series whose values are each of one kind, or mixed; any order; texts and quality now and then."""
    dictionary = tuple(draw(st.lists(keys, max_size=3)))
    if not dictionary:
        return Columns((), np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0))
    kinds = [draw(flats) for _ in dictionary]
    series = draw(st.lists(st.integers(0, len(dictionary) - 1), max_size=12))
    values = [draw(kinds[index]) for index in series]
    at = draw(st.lists(times, min_size=len(series), max_size=len(series)))
    quality = draw(st.none() | st.lists(st.integers(0, 255), min_size=len(series), max_size=len(series)))
    texts = draw(st.lists(st.tuples(st.integers(0, len(dictionary) - 1), times, st.text(max_size=20)), max_size=3))
    return Columns(
        dictionary,
        np.array(series, np.uint32),
        np.array(at, np.int64),
        np.array(values, np.float64),
        None if quality is None else np.array(quality, np.uint8),
        tuple(texts),
    )


gaps = st.builds(
    Gap,
    names,
    names,
    st.lists(names, max_size=3).map(tuple),
    st.integers(0, 2**42),
    st.integers(0, 2**42),
    st.none() | st.integers(0, 2**40),
    st.sampled_from(GapReason),
)
records: st.SearchStrategy[tuple[Record, ...]] = st.lists(
    st.one_of(
        st.builds(EventRecord, names, names, names, times, st.just("{}")),
        st.builds(GapRecord, gaps),
        st.builds(TallyRecord, st.lists(st.tuples(st.integers(-(2**33), 2**33), st.integers(0, 2**32)), max_size=3).map(tuple)),
        st.builds(ReplyRecord, names, st.integers(0, 99_999), st.just("{}")),
        st.builds(PresenceRecord, names, names, st.booleans(), times),
    ),
    max_size=3,
).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> FrameHeader:
    seq = draw(st.integers(1, 2**56 - 1))
    return FrameHeader(
        draw(st.binary(min_size=16, max_size=16)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from(Lane)),
        seq,
        draw(st.integers(1, seq)),
        draw(st.integers(-(2**63), 2**63 - 1)),
        draw(st.integers(1, seq)),
    )


def by_series(given: Columns) -> Columns:
    """What a codec that sorts by series, keeping order within one, must give back."""
    order = given.series.argsort(kind="stable")
    return Columns(
        given.dictionary,
        given.series[order],
        given.times[order],
        given.values[order],
        None if given.quality is None else given.quality[order],
        given.texts,
    )


def is_sane(given: Columns) -> bool:
    """What every reader of columns relies on."""
    count = len(given.values)
    return (
        len(given.series) == len(given.times) == count
        and all(math.isfinite(value) for value in given.values.tolist())
        and all(0 <= index < len(given.dictionary) for index in given.series.tolist())
        and all(0 <= time <= MAX_TIME_MS for time in given.times.tolist())
    )
