"""The front door's side of one socket: acknowledged after the commit, in order, and stored once however often it is sent."""

import asyncio
import json
from typing import Any

import pytest

from edge_agent.domain.seen import SeenRing
from edge_agent.ports import DeviceKey, Route
from edge_agent.southbound.appliance import Appliance
from edge_agent.southbound.mqtt import UNDURABLE_MESSAGES, Connection, FrontDoor
from protocols.alink.credentials import sign
from protocols.alink.messages import Reply
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import EventRecord
from protocols.errors import Reason, Refused
from protocols.mqtt.codec import Decoder
from protocols.mqtt.encoder import encode
from protocols.mqtt.packets import ConnAck, Connect, PubAck
from protocols.mqtt.properties import Properties
from protocols.mqtt.run import PublishRun, encode_publish
from protocols.thing.model import parse_thing_model
from tests.fakes.edge import FakeClock, FakeIntake, FakePresence

HOOD = DeviceKey("pk", "hood")
POST = "/sys/pk/hood/thing/event/property/post"
MODEL = parse_thing_model(
    {
        "properties": [
            {"identifier": "Fan", "name": "f", "accessMode": "rw", "dataType": {"type": "int", "specs": {}}},
            {"identifier": "Heat", "name": "h", "accessMode": "r", "dataType": {"type": "double", "specs": {}}},
            {"identifier": "Note", "name": "n", "accessMode": "r", "dataType": {"type": "text", "specs": {"length": "99"}}},
        ],
        "events": [
            {
                "identifier": kind,
                "name": kind,
                "type": kind,
                "outputData": [{"identifier": "code", "dataType": {"type": "int", "specs": {}}}],
            }
            for kind in ("info", "error")
        ],
        "services": [],
    }
)


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Rig:
    def __init__(self, stored: dict[str, bytes] | None = None) -> None:
        self.intake, self.presence, self.clock = FakeIntake(), FakePresence(), FakeClock()
        self.routes: dict[DeviceKey, Route] = {}
        self.answers: list[tuple[DeviceKey, Reply]] = []
        self.seen = {lane: SeenRing(f"seen/{lane}/", stored or {}) for lane in (Lane.LIVE, Lane.ALARM)}
        self.door = FrontDoor(
            {HOOD: Appliance(HOOD, MODEL, "secret")},
            self.intake,
            self.presence,
            self.routes,
            self.seen,
            self.clock,
            lambda device, reply: self.answers.append((device, reply)),
        )

    def attach(self, *, secret: str = "secret", version: int = 4, name: str = "hood") -> "Device":
        return Device(self, secret, version, name)

    async def commit(self) -> None:
        self.intake.commit()
        await asyncio.sleep(0)


class Device:
    def __init__(self, rig: Rig, secret: str, version: int, name: str) -> None:
        self.transport, self.connection, self.version = FakeTransport(), Connection(rig.door), version
        self.connection.connection_made(self.transport)
        who = sign("pk", name, secret)
        self.send(encode(Connect(who.client_id, who.username, who.password, version=version), version))
        self.decoder = Decoder(version_hint=version, server_side=False)
        self.connack = self.heard()

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def post(self, *payloads: bytes, first_id: int = 1, dup: bool = False, topic: str = POST, qos: int = 1) -> None:
        self.send(
            b"".join(
                encode_publish(topic, payload, qos, first_id + index if qos else 0, dup=dup, version=self.version)
                for index, payload in enumerate(payloads)
            )
        )

    def heard(self) -> list[Any]:
        data, self.transport.written = self.transport.written, b""
        found: list[Any] = []
        for packet in self.decoder.feed(data):
            if isinstance(packet, PublishRun):
                found += [(packet.topic, json.loads(payload)) for payload in packet.payloads()]
            else:
                found.append(packet)
        return found


def timed(number: int, **more: object) -> bytes:
    params = {"Fan": {"value": number, "time": 1000 + number}, "Heat": {"value": 1.5, "time": 1000 + number}}
    return json.dumps({"id": str(number), "version": "1.0", "params": params, **more}).encode()


def bare(number: int, **params: object) -> bytes:
    return json.dumps({"id": str(number), "version": "1.0", "params": params}).encode()


