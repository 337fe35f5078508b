"""The Modbus connector against a unit that does what the test says."""

import struct
from collections.abc import Callable, Sequence

import pytest

from edge_agent.domain.sampling import LastRow
from edge_agent.ports import DeviceKey, DeviceUnreachable
from edge_agent.southbound.modbus import ModbusConnector
from edge_agent.southbound.plan import ModbusPlan, NamedPoint
from protocols.edgelink.lanes import GapReason, Lane
from protocols.edgelink.records import GapRecord
from protocols.field.modbus import NumberType, Point, Table
from protocols.thing.model import parse_thing_model
from tests.fakes.edge import FakeClock, FakeIntake, FakePresence

METER = DeviceKey("pk", "meter")
MODEL = parse_thing_model(
    {
        "properties": [
            {"identifier": name, "name": name, "accessMode": "r", "dataType": {"type": "double", "specs": {}}} for name in ("A", "B")
        ],
        "events": [],
        "services": [],
    }
)


class FakeUnit:
    """Holding registers; `before_read` lets the device move under the reader's hands."""

    def __init__(self) -> None:
        self.words = [0] * 100
        self.reads: list[tuple[Table, int, int]] = []
        self.before_read: Callable[[int], None] = lambda number: None
        self.away = False

    def set(self, counter: int, time_ms: int, a: float, b: float) -> None:
        self.words[10] = counter
        self.words[0:4] = struct.unpack(">4H", struct.pack(">Q", time_ms))
        self.words[4:6] = struct.unpack(">2H", struct.pack(">f", a))
        self.words[12:14] = struct.unpack(">2H", struct.pack(">f", b))

    async def read(self, table: Table, start: int, count: int) -> Sequence[int | bool]:
        self.before_read(len(self.reads))
        self.reads.append((table, start, count))
        if self.away:
            raise DeviceUnreachable("no answer")
        return list(self.words[start : start + count])

    def close(self) -> None:
        return None


def point(name: str, address: int, kind: NumberType, identifier: str | None = None) -> NamedPoint:
    return NamedPoint(name=name, point=Point(Table.HOLDING, address, kind), property=identifier)


PLAN = ModbusPlan(
    name="line",
    device="meter",
    host="h",
    sample_on="counter",
    time_from="time",
    points=(
        point("counter", 10, NumberType.UINT16),
        point("time", 0, NumberType.UINT64),
        point("a", 4, NumberType.FLOAT32, "A"),
        point("b", 12, NumberType.FLOAT32, "B"),
    ),
)


class Rig:
    def __init__(self, last: LastRow | None = None, *, clean: bool = False, plan: ModbusPlan = PLAN) -> None:
        self.unit, self.intake, self.presence, self.clock = FakeUnit(), FakeIntake(), FakePresence(), FakeClock()
        self.connector = ModbusConnector(
            plan, METER, MODEL, self.unit, self.intake, self.presence, self.clock, last=last, clean=clean, chance=lambda: 1.0
        )

    def gaps(self) -> list[tuple[str, int, int, int | None, GapReason]]:
        found = [record.gap for lane, record in self.intake.records if isinstance(record, GapRecord) and lane is Lane.ALARM]
        return [(gap.identifiers[0], gap.from_ms, gap.to_ms, gap.count, gap.reason) for gap in found]


async def test_a_row_is_stored_once_with_its_own_time_and_remembered() -> None:
    rig = Rig()
    rig.unit.set(1, 5000, 1.5, 2.5)
    await rig.connector.poll()
    await rig.connector.poll()
    assert rig.intake.readings == [("meter", "A", 1.5, 5000), ("meter", "B", 2.5, 5000)]
    assert LastRow.from_bytes(rig.intake.marks["row/pk/meter"]) == LastRow(5000, 1)
    assert rig.presence.said == [(METER, True)]


