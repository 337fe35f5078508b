"""What every telemetry store promises (cloud/telemetry/ports.py)."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.telemetry.duckdb_store import DuckDbStore, Limits
from cloud.telemetry.model import (
    DAY_MS,
    Append,
    ClockNote,
    Expired,
    Gap,
    Kind,
    Numbers,
    Position,
    Sending,
    Series,
    SeriesKey,
    Text,
    Verdict,
)
from cloud.telemetry.ports import TelemetryStore

POWER = SeriesKey("stove", "s1", "power")
MODE = SeriesKey("stove", "s1", "mode", Kind.TEXT)
EVER = (-(2**53), 2**53)

Open = Callable[[], TelemetryStore]


# The second puts its rows in order all the time, under every test, and leaves the folding of charts to DuckDB; the third keeps no rows
# in memory, as a store does that was just opened; the fourth has segments of which charts read the minutes.
LIMITS = {
    "duckdb": Limits(),
    "duckdb, always ordering": Limits(segment_rows=3, segment_texts=2, quiet_s=0, folded_rows=1),
    "duckdb, without a tail": Limits(tail_segments=0),
    "duckdb, in minutes": Limits(segment_rows=24, quiet_s=0, tail_segments=1),
}


@pytest.fixture(params=LIMITS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store; opening again means that the process was started again."""
    stores: list[TelemetryStore] = []

    def reopen() -> TelemetryStore:
        for store in stores:
            store.close()
        stores.append(DuckDbStore(tmp_path / "telemetry.duckdb", LIMITS[request.param]))
        return stores[-1]

    yield reopen
    for store in stores:
        store.close()


def at(sequence: int, stream_id: str = "s") -> Position:
    return Position(stream_id, sequence) if sequence or stream_id != "s" else Position()


def numbers(*rows: tuple[int, int, float], position: int = 1) -> Numbers:
    series, ts, value = zip(*rows, strict=True)
    return Numbers(np.array(series, np.int32), np.array(ts, np.int64), np.array(value, np.float64), np.full(len(rows), position))


def first(rows: Numbers, *, end: int = 1, series: Sequence[Series] = (Series(1, POWER),)) -> Append:
    return Append(Position(), at(end), series=series, numbers=rows)


def listed(store: TelemetryStore, series: int = 1, start: int = EVER[0], end: int = EVER[1], limit: int = 100) -> list[tuple[int, object]]:
    points = store.points(series, start, end, limit)
    return list(zip(points.ts.tolist(), list(points.values), strict=True))


def test_what_was_appended_is_there_in_order_of_time_after_a_restart(open_store: Open) -> None:
    store = open_store()
    assert store.append(first(numbers((1, 2000, 2.5), (1, 1000, 1.5)))) is Verdict.APPLIED
    store = open_store()
    assert listed(store) == [(1000, 1.5), (2000, 2.5)]
    assert store.position() == at(1)
    assert store.find(POWER) == 1
    assert list(store.series(0, 10)) == [Series(1, POWER)]


def test_repeating_an_append_answers_have_and_adds_nothing(open_store: Open) -> None:
    store = open_store()
    append = first(numbers((1, 1000, 1.0)))
    store.append(append)
    assert store.append(append) is Verdict.HAVE
    store = open_store()
    assert store.append(append) is Verdict.HAVE
    assert len(store.rows(1, *EVER, 10, 0)) == 1


def test_an_append_that_does_not_begin_at_the_position_is_refused_whole(open_store: Open) -> None:
    store = open_store()
    store.append(first(numbers((1, 1000, 1.0))))
    for start in (Position(), at(2), Position("other", 1)):
        late = Append(start, at(3), series=[Series(2, MODE)], numbers=numbers((1, 9000, 9.0)), gaps=[Gap("stove", "s1", "", 0, 9, 1, "x")])
        assert store.append(late) is Verdict.REFUSED
    assert listed(store) == [(1000, 1.0)]
    assert store.find(MODE) is None
    assert store.gaps("stove", "s1", "power", *EVER, 10) == []
    assert store.position() == at(1)


