"""Everything bad that reaches the front door, one by one: what is answered, what is counted, what an operator finds, and that others go on.

While each offence goes on, a good device publishes with QoS 1; all of its messages are acknowledged, in order, and lie in the stream.
"""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud.access.model import Downlink
from cloud.access.service import send_down
from cloud.foundation.bus import Bus
from protocols.alink.credentials import sign
from protocols.edgelink.frame import FrameHeader, encode_frame
from protocols.edgelink.lanes import Lane
from protocols.edgelink.topics import uplink_topic
from protocols.errors import Reason
from protocols.mqtt.codec import ConnAck, Connect, Disconnect, PubAck, PublishRun, SubAck, Subscribe, encode, encode_publish
from protocols.mqtt.packets import ReasonCode
from tests.fakes.front_door import PRODUCT_KEY, SECRET
from tests.integration.access_rig import wait_for
from tests.integration.bad_input import BAD_BEGINNINGS, BAD_PACKETS, HOSTS, SAME_IN_5, address, closed
from tests.integration.offence import OPERATOR, SHORT, Front, offence, refused, running

TENANT = 1  # of the made-up registry
UNKNOWN = "no-such-device"
FOREIGN = f"/sys/{PRODUCT_KEY}/somebody-else/thing/event/property/post"
WORDS = "compare product key, device name and secret"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running(tmp_path_factory.mktemp("front"), **SHORT) as front:
        yield front


# CONNECT


@dataclass
class Attempt:
    name: str
    product_key: str
    secret: bytes
    reason: Reason
    codes: tuple[int, int]
    tenant: int
    says: str


WRONG = Attempt("d-wrong", PRODUCT_KEY, b"another-secret-0123456789", Reason.BAD_CREDENTIALS, (4, 0x86), TENANT, "secret")
STRANGER = Attempt(UNKNOWN, PRODUCT_KEY, SECRET, Reason.UNKNOWN_DEVICE, (4, 0x86), TENANT, "no such device")
FOREIGNER = Attempt("dev", "no-product", SECRET, Reason.UNKNOWN_DEVICE, (4, 0x86), OPERATOR, "no such device")
DISABLED = Attempt("off-1", PRODUCT_KEY, SECRET, Reason.NOT_AUTHORISED, (5, 0x87), TENANT, "disabled")


def _attempt(front: Front, attempt: Attempt, version: int) -> None:
    proof = sign(attempt.product_key, attempt.name, attempt.secret)
    with offence(front, attempt.reason) as seen:
        client = front.client(attempt.name, version=version)
        client.sock.sendall(encode(Connect(proof.client_id, proof.username, proof.password, version=version), version))
        answer = client.next()
        assert isinstance(answer, ConnAck)
        assert answer.reason == attempt.codes[version == 5]
        if version == 5:
            words = answer.properties.reason_string or ""
            assert WORDS in words or "enable it" in words
        assert client.next() is None
        entry = seen.entry(address(client.sock))
        assert (entry.tenant_id, entry.product_key, entry.device_name) == (attempt.tenant, attempt.product_key, attempt.name)
        assert attempt.says in entry.detail
        assert proof.username in entry.detail
        assert entry.payload == b""  # of a CONNECT nothing is kept
        assert not any(proof.password in data for _, data in front.nats.messages(seen.after))


@pytest.mark.refusal(Reason.BAD_CREDENTIALS)
@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_wrong_password(front: Front, version: int) -> None:
    _attempt(front, WRONG, version)


@pytest.mark.refusal(Reason.UNKNOWN_DEVICE)
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("attempt", [STRANGER, FOREIGNER], ids=["device", "product"])
def test_an_unknown_device_is_told_no_more_than_a_wrong_password(front: Front, attempt: Attempt, version: int) -> None:
    _attempt(front, attempt, version)


@pytest.mark.refusal(Reason.NOT_AUTHORISED)
@pytest.mark.parametrize("version", [4, 5])
def test_a_disabled_device(front: Front, version: int) -> None:
    _attempt(front, DISABLED, version)


