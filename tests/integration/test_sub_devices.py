"""Sub-devices at the front door: who may speak for whom, what a gateway is told, and whose the messages are."""

import json
from typing import Any

import pytest

from cloud.access.model import Downlink, Kind, Row
from cloud.access.service import send_down
from cloud.devices.model import REGISTRY_CHANGED
from cloud.foundation.bus import Bus
from protocols.alink.topology import sign_identity
from protocols.errors import Reason
from protocols.mqtt.codec import PubAck, PublishRun, encode_publish
from tests.fakes.front_door import GATEWAY, PRODUCT_KEY, SECRET
from tests.integration.access_rig import Door, Nats, RawClient, wait_for

SUB = "/sys/{}/{}/thing/event/property/post"


class Gateway(RawClient):
    """The gateway in whose topology every device of the registry is; `told` are the messages for it that were read so far."""

    def __init__(self, port: int, name: str = GATEWAY[1], version: int = 4) -> None:
        super().__init__(port, name, version=version)
        self.name = name
        self.told: list[tuple[str, Any]] = []
        self.open()

    def ask(self, what: str, params: object, message_id: str = "1", *, answer: bool = True) -> Any:
        """Log in or out; the answer."""
        topic = f"/ext/session/{PRODUCT_KEY}/{self.name}/combine/{what}"
        self.publish(json.dumps({"id": message_id, "params": params}).encode(), topic=topic)
        return self.hear(f"{topic}_reply") if answer else None

    def hear(self, topic: str) -> Any:
        """The next message on `topic`; others are kept in `told`."""
        while True:
            packet = self.next()
            if isinstance(packet, PubAck):
                continue
            assert isinstance(packet, PublishRun), packet
            for payload in packet.payloads():
                self.told.append((packet.topic, json.loads(payload)))
            if packet.topic == topic:
                return self.told[-1][1]

    def error(self) -> Any:
        return self.hear(f"/ext/error/{PRODUCT_KEY}/{self.name}")


def login(name: str, secret: bytes = SECRET) -> dict[str, str]:
    return {**sign_identity(PRODUCT_KEY, name, secret.decode(), f"{PRODUCT_KEY}.{name}|lan=Python|", "1"), "cleanSession": "true"}


def pair(name: str) -> dict[str, str]:
    return {"productKey": PRODUCT_KEY, "deviceName": name}


def presence(nats: Nats) -> list[tuple[str, str, bool]]:
    """(device, begins or ends, through a gateway) of the stream's sessions, in order."""
    rows = [row for row in nats.rows() if row.kind in (Kind.OPENED, Kind.CLOSED)]
    return [(row.session.device_name, row.kind.name, row.note().via != 0) for row in rows]


def published(nats: Nats) -> list[tuple[str, str, bytes]]:
    """(whose, topic, payload) of what was published."""
    rows: list[Row] = [row for row in nats.rows() if row.kind is Kind.PUBLISH]
    return [(row.session.device_name, row.topic, payload) for row in rows for payload in row.payloads()]


def test_a_gateway_speaks_for_what_it_has_logged_in_and_the_messages_are_the_sub_devices_own(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    assert gateway.ask("login", login("s1"), "77") == {
        "id": "77",
        "code": 200,
        "data": pair("s1"),
        "message": "success",
        "method": "combine.login",
        "version": "1.0",
    }
    batch = {"signMethod": "hmacSha256", "deviceList": [login("s2"), login("s3")]}
    assert gateway.ask("batch_login", batch)["data"] == [pair("s2"), pair("s3")]
    gateway.publish(b"of s2", 1, topic=SUB.format(PRODUCT_KEY, "s2"))
    gateway.publish(b"its own", 2)
    assert gateway.acks(2) == [(1, 0), (2, 0)]
    assert [(whose, payload) for whose, _, payload in published(nats)] == [("s2", b"of s2"), (gateway.name, b"its own")]
    assert presence(nats) == [(gateway.name, "OPENED", False), *((name, "OPENED", True) for name in ("s1", "s2", "s3"))]
    assert door.metrics()["hearthline_access_sub_devices"] == 3
    assert gateway.ask("logout", pair("s1"))["data"] == pair("s1")
    assert gateway.ask("batch_logout", [pair("s2")])["code"] == 200
    gateway.close()
    wait_for(lambda: len(presence(nats)) == 8)
    assert [name for name, what, _ in presence(nats) if what == "CLOSED"] == ["s1", "s2", "s3", gateway.name]


def test_what_goes_down_to_a_sub_device_goes_over_its_gateway(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    gateway.ask("login", login("s1"))
    topic = f"/sys/{PRODUCT_KEY}/s1/thing/service/property/set"
    nats.on_bus(lambda bus: send_down(bus, [Downlink(PRODUCT_KEY, "s1", topic, b'{"id":"5"}')]))
    assert gateway.hear(topic) == {"id": "5"}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        (login("no-such"), 6100),
        (login("s1", b"wrong"), 6287),
        (login("off-1"), 522),
        ({"productKey": PRODUCT_KEY}, 6302),
        ([], 460),
    ],
)
def test_a_login_that_is_refused_has_a_code_and_words(nats: Nats, door: Door, params: object, code: int) -> None:
    gateway = Gateway(door.port)
    answer = gateway.ask("login", params)
    assert (answer["code"], answer["data"]) == (code, {})
    assert len(answer["message"]) > 10
    assert presence(nats) == [(gateway.name, "OPENED", False)]


