"""Models beside the readings: every reading passes first, every row ends as a score or in a gap of the score, one event an excursion."""

import asyncio
import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.domain.batch import Shape
from edge_agent.domain.excursion import Excursion
from edge_agent.pipeline.refine import MARK_PREFIX, Plan, Refine, ScoreMark
from edge_agent.ports import DeviceKey
from protocols.edgelink.lanes import GapReason, Lane
from protocols.edgelink.records import EventRecord, GapRecord
from protocols.thing.model import parse_thing_model
from tests.fakes.edge import FakeClock, FakeIntake
from tests.fakes.scorer import FakeScorer
from tests.unit.protocols.inference.cards import card

WINDOW = 4
DOUBLE = {"type": "double", "specs": {}}
MODEL = parse_thing_model(
    {
        "properties": [{"identifier": name, "name": name, "accessMode": "r", "dataType": DOUBLE} for name in ("A", "B", "Other", "S")],
        "events": [
            {
                "identifier": "Odd",
                "name": "Odd",
                "type": "alert",
                "outputData": [{"identifier": name, "name": name, "dataType": DOUBLE} for name in ("Score", "Signal")],
            }
        ],
    }
)
PRESS = DeviceKey("pk", "press")
WHOLE = Shape("pk", "press", MODEL, ("Other", "B", "A"))
CARD = card(window_rows=WINDOW)


class Bench:
    """A refine stage on fakes."""

    def __init__(self, marks: Mapping[str, bytes] | None = None, *, queue_rows: int = 1_000, deaths: Sequence[int] = ()) -> None:
        self.intake = FakeIntake()
        self.scorer = FakeScorer([(CARD, 1)], deaths=set(deaths))
        shape = Shape("pk", "press", MODEL, ("S",))
        plan = Plan("m", CARD, (PRESS,), "S", (shape,), "Odd", frozenset({"Score", "Signal"}), raise_after=2, clear_after=2)
        self.refine = Refine(self.intake, self.scorer, [plan], FakeClock(), marks or {}, queue_rows=queue_rows, chance=lambda: 0.0)

    def feed(self, *rows: tuple[int, float]) -> None:
        for time_ms, value in rows:
            self.refine.row(WHOLE, (7.0, value, value), time_ms)

    async def work(self) -> None:
        """Let the stage do what waits."""
        stage = asyncio.create_task(self.refine.run())
        try:
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
                while self.refine.summary()["waiting"]:
                    await asyncio.sleep(0.001)
                await self.refine.drain()
        finally:
            stage.cancel()
            await asyncio.gather(stage, return_exceptions=True)

    @property
    def scores(self) -> list[tuple[int, float]]:
        return [(time_ms, float(value)) for _, name, value, time_ms in self.intake.readings if name == "S"]  # type: ignore[arg-type]

    @property
    def gaps(self) -> list[tuple[int, int, int | None]]:
        found = [record.gap for _, record in self.intake.records if isinstance(record, GapRecord)]
        assert all(gap.reason is GapReason.NOT_SCORED and gap.identifiers == ("S",) for gap in found)
        return [(gap.from_ms, gap.to_ms, gap.count) for gap in found]

    @property
    def events(self) -> list[EventRecord]:
        return [record for lane, record in self.intake.records if isinstance(record, EventRecord) and lane is Lane.ALARM]


async def test_readings_pass_at_once_and_unchanged_and_the_score_comes_with_the_time_of_its_row() -> None:
    bench = Bench()
    bench.feed(*((100 * n, 0.5) for n in range(1, 7)))
    assert [(name, time_ms) for _, name, _, time_ms in bench.intake.readings[-3:]] == [("Other", 600), ("B", 600), ("A", 600)]
    assert len(bench.intake.readings) == 18  # before the stage has run at all
    await bench.work()
    assert bench.scores == [(400, 0.5), (500, 0.5), (600, 0.5)]
    assert bench.gaps == []  # nothing was scored before: there is no hole to name


async def test_a_scorer_that_dies_is_started_again_and_no_score_is_missed() -> None:
    bench = Bench(deaths=[2])
    bench.feed(*((100 * n, 0.5) for n in range(1, 6)))
    await bench.work()
    bench.feed(*((100 * n, 0.5) for n in range(6, 9)))
    await bench.work()
    assert [time_ms for time_ms, _ in bench.scores] == [400, 500, 600, 700, 800]
    assert bench.gaps == []
    assert bench.scorer.starts >= 2
    assert bench.refine.restarts == 1


