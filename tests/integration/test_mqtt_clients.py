"""The front door as paho-mqtt and aiomqtt see it: kept sessions, aliases, expiry, wills that wait, flow control, takeover, MQTT 3.1."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import aiomqtt
import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud.access.model import Delivered, Downlink, Kind, encode_downlink
from cloud.access.service import AccessDownlink
from cloud.devices.model import Order
from cloud.foundation.bus import Bus
from cloud.foundation.clock import now_ms
from protocols.alink.credentials import sign
from protocols.mqtt.codec import Disconnect, encode_publish
from protocols.mqtt.codec import Properties as CodecProperties
from tests.fakes.front_door import PRODUCT_KEY, SECRET
from tests.integration.access_rig import Door, Nats, RawClient, wait_for

StartDoor = Callable[..., Door]
V31, V311, V5 = MQTTProtocolVersion.MQTTv31, MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
SESSION_S = 300


def properties(packet: int, **values: Any) -> Properties:
    """Paho's own, by the names of the specification: `session_expiry_interval` is SessionExpiryInterval."""
    found = Properties(packet)  # type: ignore[no-untyped-call]  # paho has no types here
    for name, value in values.items():
        setattr(found, "".join(part.capitalize() for part in name.split("_")), value)
    return found


class Device:
    """A device on paho's client; with `acks=False` it receives and sends no PUBACK."""

    def __init__(self, door: Door, name: str = "d1", version: MQTTProtocolVersion = V5, *, acks: bool = True, clean: bool = False) -> None:
        self._door = door
        self.name = name
        self.post = f"/sys/{PRODUCT_KEY}/{name}/thing/event/property/post"
        self.received: list[Any] = []
        self.answers: list[tuple[bool, Any]] = []  # session present and properties of each CONNACK
        self.goodbyes: list[int] = []
        self._clean = clean
        proof = sign(PRODUCT_KEY, name, SECRET)
        session: dict[str, Any] = {} if version == V5 else {"clean_session": clean}
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=proof.client_id,
            protocol=version,
            manual_ack=not acks,
            reconnect_on_failure=False,
            **session,
        )
        self.client.username_pw_set(proof.username, proof.password.decode())
        self.client.on_connect = lambda _c, _d, flags, _reason, found: self.answers.append((flags.session_present, found))
        self.client.on_message = lambda _c, _d, message: self.received.append(message)
        self.client.on_disconnect = lambda _c, _d, _flags, reason, _found: self.goodbyes.append(reason.value)
        self._version = version

    def connect(self, **asked: Any) -> "Device":
        """Returns when CONNACK is there."""
        more: dict[str, Any] = {}
        if self._version == V5:
            asked.setdefault("session_expiry_interval", SESSION_S)
            more = {"clean_start": self._clean, "properties": properties(PacketTypes.CONNECT, **asked)}
        before = len(self.answers)
        self.client.connect("127.0.0.1", self._door.port, 60, **more)
        self.client.loop_start()
        wait_for(lambda: len(self.answers) > before)
        return self

    def lose(self) -> None:
        """The network goes away without a word."""
        found = self.client.socket()
        assert isinstance(found, socket.socket)
        found.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    @property
    def present(self) -> bool:
        """Whether the last CONNACK said that there was a session."""
        return self.answers[-1][0]

    def payloads(self) -> list[tuple[bytes, bool]]:
        return [(bytes(message.payload), bool(message.dup)) for message in self.received]


def down(payload: bytes, *, name: str = "d1", waits_s: float = 0.0, topic: str = "thing/service/property/set") -> Downlink:
    """A QoS 1 message; with `waits_s` it may wait for a device that is away, for so long."""
    expires_ms = int(now_ms() + waits_s * 1_000) if waits_s else 0
    return Downlink(PRODUCT_KEY, name, f"/sys/{PRODUCT_KEY}/{name}/{topic}", payload, 1, expires_ms, waits=waits_s > 0)


def deliver(nats: Nats, *messages: Downlink) -> list[bool]:
    """What the front door answers to each."""

    async def ask(bus: Bus) -> list[bool]:
        answers = [await bus.request("access.deliver", encode_downlink(message)) for message in messages]
        return [msgspec.msgpack.decode(answer, type=Delivered).delivered for answer in answers]

    return nats.on_bus(ask)


def offline(nats: Nats, count: int = 1) -> None:
    """Return when so many sessions have ended."""
    wait_for(lambda: sum(row.kind is Kind.CLOSED for row in nats.rows()) >= count)


