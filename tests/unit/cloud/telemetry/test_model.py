import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.telemetry.model import (
    PART_ROWS,
    Append,
    Assembler,
    Cursor,
    Gap,
    Kind,
    Numbers,
    Points,
    Position,
    Series,
    SeriesKey,
    Text,
    Verdict,
    after,
    encode_append,
    judge,
    parse_time,
)
from protocols.errors import Broken, Reason, Refused

MAX_PAYLOAD = 4 * 1024 * 1024


def rows(count: int) -> Numbers:
    return Numbers(np.arange(count, dtype=np.int32), np.arange(count) * 7, np.arange(count) / 3, np.full(count, 9))


def assembled(append: Append) -> Append:
    assembler = Assembler()
    parts = encode_append(append)
    assert all(len(part) < MAX_PAYLOAD for part in parts)
    assert all(assembler.add(part) is None for part in parts[:-1])
    whole = assembler.add(parts[-1])
    assert whole is not None
    return whole


def assert_same(one: Append, two: Append) -> None:
    assert (one.start, one.end) == (two.start, two.end)
    assert (list(one.series), list(one.texts), list(one.gaps)) == (list(two.series), list(two.texts), list(two.gaps))
    for column in ("series", "ts", "value", "position"):
        assert getattr(one.numbers, column).tolist() == getattr(two.numbers, column).tolist()


names = st.text(max_size=20)
positions = st.builds(Position, names, st.integers(0, 2**53))
appends = st.builds(
    Append,
    start=positions,
    end=positions,
    series=st.lists(st.builds(Series, st.integers(1, 2**31 - 1), st.builds(SeriesKey, names, names, names, st.sampled_from(Kind)))),
    numbers=st.integers(0, 50).map(rows),
    texts=st.lists(st.builds(Text, st.integers(1, 99), st.integers(-(2**53), 2**53), names, st.integers(0, 99))),
    gaps=st.lists(st.builds(Gap, names, names, names, st.integers(0, 99), st.integers(0, 99), st.none() | st.integers(0, 9), names)),
)


@given(appends)
def test_an_append_survives_the_wire(append: Append) -> None:
    assert_same(assembled(append), append)


def test_a_large_append_travels_in_parts_that_fit_the_bus() -> None:
    series = [Series(n, SeriesKey("product", f"device-{n}", "property")) for n in range(60_000)]
    texts = [Text(1, n, '"' + "x" * 5000 + '"', 1) for n in range(1_500)]
    gaps = [Gap("product", f"device-{n}", "", 0, 9, None, "agent_down") for n in range(30_000)]
    append = Append(Position("a", 1), Position("a", 2), series, rows(PART_ROWS * 2 + 1), texts, gaps)
    assert len(encode_append(append)) > 4
    assert_same(assembled(append), append)


def test_an_append_of_full_columns_is_one_part() -> None:
    assert len(encode_append(Append(Position(), Position("a", 1), numbers=rows(PART_ROWS)))) == 1


def test_a_sender_may_start_over_at_any_part() -> None:
    append = Append(Position("a", 1), Position("a", 2), numbers=rows(PART_ROWS + 1))
    parts = encode_append(append)
    assembler = Assembler()
    assembler.add(parts[0])
    assert assembler.add(parts[0]) is None
    whole = assembler.add(parts[1])
    assert whole is not None
    assert_same(whole, append)


def test_parts_of_different_appends_are_never_mixed() -> None:
    one = encode_append(Append(Position("a", 1), Position("a", 2), numbers=rows(PART_ROWS + 1)))
    two = encode_append(Append(Position("a", 2), Position("a", 3), numbers=rows(PART_ROWS + 1)))
    assembler = Assembler()
    assembler.add(one[0])
    with pytest.raises(Broken):
        assembler.add(two[1])
    with pytest.raises(Broken):
        assembler.add(one[1])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_append_are_refused(data: bytes) -> None:
    with pytest.raises(Broken):
        Assembler().add(data)


@pytest.mark.parametrize(
    ("start", "end", "verdict"),
    [
        (Position("a", 5), Position("a", 9), Verdict.APPLIED),
        (Position("a", 3), Position("a", 5), Verdict.HAVE),
        (Position("a", 0), Position("a", 4), Verdict.HAVE),
        (Position("a", 4), Position("a", 6), Verdict.REFUSED),
        (Position("a", 6), Position("a", 9), Verdict.REFUSED),
        (Position("b", 5), Position("b", 9), Verdict.REFUSED),
        (Position("a", 5), Position("b", 0), Verdict.APPLIED),
        (Position("a", 4), Position("b", 0), Verdict.REFUSED),
    ],
)
def test_only_an_append_that_begins_at_the_position_is_applied(start: Position, end: Position, verdict: Verdict) -> None:
    assert judge(Position("a", 5), Append(start, end)) is verdict


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("-1", -1),
        ("1700000000123", 1700000000123),
        ("2014-10-01T00:00:00Z", 1412121600000),
        ("2014-10-01t00:00:00.250z", 1412121600250),
        ("2014-10-01T08:00:00+08:00", 1412121600000),
        ("2014-10-01T08:00:00 08:00", 1412121600000),  # a `+` that was not percent-encoded
        ("2014-10-01T00:00:00.0001Z", 1412121600001),
    ],
)
def test_times_are_epoch_ms_or_rfc_3339(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "2014-10-01", "2014-10-01T00:00:00", "2014-13-01T00:00:00Z", "1e9", "9" * 16])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_time(text)
    assert refused.value.reason is Reason.BAD_TIME


@given(st.text(max_size=64))
def test_a_made_up_cursor_is_a_cursor_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        assert Cursor.parse(text).skip >= 0


@given(st.lists(st.integers(0, 5), min_size=1).map(sorted), st.integers(1, 4))
def test_pages_of_raw_rows_together_are_all_rows(times: list[int], limit: int) -> None:
    cursor, seen = Cursor(0), []
    while True:
        remaining = [ts for ts in times if ts >= cursor.ts][cursor.skip :]
        page = np.array(remaining[:limit])
        seen += page.tolist()
        if len(remaining) <= limit:
            break
        cursor = after(Points(page, page * 1.0, page), cursor.skip if page[0] == cursor.ts else 0)
    assert seen == times
