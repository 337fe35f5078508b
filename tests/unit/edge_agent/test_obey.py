"""Every command ends in exactly one reply: the device's own, or why there is none."""

import msgspec

from edge_agent.pipeline.obey import NO_ANSWER, OFFLINE, Obey
from edge_agent.ports import DeviceKey
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
        self.obey = Obey({HOOD: library.load("range_hood")}, routes, self.intake, self.clock, stored or {})

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


def test_a_set_reaches_the_device_and_its_answer_goes_up() -> None:
    rig = Rig()
    rig.command()
    ((message_id, params),) = rig.route.sets
    assert message_id.isdigit()
    assert params == {"PowerSwitch": 1}
    assert rig.replies == []
    rig.obey.answered(HOOD, Reply(message_id, 200, {}))
    assert rig.replies == [("c1", 200)]


def test_a_device_that_is_not_attached_is_answered_for() -> None:
    rig = Rig(attached=False)
    rig.command()
    assert rig.replies == [("c1", OFFLINE)]


def test_an_expired_command_does_not_reach_the_device() -> None:
    rig = Rig()
    rig.command(in_s=-0.001)
    assert rig.route.sets == []
    assert rig.replies == [("c1", OFFLINE)]


def test_a_device_that_does_not_answer_is_answered_for_when_the_time_is_over() -> None:
    rig = Rig()
    rig.command(in_s=10)
    rig.clock.forward(9)
    rig.obey.expire()
    assert rig.replies == []
    rig.clock.forward(1)
    rig.obey.expire()
    assert rig.replies == [("c1", NO_ANSWER)]
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    assert len(rig.replies) == 1


def test_a_command_sent_twice_is_carried_out_once() -> None:
    rig = Rig()
    rig.command()
    rig.command()
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    rig.command()
    assert len(rig.route.sets) == 1
    assert rig.replies == [("c1", 200), ("c1", 200)]


def test_an_answered_command_is_remembered_across_a_restart() -> None:
    rig = Rig()
    rig.command()
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    again = Rig(stored=rig.intake.marks)
    again.command()
    assert again.route.sets == []
    assert again.replies == [("c1", 200)]


def test_a_new_command_under_an_old_id_is_a_new_command() -> None:
    rig = Rig()
    rig.command()
    rig.obey.answered(HOOD, Reply(rig.route.sets[0][0], 200, {}))
    rig.clock.forward(3600)
    rig.command()
    assert len(rig.route.sets) == 2


def test_what_the_model_refuses_does_not_reach_the_device() -> None:
    rig = Rig()
    rig.command("read only or unknown", Nope=1)
    rig.command("wrong type", PowerSwitch="on")
    rig.command("unknown method", method="thing.service.Blink")
    assert rig.route.sets == []
    assert [code for _, code in rig.replies] == [6320, 460, 460]
    assert all("message" in msgspec.json.decode(record.data) for _, record in rig.intake.records if isinstance(record, ReplyRecord))


def test_an_answer_of_another_device_completes_nothing() -> None:
    rig = Rig()
    rig.command()
    rig.obey.answered(DeviceKey("pk", "other"), Reply(rig.route.sets[0][0], 200, {}))
    assert rig.replies == []
