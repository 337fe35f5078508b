"""The front door with a real NATS: what a PUBACK promises, and who gets in."""

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable

import aiomqtt
import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud.access.model import UPLINK_STREAM, Delivered, Downlink, Kind, encode_downlink
from cloud.access.service import AccessDownlink, send_down
from cloud.access.worker import RECHECK_S
from cloud.devices.model import Order
from cloud.foundation.bus import Bus
from protocols.alink.credentials import sign
from protocols.edgelink.frame import FrameHeader, encode_frame
from protocols.edgelink.lanes import Lane
from protocols.edgelink.messages import Command, decode_message
from protocols.edgelink.topics import uplink_topic
from protocols.mqtt.codec import Connect, Disconnect, PingReq, PingResp, PubAck, PublishRun, Will, encode
from tests.fakes.front_door import PRODUCT_KEY, SECRET
from tests.integration.access_rig import Door, Load, Nats, RawClient, start_loads, wait_for, wait_for_more

StartDoor = Callable[..., Door]


@pytest.mark.parametrize("point", ["access.before_commit", "access.after_commit"])
def test_everything_acknowledged_is_in_the_stream_when_access_is_killed(point: str, nats: Nats, door: Door) -> None:
    loads = start_loads(door, 5)
    wait_for(lambda: all(len(load.acked) > 50 for load in loads))
    door.arm(point)
    assert door.process.wait(10) == -signal.SIGKILL
    for load in loads:
        load.finish()
    stored = Counter(nats.payloads())
    acked = [payload for load in loads for payload in load.acked]
    assert len(acked) > 250
    assert stored.keys() >= set(acked)
    assert set(stored.values()) == {1}
    if point == "access.after_commit":
        assert len(stored) > len(acked)  # on disk, and the PUBACKs never left: the devices will send these again


def test_every_message_is_stored_exactly_once_when_nats_is_killed_while_publishing(nats: Nats, door: Door) -> None:
    loads = start_loads(door, 5)
    for kills in range(1, 4):
        wait_for_more(loads, 200)
        nats.kill()
        time.sleep(0.05 * kills)
        nats.start()
    wait_for_more(loads, 200)
    for load in loads:
        load.finish()
    stored = Counter(nats.payloads())
    acked = [payload for load in loads for payload in load.acked]
    assert len(acked) == sum(load.sent for load in loads) > 800
    assert stored == Counter(acked)
    assert sum(load.misordered for load in loads) == 0
    assert door.process.poll() is None


def test_a_message_that_landed_with_its_answer_lost_is_not_stored_twice(nats: Nats, door: Door) -> None:
    """Frozen after the publish was sent, killed before it could answer or not at all: both ends of an unknown outcome."""
    client = RawClient(door.port, "d1").open()
    expected = []
    for n in range(1, 6):
        payload = b"attempt-%d" % n
        expected.append(payload)
        with nats.frozen():
            client.publish(payload, n)
            time.sleep(0.02)
            if n % 2:
                nats.kill()
        if n % 2:
            nats.start()
        assert client.acks(1) == [(n, 0)]
    assert nats.payloads() == expected


def test_pings_are_answered_while_commits_stall_and_pubacks_follow_later(nats: Nats, door: Door) -> None:
    client, idle = RawClient(door.port, "d1").open(), RawClient(door.port, "d2").open()
    client.publish(b"before", 1)
    assert client.acks(1) == [(1, 0)]
    with nats.frozen():
        for n in range(2, 12):
            client.publish(b"during-%d" % n, n)
        for waiting in (client, idle):
            waiting.sock.sendall(encode(PingReq()))
            assert isinstance(waiting.next(1.0), PingResp)
        with pytest.raises(TimeoutError):
            client.next(0.3)
    assert client.acks(10) == [(n, 0) for n in range(2, 12)]
    assert nats.payloads() == [b"before", *(b"during-%d" % n for n in range(2, 12))]


def test_a_socket_is_read_no_further_than_its_bound_while_commits_stall(nats: Nats, door: Door) -> None:
    client = RawClient(door.port, "d1").open()
    client.publish(b"0" * 1000, 1)
    client.acks(1)
    taken = 0
    with nats.frozen():
        client.sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                client.publish(b"%06d" % taken + bytes(994))
                taken += 1
        assert taken < 30_000  # the bound of 1 MiB, and what kernel buffers hold
    wait_for(lambda: len(nats.payloads()) >= taken)
    stored = nats.payloads()[1 : taken + 1]
    assert [payload[:6] for payload in stored] == [b"%06d" % n for n in range(taken)]
    assert taken > 1_000


