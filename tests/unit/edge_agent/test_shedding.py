"""What a full or ageing buffer gives up: each policy keeps its word, and every reading is held or in a named gap."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.buffer.frame_file import FrameFile
from edge_agent.buffer.lane_rows import ROW_OVERHEAD_BYTES
from edge_agent.buffer.shedding import thinned
from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import Frame, decode_body, decode_frame, encode_body
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane, Verdict, Watermark
from protocols.edgelink.records import EventRecord, GapRecord

READINGS = 200
NOW_MS = 1_760_000_000_000
EVENT = EventRecord("press", "p1", "jam", 5, "{}")


def body(number: int) -> bytes:
    """200 readings that do not compress, with times of their own."""
    values = np.random.default_rng(number).random(READINGS)
    times = np.arange(number * READINGS, (number + 1) * READINGS, dtype=np.int64) + NOW_MS
    return encode_body(Columns((("press", "p1", "force"),), np.zeros(READINGS, np.uint32), times, values))


SIZE = len(body(0)) + ROW_OVERHEAD_BYTES


class Running:
    """The monotonic clock of a test."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@contextmanager
def opened(path: Path, frames: int, running: Running | None = None, **lanes: LanePolicy) -> Iterator[FrameFile]:
    quotas = Quotas(frames * SIZE, {Lane(name): policy for name, policy in lanes.items()})
    file = FrameFile(path, quotas=quotas, gateway=("gateway", "gw1"), in_doubt=2, running_s=running or Running())
    try:
        yield file
    finally:
        file.close()


def append(file: FrameFile, lane: Lane, number: int) -> int | None:
    file.begin()
    seq = file.append(lane, body(number), READINGS, NOW_MS)
    file.commit()
    return seq


def held(file: FrameFile, lane: Lane) -> list[Frame]:
    frames, damaged = file.read(lane, 0, 100_000)
    assert not damaged
    return [decode_frame(data) for _, data in frames]


def gaps(frames: list[Frame]) -> list[Gap]:
    return [record.gap for frame in frames for record in frame.records if isinstance(record, GapRecord)]


def account(file: FrameFile, lane: Lane) -> tuple[int, int]:
    """Readings held and in gaps: as the frames say, after comparing with what the lane counts."""
    frames, counted = held(file, lane), file.state.lanes[lane]
    found = sum(frame.columns.count for frame in frames), sum(gap.count or 0 for gap in gaps(frames))
    assert found == (counted.readings, counted.in_gaps)
    assert counted.collected == counted.readings + counted.in_gaps
    return found


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.THIN])
@given(arrivals=st.lists(st.sampled_from(LANES[2:]), min_size=10, max_size=60))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_reading_is_held_or_in_a_gap_and_the_cloud_sees_no_hole(tmp_path: Path, overflow: Overflow, arrivals: list[Lane]) -> None:
    path = tmp_path / "b.db"
    path.unlink(missing_ok=True)
    with opened(path, 12, live=LanePolicy(overflow, reserve_bytes=2 * SIZE), bulk=LanePolicy(overflow)) as file:
        for number, lane in enumerate(arrivals):
            append(file, lane, number)
        for lane in LANES[2:]:
            readings, in_gaps = account(file, lane)
            assert readings + in_gaps == arrivals.count(lane) * READINGS
            watermark = Watermark()
            for frame in held(file, lane):
                decision = watermark.advance(frame.header.seq, frame.header.floor, frame.header.first)
                assert decision.verdict is Verdict.APPEND
                assert decision.lost is None
                watermark = Watermark(decision.committed)
            assert watermark.committed == arrivals.count(lane)
        assert file.state.used_bytes <= 14 * SIZE  # gaps in doubt may stand above the line


