"""Devices that do what they should not, against the running platform: each is answered with what is wrong, and nobody else notices."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from protocols.alink.topology import sign_identity
from protocols.mqtt.codec import PublishRun, encode, encode_publish
from protocols.mqtt.packets import SubAck, Subscribe
from tests.e2e.alink_maker import Maker
from tests.e2e.platform import Cloud, wait_until
from tests.integration.access_rig import RawClient

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    folder = tmp_path_factory.mktemp("bad-input")
    with Cloud(folder, crash_points=False) as cloud:
        yield Maker.on(cloud, folder)


@contextmanager
def device_of(maker: Maker, name: str, secret: str = "") -> Iterator[RawClient]:
    secret = secret or maker.cloud.device(maker.product_key, name)
    client = RawClient(maker.cloud.mqtt_port, name, product_key=maker.product_key, secret=secret.encode()).open()
    try:
        yield client
    finally:
        client.close()


def post(message_id: object, params: object) -> bytes:
    return json.dumps({"id": message_id, "version": "1.0", "params": params}).encode()


def answers(client: RawClient, count: int) -> list[dict[str, Any]]:
    """The next so many messages for the device, decoded."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        packet = client.next()
        if isinstance(packet, PublishRun):
            found += [json.loads(payload) for payload in packet.payloads()]
    return found


def test_a_device_whose_clock_is_wrong_is_told_value_by_value_and_the_past_is_taken(maker: Maker) -> None:
    now = time.time_ns() // 1_000_000
    with device_of(maker, "clock") as device:
        device.publish(post("1", {"Power": {"value": 1, "time": now + 3 * DAY_MS}, "Switch": {"value": 1, "time": 946_684_800_000}}))
        (answer,) = answers(device, 1)
        assert (answer["code"], list(answer["data"])) == (200, ["Power"])
        assert "more than 24 h ahead" in answer["data"]["Power"]
        device.publish(post("2", {"Power": {"value": 1, "time": "yesterday"}}))
        assert "UTC milliseconds" in answers(device, 1)[0]["data"]["Power"]
        topic = f"/sys/{maker.product_key}/clock/thing/event/Alarm/post"
        device.publish(post("3", {"value": {"code": 1}, "time": now + 3 * DAY_MS}), topic=topic)
        assert answers(device, 1)[0]["code"] == 6326
    reported = maker.get("clock")["reported"]
    assert (set(reported), reported["Switch"]["time"]) == ({"Switch"}, 946_684_800_000)


def test_ids_that_repeat_are_each_answered_and_each_post_is_kept(maker: Maker) -> None:
    with device_of(maker, "ids") as device:
        now = time.time_ns() // 1_000_000
        for n in range(5):
            device.publish(post(7, {"Power": {"value": n, "time": now - 1_000 * n}}))
        assert [answer["id"] for answer in answers(device, 5)] == [7] * 5
    path = f"/v1/telemetry/{maker.product_key}/ids/Power?from={now - 10_000}&to={now + 1_000}&raw=true"
    rows = maker.cloud.api.get(path)["points"]
    assert sorted(row[1] for row in rows) == [0, 1, 2, 3, 4]


def test_far_more_than_40_posts_at_once_are_all_answered(maker: Maker) -> None:
    """The Python SDK posts nothing more while 40 of its requests have no answer."""
    with device_of(maker, "burst") as device:
        device.sock.sendall(b"".join(encode_publish(device.topic, post(str(n), {"Power": 1})) for n in range(400)))
        got = answers(device, 400)
    assert Counter(answer["code"] for answer in got) == {200: 400}
    assert [answer["id"] for answer in got] == [str(n) for n in range(400)]


def test_a_retained_message_on_a_command_topic_reaches_nobody_and_is_put_aside(maker: Maker) -> None:
    secret = maker.cloud.device(maker.product_key, "retained")
    topic = f"/sys/{maker.product_key}/retained/thing/service/property/set"
    with device_of(maker, "retained", secret) as device:
        packet = bytearray(encode_publish(topic, b'{"id":"1","params":{"Switch":1}}', 1, 1))
        packet[0] |= 1  # RETAIN
        device.sock.sendall(bytes(packet))
        assert device.acks(1) == [(1, 0)]
        wait_until(lambda: held(maker, "retained"), 10, "it is in the quarantine")
    (entry,) = held(maker, "retained")
    assert (entry["reason"], entry["topic"]) == ("unknown_topic", topic)
    with device_of(maker, "retained", secret) as device:
        device.sock.sendall(encode(Subscribe(1, ((topic, 1),)), 4))  # a broker sends what it retained behind its SUBACK
        granted = device.next()
        assert isinstance(granted, SubAck)
        assert granted.reasons == (1,)
        device.publish(post("2", {"Power": 1}))
        heard = device.next()
        while not isinstance(heard, PublishRun):
            heard = device.next()
        assert (heard.topic, heard.retain) == (f"{device.topic}_reply", False), "nothing else was waiting for it"


def held(maker: Maker, name: str) -> list[dict[str, Any]]:
    return [item for item in maker.cloud.api.get("/v1/quarantine")["items"] if item["device_name"] == name]


def test_a_sub_device_that_two_gateways_want_belongs_to_the_first(maker: Maker) -> None:
    secret = maker.cloud.device(maker.product_key, "wanted")

    def ask(gateway: RawClient, name: str, what: str, params: object) -> Any:
        topic = f"/{what.format(f'{maker.product_key}/{name}')}"
        gateway.publish(post("1", params), topic=topic)
        return answers(gateway, 1)[0]

    item = sign_identity(maker.product_key, "wanted", secret, "c", "1")
    with device_of(maker, "gw-1") as first, device_of(maker, "gw-2") as second:
        assert ask(first, "gw-1", "sys/{}/thing/topo/add", [item])["code"] == 200
        assert ask(first, "gw-1", "ext/session/{}/combine/login", item)["code"] == 200
        refused = ask(second, "gw-2", "sys/{}/thing/topo/add", [item])
        assert (refused["code"], "belongs to another gateway" in refused["message"]) == (6619, True)
        assert ask(second, "gw-2", "ext/session/{}/combine/login", item)["code"] == 6401
        wait_until(lambda: maker.get("wanted")["online"], 10, "the first still has it")