def test_an_append_may_move_the_store_to_another_stream(open_store: Open) -> None:
    store = open_store()
    store.append(first(numbers((1, 1000, 1.0)), end=7))
    moved = Append(at(7), Position("anew", 0), gaps=[Gap("", "", "", 1000, 5000, None, "stream_lost")])
    assert store.append(moved) is Verdict.APPLIED
    assert store.append(moved) is Verdict.HAVE
    assert store.append(Append(Position("anew", 0), Position("anew", 1), numbers=numbers((1, 5000, 5.0)))) is Verdict.APPLIED
    assert [gap.reason for gap in store.gaps("any", "device", "at all", *EVER, 10)] == ["stream_lost"]


def test_of_several_samples_in_one_ms_the_last_counts_and_raw_rows_keep_all(open_store: Open) -> None:
    store = open_store()
    store.append(first(numbers((1, 1000, 1.0), (1, 1000, 2.0), (1, 2000, 3.0))))
    store.append(Append(at(1), at(2), numbers=numbers((1, 1000, 0.5), position=2)))
    assert listed(store) == [(1000, 0.5), (2000, 3.0)]
    rows = store.rows(1, *EVER, 10, 0)
    assert list(zip(rows.ts.tolist(), list(rows.values), rows.position.tolist(), strict=True)) == [
        (1000, 1.0, 1),
        (1000, 2.0, 1),
        (1000, 0.5, 2),
        (2000, 3.0, 1),
    ]
    assert store.rows(1, *EVER, 2, 1).values.tolist() == [2.0, 0.5]  # type: ignore[union-attr]


def test_a_range_takes_its_start_and_not_its_end_and_stops_at_the_limit(open_store: Open) -> None:
    store = open_store()
    store.append(first(numbers(*((1, ts, float(ts)) for ts in range(10)))))
    assert [ts for ts, _ in listed(store, start=3, end=7)] == [3, 4, 5, 6]
    assert [ts for ts, _ in listed(store, start=3, end=7, limit=2)] == [3, 4]
    assert listed(store, start=7, end=7) == []


def test_days_of_any_age_are_one_history(open_store: Open) -> None:
    days = [-3, 0, 1, 2, 19_000, 20_000, 20_001, 30_000]
    store = open_store()
    rows = [(1, day * DAY_MS + ms, float(day)) for day in reversed(days) for ms in (0, DAY_MS - 1)]
    store.append(first(numbers(*rows)))
    for again in range(2):
        store = open_store() if again else store
        assert [ts for ts, _ in listed(store)] == sorted(ts for _, ts, _ in rows)
        assert len(listed(store, limit=5)) == 5
        assert store.rows(1, *EVER, 3, 4).ts.tolist() == sorted(ts for _, ts, _ in rows)[4:7]
        assert store.buckets(1, -3 * DAY_MS, 30_001 * DAY_MS, 30_004 * DAY_MS).count.tolist() == [16]


def test_many_days_need_more_than_one_statement_and_still_make_one_answer(open_store: Open) -> None:
    store = open_store()
    store.append(first(numbers(*((1, day * DAY_MS, float(day)) for day in range(200)))))
    assert [value for _, value in listed(store, limit=1000)] == [float(day) for day in range(200)]
    assert [ts for ts, _ in listed(store, limit=7)] == [day * DAY_MS for day in range(7)]
    buckets = store.buckets(1, 0, 200 * DAY_MS, 150 * DAY_MS)
    assert (buckets.count.tolist(), buckets.average.tolist()) == ([150, 50], [74.5, 174.5])


MINUTE_MS = 60_000
readings = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 149), st.integers(-8, 8)), min_size=1, max_size=60)