@pytest.mark.parametrize("version", [V31, V311, V5])
def test_a_device_that_comes_back_gets_what_it_did_not_acknowledge_and_what_waited_for_it(
    nats: Nats, door: Door, version: MQTTProtocolVersion
) -> None:
    device = Device(door, version=version, acks=False).connect()
    assert not device.present
    assert deliver(nats, down(b"1"), down(b"2")) == [True, True]
    wait_for(lambda: len(device.received) == 2)
    device.lose()
    offline(nats)
    assert deliver(nats, down(b"not kept"), down(b"3", waits_s=60)) == [False, False]
    again = Device(door, version=version).connect()
    wait_for(lambda: len(again.received) >= 3)
    assert again.payloads() == [(b"1", True), (b"2", True), (b"3", False)]
    assert again.present is (version != V31)  # 3.1 cannot be told
    again.leave()
    last = Device(door, version=version).connect()
    assert deliver(nats, down(b"4")) == [True]
    wait_for(lambda: last.received)
    assert last.payloads() == [(b"4", False)]
    last.leave()


def test_a_clean_start_and_a_front_door_that_was_restarted_say_that_there_is_no_session(nats: Nats, start_door: StartDoor) -> None:
    first = start_door()
    for clean, expected in ((False, False), (False, True), (True, False), (False, False)):
        device = Device(first, clean=clean).connect(session_expiry_interval=0 if clean else SESSION_S)
        assert device.present is expected
        device.lose()
    assert first.stop() == 0
    assert not Device(start_door()).connect().present


def test_the_limit_of_the_front_door_is_told(start_door: StartDoor) -> None:
    device = Device(start_door(session_s=60)).connect(session_expiry_interval=0xFFFF_FFFF)
    assert device.answers[0][1].SessionExpiryInterval == 60
    assert (device.answers[0][1].ReceiveMaximum, device.answers[0][1].TopicAliasMaximum) == (1_000, 16)
    device.leave()


def test_topics_travel_as_aliases_in_both_directions(nats: Nats, door: Door) -> None:
    device = Device(door).connect(topic_alias_maximum=5)
    for n in range(5):
        alias = properties(PacketTypes.PUBLISH, topic_alias=3)
        device.client.publish(device.post if not n else "", b"up-%d" % n, 1, properties=alias).wait_for_publish(10)
    rows = [row for row in nats.rows() if row.kind is Kind.PUBLISH]
    assert [row.topic for row in rows] == [device.post] * 5
    assert nats.payloads() == [b"up-%d" % n for n in range(5)]
    assert deliver(nats, *(down(b"down-%d" % n) for n in range(4))) == [True] * 4
    wait_for(lambda: len(device.received) == 4)
    topic = f"/sys/{PRODUCT_KEY}/d1/thing/service/property/set"
    seen = [(message.topic, getattr(message.properties, "TopicAlias", None)) for message in device.received]
    assert seen == [(topic, None), (topic, 1), ("", 1), ("", 1)]
    device.leave()


def test_a_message_is_not_delivered_after_its_time_and_says_how_much_is_left(nats: Nats, door: Door) -> None:
    device = Device(door).connect()
    device.leave()
    offline(nats)
    deliver(nats, down(b"short", waits_s=0.5), down(b"long", waits_s=100))
    time.sleep(0.6)
    device = Device(door).connect()
    wait_for(lambda: device.received)
    assert device.payloads() == [(b"long", False)]
    assert 1 <= device.received[0].properties.MessageExpiryInterval <= 100
    device.leave()


def test_a_command_is_not_sent_after_its_time_and_an_mqtt_5_device_is_told_until_when(nats: Nats, door: Door) -> None:
    device = Device(door).connect()

    async def command(bus: Bus) -> list[bool]:
        downlink, target = AccessDownlink(bus), (PRODUCT_KEY, "d1")
        method = "thing.service.property.set"
        times = {"1": now_ms() - 1, "2": now_ms() + 90_000}
        orders = [Order(1, one, target, None, method, {"on": 1}, expires_ms) for one, expires_ms in times.items()]
        return [await downlink.deliver_command(order) for order in orders]

    assert nats.on_bus(command) == [False, True]
    wait_for(lambda: device.received)
    (message,) = device.received
    assert msgspec.json.decode(message.payload)["id"] == "2"
    assert 1 <= message.properties.MessageExpiryInterval <= 90
    device.leave()


