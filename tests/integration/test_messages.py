"""Broadcasts, messages on custom topics, and binding by a token that a device shows."""

from typing import Any

import pytest
from sqlalchemy import update

from cloud.devices.tables import ShownTokenRow
from protocols.alink.topics import Kind, Topic
from protocols.errors import TryAgain
from tests.integration.api_rig import Rig, problem
from tests.integration.device_talk import Talker

TOKEN = "0123456789ABCDEF0123456789ABCDEF"


async def test_a_broadcast_goes_to_all_or_to_subscribers_and_says_how_many_it_reached(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    path = f"/v1/products/{product_key}/broadcast"
    for body, reached in (({"text": "hello"}, 7), ({"base64": "AP8=", "topic": "news/today", "qos": 1}, 3)):
        rig.downlink.reaches = reached
        assert (await rig.one.post(path, json=body)).json() == {"reached": reached}
    (_, all_of_them, hello), (_, subscribed, raw) = rig.downlink.broadcasts
    assert Topic.parse(all_of_them).kind is Kind.BROADCAST_REQUEST
    assert (hello, subscribed, raw) == (b"hello", f"/broadcast/{product_key}/news/today", b"\x00\xff")
    rig.downlink.error = TryAgain("no access")
    problem(await rig.one.post(path, json={"text": "hello"}), 503, "try-again")


async def test_a_custom_message_goes_to_the_device_that_is_there(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    path = f"/v1/devices/{product_key}/s1/messages"
    assert (await rig.one.post(path, json={"topic": "screen/text", "text": "你好"})).json() == {"delivered": True}
    assert rig.downlink.messages == [((product_key, "s1"), f"/{product_key}/s1/user/screen/text", "你好".encode())]
    rig.downlink.takes = False
    assert (await rig.one.post(path, json={"topic": "screen/text", "base64": "AA=="})).json() == {"delivered": False}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"topic": "a"}, "bad-envelope"),
        ({"topic": "a", "text": "x", "base64": "eA=="}, "bad-envelope"),
        ({"topic": "a", "base64": "%"}, "bad-envelope"),
        ({"topic": "a", "text": "x" * 300_000}, "too-many"),
        ({"topic": "a/#", "text": "x"}, "invalid-request"),
        ({"topic": "/a", "text": "x"}, "invalid-request"),
        ({"topic": "a", "text": "x", "qos": 2}, "invalid-request"),
    ],
)
async def test_a_message_that_cannot_be_sent_is_refused(rig: Rig, body: dict[str, Any], kind: str) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    problem(await rig.one.post(f"/v1/devices/{product_key}/s1/messages", json=body), 422, kind)
    problem(await rig.one.post("/v1/products/gateway/broadcast", json={"text": "x"}), 409, "built-in-product")
    assert (rig.downlink.messages, rig.downlink.broadcasts) == ([], [])


async def activated(rig: Rig, product_key: str, name: str) -> Talker:
    rig.online(await rig.device(rig.one, product_key, name))
    return Talker.of(rig, product_key, name)


async def test_whoever_shows_the_token_of_a_device_binds_it_once(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    device = await activated(rig, product_key, "s1")
    body = {"token": TOKEN.lower(), "site": "home of Li"}
    problem(await rig.one.post("/v1/devices/bind", json=body), 404, "no-such-token")
    assert device.ask("thing/awss/enrollee/match", {"token": TOKEN})["code"] == 200
    assert device.ask("thing/awss/enrollee/match", {"token": TOKEN})["code"] == 200, "it repeats until it hears an answer"
    problem(await rig.two.post("/v1/devices/bind", json=body), 404, "no-such-token")
    rig.changes.seen.clear()
    bound = await rig.one.post("/v1/devices/bind", json=body)
    assert bound.json() == {"product_key": product_key, "device_name": "s1", "site": "home of Li"}
    assert rig.changes.seen == [(product_key, "s1")]
    seen = (await rig.one.get(f"/v1/devices/{product_key}/s1")).json()
    assert (seen["state"], seen["site"]) == ("claimed", "home of Li")
    problem(await rig.one.post("/v1/devices/bind", json=body), 404, "no-such-token")


async def test_a_token_counts_for_ten_minutes_and_for_one_device(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    first, second = [await activated(rig, product_key, name) for name in ("s1", "s2")]
    second.sequence = 10
    first.ask("thing/awss/enrollee/match", {"token": TOKEN})
    second.ask("thing/awss/enrollee/match", {"token": TOKEN})
    body = {"token": TOKEN, "site": "home"}
    problem(await rig.one.post("/v1/devices/bind", json=body), 409, "token-ambiguous")
    with rig.database.system() as work:
        work.session.execute(update(ShownTokenRow).values(time_ms=ShownTokenRow.time_ms - 600_001))
        work.commit()
    problem(await rig.one.post("/v1/devices/bind", json=body), 404, "no-such-token")
    assert first.ask("thing/awss/enrollee/match", {"token": "short"})["code"] == 460
    assert first.ask("thing/awss/enrollee/match", {})["code"] == 6302


async def test_a_device_that_is_somebodys_is_not_bound_again_until_it_is_reset(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    device = await activated(rig, product_key, "s1")
    body = {"token": TOKEN, "site": "home of Li"}
    device.ask("thing/awss/enrollee/match", {"token": TOKEN})
    assert (await rig.one.post("/v1/devices/bind", json=body)).status_code == 200
    device.ask("thing/awss/enrollee/match", {"token": TOKEN})
    problem(await rig.one.post("/v1/devices/bind", json={**body, "site": "home of Wang"}), 422, "not-allowed")
    assert device.ask("thing/reset", {})["code"] == 200
    seen = (await rig.one.get(f"/v1/devices/{product_key}/s1")).json()
    assert (seen["state"], seen["site"]) == ("activated", None)
    trail = [(one["action"], one["actor"]) for one in (await rig.one.get(f"/v1/devices/{product_key}/s1/audit")).json()["items"]]
    assert trail == [("unclaim", "device"), ("claim", "test"), ("activate", "device"), ("create", "test")]
    reset_again = device.answered(f"/sys/{product_key}/s1/thing/reset", b'{"id":"8","params":{}}')
    assert (len(reset_again.downlinks), reset_again.changes) == (1, [])
    assert (await rig.one.post("/v1/devices/bind", json={**body, "site": "home of Wang"})).json()["site"] == "home of Wang"