def test_drop_newest_keeps_what_came_first(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db", 10, live=LanePolicy(Overflow.DROP_NEWEST)) as file:
        for number in range(40):
            append(file, Lane.LIVE, number)
        frames = held(file, Lane.LIVE)
        times = np.concatenate([frame.columns.times for frame in frames])
        assert times.tolist() == [NOW_MS + at for at in range(len(times))]
        assert len(times) >= 8 * READINGS
        lost = gaps(frames)
        assert [(gap.from_ms, gap.to_ms, gap.reason) for gap in lost] == [
            (NOW_MS + len(times) - 1, NOW_MS + 40 * READINGS, GapReason.OVERFLOW)
        ]
        file.begin()
        file.forget(Lane.LIVE, 5)
        file.commit()
        append(file, Lane.LIVE, 40)  # there is room again
        assert held(file, Lane.LIVE)[-1].columns.count == READINGS


def test_thin_keeps_every_nth_reading_over_the_whole_time_before_it_drops_anything(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db", 12, live=LanePolicy(Overflow.THIN, keep_every=10)) as file:
        for number in range(40):
            append(file, Lane.LIVE, number)
        frames = held(file, Lane.LIVE)
        assert [frame.header.seq for frame in frames] == list(range(1, 41))
        counts = Counter(frame.columns.count for frame in frames)
        assert set(counts) <= {READINGS // 10, READINGS}
        assert counts[READINGS // 10] >= 28
        assert {gap.reason for gap in gaps(frames)} == {GapReason.THINNED}
        for number in range(40, 1_500):  # beyond what thinning can give
            append(file, Lane.LIVE, number)
        account(file, Lane.LIVE)
        assert {gap.reason for gap in gaps(held(file, Lane.LIVE))} == {GapReason.THINNED, GapReason.OVERFLOW}
        assert file.state.used_bytes <= 13 * SIZE


def test_a_lane_that_blocks_waits_and_takes_nothing_from_itself(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db", 12, live=LanePolicy(Overflow.BLOCK)) as file:
        taken = [number for number in range(30) if append(file, Lane.LIVE, number) is not None]
        assert 8 <= len(taken) < 12
        assert account(file, Lane.LIVE) == (len(taken) * READINGS, 0)


def test_a_lane_s_own_quota_is_paid_by_itself(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db", 100, live=LanePolicy(Overflow.DROP_OLDEST, quota_bytes=8 * SIZE)) as file:
        for number in range(20):
            append(file, Lane.BULK, number)
        for number in range(20, 50):
            append(file, Lane.LIVE, number)
        assert account(file, Lane.BULK) == (20 * READINGS, 0)
        assert file.state.lanes[Lane.LIVE].used_bytes <= 8 * SIZE
        assert account(file, Lane.LIVE)[1] > 0


def test_a_reserve_is_not_taken_by_a_more_urgent_lane(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db", 20, bulk=LanePolicy(Overflow.DROP_OLDEST, reserve_bytes=5 * SIZE)) as file:
        for number in range(10):
            append(file, Lane.BULK, number)
        for number in range(10, 60):
            append(file, Lane.LIVE, number)
        assert file.state.lanes[Lane.BULK].used_bytes > 3 * SIZE
        assert account(file, Lane.LIVE)[1] > 0


def test_frames_expire_by_running_time_and_leave_their_gap(tmp_path: Path) -> None:
    running = Running()
    with opened(tmp_path / "b.db", 100, running, live=LanePolicy(Overflow.DROP_OLDEST, max_age_s=60)) as file:
        for number in range(10):
            append(file, Lane.LIVE, number)
        append(file, Lane.BULK, 10)
        running.seconds += 60
        append(file, Lane.LIVE, 11)
        assert account(file, Lane.LIVE) == (11 * READINGS, 0)
        running.seconds += 1
        append(file, Lane.BULK, 12)  # any lane's append looks
        frames = held(file, Lane.LIVE)
        assert [frame.header.seq for frame in frames] == [1, 2, 10, 11]  # the first two may be under way
        assert [(gap.reason, gap.count) for gap in gaps(frames)] == [(GapReason.EXPIRED, 8 * READINGS)]
        assert account(file, Lane.BULK) == (2 * READINGS, 0)


def test_neither_the_wall_clock_nor_a_restart_expires_anything(tmp_path: Path) -> None:
    policy = LanePolicy(Overflow.DROP_OLDEST, max_age_s=60)
    with opened(tmp_path / "b.db", 100, Running(), live=policy) as file:
        for number in range(10):
            append(file, Lane.LIVE, number)
    later = Running()
    later.seconds = 5_000_000.0  # another boot of the machine: its monotonic clock has nothing to do with the last one
    with opened(tmp_path / "b.db", 100, later, live=policy) as file:
        file.begin()
        file.append(Lane.LIVE, body(10), READINGS, NOW_MS + 400 * 86_400_000)
        file.commit()
        assert account(file, Lane.LIVE) == (11 * READINGS, 0)
        later.seconds += 61
        append(file, Lane.LIVE, 11)
        assert account(file, Lane.LIVE) == (3 * READINGS, 9 * READINGS)


def test_thinning_keeps_texts_events_quality_and_the_first_of_every_series() -> None:
    series = np.array([0, 1, 0, 1, 0, 1, 0], np.uint32)
    times = np.arange(7, dtype=np.int64) + NOW_MS
    columns = Columns(
        (("press", "p1", "force"), ("press", "p1", "speed"), ("press", "p1", "note")),
        series,
        times,
        np.arange(7.0),
        np.arange(7, dtype=np.uint8),
        ((2, NOW_MS, '"ok"'),),
    )
    thin, lost = thinned(encode_body(columns, (EVENT,)), 3)
    kept, records = decode_body(thin)
    assert lost == 4
    assert sorted(kept.values.tolist()) == [0.0, 1.0, 6.0]
    assert kept.quality is not None
    assert sorted(kept.quality.tolist()) == [0, 1, 6]
    assert kept.texts == columns.texts
    assert records[0] == EVENT
    assert sum(record.gap.count or 0 for record in records if isinstance(record, GapRecord)) == lost


def test_a_drained_buffer_gives_its_space_back_to_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    with opened(path, 100_000) as file:
        for start in range(0, 24_000, 1_000):
            file.begin()
            for number in range(start, start + 1_000):
                file.append(Lane.LIVE, body(number % 50), READINGS, NOW_MS)
            file.commit()
    full = path.stat().st_size
    with opened(path, 100_000) as file:
        file.begin()
        file.forget(Lane.LIVE, 24_000)
        file.commit()
        for number in range(40):
            append(file, Lane.LIVE, number)
    assert full > 35_000_000
    assert path.stat().st_size < full // 2


ADDED = [
    ("frame", "age_s"),
    ("frame", "thinned"),
    ("lane", "appended_bytes"),
    ("lane", "delivered_bytes"),
    ("frame", "period"),
    ("frame", "head"),
    ("lane", "open_ms"),
    ("lane", "open_collected"),
    ("lane", "open_delivered"),
    ("lane", "open_in_gaps"),
]


def test_a_file_of_the_first_format_is_taken_over_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    with opened(path, 100) as file:
        append(file, Lane.LIVE, 1)
        file.begin()
        for table, column in ADDED:
            file._db.execute(f"alter table {table} drop column {column}")
        file._db.execute("drop table ledger")
        file._db.execute("pragma user_version = 1")
        file._db.execute("commit")
    with opened(path, 100) as file:
        append(file, Lane.LIVE, 2)
        assert account(file, Lane.LIVE) == (2 * READINGS, 0)
        assert [(one.collected, one.buffered) for one in file.ledger()] == [(2 * READINGS, 2 * READINGS)]
