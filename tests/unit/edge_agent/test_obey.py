"""Every command ends in exactly one reply: the device's own, or why there is none."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from edge_agent.pipeline.obey import NO_ANSWER, OFFLINE, REMEMBERED, Obey
from edge_agent.ports import DeviceKey, OutboxUnavailable
from protocols.alink.messages import Reply
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command
from protocols.edgelink.records import ReplyRecord
from protocols.thing import library
from tests.fakes.edge import FakeClock, FakeIntake, FakeRoute

HOOD = DeviceKey("pk", "hood")


class Rig:
    def __init__(self, *, attached: bool = True, stored: dict[str, bytes] | None = None) -> None:
        self.clock, self.intake, self.route = FakeClock(), FakeIntake(), FakeRoute()
        routes = {HOOD: self.route} if attached else {}
        self.notes: list[Mapping[str, bytes]] = []
        self.disk_refuses = False
        self.obey = Obey({HOOD: library.load("range_hood")}, routes, self.intake, self.clock, stored or {}, self.remember)

    async def remember(self, marks: Mapping[str, bytes]) -> None:
        if self.disk_refuses:
            raise OutboxUnavailable("disk full")
        assert not self.route.sets or self.notes, "noted before the device hears of it"
        self.notes.append(marks)
        self.intake.marks.update(marks)

    async def work(self) -> None:
        """Let what was accepted be carried out."""
        task = asyncio.create_task(self.obey.run())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()

    async def told(self, *arguments: Any, **options: Any) -> None:
        self.command(*arguments, **options)
        await self.work()

    def command(self, command_id: str = "c1", method: str = "thing.service.property.set", in_s: float = 10, **params: object) -> None:
        expires = self.clock.ms + int(in_s * 1000)
        self.obey.handle(Command(command_id, "pk", "hood", method, params or {"PowerSwitch": 1}, expires))

    @property
    def replies(self) -> list[tuple[str, int]]:
        return [
            (record.command_id, record.code)
            for lane, record in self.intake.records
            if isinstance(record, ReplyRecord) and lane is Lane.REPLY
        ]


async def test_a_set_reaches_the_device_and_its_answer_goes_up() -> None:
    rig = Rig()
    await rig.told()
    ((message_id, params),) = rig.route.sets
    assert message_id.isdigit()
    assert params == {"PowerSwitch": 1}
    assert rig.replies == []
    rig.obey.answered(HOOD, Reply(message_id, 200, {}))
    assert rig.replies == [("c1", 200)]


async def test_a_device_that_is_not_attached_is_answered_for() -> None:
    rig = Rig(attached=False)
    await rig.told()
    assert rig.replies == [("c1", OFFLINE)]


async def test_an_expired_command_does_not_reach_the_device() -> None:
    rig = Rig()
    await rig.told(in_s=-0.001)
    assert rig.route.sets == []
    assert rig.replies == [("c1", OFFLINE)]


async def test_a_device_that_does_not_answer_is_answered_for_when_the_time_is_over() -> None:
    rig = Rig()
    await rig.told(in_s=10)
    rig.clock.forward(9)
    rig.obey.expire()
    assert rig.replies == []
    rig.clock.forward(1)
    rig.obey.expire()
    assert rig.replies == [("c1", NO_ANSWER)]
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    assert len(rig.replies) == 1


async def test_a_command_sent_twice_is_carried_out_once() -> None:
    rig = Rig()
    await rig.told()
    await rig.told()
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    await rig.told()
    assert len(rig.route.sets) == 1
    assert rig.replies == [("c1", 200), ("c1", 200)]


async def test_an_answered_command_is_remembered_across_a_restart() -> None:
    rig = Rig()
    await rig.told()
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    again = Rig(stored=rig.intake.marks)
    await again.told()
    assert again.route.sets == []
    assert again.replies == [("c1", 200)]


async def test_a_new_command_under_an_old_id_is_a_new_command() -> None:
    rig = Rig()
    await rig.told()
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    rig.clock.forward(3600)
    await rig.told()
    assert len(rig.route.sets) == 2


async def test_what_the_model_refuses_does_not_reach_the_device() -> None:
    rig = Rig()
    await rig.told("read only or unknown", Nope=1)
    await rig.told("wrong type", PowerSwitch="on")
    await rig.told("unknown method", method="thing.service.Blink")
    assert rig.route.sets == []
    assert [code for _, code in rig.replies] == [6320, 460, 460]
    assert all("message" in msgspec.json.decode(record.data) for _, record in rig.intake.records if isinstance(record, ReplyRecord))


async def test_an_answer_of_another_device_completes_nothing() -> None:
    rig = Rig()
    await rig.told()
    rig.obey.answered(DeviceKey("pk", "other"), Reply(rig.route.sets[0][0], 200, {}))
    assert rig.replies == []


async def test_a_command_that_was_under_way_when_the_agent_died_ends_once_and_is_not_carried_out_again() -> None:
    rig = Rig()
    await rig.told()
    assert len(rig.route.sets) == 1
    again = Rig(stored=dict(rig.intake.marks))
    assert again.replies == [("c1", NO_ANSWER)]
    await again.told()
    assert again.route.sets == []
    assert again.replies == [("c1", NO_ANSWER)] * 2, "asked again, it answers again"
    third = Rig(stored=dict(again.intake.marks))
    await third.told()
    assert (third.route.sets, third.replies) == ([], [("c1", NO_ANSWER)])


async def test_a_disk_that_refuses_the_note_keeps_the_command_from_the_device() -> None:
    rig = Rig()
    rig.disk_refuses = True
    await rig.told()
    assert (rig.route.sets, rig.replies) == ([], [("c1", 400)])


async def test_memory_holds_a_bounded_number_of_commands_and_those_under_way_keep_their_place() -> None:
    rig = Rig()
    await rig.told("waits", in_s=10_000)
    for number in range(REMEMBERED + 10):
        await rig.told(str(number))
        rig.obey.answered(HOOD, Reply(rig.route.sets[-1][0], 200, {}))
    assert len(rig.intake.marks) <= REMEMBERED
    again = Rig(stored=dict(rig.intake.marks))
    assert again.replies == [("waits", NO_ANSWER)]
    await again.told(str(REMEMBERED + 9))
    assert again.route.sets == []