def test_a_batch_is_taken_as_a_whole_or_not_at_all(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    assert gateway.ask("batch_login", {"deviceList": [login("s1"), login("s2", b"wrong")]})["code"] == 6287
    assert gateway.ask("batch_login", {"deviceList": [login(f"s{n}") for n in range(6)]})["code"] == 6357
    assert gateway.ask("logout", pair("s1"))["code"] == 520
    assert [name for name, _, _ in presence(nats)] == [gateway.name]


def test_a_device_in_another_gateways_topology_is_not_logged_in(nats: Nats, door: Door) -> None:
    assert Gateway(door.port, "gw-other").ask("login", login("s1"))["code"] == 6401


def test_more_logins_than_a_gateway_may_have_waiting_are_told_to_wait(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    gateway.ask("login", login("s0"))
    topic = f"/ext/session/{PRODUCT_KEY}/{gateway.name}/combine/login"
    burst = [json.dumps({"id": str(n), "params": login(f"s{n}")}).encode() for n in range(300)]
    gateway.sock.sendall(b"".join(encode_publish(topic, payload) for payload in burst))
    while len(gateway.told) < 1 + len(burst):
        gateway.hear(f"{topic}_reply")
    codes = [answer["code"] for _, answer in gateway.told[1:]]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 20


def test_the_newest_session_of_a_sub_device_wins_and_the_gateway_that_loses_is_told(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    gateway.ask("login", login("s1"))
    alone = RawClient(door.port, "s1").open()
    lost = gateway.error()
    assert (lost["code"], lost["data"]) == (427, pair("s1"))
    gateway.ask("login", login("s1"))
    assert alone.next() is None, "and back again"
    wait_for(lambda: len(presence(nats)) == 6)
    assert presence(nats)[1:] == [
        ("s1", "OPENED", True),
        ("s1", "CLOSED", True),
        ("s1", "OPENED", False),
        ("s1", "CLOSED", False),
        ("s1", "OPENED", True),
    ]


def test_a_gateway_that_speaks_for_a_stranger_is_told_520_and_what_it_sent_is_kept_as_its_own(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    gateway.ask("login", login("s1"))
    topic = SUB.format(PRODUCT_KEY, "s2")
    gateway.publish(b"of a stranger", 1, topic=topic)
    told = gateway.error()
    assert (told["code"], told["data"]) == (520, pair("s2"))
    gateway.publish(b"of s1", 2, topic=SUB.format(PRODUCT_KEY, "s1"))
    wait_for(lambda: len(published(nats)) == 2)
    assert published(nats) == [(gateway.name, topic, b"of a stranger"), ("s1", SUB.format(PRODUCT_KEY, "s1"), b"of s1")]


@pytest.mark.refusal(Reason.FOREIGN_TOPIC)
def test_a_device_that_is_no_gateway_speaks_for_nobody(nats: Nats, door: Door) -> None:
    device = RawClient(door.port, "s1").open()
    device.publish(b"x", 1, topic=SUB.format(PRODUCT_KEY, "s2"))
    assert device.next() is None, "3.1.1 has no other way to say no"
    assert published(nats) == []


def test_a_sub_device_that_is_disabled_is_logged_out_and_its_gateway_stays(nats: Nats, door: Door) -> None:
    gateway = Gateway(door.port)
    gateway.ask("login", login("s1"))

    async def disable(bus: Bus) -> None:
        await bus.request("test.disable", b"s1", timeout_s=5)
        change = json.dumps({"product_key": PRODUCT_KEY, "device_name": "s1"}).encode()
        await bus.publish(REGISTRY_CHANGED, change)

    nats.on_bus(disable)
    told = gateway.error()
    assert (told["code"], told["data"]) == (522, pair("s1"))
    gateway.publish(b"still here", 1)
    assert gateway.acks(1) == [(1, 0)]