def test_a_will_waits_for_its_delay_and_a_device_that_is_back_in_time_has_none(nats: Nats, door: Door) -> None:
    devices = [Device(door, name) for name in ("gone", "back")]
    for device in devices:
        will = properties(PacketTypes.WILLMESSAGE, will_delay_interval=2)
        device.client.will_set(f"/{PRODUCT_KEY}/{device.name}/user/gone", device.name.encode(), 1, properties=will)
        device.connect()
        device.lose()
    offline(nats, 2)
    assert nats.payloads() == []
    back = Device(door, "back").connect()
    assert back.present
    wait_for(lambda: nats.payloads())
    time.sleep(1.5)  # two sweeps, in which the other one's would be due
    assert nats.payloads() == [b"gone"]
    back.leave()


def test_wills_that_wait_are_in_the_stream_when_the_front_door_stops(nats: Nats, door: Door) -> None:
    device = Device(door)
    device.client.will_set(f"/{PRODUCT_KEY}/d1/user/gone", b"bye", properties=properties(PacketTypes.WILLMESSAGE, will_delay_interval=200))
    device.connect().lose()
    offline(nats)
    assert door.stop() == 0
    assert nats.payloads() == [b"bye"]


def test_a_client_that_ignores_the_receive_maximum_is_closed_and_told(nats: Nats, door: Door) -> None:
    """Not paho: it sends so slowly that the socket is read no further before it has sent too much."""
    client = RawClient(door.port, "d1", version=5).open()
    alias = CodecProperties(topic_alias=1)
    burst = b"".join(encode_publish("" if n else client.topic, b"%d" % n, 1, n + 1, version=5, properties=alias) for n in range(1_500))
    with nats.frozen():
        client.sock.sendall(burst)
        goodbye = client.next()
    assert isinstance(goodbye, Disconnect)
    assert goodbye.reason == 0x93
    assert client.next() is None
    wait_for(lambda: len(nats.payloads()) == 1_000)
    assert nats.payloads() == [b"%d" % n for n in range(1_000)]


def test_the_newer_connection_of_a_device_takes_its_session_over(nats: Nats, door: Door) -> None:
    older = Device(door, acks=False).connect()
    deliver(nats, down(b"1"))
    wait_for(lambda: older.received)
    newer = Device(door).connect()
    wait_for(lambda: older.goodbyes)
    assert older.goodbyes == [0x8E]
    assert newer.present
    wait_for(lambda: newer.received)
    assert newer.payloads() == [(b"1", True)]
    older.client.loop_stop()
    newer.leave()


def test_a_client_of_mqtt_3_1_posts_subscribes_and_is_told_what_it_can_be_told(nats: Nats, door: Door) -> None:
    granted: list[int] = []
    device = Device(door, version=V31, clean=True)
    subscribed = threading.Event()

    def on_subscribe(_c: Any, _d: Any, _mid: int, codes: list[Any], _p: Any) -> None:
        granted.extend(code.value for code in codes)
        subscribed.set()

    device.client.on_subscribe = on_subscribe
    device.connect()
    device.client.subscribe([(f"/sys/{PRODUCT_KEY}/d1/#", 2), (f"/sys/{PRODUCT_KEY}/other/#", 1)])
    assert subscribed.wait(10)
    assert granted == [1, 0x80]
    device.client.publish(device.post, b"up", 1).wait_for_publish(10)
    assert nats.payloads() == [b"up"]
    deliver(nats, down(b"down"))
    wait_for(lambda: device.received)
    device.leave()


async def test_aiomqtt_goes_on_with_its_session(nats: Nats, door: Door) -> None:
    proof = sign(PRODUCT_KEY, "d1", SECRET)

    def client() -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1",
            door.port,
            identifier=proof.client_id,
            username=proof.username,
            password=proof.password.decode(),
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties(PacketTypes.CONNECT, session_expiry_interval=SESSION_S),
        )

    async with client() as device:
        await device.subscribe(f"/broadcast/{PRODUCT_KEY}/+", qos=1)
    bus = await Bus.connect(nats.url, "token-of-the-test", "test")
    try:
        news = Downlink(PRODUCT_KEY, "d1", f"/broadcast/{PRODUCT_KEY}/news", b"news", 1, now_ms() + 60_000, waits=True)
        other = msgspec.structs.replace(news, topic=f"/broadcast/{PRODUCT_KEY}/a/b")
        for sent in (other, news):
            answer = await bus.request("access.deliver", encode_downlink(sent))
            assert not msgspec.msgpack.decode(answer, type=Delivered).delivered
        async with client() as device:
            message = await anext(aiter(device.messages))
            assert (str(message.topic), message.payload) == (f"/broadcast/{PRODUCT_KEY}/news", b"news")
    finally:
        await bus.close()