async def test_rows_that_kill_the_scorer_twice_are_given_up_and_named() -> None:
    bench = Bench(deaths=[3, 5])  # calls 2 and 4 hand the history over
    bench.feed(*((100 * n, 0.5) for n in range(1, 6)))
    await bench.work()
    bench.feed((600, 0.5))
    await bench.work()
    assert bench.refine.restarts == 2
    bench.feed((700, 0.5))
    await bench.work()
    assert [time_ms for time_ms, _ in bench.scores] == [400, 500, 700]
    assert bench.gaps == [(500, 700, 1)]


async def test_a_full_queue_drops_its_oldest_rows_and_names_them() -> None:
    bench = Bench(queue_rows=5)
    bench.feed(*((100 * n, 0.5) for n in range(1, 5)))
    await bench.work()
    bench.feed(*((100 * n, 0.5) for n in range(5, 15)))  # ten rows for five places
    assert len(bench.intake.readings) == 1 + 14 * 3
    await bench.work()
    assert [time_ms for time_ms, _ in bench.scores] == [400, 1_000, 1_100, 1_200, 1_300, 1_400]
    assert bench.gaps == [(400, 1_000, 5)]


async def test_after_the_agent_was_away_the_gap_reaches_from_the_last_durable_score() -> None:
    bench = Bench({f"{MARK_PREFIX}m/{PRESS}": ScoreMark(350, raised=False).to_bytes()})
    bench.feed(*((1_000 + 100 * n, 0.5) for n in range(5)))
    await bench.work()
    assert bench.scores[0][0] == 1_300
    assert bench.gaps == [(350, 1_300, None)]


async def test_one_event_an_excursion_and_none_for_a_single_high_score() -> None:
    bench = Bench()
    quiet, loud = 0.5, 3.0
    values = [quiet] * 5 + [loud] + [quiet] * 2 + [loud] * 6 + [quiet, loud] * 2 + [quiet] * 3 + [loud] * 2
    bench.feed(*((100 * n, value) for n, value in enumerate(values, 1)))
    await bench.work()
    assert [event.time_ms for event in bench.events] == [1_000, 2_300]
    assert json.loads(bench.events[0].output) == {"Score": 3.0, "Signal": "A"}
    assert ScoreMark.from_bytes(bench.intake.marks[f"{MARK_PREFIX}m/{PRESS}"]) == ScoreMark(2_300, raised=True)


async def test_an_anomaly_that_lasts_over_a_restart_is_not_raised_again() -> None:
    bench = Bench({f"{MARK_PREFIX}m/{PRESS}": ScoreMark(350, raised=True).to_bytes()})
    bench.feed(*((1_000 + 100 * n, 3.0) for n in range(8)))
    await bench.work()
    assert len(bench.scores) == 5
    assert bench.events == []


async def test_posts_with_some_of_the_signals_are_joined_with_the_others_if_those_are_fresh() -> None:
    bench = Bench()
    only = {name: Shape("pk", "press", MODEL, (name,)) for name in ("A", "B", "Other")}
    bench.refine.row(only["A"], (1.0,), 100)
    for n in range(2, 8):
        bench.refine.row(only["B"], (3.0,), 100 * n)
        bench.refine.row(only["Other"], (9.0,), 100 * n)  # none of the model's business
    await bench.work()
    assert bench.scores == [(500, 2.0), (600, 2.0), (700, 2.0)]
    bench.refine.row(only["B"], (3.0,), 100 + CARD.max_gap_ms + 1)  # by now A is too old
    await bench.work()
    assert len(bench.scores) == 3


async def test_a_model_that_did_not_load_is_named_and_the_readings_go_on() -> None:
    bench = Bench()
    bench.scorer.faults = ["m.onnx: damaged"]
    bench.feed(*((100 * n, 0.5) for n in range(1, 7)))
    await bench.work()
    assert len(bench.intake.readings) == 18
    assert bench.refine.status()[0]["fault"] == "m.onnx: damaged"
    assert bench.refine.status()[0]["not_scored"] == 6


@given(st.lists(st.floats(0, 2, allow_nan=False), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_anomalies_begin_only_behind_enough_high_scores_in_a_row_and_end_likewise(
    scores: list[float], raise_after: int, clear_after: int
) -> None:
    state, begun, since = Excursion(), 0, 0
    for n, score in enumerate(scores):
        before = state
        state, begins = state.after(score, 1.0, raise_after=raise_after, clear_after=clear_after)
        if begins:
            begun += 1
            assert not before.raised
            assert state.raised
            assert all(high > 1 for high in scores[n - raise_after + 1 : n + 1])
        if before.raised and not state.raised:
            since += 1
            assert all(low <= 1 for low in scores[n - clear_after + 1 : n + 1])
    assert begun - since == state.raised


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x93\x01\x02\x03", None])
def test_a_strange_mark_is_no_mark(data: bytes | None) -> None:
    assert ScoreMark.from_bytes(data) is None