EXAMPLES = int(os.environ.get("HEARTHLINE_EXAMPLES") or 25)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    appends=st.lists(readings, min_size=1, max_size=8),
    begin=st.integers(0, 2),
    length_s=st.integers(1, 150),
    minutes=st.integers(1, 4),
)
def test_charts_of_whole_minutes_are_what_a_dictionary_makes_of_the_rows(
    open_store: Open, appends: list[list[tuple[int, int, int]]], begin: int, length_s: int, minutes: int
) -> None:
    """Late rows, rows of one ms, and minutes that lie in several segments; while they are put in order, and after."""
    store, end_s = open_store(), begin * 60 + length_s
    base = (store.position().sequence + 1) * DAY_MS  # every example on a day of its own
    newest: dict[int, dict[int, float]] = {1: {}, 2: {}}
    named = () if store.find(POWER) else (Series(1, POWER), Series(2, SeriesKey("stove", "s1", "heat")))
    for rows in appends:
        end = store.position().sequence + 1
        store.append(Append(store.position(), at(end), named, numbers(*((s, base + t * 1000, float(v)) for s, t, v in rows), position=end)))
        named = ()
        for series, second, value in rows:
            newest[series][second] = float(value)
        for series, width in ((1, minutes * MINUTE_MS), (2, minutes * MINUTE_MS)):
            start = base + begin * MINUTE_MS
            chart = store.buckets(series, start, base + end_s * 1000, width)
            expected: dict[int, list[float]] = {}
            for second, came_last in newest[series].items():
                if begin * 60 <= second < end_s:
                    expected.setdefault(start + (second - begin * 60) * 1000 // width * width, []).append(came_last)
            assert chart.start.tolist() == sorted(expected)
            assert chart.count.tolist() == [len(expected[at_ms]) for at_ms in sorted(expected)]
            assert chart.minimum.tolist() == [min(expected[at_ms]) for at_ms in sorted(expected)]
            assert chart.maximum.tolist() == [max(expected[at_ms]) for at_ms in sorted(expected)]
            assert np.allclose(chart.average, [sum(expected[at_ms]) / len(expected[at_ms]) for at_ms in sorted(expected)])


def test_buckets_are_cut_from_the_start_and_count_each_ms_once(open_store: Open) -> None:
    store = open_store()
    store.append(first(numbers((1, 100, 9.0), (1, 100, 1.0), (1, 109, 3.0), (1, 110, 7.0), (1, 139, 5.0), (1, 140, 99.0))))
    buckets = store.buckets(1, 100, 140, 10)
    assert buckets.start.tolist() == [100, 110, 130]
    assert buckets.minimum.tolist() == [1.0, 7.0, 5.0]
    assert buckets.maximum.tolist() == [3.0, 7.0, 5.0]
    assert buckets.average.tolist() == [2.0, 7.0, 5.0]
    assert buckets.count.tolist() == [2, 1, 1]
    assert len(store.buckets(1, 200, 300, 10).start) == 0


def test_texts_are_kept_as_they_were(open_store: Open) -> None:
    store = open_store()
    texts = [Text(2, 1000, '"蒸"', 1), Text(2, 2 * DAY_MS, '{"a":9007199254740993}', 1), Text(2, 1000, '"烤"', 1)]
    store.append(Append(Position(), at(1), series=[Series(1, POWER), Series(2, MODE)], texts=texts))
    assert listed(open_store(), 2) == [(1000, '"烤"'), (2 * DAY_MS, '{"a":9007199254740993}')]


def test_the_newest_of_several_series_come_together_newest_first(open_store: Open) -> None:
    store = open_store()
    alarm, done = SeriesKey("stove", "s1", "alarm", Kind.EVENT), SeriesKey("stove", "s1", "done", Kind.EVENT)
    known = [Series(1, POWER), Series(2, alarm), Series(3, done), Series(4, SeriesKey("stove", "s2", "alarm", Kind.EVENT))]
    days = [Text(2 + n % 2, n * DAY_MS, str(n), 1) for n in range(6)]
    same = [Text(2, 9 * DAY_MS, "8", 1), Text(3, 9 * DAY_MS, "9", 1), Text(4, 9 * DAY_MS, "99", 1)]
    store.append(Append(Position(), at(1), series=known, texts=[*days, *same]))
    store.append(Append(at(1), at(2), texts=[Text(2, 9 * DAY_MS, "10", 2)]))
    store = open_store()
    assert [one.id for one in store.series_of("stove", "s1", Kind.EVENT)] == [2, 3]
    assert store.series_of("stove", "s3", Kind.EVENT) == []
    assert [text.json for text in store.newest([2, 3], *EVER, 100)] == ["10", "9", "8", "5", "4", "3", "2", "1", "0"]
    assert [text.json for text in store.newest([2, 3], *EVER, 4)] == ["10", "9", "8", "5"]
    assert [text.json for text in store.newest([3], DAY_MS, 5 * DAY_MS, 100)] == ["3", "1"]
    assert store.newest([2, 3], 0, 0, 100) == []
    assert store.newest([], *EVER, 100) == []


def test_a_gap_answers_for_its_property_or_for_all_of_its_device(open_store: Open) -> None:
    store = open_store()
    one = Gap("stove", "s1", "power", 1000, 2000, 3, "missed_poll")
    whole = Gap("stove", "s1", "", 5000, 6000, None, "agent_down")
    other = Gap("stove", "s2", "", 0, 9000, None, "agent_down")
    store.append(Append(Position(), at(1), gaps=[whole, one, other]))
    assert list(store.gaps("stove", "s1", "power", *EVER, 10)) == [one, whole]
    assert list(store.gaps("stove", "s1", "mode", *EVER, 10)) == [whole]
    assert list(store.gaps("stove", "s1", "power", 2000, 5000, 10)) == []  # bounds are exclusive
    assert list(store.gaps("stove", "s1", "power", 1999, 5001, 10)) == [one, whole]
    assert list(store.gaps("stove", "s1", "power", *EVER, 1)) == [one]


def test_series_are_handed_out_in_pages(open_store: Open) -> None:
    store = open_store()
    series = [Series(n, SeriesKey("stove", f"s{n}", "power")) for n in range(1, 8)]
    store.append(Append(Position(), at(1), series=series))
    assert [s.id for s in store.series(2, 3)] == [3, 4, 5]
    assert list(store.series(7, 3)) == []
    assert list(open_store().series(0, 100)) == series


def test_a_failed_append_leaves_nothing_behind(open_store: Open) -> None:
    store = open_store()
    holed = Append(Position(), at(1), series=[Series(5, POWER)], numbers=numbers((5, 0, 1.0)))
    with pytest.raises(ValueError, match="numbered from 1"):
        store.append(holed)
    assert store.position() == Position()
    assert store.append(first(numbers((1, 0, 1.0)))) is Verdict.APPLIED
    assert listed(store) == [(0, 1.0)]


def test_what_is_asked_while_appends_go_on_is_whole(open_store: Open) -> None:
    """Points, rows and charts show every append that was over before they were asked for, however the store moves its rows meanwhile."""
    store = open_store()
    store.append(first(numbers((1, 0, 0.0))))
    stop = threading.Event()

    def ask() -> int:
        asked = 0
        while not stop.is_set():
            least = store.position().sequence
            counts = (
                len(listed(store, limit=10_000)),
                len(store.rows(1, *EVER, 10_000, 0)),
                int(store.buckets(1, 0, 10_000, 100).count.sum()),
            )
            assert least <= min(counts), (least, counts)
            assert max(counts) <= store.position().sequence + 1
            asked += 1
        return asked

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask) for _ in range(3)]
        for n in range(1, 150):
            store.append(Append(at(n), at(n + 1), numbers=numbers((1, n * 7919 % 9973, float(n)), position=n + 1)))
        stop.set()
        assert min(one.result() for one in asking) > 3


