"""The account by ten minutes: whatever becomes of readings, every stretch of time balances, and all of them make the whole."""

import os
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.buffer.frame_file import FrameFile
from edge_agent.buffer.peek import peek_ledger
from edge_agent.documents.account import answer, is_asked
from edge_agent.documents.status import write_status
from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas
from edge_agent.pipeline.forward import refused_body
from edge_agent.ports import Stretch
from edge_agent.settings import load
from protocols.edgelink.columns import NO_COLUMNS
from protocols.edgelink.frame import decode_frame, encode_body
from protocols.edgelink.lanes import LANES, GapReason, Lane
from protocols.edgelink.stretches import STRETCH_MS, STRETCHES, given_up, stretch_of
from tests.unit.edge_agent.test_cli import edgectl
from tests.unit.edge_agent.test_shedding import NOW_MS, READINGS, SIZE, body

GAP = encode_body(NO_COLUMNS)
BEGIN_MS = NOW_MS - NOW_MS % STRETCH_MS


def opened(path: Path, frames: int = 1_000, policy: LanePolicy | None = None) -> FrameFile:
    lanes = dict.fromkeys((Lane.LIVE, Lane.BULK), policy) if policy else {}
    return FrameFile(path, quotas=Quotas(frames * SIZE, lanes), gateway=("gateway", "gw1"), in_doubt=2)


def put(file: FrameFile, number: int, at_ms: int, lane: Lane = Lane.LIVE) -> None:
    file.begin()
    file.append(lane, body(number), READINGS, at_ms)
    file.commit()


def balances(file: FrameFile) -> list[Stretch]:
    """Every stretch does, and they add up to what the lanes count."""
    found = file.ledger()
    for one in found:
        assert one.collected == one.delivered + one.buffered + one.in_gaps, one
    lanes = file.state.lanes.values()
    for name, of_lanes in (("collected", "collected"), ("delivered", "delivered"), ("in_gaps", "in_gaps"), ("buffered", "readings")):
        assert sum(getattr(one, name) for one in found) == sum(getattr(lane, of_lanes) for lane in lanes), name
    return found


APPEND = st.tuples(st.just("append"), st.sampled_from([Lane.LIVE, Lane.BULK]), st.integers(0, 30))
ACTIONS = st.one_of(
    APPEND,
    st.tuples(st.just("forget"), st.sampled_from([Lane.LIVE, Lane.BULK]), st.integers(0, 40)),
    st.tuples(st.just("refuse"), st.sampled_from([Lane.LIVE, Lane.BULK]), st.integers(1, 40)),
    st.tuples(st.just("rollback"), st.just(Lane.LIVE), st.just(0)),
    st.tuples(st.just("reopen"), st.just(Lane.LIVE), st.just(0)),
)

POLICIES = st.builds(LanePolicy, st.sampled_from(list(Overflow)), keep_every=st.just(3), max_age_s=st.sampled_from([None, 1]))