def test_a_full_stream_stops_pubacks_and_drops_nothing(nats: Nats, start_door: StartDoor) -> None:
    door = start_door(stream_bytes=200_000)
    client = RawClient(door.port, "d1").open()
    acked = 0
    with contextlib.suppress(TimeoutError):
        while True:
            client.publish(b"%06d" % (acked + 1) + bytes(2000), acked + 1)
            client.acks(1, timeout_s=1.0)
            acked += 1
    assert 50 < acked < 200
    assert [payload[:6] for payload in nats.payloads()] == [b"%06d" % n for n in range(1, acked + 1)]

    async def purge(bus: Bus) -> int:
        last = (await bus.stream_info(UPLINK_STREAM)).last_seq
        await bus.purge_below(UPLINK_STREAM, last)
        return last

    nats.on_bus(purge)
    assert client.acks(1) == [(acked + 1, 0)]
    assert [payload[:6] for payload in nats.payloads()] == [b"%06d" % n for n in (acked, acked + 1)]


def test_a_second_writer_ends_the_first(nats: Nats, start_door: StartDoor) -> None:
    first = start_door()
    old = RawClient(first.port, "d1").open()
    old.publish(b"one", 1)
    old.acks(1)
    second = start_door()
    new = RawClient(second.port, "d2").open()
    new.publish(b"two", 1)
    assert new.acks(1) == [(1, 0)]
    old.publish(b"three", 2)
    assert first.process.wait(10) != 0
    assert nats.payloads() == [b"one", b"two"]


def test_a_stream_that_was_lost_ends_access_and_a_new_start_makes_it_anew(nats: Nats, start_door: StartDoor) -> None:
    first = start_door()
    client = RawClient(first.port, "d1").open()
    client.publish(b"one", 1)
    client.acks(1)
    nats.on_bus(lambda bus: bus.api(f"STREAM.DELETE.{UPLINK_STREAM}", {}))
    client.publish(b"two", 2)
    assert first.process.wait(10) != 0
    client = RawClient(start_door().port, "d1").open()
    client.publish(b"two", 2)
    assert client.acks(1) == [(2, 0)]
    assert nats.payloads() == [b"two"]


def test_a_stop_acknowledges_what_is_on_disk_and_says_goodbye(nats: Nats, door: Door) -> None:
    loads, modern = start_loads(door, 3), RawClient(door.port, "modern", version=5).open()
    wait_for(lambda: all(len(load.acked) > 20 for load in loads))
    assert door.stop() == 0
    for load in loads:
        load.finish()
    assert modern.next() == Disconnect(0x8B)
    acked = {payload for load in loads for payload in load.acked}
    assert acked <= set(nats.payloads())
    closed = [row.session.device_name for row in nats.rows() if row.kind is Kind.CLOSED]
    assert sorted(closed) == ["d0", "d1", "d2", "modern"]


def test_credentials_decide_who_gets_in(door: Door) -> None:
    for name, password, code in (("d1", b"wrong", 4), ("no-such", None, 4), ("off-1", None, 5), ("d1", None, 0)):
        client = RawClient(door.port, name)
        if password is not None:
            client.connect = msgspec.structs.replace(client.connect, password=password)
        client.sock.sendall(encode(client.connect, 4))
        answer = client.next()
        assert getattr(answer, "reason", None) == code
        if code:
            assert client.next() is None
    anonymous = RawClient(door.port, "d1")
    anonymous.sock.sendall(encode(Connect("anyone")))
    assert getattr(anonymous.next(), "reason", None) == 4


def test_a_foreign_topic_closes_an_old_client_and_is_told_to_a_new_one_in_its_turn(nats: Nats, door: Door) -> None:
    foreign = f"/sys/{PRODUCT_KEY}/d2/thing/event/property/post"
    old = RawClient(door.port, "d1").open()
    old.publish(b"theirs", 1, topic=foreign)
    assert old.next() is None
    new = RawClient(door.port, "d1", version=5).open()
    new.publish(b"mine", 1)
    new.publish(b"theirs", 2, topic=foreign)
    new.publish(b"mine too", 3)
    assert new.acks(3) == [(1, 0), (2, 0x87), (3, 0)]
    assert nats.payloads() == [b"mine", b"mine too"]