def test_closing_twice_is_harmless(open_store: Open) -> None:
    store = open_store()
    store.close()
    store.close()


def test_notes_about_the_clock_come_back_for_their_device_and_range(open_store: Open) -> None:
    store = open_store()
    moved, unknown, other = (
        ClockNote("stove", "s1", 1000, 2000, 500),
        ClockNote("stove", "s1", 3000, 4000, None),
        ClockNote("stove", "s2", 0, 9, 1),
    )
    store.append(Append(Position(), at(1), notes=[moved, unknown, other]))
    store = open_store()
    assert list(store.notes("stove", "s1", *EVER, 10)) == [moved, unknown]
    assert list(store.notes("stove", "s1", 2000, 3001, 10)) == [unknown]


def test_it_is_kept_to_the_second_when_rows_came(open_store: Open) -> None:
    store = open_store()
    store.append(Append(Position(), at(5), series=(Series(1, POWER),), numbers=numbers((1, 1, 1.0), position=5), received_ms=10_000))
    store.append(Append(at(5), at(6), numbers=numbers((1, 2, 1.0), position=6), received_ms=10_400))  # within a second: the next one tells
    store.append(Append(at(6), at(9), numbers=numbers((1, 3, 1.0), position=8), received_ms=11_100))
    store.append(Append(at(9), at(10), numbers=numbers((1, 4, 1.0), position=10), received_ms=11_200))
    store = open_store()
    assert store.received(np.array([5, 6, 8, 10])).tolist() == [10_000, 11_100, 11_100, 0]