@settings(max_examples=int(os.environ.get("HEARTHLINE_EXAMPLES") or 60), deadline=None)
@given(
    actions=st.lists(ACTIONS, min_size=5, max_size=60),
    policy=POLICIES,
    frames=st.integers(4, 30),
)
def test_every_stretch_of_time_balances_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, Lane, int]], policy: LanePolicy, frames: int
) -> None:
    """Also when the wall clock goes back: a reading belongs to the time that was read when its frame was made."""
    path = tmp_path_factory.mktemp("ledger") / "b.db"
    file = opened(path, frames, policy)
    try:
        for number, (what, lane, value) in enumerate(actions):
            if what == "reopen":
                file.close()
                file = opened(path, frames, policy)
                continue
            file.begin()
            if what in ("append", "rollback"):
                file.append(lane, body(number), READINGS, NOW_MS + value * STRETCH_MS // 3)
            elif what == "forget":
                file.forget(lane, value)
            else:
                file.replace(lane, value, GAP, GapReason.REFUSED_FRAME)
            if what == "rollback":
                file.rollback()
            else:
                file.commit()
            balances(file)
    finally:
        file.close()


class Cloud:
    """What the other end counts: each frame once, by what it says."""

    def __init__(self, file: FrameFile) -> None:
        self.file = file
        self.committed = dict.fromkeys(LANES, 0)
        self.delivered: Counter[int] = Counter()
        self.in_gaps: Counter[int] = Counter()

    def take(self, lane: Lane, up_to: int) -> None:
        frames, damaged = self.file.read(lane, self.committed[lane], 1_000)
        assert not damaged
        for seq, packed in frames:
            if seq <= up_to:
                frame = decode_frame(packed)
                self.delivered[stretch_of(frame.header.created_ms)] += frame.columns.count
                self.in_gaps.update(given_up(frame.header.created_ms, frame.records))
                self.committed[lane] = seq
        self.file.begin()
        self.file.forget(lane, self.committed[lane])
        self.file.commit()

    def agree(self) -> list[Stretch]:
        """Once everything is delivered."""
        for lane in LANES:
            self.take(lane, 1 << 40)
        found = balances(self.file)
        theirs = {at: (self.delivered[at], self.in_gaps[at]) for at in sorted({*self.delivered, *self.in_gaps})}
        assert {at: counts for at, counts in theirs.items() if any(counts)} == {one.from_ms: (one.delivered, one.in_gaps) for one in found}
        return found


@settings(max_examples=int(os.environ.get("HEARTHLINE_EXAMPLES") or 60), deadline=None)
@given(
    actions=st.lists(st.one_of(ACTIONS, APPEND, APPEND), min_size=20, max_size=90),
    policy=POLICIES,
    frames=st.integers(4, 12),
)
def test_the_cloud_counts_in_every_stretch_what_the_gateway_counts(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, Lane, int]], policy: LanePolicy, frames: int
) -> None:
    """However often frames were merged, thinned or refused: what takes their place says to which ten minutes their readings belong."""
    file = opened(tmp_path_factory.mktemp("ledger") / "b.db", frames, policy)
    cloud = Cloud(file)
    try:
        for number, (what, lane, value) in enumerate(actions):
            if what == "append":
                put(file, number, NOW_MS + value * STRETCH_MS // 3, lane)
            elif what == "forget":
                cloud.take(lane, cloud.committed[lane] + value)
            elif what == "refuse":
                held, _ = file.read(lane, 0, 100)
                for seq, frame in held[value % 7 : value % 7 + 1]:
                    file.begin()
                    file.replace(lane, seq, refused_body(frame, ("gateway", "gw1"), NOW_MS), GapReason.REFUSED_FRAME)
                    file.commit()
        cloud.agree()
    finally:
        file.close()


@pytest.mark.parametrize("overflow", [one for one in Overflow if one is not Overflow.BLOCK])
def test_what_is_merged_again_and_again_keeps_its_stretches(tmp_path: Path, overflow: Overflow) -> None:
    file = opened(tmp_path / "b.db", 6, LanePolicy(overflow, keep_every=2))
    cloud = Cloud(file)
    for number in range(40):
        put(file, number, BEGIN_MS + number * STRETCH_MS // 3)
    assert sum(one.in_gaps > 0 for one in cloud.agree()) > 5
    file.close()


def test_a_reading_stays_in_the_stretch_in_which_it_was_collected_wherever_it_goes(tmp_path: Path) -> None:
    file = opened(tmp_path / "b.db")
    for number in range(6):
        put(file, number, BEGIN_MS + number * STRETCH_MS // 2)
    file.begin()
    file.forget(Lane.LIVE, 3)
    file.replace(Lane.LIVE, 6, GAP, GapReason.REFUSED_FRAME)
    file.commit()
    expected = [(2, 2, 0, 0), (2, 1, 1, 0), (2, 0, 1, 1)]
    assert balances(file) == [
        Stretch(BEGIN_MS + place * STRETCH_MS, *(READINGS * count for count in counts)) for place, counts in enumerate(expected)
    ]
    file.close()
    assert peek_ledger(tmp_path / "b.db") is not None


def test_a_damaged_file_s_losses_stand_in_the_stretch_they_belong_to(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    file = opened(path)
    for number in range(6):
        put(file, number, BEGIN_MS + number * STRETCH_MS)
    file.close()
    with apsw.Connection(str(path)) as db:  # a row whose count was changed: found at open, and salvaged without it
        db.execute("update frame set readings = readings + 1 where id = ?", (Lane.LIVE.code << 56 | 3,))
    db.close()
    file = opened(path)
    assert [one.in_gaps for one in balances(file)] == [0, 0, READINGS, 0, 0, 0]
    file.close()


def test_three_months_are_kept_and_a_clock_that_jumps_a_century_drops_none_of_them(tmp_path: Path) -> None:
    file = opened(tmp_path / "b.db")
    first = BEGIN_MS // STRETCH_MS
    file.begin()
    file._db.executemany("insert into ledger values (?, 1, 1, 0)", [((first + n) * STRETCH_MS,) for n in range(STRETCHES - 2)])
    file.commit()
    century_ms = 100 * 365 * 86_400_000
    for number, at_ms in enumerate((BEGIN_MS + STRETCHES * STRETCH_MS, BEGIN_MS + century_ms, BEGIN_MS + 2 * century_ms)):
        put(file, number, at_ms)
    assert len(file.ledger()) == STRETCHES + 1, "all that were there, and the three new ones, the last of which is not closed yet"
    put(file, 9, BEGIN_MS + 3 * century_ms)
    put(file, 10, BEGIN_MS + 4 * century_ms)
    assert file.ledger()[0].from_ms > BEGIN_MS, "what is beyond goes, oldest first"
    file.close()


def test_the_ledger_costs_a_commit_no_page(tmp_path: Path) -> None:
    file = opened(tmp_path / "b.db")
    put(file, 0, BEGIN_MS)
    before = file.state.written_bytes
    for number in range(1, 50):
        put(file, number, BEGIN_MS + number)
    within = file.state.written_bytes - before
    for number in range(50, 99):
        put(file, number, BEGIN_MS + STRETCH_MS * number)
    across = file.state.written_bytes - before - within
    assert within < across, "a new stretch does write one"
    file.close()


def test_edgectl_account_of_an_interval_without_and_with_a_running_agent(tmp_path: Path) -> None:
    edgectl(tmp_path, "init", "--secret", "s")
    data_dir = load(tmp_path / "edge.toml", {}).data_dir
    data_dir.mkdir(exist_ok=True)
    assert edgectl(tmp_path, "account", "--from", "2026-01-01")[0] == 4
    file = opened(data_dir / "buffer.db")
    for number in range(4):
        put(file, number, BEGIN_MS + number * STRETCH_MS)
    file.close()
    begin = datetime.fromtimestamp(BEGIN_MS / 1000 + 900, UTC)
    words = ["account", "--from", begin.isoformat(), "--to", datetime.fromtimestamp(BEGIN_MS / 1000 + 1_500, UTC).isoformat()]
    code, out, _ = edgectl(tmp_path, *words, "-o", "json")
    assert code == 0
    assert f'"collected": {2 * READINGS}' in out
    assert f'"from_ms": {BEGIN_MS + STRETCH_MS}' in out

    write_status(data_dir, {"pid": os.getpid(), "written_ms": 1, "buffer": {"lanes": {}}})  # this process plays the agent

    def agent() -> None:
        deadline = time.monotonic() + 10
        while not is_asked(data_dir) and time.monotonic() < deadline:
            time.sleep(0.02)
        answer(data_dir, [Stretch(BEGIN_MS + STRETCH_MS, 7, 7, 0, 0)])

    playing = threading.Thread(target=agent)
    playing.start()
    code, out, _ = edgectl(tmp_path, *words)
    playing.join()
    assert code == 0
    assert out.splitlines()[-1].split() == ["7", "7", "0", "0", "yes"]
    code, _, err = edgectl(tmp_path, "account", "--from", "yesterday")
    assert (code, "2026-03-01T08:00" in err) == (2, True)


def test_the_lanes_are_all_in_it(tmp_path: Path) -> None:
    file = opened(tmp_path / "b.db")
    for number, lane in enumerate(LANES):
        put(file, number, BEGIN_MS + number * STRETCH_MS, lane)
    assert [one.collected for one in balances(file)] == [READINGS] * len(LANES)
    file.close()
