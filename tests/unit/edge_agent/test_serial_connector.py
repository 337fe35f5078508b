"""A connector on a serial line that the test speaks: what is acknowledged when, and what becomes of sets."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from edge_agent.domain.sampling import LastRow
from edge_agent.ports import DeviceKey, Route
from edge_agent.southbound.plan import SerialPlan, SerialTag
from edge_agent.southbound.serial_line import SET_AGAIN_S, SETS, PyserialLine, SerialConnector
from protocols.alink.messages import Reply
from protocols.edgelink.lanes import Gap
from protocols.edgelink.records import GapRecord
from protocols.errors import Refused
from protocols.field.serial_line import (
    AGE_TAG,
    FLOOR_TAG,
    TIME_TAG,
    Kind,
    SerialDecoder,
    SerialFrame,
    TagType,
    encode_serial,
    encode_value,
)
from protocols.thing.model import parse_thing_model
from tests.fakes.edge import FakeClock, FakeIntake, FakePresence

OVEN = DeviceKey("oven", "o1")
MODEL = parse_thing_model(
    {
        "properties": [
            {"identifier": "Temperature", "name": "T", "accessMode": "rw", "dataType": {"type": "double", "specs": {"max": "300"}}},
            {"identifier": "Level", "name": "L", "accessMode": "rw", "dataType": {"type": "int", "specs": {}}},
        ],
        "events": [],
        "services": [],
    }
)


class Wire:
    """The other end of the line."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard: list[SerialFrame] = []
        self._decoder = SerialDecoder()

    def say(self, *frames: SerialFrame) -> None:
        for frame in frames:
            self.said.put_nowait(encode_serial(frame))

    async def read(self) -> bytes:
        return await self.said.get()

    def write(self, data: bytes) -> None:
        self.heard += self._decoder.feed(data)

    def close(self) -> None:
        pass


class Scene:
    def __init__(self, *, own_time: bool = True, last: LastRow | None = None) -> None:
        tags = (
            SerialTag(tag=1, type=TagType.INT16, scale=0.1, property="Temperature"),
            SerialTag(tag=2, type=TagType.UINT8, property="Level"),
        )
        plan = SerialPlan(name="board", device="o1", path="/dev/null", own_time=own_time, silence_ms=2_000, set_s=2, tags=tags)
        self.wire, self.intake, self.board, self.clock = Wire(), FakeIntake(), FakePresence(), FakeClock()
        self.routes: dict[DeviceKey, Route] = {}
        self.answers: list[Reply] = []
        self.connector = SerialConnector(
            plan, OVEN, MODEL, self.wire, self.intake, self.board, self.clock, self.routes,
            lambda _, reply: self.answers.append(reply), last=last, chance=lambda: 0.5,
        )  # fmt: skip

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.005)


def row(number: int, time_ms: int | None = 1_000, floor: int | None = None, temperature: int = 215, **more: bytes) -> SerialFrame:
    tags: dict[int, bytes] = {} if time_ms is None else {TIME_TAG: encode_value(TagType.UINT64, time_ms)}
    tags |= {1: encode_value(TagType.INT16, temperature), 2: encode_value(TagType.UINT8, 3)}
    tags[FLOOR_TAG] = encode_value(TagType.UINT32, number if floor is None else floor)
    return SerialFrame(Kind.ROW, number, tags | {int(tag[1:]): value for tag, value in more.items()})


def gaps(scene: Scene) -> list[Gap]:
    return [record.gap for _, record in scene.intake.records if isinstance(record, GapRecord)]