@pytest.mark.refusal(Reason.BAD_CREDENTIALS)
@pytest.mark.parametrize("username", [None, "", "no-separator", "&", "dn&", "&pk", "\u20ac" * 2000])
def test_no_or_a_garbled_user_name(front: Front, username: str | None) -> None:
    with offence(front, Reason.BAD_CREDENTIALS) as seen:
        sock = front.raw(encode(Connect("id", username, b"p" if username is not None else None)))
        assert closed(sock) == bytes.fromhex("20020004")
        entry = seen.entry(address(sock))
        assert (entry.tenant_id, entry.device_name) == (OPERATOR, "")
        assert "deviceName&productKey" in entry.detail
        assert len(entry.detail) < 1000


@pytest.mark.refusal(Reason.BAD_CREDENTIALS)
@pytest.mark.parametrize("version", [4, 5])
def test_paho_is_told_that_its_password_is_wrong(front: Front, version: int) -> None:
    proof = sign(PRODUCT_KEY, next(front.names), b"another-secret-0123456789")
    heard: list[str] = []
    with offence(front, Reason.BAD_CREDENTIALS) as seen:
        client = paho.Client(CallbackAPIVersion.VERSION2, proof.client_id, protocol=paho.MQTTv5 if version == 5 else paho.MQTTv311)
        client.username_pw_set(proof.username, proof.password.decode())
        client.on_connect = lambda _client, _data, _flags, reason, properties: heard.append(
            f"{reason}|{getattr(properties, 'ReasonString', '')}"
        )
        client.connect("127.0.0.1", front.door.port, bind_address=(host := next(HOSTS)))
        wait_for(lambda: client.loop(0.1) or heard)
        client.disconnect()
        assert len(heard) == 1
        assert "user name or password" in heard[0].lower()
        assert (WORDS in heard[0]) == (version == 5)
        seen.entry(host)


# topics


@pytest.mark.refusal(Reason.FOREIGN_TOPIC)
def test_a_foreign_topic_closes_a_3_1_1_client(front: Front) -> None:
    with offence(front, Reason.FOREIGN_TOPIC) as seen:
        client = front.client().open()
        client.publish(b"mine", 1)
        client.publish(b"theirs", 2, topic=FOREIGN)
        client.publish(b"never looked at", 3)
        # The first message's PUBACK may be lost with the connection: it is on disk all the same.
        answers = list(iter(client.next, None))
        assert answers in ([], [PubAck(1)])
        entry = seen.entry(address(client.sock))
        assert (entry.tenant_id, entry.device_name, entry.topic, entry.payload) == (TENANT, client.device_name, FOREIGN, b"theirs")
        assert front.published(seen.after, client.device_name) == [b"mine"]


@pytest.mark.refusal(Reason.FOREIGN_TOPIC)
def test_a_foreign_topic_is_refused_by_puback_to_an_mqtt_5_client_which_goes_on(front: Front) -> None:
    with offence(front, Reason.FOREIGN_TOPIC, count=3) as seen:
        client = front.client(version=5).open()
        for n in range(1, 4):
            client.publish(b"theirs", n, topic=FOREIGN)
        client.publish(b"mine", 4)
        acks = [client.next() for _ in range(4)]
        assert [ack.reason for ack in acks if isinstance(ack, PubAck)] == [ReasonCode.NOT_AUTHORIZED] * 3 + [0]
        assert isinstance(acks[0], PubAck)
        assert "may not publish" in (acks[0].properties.reason_string or "")
        entry = seen.entry(address(client.sock))
        assert (entry.topic, entry.payload) == (FOREIGN, b"theirs")
        assert front.published(seen.after, client.device_name) == [b"mine"]