def test_the_newest_connection_of_a_device_wins(nats: Nats, door: Door) -> None:
    first = RawClient(door.port, "d1", version=5, base="first").open()
    other = RawClient(door.port, "d2").open()
    second = RawClient(door.port, "d1", base="second").open()
    assert first.next() == Disconnect(0x8E)
    assert first.next() is None
    second.publish(b"x", 1)
    other.publish(b"y", 1)
    assert second.acks(1) == other.acks(1) == [(1, 0)]
    rows = [row for row in nats.rows() if row.session.device_name == "d1" and row.kind is not Kind.PUBLISH]
    assert [row.kind for row in rows] == [Kind.OPENED, Kind.CLOSED, Kind.OPENED]
    assert rows[0].session.epoch == rows[1].session.epoch < rows[2].session.epoch
    assert rows[1].note().reason == "takeover"


def test_epochs_grow_over_a_restart(nats: Nats, start_door: StartDoor) -> None:
    begins = (Kind.ACCESS_STARTED, Kind.OPENED)
    epochs: list[int] = []
    for starts in (1, 2):
        door = start_door()
        client = RawClient(door.port, "d1").open()
        client.publish(b"x", 1)
        client.acks(1)
        epochs = [row.session.epoch for row in nats.rows() if row.kind in begins]
        assert len(epochs) == 2 * starts
        door.process.kill()
        door.process.wait()
    assert epochs == sorted(set(epochs))


def test_a_silent_client_is_closed_and_its_will_published(nats: Nats, door: Door) -> None:
    client = RawClient(door.port, "d1", keepalive=1)
    will = Will(f"/{PRODUCT_KEY}/d1/user/gone", b"farewell")
    client.connect = msgspec.structs.replace(client.connect, will=will)
    client.open()
    started = time.monotonic()
    assert client.next() is None
    assert 1.4 < time.monotonic() - started < 4
    wait_for(lambda: nats.payloads() == [b"farewell"])
    assert [row.note().reason for row in nats.rows() if row.kind is Kind.CLOSED] == ["keepalive"]


def test_a_device_that_never_subscribed_gets_its_messages(nats: Nats, door: Door) -> None:
    received: list[tuple[str, bytes]] = []
    proof = sign(PRODUCT_KEY, "d1", SECRET)
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=proof.client_id, protocol=paho.MQTTv311)
    client.username_pw_set(proof.username, proof.password.decode())
    client.on_message = lambda _client, _data, message: received.append((message.topic, bytes(message.payload)))
    client.connect("127.0.0.1", door.port)
    client.loop_start()
    wait_for(client.is_connected)
    topic = f"/sys/{PRODUCT_KEY}/d1/thing/service/property/set"

    async def deliver(bus: Bus) -> list[bool]:
        answers = []
        for name, qos in (("d1", 1), ("d1", 0), ("absent", 1)):
            data = await bus.request("access.deliver", encode_downlink(Downlink(PRODUCT_KEY, name, topic, b'{"id":"1"}', qos)))
            answers.append(msgspec.msgpack.decode(data, type=Delivered).delivered)
        order = Order(1, "7", (PRODUCT_KEY, "d1"), None, "thing.service.property.set", {"on": 1}, 0)
        answers.append(await AccessDownlink(bus).deliver_command(order))
        await send_down(bus, [Downlink(PRODUCT_KEY, "d1", topic + "/late", b"batch"), Downlink(PRODUCT_KEY, "absent", topic, b"")])
        return answers

    assert nats.on_bus(deliver) == [True, True, False, True]
    wait_for(lambda: len(received) == 4)
    client.disconnect()
    client.loop_stop()
    assert received[:2] == [(topic, b'{"id":"1"}')] * 2
    assert received[2][0] == topic
    assert msgspec.json.decode(received[2][1])["id"] == "7"
    assert received[3] == (topic + "/late", b"batch")


def test_a_gateway_gets_the_commands_of_the_devices_behind_it(nats: Nats, door: Door) -> None:
    gateway = RawClient(door.port, "gw-1", version=5).open()

    async def deliver(bus: Bus) -> bool:
        order = Order(1, "9", ("pk", "stove"), (PRODUCT_KEY, "gw-1"), "thing.service.property.set", {"on": 1}, 5)
        return await AccessDownlink(bus).deliver_command(order)

    assert nats.on_bus(deliver)
    run = gateway.next()
    assert isinstance(run, PublishRun)
    assert run.topic == f"/edge/{PRODUCT_KEY}/gw-1/down/command"
    assert decode_message(Command, run.payloads()[0]).device_name == "stove"