async def test_nothing_is_acknowledged_before_the_commit_and_everything_behind_it_in_order() -> None:
    rig = Rig()
    hood = rig.attach()
    assert hood.connack == [ConnAck(False, 0)]
    hood.post(timed(1), timed(2), timed(3), first_id=7)
    assert hood.heard() == []
    await rig.commit()
    heard = hood.heard()
    assert heard[:3] == [PubAck(7), PubAck(8), PubAck(9)]
    assert [body["id"] for _, body in heard[3:]] == ["1", "2", "3"]
    assert heard[3][1] == {
        "id": "1",
        "code": 200,
        "data": {},
        "message": "success",
        "method": "thing.event.property.post",
        "version": "1.0",
    }
    assert rig.intake.readings[:2] == [("hood", "Fan", 1, 1001), ("hood", "Heat", 1.5, 1001)]
    assert len(rig.intake.readings) == 6


@pytest.mark.parametrize("version", [4, 5])
async def test_one_message_alone_gets_the_same_answer_as_one_in_a_run(version: int) -> None:
    rig = Rig()
    hood = rig.attach(version=version)
    hood.post(timed(1))
    hood.post(timed(2), timed(3), first_id=2)
    await rig.commit()
    heard = hood.heard()
    assert [packet.packet_id for packet in heard if isinstance(packet, PubAck)] == [1, 2, 3]
    bodies = [body | {"id": ""} for _, body in (entry for entry in heard if isinstance(entry, tuple))]
    assert bodies[0] == bodies[1] == bodies[2]


async def test_an_mqtt_5_appliance_may_use_topic_aliases_and_is_told_that_no_session_is_kept() -> None:
    rig = Rig()
    hood = rig.attach(version=5)
    (connack,) = hood.connack
    assert (connack.properties.topic_alias_maximum, connack.properties.session_expiry_interval) == (16, 0)
    alias = Properties(topic_alias=2)
    for number, topic in ((1, POST), (2, ""), (3, "")):
        hood.send(encode_publish(topic, timed(number), 1, number, version=5, properties=alias))
    await rig.commit()
    heard = hood.heard()
    assert [packet.packet_id for packet in heard if isinstance(packet, PubAck)] == [1, 2, 3]
    assert [entry[1]["id"] for entry in heard if isinstance(entry, tuple)] == ["1", "2", "3"]
    assert len(rig.intake.readings) == 6


async def test_a_message_sent_again_is_acknowledged_again_and_stored_once() -> None:
    rig = Rig()
    rig.attach().post(timed(1), timed(2))
    await rig.commit()
    again = rig.attach()
    again.post(timed(1), timed(2), timed(3), dup=False)  # other client libraries forget the flag after a restart
    await rig.commit()
    heard = again.heard()
    assert [packet.packet_id for packet in heard if isinstance(packet, PubAck)] == [1, 2, 3]
    assert [value for _, name, value, _ in rig.intake.readings if name == "Fan"] == [1, 2, 3]
    assert rig.door.counts["repeated"] == 2


async def test_a_message_sent_again_after_a_kill_is_stored_once() -> None:
    rig = Rig()
    rig.attach().post(timed(1), timed(2))
    stored = rig.seen[Lane.LIVE].take()  # what the frame's transaction kept; the PUBACKs never left
    after = Rig(stored)
    hood = after.attach()
    hood.post(timed(1), timed(2), dup=True)
    await after.commit()
    assert len([packet for packet in hood.heard() if isinstance(packet, PubAck)]) == 2
    assert after.intake.readings == []


async def test_equal_values_without_times_are_different_messages_unless_the_same_packet_comes_again() -> None:
    rig = Rig()
    hood = rig.attach()
    hood.post(bare(5, Fan=1), first_id=1)
    hood.post(bare(5, Fan=1), first_id=2)
    await rig.commit()
    assert [reading[2] for reading in rig.intake.readings] == [1, 1]
    hood.post(bare(5, Fan=1), first_id=2, dup=True)
    await rig.commit()
    assert len(rig.intake.readings) == 2


async def test_what_does_not_fit_is_named_and_the_rest_is_stored() -> None:
    rig = Rig()
    hood = rig.attach()
    hood.post(bare(1, Fan=2, Nope=1, Heat="hot"))
    hood.post(b"not json", first_id=2)
    await rig.commit()
    heard = hood.heard()
    assert [packet.packet_id for packet in heard if isinstance(packet, PubAck)] == [1, 2]
    named, refused = [body for _, body in (entry for entry in heard if isinstance(entry, tuple))]
    assert (named["code"], set(named["data"])) == (200, {"Nope", "Heat"})
    assert refused["code"] == 6207
    assert rig.intake.readings == [("hood", "Fan", 2, rig.clock.ms)]