@pytest.mark.refusal(Reason.FOREIGN_TOPIC)
def test_aiomqtt_goes_on_behind_a_foreign_topic(front: Front) -> None:
    name = next(front.names)
    proof = sign(PRODUCT_KEY, name, SECRET)

    async def talk() -> None:
        version = aiomqtt.ProtocolVersion.V5
        password = proof.password.decode()
        async with aiomqtt.Client(
            "127.0.0.1", front.door.port, identifier=proof.client_id, username=proof.username, password=password, protocol=version
        ) as client:
            await client.publish(FOREIGN, b"theirs", qos=1)
            await client.publish(f"/sys/{PRODUCT_KEY}/{name}/thing/event/property/post", b"mine", qos=1)

    with offence(front, Reason.FOREIGN_TOPIC) as seen:
        asyncio.run(talk())
        assert front.published(seen.after, name) == [b"mine"]


@pytest.mark.refusal(Reason.FOREIGN_TOPIC)
@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, 0x87)])
def test_a_subscription_to_what_others_are_sent(front: Front, version: int, code: int) -> None:
    with offence(front, Reason.FOREIGN_TOPIC) as seen:
        client = front.client(version=version).open()
        own = f"/sys/{PRODUCT_KEY}/{client.device_name}/#"
        client.sock.sendall(encode(Subscribe(7, (("/sys/#", 1), (own, 1))), version))
        assert client.next() == SubAck(7, (code, 1))
        assert seen.entry(address(client.sock)).topic == "/sys/#"


@pytest.mark.refusal(Reason.UNKNOWN_TOPIC)
@pytest.mark.parametrize("version", [4, 5])
def test_a_topic_that_a_gateway_does_not_have(front: Front, version: int) -> None:
    with offence(front, Reason.UNKNOWN_TOPIC) as seen:
        client = front.client(f"gw-{version}", version=version).open()
        topic = f"/edge/{PRODUCT_KEY}/gw-{version}/up/nonsense"
        client.publish(b"x", 1, topic=topic)
        answer = client.next()
        if version == 5:
            assert isinstance(answer, PubAck)
            assert (answer.reason, bool(answer.properties.reason_string)) == (ReasonCode.TOPIC_NAME_INVALID, True)
        else:
            assert answer is None
        assert seen.entry(address(client.sock)).topic == topic


@pytest.mark.refusal(Reason.BAD_FRAME)
@pytest.mark.refusal(Reason.BAD_CHECKSUM)
@pytest.mark.parametrize("reason", [Reason.BAD_FRAME, Reason.BAD_CHECKSUM])
@pytest.mark.parametrize("version", [4, 5])
def test_a_frame_that_did_not_arrive_as_it_was_sent(front: Front, version: int, reason: Reason) -> None:
    frame = bytearray(encode_frame(FrameHeader(b"B" * 16, 1, Lane.LIVE, 1, 1, 1_760_000_000_000, 0)))
    if reason is Reason.BAD_CHECKSUM:
        frame[-1] ^= 1
    else:
        frame[0] ^= 1
    with offence(front, reason) as seen:
        client = front.client(f"gw-{version}-{reason}", version=version).open()
        topic = uplink_topic(PRODUCT_KEY, client.device_name, Lane.LIVE)
        client.publish(bytes(frame), 1, topic=topic)
        answer = client.next()
        if version == 5:
            assert isinstance(answer, PubAck)
            assert answer.reason == ReasonCode.PAYLOAD_FORMAT_INVALID
        else:
            assert answer is None
        entry = seen.entry(address(client.sock))
        assert (entry.topic, entry.payload) == (topic, bytes(frame))


# bytes


