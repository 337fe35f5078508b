"""A damaged buffer file: whatever page is hit, the agent opens it, delivers what can be read, and names the rest."""

import random
from collections import Counter
from pathlib import Path

import apsw
import numpy as np
import pytest

from edge_agent.buffer.frame_file import FrameFile
from edge_agent.domain.quotas import Quotas
from edge_agent.ports import OutboxDamaged
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import decode_frame, encode_body
from protocols.edgelink.lanes import GapReason, Lane, Verdict, Watermark
from protocols.edgelink.records import GapRecord
from protocols.edgelink.stretches import given_up

PAGE = 8192
FRAMES = 400
READINGS = 300


def body(number: int) -> bytes:
    values = np.random.default_rng(number).random(READINGS)
    times = np.arange(number * READINGS, (number + 1) * READINGS, dtype=np.int64)
    return encode_body(Columns((("press", "p1", "force"),), np.zeros(READINGS, np.uint32), times, values))


BODIES = [body(number) for number in range(FRAMES)]


def opened(path: Path) -> FrameFile:
    return FrameFile(path, quotas=Quotas(1 << 30), gateway=("gateway", "gw1"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "b.db"
    file = opened(path)
    for number in range(FRAMES):
        file.begin()
        file.append(Lane.LIVE, BODIES[number], READINGS, 1_760_000_000_000 + number)
        file.remember({f"mark/{number}": b"x" * 50})
        file.commit()
    file.close()
    return path.read_bytes()


def read_all(file: FrameFile) -> list[bytes]:
    while True:
        frames, damaged = file.read(Lane.LIVE, 0, 10 * FRAMES)
        if not damaged:
            return [data for _, data in frames]
        file.begin()
        for seq in damaged:
            file.replace_damaged(Lane.LIVE, seq)
        file.commit()


def judge(file: FrameFile) -> tuple[int, int]:
    """Readings delivered and lost, after checking every frame against what was written and the cloud's arithmetic."""
    watermark, delivered, gaps = Watermark(), 0, 0
    for data in read_all(file):
        frame = decode_frame(data)
        decision = watermark.advance(frame.header.seq, frame.header.floor, frame.header.first)
        assert decision.verdict is Verdict.APPEND
        watermark = Watermark(decision.committed)
        if frame.columns.count:
            assert encode_body(frame.columns) == BODIES[frame.header.seq - 1]
        reasons = {record.gap.reason for record in frame.records if isinstance(record, GapRecord)}
        assert reasons <= {GapReason.BUFFER_DAMAGED}
        delivered += frame.columns.count
        gaps += len(reasons)
    lane = file.state.lanes[Lane.LIVE]
    assert (lane.next_seq, lane.collected) == (FRAMES + 1, FRAMES * READINGS)
    assert lane.collected == lane.readings + lane.in_gaps
    assert lane.readings == delivered
    if lane.in_gaps and lane.floor == 1:
        assert gaps
    told: Counter[int] = Counter()
    for lane_read in (Lane.ALARM, Lane.LIVE):
        for _, data in file.read(lane_read, 0, 10 * FRAMES)[0]:
            frame = decode_frame(data)
            told.update(given_up(frame.header.created_ms, frame.records))
    assert {at: count for at, count in told.items() if count} == {one.from_ms: one.in_gaps for one in file.ledger() if one.in_gaps}
    assert sum(told.values()) == lane.in_gaps, "the cloud's account will say the same"
    return delivered, lane.in_gaps


def test_damage_anywhere_costs_what_it_hit_and_is_named(whole: bytes, tmp_path: Path) -> None:
    seed = random.Random(20261127)
    losses = salvaged = refused = rootless = 0
    for number in range(100):
        path = tmp_path / f"{number}.db"
        data = bytearray(whole)
        at = seed.randrange(2 * PAGE, len(data))  # the first pages hold the header, identity and counters
        for place in range(at, min(at + seed.choice((1, 16, PAGE)), len(data))):
            data[place] ^= seed.randrange(1, 256)
        path.write_bytes(data)
        try:
            file = opened(path)
        except OutboxDamaged:
            refused += 1
            continue
        delivered, lost = judge(file)
        rootless += delivered < FRAMES * READINGS * 0.9  # the page from which all others are found: one in a few hundred
        losses += bool(lost)
        salvaged += path.with_name(path.name + ".damaged").exists()
        file.begin()
        assert file.append(Lane.LIVE, BODIES[0], READINGS, 0) == FRAMES + 1
        file.commit()
        file.close()
    assert refused <= 6
    assert rootless <= 2
    assert losses > 20
    assert salvaged > 5


def test_an_inner_page_of_the_tree_costs_no_frame_that_has_another_way(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    path.write_bytes(whole)
    db = apsw.Connection(str(path))
    [(root,)] = db.execute("select rootpage from sqlite_schema where name = 'frame'").fetchall()
    leaves = [page for (page,) in db.execute("select pageno from dbstat where name = 'frame' and pagetype = 'leaf'")] if root else []
    db.close()
    data = bytearray(whole)
    middle = leaves[len(leaves) // 2]
    data[(middle - 1) * PAGE : (middle - 1) * PAGE + 16] = bytes(16)
    path.write_bytes(data)
    file = opened(path)
    delivered, lost = judge(file)
    assert 0 < lost <= 10 * READINGS
    assert delivered + lost == FRAMES * READINGS
    file.close()


@pytest.mark.parametrize("stopped", ["before the renames", "after the first", "after the second"])
def test_an_exchange_that_was_cut_short_is_made_good(whole: bytes, tmp_path: Path, stopped: str) -> None:
    path, fresh, damaged = (tmp_path / name for name in ("b.db", "b.db.salvaged", "b.db.damaged"))
    if stopped == "before the renames":
        path.write_bytes(whole)
        fresh.write_bytes(whole[: len(whole) // 2])
    else:
        damaged.write_bytes(b"old")
        fresh.write_bytes(whole)
        (tmp_path / ("b.db-wal" if stopped == "after the first" else "b.db.damaged-wal")).write_bytes(b"old")
    file = opened(path)
    assert judge(file) == (FRAMES * READINGS, 0)
    assert not fresh.exists()
    file.close()


def test_a_flipped_bit_in_a_row_s_own_count_does_not_falsify_the_account(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "b.db"
    path.write_bytes(whole)
    db = apsw.Connection(str(path))
    db.execute("update frame set readings = readings + 1048576 where id in (select id from frame limit 1 offset 100)")
    db.close()
    file = opened(path)
    held = file.state.lanes[Lane.LIVE]
    assert held.collected == FRAMES * READINGS
    assert held.in_gaps == READINGS, "the row is not believed"
    assert held.collected == held.in_gaps + held.delivered + held.readings
    assert len(read_all(file)) == FRAMES
    file.close()


def test_a_row_whose_lane_was_changed_is_named_in_the_lane_it_came_from(whole: bytes, tmp_path: Path) -> None:
    """One flipped bit in its id: SQLite believes the order of ids, and hands the row out among those of its old lane."""
    row = Lane.LIVE.code << 56 | 200
    varint = bytes((row >> 8 + 7 * place) & 0x7F | 0x80 for place in range(7, -1, -1)) + bytes((row & 0xFF,))
    at, tried = whole.find(varint), 0
    while at >= 0:
        path = tmp_path / f"{at}.db"
        data = bytearray(whole)
        data[at] ^= Lane.LIVE.code >> 1
        path.write_bytes(data)
        file = opened(path)
        delivered, lost = judge(file)
        assert delivered + lost == FRAMES * READINGS
        assert file.state.lanes[Lane.ALARM].readings == 0, "it holds the tally of what was lost, and nothing else"
        file.close()
        tried += 1
        at = whole.find(varint, at + 1)
    assert tried > 0


@pytest.mark.parametrize("counter", ["delivered", "in_gaps", "collected"])
@pytest.mark.parametrize("change", [1, 64, -1])
def test_whatever_a_counter_says_no_reading_is_missing_and_the_account_balances(
    whole: bytes, tmp_path: Path, counter: str, change: int
) -> None:
    path = tmp_path / "b.db"
    path.write_bytes(whole)
    with apsw.Connection(str(path)) as db:
        db.execute(f"update lane set {counter} = {counter} + ? where code = ?", (change, Lane.LIVE.code))
    db.close()
    file = opened(path)
    assert sum(decode_frame(data).columns.count for data in read_all(file)) == FRAMES * READINGS
    lane = file.state.lanes[Lane.LIVE]
    assert lane.collected == lane.delivered + lane.in_gaps + lane.readings
    assert lane.in_gaps >= min(0, change)
    file.close()