async def play(scene: Scene, part: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(scene.connector.run())
    try:
        await part()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_row_is_acknowledged_once_it_is_on_disk_and_not_before() -> None:
    scene = Scene()

    async def part() -> None:
        scene.wire.say(row(0x0100_0001), row(0x0100_0002, 2_000, 0x0100_0001))
        await scene.until(lambda: len(scene.intake.readings) == 4)
        assert scene.wire.heard == []
        scene.intake.commit()
        await scene.until(lambda: scene.wire.heard)
        assert {(frame.kind, frame.number) for frame in scene.wire.heard[-1:]} == {(Kind.ACK, 0x0100_0002)}
        scene.wire.say(row(0x0100_0002))
        await scene.until(lambda: scene.connector.again == 1)
        scene.intake.commit()
        assert scene.wire.heard[-1].number == 0x0100_0002, "one that comes again is acknowledged again"
        assert len(scene.intake.readings) == 4

    await play(scene, part)
    assert scene.intake.readings[0] == ("o1", "Temperature", 21.5, 1_000)
    assert scene.board.said == [(OVEN, True), (OVEN, False)]


async def test_a_controller_without_a_clock_says_how_old_a_row_is() -> None:
    scene = Scene(own_time=False)

    async def part() -> None:
        scene.wire.say(row(0x0100_0001, None, t255=encode_value(TagType.UINT32, 700)))
        await scene.until(lambda: scene.intake.readings)

    await play(scene, part)
    assert scene.intake.readings[0] == ("o1", "Temperature", 21.5, scene.clock.now_ms() - 700)
    assert AGE_TAG == 255


async def test_a_value_that_does_not_fit_leaves_a_gap_and_the_row_is_taken() -> None:
    scene = Scene()

    async def part() -> None:
        scene.wire.say(row(0x0100_0001), row(0x0100_0002, 2_000, temperature=4_000), row(0x0100_0003, 3_000))
        await scene.until(lambda: len(scene.intake.readings) == 5)

    await play(scene, part)
    (gap,) = gaps(scene)
    assert (gap.identifiers, gap.count, gap.reason) == (("Temperature",), 1, "refused_value")


async def test_a_row_with_an_impossible_time_is_taken_at_the_time_it_came() -> None:
    scene = Scene()

    async def part() -> None:
        scene.wire.say(row(0x0100_0001, (1 << 64) - 1), row(0x0100_0002, None))
        await scene.until(lambda: len(scene.intake.readings) == 4)

    await play(scene, part)
    assert {ms for *_, ms in scene.intake.readings} == {scene.clock.now_ms()}


async def test_a_set_is_sent_until_it_is_answered_and_its_answer_is_told_once() -> None:
    scene = Scene()

    async def part() -> None:
        scene.wire.say(row(0x0100_0001))
        await scene.until(lambda: scene.routes)
        route = scene.routes[OVEN]
        route.set_properties("77", {"Temperature": 180.0, "Level": 2})
        with pytest.raises(Refused, match="Smoke"):
            route.set_properties("78", {"Smoke": 1})

        def sets() -> list[Mapping[int, bytes]]:
            return [frame.tags for frame in scene.wire.heard if frame.kind is Kind.SET]

        await scene.until(lambda: len(sets()) == 1)
        scene.clock.forward(SET_AGAIN_S + 0.1)
        await scene.until(lambda: len(sets()) == 2)
        assert sets()[1] == {1: encode_value(TagType.INT16, 1_800), 2: b"\2"}
        for _ in range(2):
            scene.wire.say(SerialFrame(Kind.SET_REPLY, 77, {1: encode_value(TagType.UINT16, 200)}))
        await scene.until(lambda: scene.answers)

    await play(scene, part)
    assert [(reply.id, reply.code) for reply in scene.answers] == [("77", 200)]


async def test_no_more_sets_than_fit_are_under_way_and_none_for_ever() -> None:
    scene = Scene()

    async def part() -> None:
        scene.wire.say(row(0x0100_0001))
        await scene.until(lambda: scene.routes)
        for number in range(SETS):
            scene.connector.set_properties(str(number), {"Level": 1})
        with pytest.raises(Refused, match="under way"):
            scene.connector.set_properties("1000", {"Level": 1})
        for _ in range(6):
            scene.clock.forward(SET_AGAIN_S + 0.01)
            scene.connector._repeat_sets()
        scene.connector.set_properties("1000", {"Level": 1})

    await play(scene, part)


async def test_a_line_that_cannot_be_opened_says_once_what_to_check(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.connector._line = PyserialLine("/nowhere/tty", 115_200)
    task = asyncio.create_task(scene.connector.run())
    await scene.until(lambda: scene.connector.status()["failures"] == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (said,) = [record for record in caplog.records if record.message == "line.unusable"]
    assert "/nowhere/tty" in said.__dict__["problem"]
    assert "path" in said.__dict__["hint"]


async def test_a_silent_controller_is_offline_and_no_command_reaches_it() -> None:
    scene = Scene()

    async def part() -> None:
        scene.wire.say(row(0x0100_0001))
        await scene.until(lambda: scene.routes)
        scene.clock.forward(3)
        await scene.until(lambda: not scene.routes)
        assert scene.board.said == [(OVEN, True), (OVEN, False)]
        scene.wire.say(row(0x0100_0005, 9_000))
        await scene.until(lambda: scene.routes)

    await play(scene, part)
    assert {(gap.reason, gap.count) for gap in gaps(scene)} == {("device_unreachable", 3)}