def test_it_is_kept_when_gateways_sent_what_came(open_store: Open) -> None:
    store = open_store()
    one, other = ("gateway", "g1"), ("gateway", "g2")
    for sequence, *told in ((1, Sending(*one, 1, 300)), (2,), (3, Sending(*other, 3, -50)), (4, Sending(*one, 4, 60_000)), (5,)):
        store.append(Append(store.position(), at(sequence), sendings=told, received_ms=100_000 * sequence))
    store = open_store()
    positions = np.array([1, 2, 3, 4, 5, 6])
    assert store.sent([one], positions).tolist() == [99_700, 199_700, 299_700, 340_000, 440_000, 0]
    assert store.sent([other], positions).tolist() == [0, 0, 300_050, 400_050, 500_050, 0]
    assert store.sent([], positions).tolist() == [0] * 6
    assert store.sent([one], positions[:0]).tolist() == []


def test_when_a_gateway_sent_outlives_older_rows(open_store: Open) -> None:
    store = open_store()
    for sequence, delay in ((1, 5_000), (2, 7_000), (3, None), (4, None)):
        told = [] if delay is None else [Sending("gateway", "g1", sequence, delay)]
        came(store, sequence, (1, sequence, 1.0), sendings=told)
    expired(store, 3_000, KEEP_MS, 3)
    assert store.sent([("gateway", "g1")], np.array([4])).tolist() == [4_000 - 7_000]


def test_positions_count_on_when_a_stream_is_lost(open_store: Open) -> None:
    store = open_store()
    store.append(Append(Position(), at(9), series=(Series(1, POWER),), numbers=numbers((1, 1, 1.0), position=9), received_ms=10_000))
    store.append(Append(at(9), Position("anew", 0), received_ms=20_000))
    store = open_store()
    store.append(Append(Position("anew", 0), Position("anew", 1), numbers=numbers((1, 1, 2.0)), received_ms=30_000))
    store = open_store()
    held = store.rows(1, *EVER, 10, 0)
    assert list(held.values) == [1.0, 2.0]
    assert held.position.tolist() == [9, 10]
    assert store.received(held.position).tolist() == [10_000, 30_000]


KEEP_MS = 10_000


def came(store: TelemetryStore, sequence: int, *rows: tuple[int, int, float], **more: Any) -> None:
    """The message at this position came at `sequence` seconds."""
    at_ms = sequence * 1000
    named = () if store.find(POWER) else (Series(1, POWER), Series(2, MODE))
    append = Append(store.position(), at(sequence), named, numbers(*rows, position=sequence), received_ms=at_ms, **more)
    assert store.append(append) is Verdict.APPLIED


def expired(store: TelemetryStore, before_ms: int, keep_ms: int, rows: int) -> Expired:
    """Expire until so many rows are gone: a segment that is being put in order just then is left for the next time."""
    gone = Expired()
    for _ in range(100):
        more = store.expire(before_ms, keep_ms)
        gone = Expired(gone.rows + more.rows, gone.segments + more.segments)
        if gone.rows >= rows:
            break
        time.sleep(0.05)
    return gone