@pytest.mark.refusal(Reason.MALFORMED_PACKET)
@pytest.mark.refusal(Reason.PROTOCOL_ERROR)
@pytest.mark.refusal(Reason.UNSUPPORTED_QOS)
@pytest.mark.refusal(Reason.PACKET_TOO_LARGE)
@pytest.mark.parametrize(("version", "name"), [(4, name) for name in BAD_PACKETS] + [(5, name) for name in SAME_IN_5])
def test_a_bad_packet_of_a_device_that_was_let_in(front: Front, version: int, name: str) -> None:
    data, reason, code = BAD_PACKETS[name]
    with offence(front, reason) as seen:
        client = front.client(version=version).open()
        client.publish(b"before", 1)
        assert client.acks(1) == [(1, 0)]
        client.sock.sendall(data)
        answer = client.next()
        if version == 5:
            assert isinstance(answer, Disconnect)
            assert answer.reason == code
            assert answer.properties.reason_string
            answer = client.next()
        assert answer is None
        entry = seen.entry(address(client.sock))
        assert (entry.tenant_id, entry.device_name) == (TENANT, client.device_name)
        assert data.startswith(entry.payload)
        assert b"Sesame" not in entry.payload
        assert entry.payload or "CONNECT" in name
        assert front.published(seen.after, client.device_name) == [b"before"]


@pytest.mark.refusal(Reason.MALFORMED_PACKET)
@pytest.mark.refusal(Reason.PROTOCOL_ERROR)
@pytest.mark.refusal(Reason.UNSUPPORTED_VERSION)
@pytest.mark.refusal(Reason.PACKET_TOO_LARGE)
@pytest.mark.parametrize("name", BAD_BEGINNINGS)
def test_a_connection_that_begins_with_something_else(front: Front, name: str) -> None:
    data, reason, answer, says = BAD_BEGINNINGS[name]
    with offence(front, reason) as seen:
        sock = front.raw(data)
        assert closed(sock) == answer
        entry = seen.entry(address(sock))
        assert says in entry.detail
        assert (entry.tenant_id, entry.device_name) == (OPERATOR, "")
        assert len(entry.payload) <= 16
        assert data.startswith(entry.payload)


@pytest.mark.refusal(Reason.MALFORMED_PACKET)
def test_a_bad_connect_of_an_mqtt_5_client_is_answered_with_why(front: Front) -> None:
    with offence(front, Reason.MALFORMED_PACKET) as seen:
        client = front.client(version=5)
        client.sock.sendall(bytes.fromhex("100e 0004 4d515454 05 03 003c 00 0001 61"))
        answer = client.next()
        assert isinstance(answer, ConnAck)
        assert answer.reason == ReasonCode.MALFORMED_PACKET
        assert "reserved flag" in (answer.properties.reason_string or "")
        assert client.next() is None
        seen.entry(address(client.sock))


# time


@pytest.mark.refusal(Reason.CONNECT_TIMEOUT)
@pytest.mark.parametrize("first", [b"", encode(Connect("half", "of&it", b"Sesame-open"))[:15]], ids=["silent", "half a CONNECT"])
def test_a_connection_that_never_sends_connect(front: Front, first: bytes) -> None:
    with offence(front, Reason.CONNECT_TIMEOUT) as seen:
        sock = front.raw(first)
        seen.good.goes_on(50)
        assert closed(sock) == b""
        assert "no CONNECT in 1 s" in seen.entry(address(sock)).detail


@pytest.mark.refusal(Reason.SLOW_WRITER)
@pytest.mark.parametrize("version", [4, 5])
def test_a_slow_writer(front: Front, version: int) -> None:
    """Half a packet, and then a byte now and then."""
    with offence(front, Reason.SLOW_WRITER) as seen:
        client = front.client(version=version).open()
        packet = encode_publish(client.topic, bytes(60_000), 1, 1, version=version)
        client.sock.sendall(packet[:30_000])
        answers: list[object] = []
        for at in range(30_000, 30_100):
            client.sock.sendall(packet[at : at + 1])
            try:
                answers.append(client.next(0.1))
                break
            except TimeoutError:
                continue
        (answer,) = answers
        assert isinstance(answer, Disconnect) if version == 5 else answer is None
        assert getattr(answer, "reason", ReasonCode.QUOTA_EXCEEDED) == ReasonCode.QUOTA_EXCEEDED
        entry = seen.entry(address(client.sock))
        assert "not the rest" in entry.detail
        assert entry.device_name == client.device_name
        assert front.published(seen.after, client.device_name) == []