def test_a_damaged_frame_is_refused_and_the_gateway_stays_connected(nats: Nats, door: Door) -> None:
    gateway = RawClient(door.port, "gw-1", version=5).open()
    frames = [encode_frame(FrameHeader(bytes(16), 1, Lane.LIVE, seq, 1, 0, seq)) for seq in (1, 2, 3)]
    damaged = frames[1][:-1] + bytes([frames[1][-1] ^ 1])
    topic = uplink_topic(PRODUCT_KEY, "gw-1", Lane.LIVE)
    for n, frame in enumerate((frames[0], damaged, frames[2]), 1):
        gateway.publish(frame, n, topic=topic)
    gateway.publish(frames[0], 4, topic=uplink_topic(PRODUCT_KEY, "gw-1", Lane.ALARM))
    assert gateway.acks(4) == [(1, 0), (2, 0x99), (3, 0), (4, 0x99)]
    assert nats.payloads() == [frames[0], frames[2]]
    device = RawClient(door.port, "d1", version=5).open()
    device.publish(frames[0], 1, topic=uplink_topic(PRODUCT_KEY, "d1", Lane.LIVE))
    assert device.acks(1) == [(1, 0x87)]


def test_a_disabled_device_loses_its_session(nats: Nats, door: Door) -> None:
    client, other = RawClient(door.port, "d1", version=5).open(), RawClient(door.port, "d2", version=5).open()

    async def disable(bus: Bus) -> None:
        await bus.request("test.disable", b"d1")
        await bus.publish("registry.changed", msgspec.json.encode({"product_key": PRODUCT_KEY, "device_name": None}))

    nats.on_bus(disable)
    assert client.next() == Disconnect(0x98)
    assert client.next() is None
    other.sock.sendall(encode(PingReq()))
    assert isinstance(other.next(), PingResp)
    refused = RawClient(door.port, "d1")
    refused.sock.sendall(encode(refused.connect, 4))
    assert getattr(refused.next(), "reason", None) == 5


def test_a_disabled_device_loses_its_session_though_the_event_was_lost(nats: Nats, start_door: StartDoor) -> None:
    assert 2 * RECHECK_S <= 45, "a session that began within a round is looked at in the next, within the 60 s that are promised"
    door = start_door(recheck_s=0.2)
    client, other = RawClient(door.port, "d1", version=5).open(), RawClient(door.port, "d2", version=5).open()
    nats.on_bus(lambda bus: bus.request("test.disable", b"d1"))
    assert client.next() == Disconnect(0x98)
    other.sock.sendall(encode(PingReq()))
    assert isinstance(other.next(), PingResp)


async def test_a_client_of_mqtt_5_posts_and_subscribes(nats: Nats, door: Door) -> None:
    proof = sign(PRODUCT_KEY, "d1", SECRET)
    async with aiomqtt.Client(
        "127.0.0.1",
        door.port,
        identifier=proof.client_id,
        username=proof.username,
        password=proof.password.decode(),
        protocol=aiomqtt.ProtocolVersion.V5,
    ) as client:
        await client.subscribe(f"/sys/{PRODUCT_KEY}/d1/#", qos=1)
        for n in range(20):
            await client.publish(f"/sys/{PRODUCT_KEY}/d1/thing/event/property/post", b"%d" % n, qos=1)
        bus = await Bus.connect(nats.url, "token-of-the-test", "test")
        await send_down(bus, [Downlink(PRODUCT_KEY, "d1", f"/sys/{PRODUCT_KEY}/d1/thing/x", b"hello", 1)])
        message = await anext(aiter(client.messages))
        await bus.close()
    assert message.payload == b"hello"


def test_pubacks_of_many_connections_keep_their_order(nats: Nats, door: Door) -> None:
    loads: list[Load] = start_loads(door, 20, window=50)
    wait_for(lambda: all(len(load.acked) > 200 for load in loads))
    for load in loads:
        load.finish()
    assert sum(load.misordered for load in loads) == 0
    stored = nats.payloads()
    assert len(stored) == sum(load.sent for load in loads)
    for n, load in enumerate(loads):
        assert [payload for payload in stored if payload.startswith(b"d%d:" % n)] == load.acked


def test_an_unknown_packet_id_of_a_puback_harms_nobody(door: Door) -> None:
    client = RawClient(door.port, "d1").open()
    client.sock.sendall(encode(PubAck(77)))
    client.publish(b"x", 1)
    assert client.acks(1) == [(1, 0)]
