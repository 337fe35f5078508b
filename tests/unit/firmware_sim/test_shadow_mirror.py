"""A device and its shadow: against the shadow's own rules, whatever is changed behind the device's back."""

import json
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.wire.shadow_mirror import DesiredValues, ShadowMirror
from protocols.alink.messages import reply
from protocols.alink.shadow import (
    Entry,
    ShadowDocument,
    ShadowRefused,
    apply_shadow_message,
    read_shadow_message,
    shadow_content,
    shadow_done,
    shadow_failed,
)
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused

KEY = ("pk", "dn")


class Lamp:
    """A device with one mirror, and the server's half of the shadow."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {"Level": 1, "Light": 0}
        self.document = ShadowDocument()
        self.sent: deque[bytes] = deque()
        self.mirror = ShadowMirror(KEY, lambda _topic, payload: self.sent.append(payload), self.take, lambda: self.values)

    def take(self, wanted: object) -> None:
        assert isinstance(wanted, dict)
        if wanted.get("Level") == 99:
            raise Refused(Reason.OUT_OF_RANGE, "Level: at most 9")
        self.values |= wanted

    def desire(self, **wanted: int) -> None:
        desired = dict(self.document.desired) | {name: Entry(value, 1) for name, value in wanted.items()}
        self.document = ShadowDocument(self.document.version + 1, self.document.reported, desired)

    def control(self) -> None:
        self.mirror.receive(Topic(Kind.SHADOW_GET, *KEY), shadow_content(self.document, 1, method="control"))

    def serve(self) -> None:
        for _ in range(100):
            if not self.sent:
                return
            message = read_shadow_message(self.sent.popleft())
            try:
                self.document = apply_shadow_message(self.document, message, 1)
                answer = shadow_content(self.document, 1) if message.asks else shadow_done(self.document.version, 1)
            except ShadowRefused as refused:
                answer = shadow_failed(refused, 1)
            self.mirror.receive(Topic(Kind.SHADOW_GET, *KEY), answer)
        raise AssertionError("the mirror never comes to rest")

    def reported(self) -> dict[str, object]:
        return {name: entry.value for name, entry in self.document.reported.items()}


actions = st.sampled_from(["turn", "desire", "control", "report", "serve", "connect"])


@given(st.lists(st.tuples(actions, st.integers(0, 9)), max_size=40))
async def test_in_the_end_the_shadow_has_what_the_device_has_and_the_device_what_was_desired(steps: list[tuple[str, int]]) -> None:
    lamp = Lamp()
    for action, value in steps:
        match action:
            case "turn":
                lamp.values["Light"] = value % 2
            case "desire":
                lamp.desire(Level=value)
            case "control":
                lamp.control()
            case "report":
                lamp.mirror.report()
            case "serve":
                lamp.serve()
            case "connect":
                lamp.sent.clear()
                await lamp.mirror.start()
                await lamp.mirror.work()
    await lamp.mirror.start()
    lamp.sent.clear()
    await lamp.mirror.work()
    lamp.serve()
    lamp.mirror.report()
    lamp.serve()
    assert lamp.reported() == lamp.values
    if "Level" in lamp.document.desired:
        assert lamp.values["Level"] == lamp.document.desired["Level"].value


async def test_a_conflict_is_met_by_reading_the_shadow_and_reporting_again() -> None:
    lamp = Lamp()
    await lamp.mirror.start()
    await lamp.mirror.work()
    lamp.serve()
    lamp.values["Light"] = 1
    lamp.mirror.report()
    lamp.desire(Level=5)  # an application was faster
    lamp.serve()
    assert lamp.mirror.conflicts == 1
    assert lamp.reported() == {"Level": 5, "Light": 1}


async def test_a_desired_value_that_does_not_fit_is_counted_and_changes_nothing() -> None:
    lamp = Lamp()
    lamp.desire(Level=99)
    await lamp.mirror.start()
    await lamp.mirror.work()
    lamp.serve()
    assert (lamp.mirror.refused, lamp.values["Level"]) == (1, 1)
    with pytest.raises(Refused):
        lamp.mirror.receive(Topic(Kind.SHADOW_GET, *KEY), b"{")


async def test_desired_values_are_asked_for_done_and_taken_back_with_their_version() -> None:
    sent: list[tuple[str, bytes]] = []
    lamp = Lamp()
    desired = DesiredValues(KEY, lambda *message: sent.append(message), lamp.take, ["Level", "Light"])
    await desired.start()
    await desired.work()
    assert json.loads(sent[0][1])["params"] == ["Level", "Light"]
    data = b'{"Light":{"value":1,"version":4},"Level":{"value":99,"version":2}}'
    assert desired.receive(Topic(Kind.DESIRED_GET_REPLY, *KEY), reply(b'"1"', "thing.property.desired.get", data=data))
    assert lamp.values["Light"] == 1
    topic, payload = sent[1]
    assert (topic, json.loads(payload)["params"]) == ("/sys/pk/dn/thing/property/desired/delete", {"Light": {"version": 4}})
    assert (desired.done, desired.refused) == (1, 1)
    assert not desired.receive(Topic(Kind.SHADOW_GET, *KEY), b"{}")