async def test_the_counter_is_read_before_and_behind_and_never_along() -> None:
    rig = Rig()
    rig.unit.set(1, 5000, 1.5, 2.5)
    await rig.connector.poll()
    assert rig.unit.reads[0] == rig.unit.reads[-1] == (Table.HOLDING, 10, 1)
    assert rig.unit.reads[1:-1] == [(Table.HOLDING, 0, 6), (Table.HOLDING, 12, 2)]


async def test_a_row_that_changes_during_a_poll_is_read_again_at_once() -> None:
    rig = Rig()
    rig.unit.set(1, 5000, 1.5, 2.5)
    rig.unit.before_read = lambda number: rig.unit.set(2, 6000, 3.5, 4.5) if number == 2 else None
    await rig.connector.poll()
    assert rig.intake.readings == [("meter", "A", 3.5, 6000), ("meter", "B", 4.5, 6000)]


async def test_a_device_that_never_holds_still_ends_a_poll_without_a_row() -> None:
    rig = Rig()
    rig.unit.before_read = lambda number: rig.unit.set(number, 5000 + number, 1.0, 1.0)
    await rig.connector.poll()
    assert rig.intake.readings == []
    assert rig.connector.unsteady == 1
    assert len(rig.unit.reads) < 20


async def test_missed_rows_leave_a_gap_for_each_property_with_its_count() -> None:
    rig = Rig()
    rig.unit.set(1, 5000, 1.5, 2.5)
    await rig.connector.poll()
    rig.unit.set(4, 8000, 1.5, 2.5)
    await rig.connector.poll()
    assert rig.gaps() == [(name, 5000, 8000, 2, GapReason.MISSED_POLL) for name in ("A", "B")]


async def test_after_a_kill_the_gap_reaches_from_the_last_durable_row() -> None:
    rig = Rig(LastRow(5000, 1))
    rig.unit.set(9, 13_000, 1.5, 2.5)
    await rig.connector.poll()
    assert rig.gaps() == [(name, 5000, 13_000, 7, GapReason.AGENT_DOWN) for name in ("A", "B")]
    assert rig.intake.readings[0] == ("meter", "A", 1.5, 13_000)


async def test_a_device_that_was_away_is_offline_and_its_missed_rows_say_so() -> None:
    rig = Rig()
    rig.unit.set(1, 5000, 1.5, 2.5)
    await rig.connector.poll()
    rig.unit.away = True
    with pytest.raises(DeviceUnreachable):
        await rig.connector.poll()
    rig.connector._lost(DeviceUnreachable("no answer"))
    rig.unit.away = False
    rig.unit.set(3, 7000, 1.5, 2.5)
    await rig.connector.poll()
    assert [gap[-1] for gap in rig.gaps()] == [GapReason.DEVICE_UNREACHABLE] * 2
    assert rig.presence.said == [(METER, True), (METER, False), (METER, True)]


async def test_a_value_that_is_no_number_leaves_a_gap_of_its_property_alone() -> None:
    rig = Rig()
    for counter, value in ((1, 1.0), (2, float("nan")), (3, float("inf")), (4, 2.0)):
        rig.unit.set(counter, 1000 * counter, value, 9.0)
        await rig.connector.poll()
    assert [reading[1:] for reading in rig.intake.readings if reading[1] == "A"] == [("A", 1.0, 1000), ("A", 2.0, 4000)]
    assert len([reading for reading in rig.intake.readings if reading[1] == "B"]) == 4
    assert rig.gaps() == [("A", 1000, 4000, 2, GapReason.REFUSED_VALUE)]


async def test_without_a_time_register_the_agents_clock_stamps_the_row() -> None:
    plan = ModbusPlan(name="line", device="meter", host="h", points=(point("a", 4, NumberType.FLOAT32, "A"),))
    rig = Rig(plan=plan)
    rig.unit.set(1, 0, 1.5, 0.0)
    await rig.connector.poll()
    assert rig.intake.readings == [("meter", "A", 1.5, rig.clock.ms)]
