"""What ingest died of is found and put aside, and nothing else is."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.access.model import BatchWriter, session_key
from cloud.ingest.evaluation import Evaluator, open_message
from cloud.ingest.model import Effects, SeriesBook
from cloud.ingest.trail import DEATHS, MOST_SPOTS, NOBODY, WHOLE, Accused, Spot, Trail
from cloud.telemetry.model import Position
from protocols.errors import Reason
from tests.unit.cloud.ingest.scene import NOW, POST, STOVE, batch, evaluate, evaluator, frame, post, registry, rows, up

CODE = """
import sys
from pathlib import Path
from cloud.ingest.trail import Trail
trail = Trail(Path(sys.argv[1]), hung_s=0.3)
trail.begin("s")
with trail.working():
    trail.at(7, 2, 1)
    while True:
        pass
"""


def run(payloads: list[bytes]) -> bytes:
    """Payloads of one size that came back to back are one row."""
    writer, size = BatchWriter(), len(payloads[0])
    writer.add_run(session_key(STOVE), POST, NOW, b"".join(payloads), 0, size, size, len(payloads))
    return writer.to_bytes()


def judged(deaths: Mapping[Spot, int], *messages: bytes) -> Effects:
    accused = Accused(deaths)
    on = Evaluator(Position("s", 0), SeriesBook(()), {}, registry(), accused=accused)
    for sequence, message in enumerate(messages, 1):
        on.evaluate(open_message(sequence, message, accused=accused))
    return on.cut()


def test_a_life_that_ended_at_a_payload_accuses_it_and_one_that_ended_elsewhere_nobody(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "trail")
    assert trail.begin("s") == NOBODY
    trail.at(5, 0)
    trail.rest()
    assert trail.begin("s") == NOBODY
    trail.at(5, 3, 2)
    trail.close()  # as a process does that is killed
    for deaths in range(1, 5):
        trail = Trail(tmp_path / "trail")
        accused = trail.begin("s")
        assert accused.deaths == {Spot(5, 3, 2): deaths}
        assert accused.rows(5) == {3}
        assert accused.condemned(Spot(5, 3, 2)) is (deaths >= DEATHS)
        trail.at(5, 3, 2)
        trail.close()


def test_another_stream_has_other_messages(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "trail")
    trail.begin("s")
    trail.at(5, 3)
    assert trail.begin("t") == NOBODY
    assert trail.begin("s") == NOBODY


def test_a_file_of_something_else_accuses_nobody(tmp_path: Path) -> None:
    (tmp_path / "trail").write_bytes(b"\xff" * 10_000)
    assert Trail(tmp_path / "trail").begin("s") == NOBODY


def test_of_many_accused_the_last_are_remembered(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "trail")
    trail.begin("s")
    for sequence in range(1, 3 * MOST_SPOTS):
        trail.at(sequence, 0)
        accused = trail.begin("s")
    assert list(accused.deaths) == [Spot(sequence, 0, WHOLE) for sequence in range(2 * MOST_SPOTS, 3 * MOST_SPOTS)]


def test_a_process_that_hangs_at_a_payload_ends_and_accuses_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path / "trail")], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "Timeout" in done.stderr  # and where it hung
    assert Trail(tmp_path / "trail").begin("s").deaths == {Spot(7, 2, 1): 1}


@pytest.mark.refusal(Reason.POISON)
def test_a_condemned_post_is_quarantined_unseen_and_its_neighbours_are_stored() -> None:
    posts = [post({"power": n}) for n in range(3)]
    effects = judged({Spot(1, 0, WHOLE): 1, Spot(1, 1, 0): DEATHS}, batch(*posts))
    assert [value for *_, value in rows(effects)] == [0.0, 2.0]
    (entry,) = effects.quarantined
    assert (entry.reason, entry.payload, entry.replayable) == ("poison", posts[1], True)
    assert str(DEATHS) in entry.detail


def test_a_condemned_post_in_a_run_of_posts_is_put_aside_alone() -> None:
    posts = [post({"power": n}) for n in range(3)]
    effects = judged({Spot(1, 0, WHOLE): 1, Spot(1, 0, 1): DEATHS}, run(posts))
    assert [value for *_, value in rows(effects)] == [0.0, 2.0]
    assert [(entry.reason, entry.payload) for entry in effects.quarantined] == [("poison", posts[1])]


def test_a_condemned_frame_is_quarantined_leaves_a_named_gap_and_its_lane_goes_on() -> None:
    effects = judged({Spot(1, 1, 0): DEATHS}, up(frame(1), frame(2), frame(3)))
    assert [ts for *_, ts, _ in rows(effects)] == [NOW + 1, NOW + 3]
    assert [(entry.reason, entry.payload) for entry in effects.quarantined] == [("poison", frame(2))]
    assert [gap.reason for gap in effects.append.gaps] == ["refused_frame"]
    (mark,) = effects.marks.values()
    assert mark.sequence == 3


def test_a_condemned_message_of_the_stream_is_set_aside_whole() -> None:
    effects = judged({Spot(1, WHOLE, WHOLE): DEATHS}, batch(post({"power": 1})), batch(post({"power": 2})))
    assert [value for *_, value in rows(effects)] == [2.0]
    assert [message.sequence for message in effects.unreadable] == [1]


payloads = st.lists(st.one_of(st.integers(0, 9000).map(lambda n: post({"power": n})), st.binary(max_size=20)), min_size=1, max_size=5)
messages = st.one_of(
    payloads.map(lambda some: batch(*some)),
    st.lists(st.one_of(st.integers(1, 9).map(lambda n: post({"power": n})), st.just(b"?" * len(post({"power": 1})))), min_size=1).map(run),
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda some: up(*map(frame, some))),
)


@given(st.lists(messages, min_size=1, max_size=4), st.sets(st.builds(Spot, st.integers(1, 4), st.integers(0, 4), st.integers(-1, 1))))
def test_whoever_is_only_accused_is_taken_as_ever(stream: list[bytes], accused: set[Spot]) -> None:
    """A life that takes a run payload by payload has the effects of one that does not: the store holds it to that."""
    as_ever, one_by_one = evaluate(evaluator(), *stream), judged(dict.fromkeys(accused, 1), *stream)
    for part in ("series", "ts", "value", "position"):
        assert np.array_equal(getattr(as_ever.append.numbers, part), getattr(one_by_one.append.numbers, part))
    bare = as_ever.append.numbers
    assert replace(as_ever, append=replace(as_ever.append, numbers=bare)) == replace(
        one_by_one, append=replace(one_by_one.append, numbers=bare)
    )