def test_what_came_too_long_ago_goes_and_nothing_else_whatever_its_time(open_store: Open) -> None:
    store = open_store()
    lost, later = Gap("stove", "s1", "power", 5, 6, 1, "x"), Gap("stove", "s1", "power", 7, 8, 1, "x")
    came(
        store, 1, (1, 1, 1.0), (1, 40 * DAY_MS, 1.1), texts=[Text(2, 1, '"eco"', 1)], gaps=[lost], notes=[ClockNote("stove", "s1", 1, 2, 3)]
    )
    came(store, 2, *((1, DAY_MS + n, 2.0) for n in range(20)))
    came(store, 30, (1, 2, 3.0), (1, 3 * DAY_MS, 3.1), texts=[Text(2, 2, '"max"', 30)], gaps=[later])
    assert store.expire(0, KEEP_MS) == Expired()
    gone = expired(store, 20_000, KEEP_MS, 23)
    assert gone.rows == 23
    assert gone.segments >= 2
    store = open_store()
    assert listed(store) == [(2, 3.0), (3 * DAY_MS, 3.1)]
    assert listed(store, 2) == [(2, '"max"')]
    assert list(store.gaps("stove", "s1", "power", *EVER, 9)) == [later]
    assert list(store.notes("stove", "s1", *EVER, 9)) == []
    assert store.received(np.array([30])).tolist() == [30_000]
    assert store.expire(20_000, KEEP_MS) == Expired()
    assert store.position() == at(30)


def test_the_last_row_goes_too_though_nothing_came_after_it(open_store: Open) -> None:
    store = open_store()
    store.append(Append(Position(), at(1), (Series(1, POWER),), received_ms=1_000))
    store.append(
        Append(at(1), at(2), numbers=numbers((1, 5, 5.0), position=2), received_ms=1_400)
    )  # within a second: no receipt of its own
    assert expired(store, 1_900, KEEP_MS, 0) == Expired()
    assert expired(store, 2_100, KEEP_MS, 1).rows == 1
    assert listed(store) == []


def test_rows_beside_newer_ones_go_a_tenth_of_the_time_later(open_store: Open) -> None:
    store = open_store()
    came(store, 1, (1, 1, 1.0))
    came(store, 3, (1, 2, 3.0))
    came(store, 4, *((1, 3 + n, 4.0) for n in range(2)))  # fills the segment of a store that orders early
    came(store, 9, (1, 9, 9.0))
    gone = store.expire(3_500, 30_000)
    assert gone.rows in (0, 2)  # 2: the store keeps few rows together, and these were whole
    assert gone.rows + expired(store, 7_500, 30_000, 4 - gone.rows).rows == 4
    assert listed(store) == [(9, 9.0)]
    came(store, 10, (1, 1, 10.0), (1, 4, 10.5))
    store = open_store()
    assert listed(store) == [(1, 10.0), (4, 10.5), (9, 9.0)]


def test_a_day_whose_rows_are_gone_takes_rows_again(open_store: Open) -> None:
    store = open_store()
    for sequence in range(1, 30):
        came(store, sequence, (1, sequence, float(sequence)), (1, 100, float(sequence)))
    assert expired(store, 100_000, KEEP_MS, 58).rows == 58
    assert listed(store) == []
    assert store.buckets(1, 0, 1000, 100).count.tolist() == []
    came(store, 200, (1, 7, 7.0))
    store = open_store()
    came(store, 201, (1, 8, 8.0))
    assert listed(store) == [(7, 7.0), (8, 8.0)]
    assert store.buckets(1, 0, 1000, 100).count.tolist() == [2]


def test_what_is_let_go_of_while_rows_are_put_in_order_does_not_come_back(open_store: Open) -> None:
    """Segments fill up and are rewritten all the time beside the deletes; every row let go of is counted once and gone."""
    store = open_store()
    gone = 0
    for turn in range(25):
        old, new = 10 * turn + 1, 10 * turn + 5
        came(store, old, *((1, 100 * turn + n, 1.0) for n in range(2)))
        came(store, new, (1, 100 * turn + 50, 2.0))  # fills the segment: it is put in order from here on
        gone += expired(store, old * 1000 + 2000, 10_000, 2 if turn == 0 else 3).rows
    assert gone == 3 * 25 - 1
    assert [value for _, value in listed(store)] == [2.0]
    assert [value for _, value in listed(open_store())] == [2.0]