@pytest.mark.refusal(Reason.SLOW_READER)
@pytest.mark.parametrize("version", [4, 5])
def test_a_slow_reader(front: Front, version: int) -> None:
    """It publishes nothing and reads nothing: what it is sent is bounded, then it is closed, and others are sent theirs meanwhile."""
    with offence(front, Reason.SLOW_READER) as seen:
        slow, other = front.client(version=version).open(), front.client().open()
        undelivered, sessions = "hearthline_access_undelivered_total", "hearthline_access_sessions"
        before, sent = front.door.metrics(), 0

        def send(name: str, count: int) -> None:
            message = Downlink(PRODUCT_KEY, name, f"/sys/{PRODUCT_KEY}/{name}/thing/event/property/post_reply", bytes(50_000))

            async def down(bus: Bus) -> None:
                for _ in range(count):
                    await send_down(bus, [message] * 10)

            front.nats.on_bus(down)

        while (now := front.door.metrics())[undelivered] == before[undelivered]:
            assert sent < 2_000, "it takes without end"
            send(slow.device_name, 5)
            sent += 50
        taken = sent - (now[undelivered] - before[undelivered])
        assert taken * 50_000 < 16 << 20  # the kernel's buffers and the bound of a session
        send(other.device_name, 1)
        received = 0
        while received < 10:
            run = other.next()
            assert isinstance(run, PublishRun)
            received += run.count
        entry = seen.entry(address(slow.sock))
        assert entry.device_name == slow.device_name
        assert "read" in entry.detail
        wait_for(lambda: front.door.metrics()[sessions] == before[sessions] - 1)
        last = [packet for packet in iter(slow.next, None) if not isinstance(packet, PublishRun)]  # it begins to read after all
        assert [getattr(packet, "reason", None) for packet in last] == ([ReasonCode.QUOTA_EXCEEDED] if version == 5 else [])


@pytest.mark.refusal(Reason.KEEPALIVE_TIMEOUT)
@pytest.mark.parametrize("version", [4, 5])
def test_a_client_past_its_keepalive(front: Front, version: int) -> None:
    with offence(front, Reason.KEEPALIVE_TIMEOUT) as seen:
        client = front.client(version=version, keepalive=1).open()
        answer = client.next()
        if version == 5:
            assert isinstance(answer, Disconnect)
            assert answer.reason == ReasonCode.KEEP_ALIVE_TIMEOUT
            assert "1.5 times" in (answer.properties.reason_string or "")
            answer = client.next()
        assert answer is None
        entry = seen.entry(address(client.sock))
        assert (entry.device_name, "keepalive of 1 s" in entry.detail) == (client.device_name, True)


# the oracle


def test_every_refusal_is_noted_when_the_door_stops(tmp_path: Path) -> None:
    """Counts that wait for their minute are noted at the end: what was counted is what the quarantine holds."""
    with running(tmp_path) as front:
        for _ in range(25):
            sock = socket.create_connection(("127.0.0.1", front.door.port), timeout=10)
            sock.sendall(bytes.fromhex("c100"))
            assert closed(sock) == b""
        wait_for(lambda: refused(front, Reason.MALFORMED_PACKET) == 25)
        assert front.door.stop() == 0
        entries = front.quarantined(0)
        assert {entry.reason for entry in entries} == {"malformed_packet"}
        assert len(entries) == 2
        assert sum(entry.count for entry in entries) == 25


def test_the_good_device_would_notice_a_door_that_serves_nobody_else(front: Front) -> None:
    good = front.good(next(front.names))
    good.start()
    good.goes_on()
    with front.nats.frozen(), pytest.raises(AssertionError, match="waited in vain"):
        good.goes_on(timeout_s=0.5)
    good.goes_on()
    good.finish()