async def test_a_time_more_than_a_day_ahead_is_refused_also_within_a_run() -> None:
    rig = Rig()
    hood = rig.attach()
    ahead = json.dumps({"id": "9", "params": {"Fan": {"value": 1, "time": rig.clock.ms + 25 * 3_600_000}}}).encode()
    hood.post(ahead, ahead.replace(b'"9"', b'"8"'))
    await rig.commit()
    assert rig.intake.readings == []
    assert [list(body["data"]) for _, body in (entry for entry in hood.heard() if isinstance(entry, tuple))] == [["Fan"], ["Fan"]]


async def test_events_are_stored_by_their_level_and_once() -> None:
    rig = Rig()
    hood = rig.attach()
    for kind, first_id in (("info", 1), ("error", 2)):
        payload = json.dumps({"id": "1", "params": {"value": {"code": 7}, "time": 5000}}).encode()
        hood.post(payload, first_id=first_id, topic=f"/sys/pk/hood/thing/event/{kind}/post")
        hood.post(payload, first_id=first_id, dup=True, topic=f"/sys/pk/hood/thing/event/{kind}/post")
    assert rig.intake.records == [
        (Lane.LIVE, EventRecord("pk", "hood", "info", 5000, '{"code":7}')),
        (Lane.ALARM, EventRecord("pk", "hood", "error", 5000, '{"code":7}')),
    ]
    await rig.commit()
    assert [packet.packet_id for packet in hood.heard() if isinstance(packet, PubAck)] == [1, 1, 2, 2]


@pytest.mark.parametrize(("secret", "name"), [("wrong", "hood"), ("secret", "stranger")])
async def test_who_cannot_prove_who_it_is_stays_outside(secret: str, name: str) -> None:
    rig = Rig()
    device = rig.attach(secret=secret, name=name)
    assert device.connack == [ConnAck(False, 4)]
    assert device.transport.closed
    assert rig.presence.said == []


async def test_the_newest_connection_wins_and_the_device_does_not_blink() -> None:
    rig = Rig()
    first, second = rig.attach(), rig.attach()
    assert first.transport.closed
    assert not second.transport.closed
    first.connection.connection_lost(None)
    assert rig.presence.said == [(HOOD, True)]
    second.connection.connection_lost(None)
    assert rig.presence.said == [(HOOD, True), (HOOD, False)]
    assert rig.routes == {}


async def test_a_set_goes_down_to_the_device_and_its_answer_comes_back() -> None:
    rig = Rig()
    hood = rig.attach()
    rig.routes[HOOD].set_properties("77", {"Fan": 3})
    ((topic, body),) = hood.heard()
    assert (topic, body["id"], body["params"]) == ("/sys/pk/hood/thing/service/property/set", "77", {"Fan": 3})
    hood.post(b'{"id":"77","code":200,"data":{}}', topic="/sys/pk/hood/thing/service/property/set_reply")
    assert [(device, reply.id, reply.code) for device, reply in rig.answers] == [(HOOD, "77", 200)]


@pytest.mark.refusal(Reason.QUOTA_EXCEEDED)
async def test_a_device_that_takes_nothing_any_more_is_refused_a_command() -> None:
    rig = Rig()
    rig.attach()
    route = rig.routes[HOOD]

    def flood() -> None:
        for number in range(1000):
            route.set_properties(str(number), {"Fan": 3})

    with pytest.raises(Refused) as caught:
        flood()
    assert caught.value.reason is Reason.QUOTA_EXCEEDED


async def test_a_foreign_topic_is_answered_with_no_or_closes() -> None:
    rig = Rig()
    modern = rig.attach(version=5)
    modern.post(timed(1), topic="/sys/pk/other/thing/event/property/post")
    await rig.commit()
    assert modern.heard()[0].reason == 0x87
    old = rig.attach()
    old.post(timed(1), topic="/sys/pk/other/thing/event/property/post")
    assert old.transport.closed
    assert rig.intake.readings == []


async def test_a_socket_is_not_read_beyond_what_may_wait_for_the_disk() -> None:
    rig = Rig()
    hood = rig.attach()
    for start in range(0, UNDURABLE_MESSAGES, 500):
        hood.post(*(timed(start + number) for number in range(500)), qos=0)
    assert not hood.transport.reading
    await rig.commit()
    assert hood.transport.reading


async def test_a_full_intake_pauses_every_socket() -> None:
    rig = Rig()
    one = rig.attach()
    rig.intake.full = True
    one.post(timed(1))
    assert not one.transport.reading
