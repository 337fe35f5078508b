"""The collector: one commit at a time, what came meanwhile shares the next, and nothing is acknowledged before it is durable."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from edge_agent.domain.batch import Shape
from edge_agent.domain.seen import SeenRing
from edge_agent.pipeline.collect import CLOSE_AT_READINGS, FULL_AT_READINGS, Collector
from edge_agent.ports import OutboxUnavailable
from protocols.edgelink.frame import decode_body
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import EventRecord
from protocols.thing.model import parse_thing_model
from tests.fakes.outbox import FakeOutbox

MODEL = parse_thing_model(
    {
        "properties": [
            {"identifier": "A", "name": "A", "accessMode": "r", "dataType": {"type": "double", "specs": {}}},
            {"identifier": "Note", "name": "Note", "accessMode": "r", "dataType": {"type": "text", "specs": {"length": "10000"}}},
        ],
        "events": [],
        "services": [],
    }
)
SHAPE = Shape("pk", "dn", MODEL, ("A",))
NOTE = Shape("pk", "dn", MODEL, ("Note",))


class SlowOutbox(FakeOutbox):
    """Commits when the test lets it, and refuses as often as told."""

    __slots__ = ("allowed", "refusals", "stored_marks", "waiting")

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.refusals = self.waiting = 0
        self.stored_marks: list[tuple[Lane, dict[str, bytes]]] = []

    async def append(self, lane: Lane, body: bytes, readings: int, marks: Mapping[str, bytes] | None = None, period: int = 0) -> int:
        self.waiting += 1
        await self.allowed.wait()
        self.waiting -= 1
        if self.refusals:
            self.refusals -= 1
            raise OutboxUnavailable("disk full")
        self.stored_marks.append((lane, dict(marks or {})))
        return await FakeOutbox.append(self, lane, body, readings, marks, period)


@asynccontextmanager
async def collecting(outbox: FakeOutbox, *, close_after_s: float = 30.0) -> AsyncIterator[Collector]:
    seen = {Lane.LIVE: SeenRing("seen/", {})}
    collector = Collector(outbox, seen, close_after_s=close_after_s, retry_s=0.0)
    task = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        task.cancel()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_thousand_readings_do_not_wait_for_the_clock() -> None:
    outbox, done = SlowOutbox(), list[int]()
    async with collecting(outbox) as collector:
        for number in range(CLOSE_AT_READINGS - 1):
            collector.row(SHAPE, [1.0], number)
        collector.when_durable(lambda: done.append(1))
        await settle()
        assert outbox.appended == []
        collector.row(SHAPE, [1.0], 5000)
        await settle()
        assert [readings for _, readings, _ in ((lane, decode_body(body)[0].count, body) for lane, _, body in outbox.appended)] == [
            CLOSE_AT_READINGS
        ]
        assert done == [1]


async def test_a_few_readings_leave_when_their_time_is_up() -> None:
    outbox = SlowOutbox()
    async with collecting(outbox, close_after_s=0.01) as collector:
        collector.row(SHAPE, [1.0], 1)
        while not outbox.appended:
            await asyncio.sleep(0.002)


async def test_what_comes_during_a_commit_shares_the_next_and_its_acknowledgement() -> None:
    outbox, done = SlowOutbox(), list[str]()
    async with collecting(outbox) as collector:
        outbox.allowed.clear()
        for number in range(CLOSE_AT_READINGS):
            collector.row(SHAPE, [1.0], number)
        collector.when_durable(lambda: done.append("first"))
        await settle()
        for number in range(2 * CLOSE_AT_READINGS):
            collector.row(SHAPE, [2.0], number)
        collector.when_durable(lambda: done.append("second"))
        await settle()
        assert (outbox.waiting, done) == (1, [])
        outbox.allowed.set()
        await settle()
        assert [decode_body(body)[0].count for _, _, body in outbox.appended] == [CLOSE_AT_READINGS, 2 * CLOSE_AT_READINGS]
        assert done == ["first", "second"]


async def test_an_alarm_closes_its_frame_at_once_and_goes_first() -> None:
    outbox = SlowOutbox()
    async with collecting(outbox) as collector:
        collector.row(SHAPE, [1.0], 1)
        collector.record(Lane.ALARM, EventRecord("pk", "dn", "Fault", 1, "{}"))
        await settle()
        assert [lane for lane, _, _ in outbox.appended] == [Lane.ALARM, Lane.LIVE]


async def test_marks_travel_with_the_frame_of_their_rows() -> None:
    outbox = SlowOutbox()
    async with collecting(outbox) as collector:
        collector.record(Lane.ALARM, EventRecord("pk", "dn", "Fault", 1, "{}"))
        collector.row(SHAPE, [1.0], 1)
        collector.mark("row/pk/dn", b"1")
        collector.record(Lane.REPLY, EventRecord("pk", "dn", "x", 1, "{}"))
        collector.mark("command/1", b"2", Lane.REPLY)
        await settle()
        assert outbox.stored_marks == [(Lane.ALARM, {}), (Lane.REPLY, {"command/1": b"2"}), (Lane.LIVE, {"row/pk/dn": b"1"})]


async def test_marks_of_a_row_are_not_torn_from_a_frame_that_fills_up() -> None:
    outbox = SlowOutbox()
    async with collecting(outbox) as collector:
        outbox.allowed.clear()
        for number in range(40):
            collector.row(NOTE, ["x" * 9000], number)
            collector.mark("row/pk/dn", str(number).encode())
        outbox.allowed.set()
        await collector.flush()
        last = {}
        for (_, marks), (_, _, body) in zip(outbox.stored_marks, outbox.appended, strict=True):
            last = marks
            assert decode_body(body)[0].texts[-1][1] == int(marks["row/pk/dn"])
        assert len(outbox.appended) > 4
        assert last == {"row/pk/dn": b"39"}


async def test_a_disk_that_refuses_is_asked_again_and_nothing_is_acknowledged_meanwhile() -> None:
    outbox, done = SlowOutbox(), list[int]()
    outbox.refusals = 3
    async with collecting(outbox) as collector:
        collector.row(SHAPE, [1.0], 1)
        collector.when_durable(lambda: done.append(outbox.refusals))
        await collector.flush()
        assert done == [0]
        assert len(outbox.appended) == 1


async def test_reading_pauses_when_too_much_waits_and_goes_on_behind_the_commit() -> None:
    outbox = SlowOutbox()
    async with collecting(outbox) as collector:
        outbox.allowed.clear()
        for number in range(FULL_AT_READINGS):
            collector.row(SHAPE, [1.0], number)
        assert collector.full
        waiting = asyncio.create_task(collector.room())
        await settle()
        assert not waiting.done()
        outbox.allowed.set()
        await settle()
        assert waiting.done()
        assert not collector.full


async def test_acknowledgements_without_readings_keep_their_order() -> None:
    outbox, done = SlowOutbox(), list[str]()
    async with collecting(outbox, close_after_s=0.0) as collector:
        outbox.allowed.clear()
        collector.row(SHAPE, [1.0], 1)
        collector.when_durable(lambda: done.append("row"))
        await asyncio.sleep(0.01)
        collector.when_durable(lambda: done.append("nothing to store"))
        await asyncio.sleep(0.01)
        assert done == []
        outbox.allowed.set()
        await collector.flush()
        assert done == ["row", "nothing to store"]
