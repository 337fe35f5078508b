"""Devices on the vendor's own Node SDK, with another `brokerUrl`. It subscribes, and its filters overlap: each message comes once."""

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.clients.drivers import Driver, node
from tests.e2e.alink_maker import Maker
from tests.e2e.platform import Cloud, wait_until


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    folder = tmp_path_factory.mktemp("node")
    with node(folder / "probe.log"):
        pass  # skips before a platform is started
    with Cloud(folder) as cloud:
        yield Maker.on(cloud, folder)


@contextmanager
def device_of(maker: Maker, name: str, kind: str = "device", transport: str = "mqtt", secret: str = "") -> Iterator[Driver]:
    """A device of the maker's, new unless its secret is given, that has connected."""
    cloud = maker.cloud
    config: dict[str, Any] = {
        "productKey": maker.product_key,
        "deviceName": name,
        "deviceSecret": secret or cloud.device(maker.product_key, name),
        "brokerUrl": f"{transport}://127.0.0.1:{cloud.mqtt_port if transport == 'mqtt' else cloud.mqtts_port}/",
    }
    with node(maker.folder / f"{name}.log", cloud.data / "tls" / "ca.pem") as driver:
        driver.send(new={"kind": kind, "config": config})
        driver.wait("connect")
        yield driver


@pytest.mark.parametrize("transport", ["mqtt", "mqtts"])
def test_what_a_device_posts_is_answered_once_and_stored(maker: Maker, transport: str) -> None:
    name = f"posts-{transport}"
    with device_of(maker, name, transport=transport) as device:
        device.call("postProps", {"Power": 21.5, "Switch": 1})
        (reply,) = device.wait("postProps")
        assert (reply["code"], reply["data"], reply["id"].split("|")[1]) == (200, {}, "exp-topic")
        device.call("postEvent", "Alarm", {"code": 7})  # the bare output
        assert device.wait("postEvent")[0]["code"] == 200
        wait_until(lambda: maker.get(name)["reported"].get("Power", {}).get("value") == 21.5, 20, "Power is in the shadow")
        replies = [arguments[0] for event, arguments in device.events if event == "message" and arguments[0].endswith("post_reply")]
        assert sorted(topic.split("/thing/")[1] for topic in replies) == ["event/Alarm/post_reply", "event/property/post_reply"]


def test_an_application_sets_properties_and_calls_services_of_both_kinds(maker: Maker) -> None:
    with device_of(maker, "obeys") as device:
        device.send(service="Blink", type="async", answer={"code": 200, "data": {"done": 3}})
        device.send(service="Beep", type="sync", answer={"code": 200, "data": {"done": 2}})
        asked = maker.cloud.post(maker.path("obeys", "/properties"), {"Switch": 1})["command_id"]
        told = device.wait("onProps")[0]
        assert (told["id"], told["method"], told["params"]) == (asked, "thing.service.property.set", {"Switch": 1})
        topic = f"/sys/{maker.product_key}/obeys/thing/service/property/set_reply"
        device.call("publish", topic, json.dumps({"id": told["id"], "code": 200, "data": {}}))
        wait_until(lambda: maker.cloud.api.get(f"/v1/commands/{asked}")["state"] == "completed", 10, "the set is completed")
        blinked = maker.ask("obeys", "/services/Blink", {"times": 3})
        assert (blinked["state"], blinked["reply"]) == ("completed", {"done": 3})
        beeped = maker.ask("obeys", "/services/Beep", {"times": 2})  # sync: this SDK takes calls on rrpc/request only
        assert (beeped["state"], beeped["reply"]) == ("completed", {"done": 2})
        assert [arguments[0] for event, arguments in device.events if event == "onService"] == ["Blink", "Beep"]


def test_tags_configuration_and_the_shadow(maker: Maker) -> None:
    with device_of(maker, "tags") as device:
        device.call("postTags", [{"attrKey": "room", "attrValue": "kitchen"}, {"attrKey": "floor", "attrValue": "2"}])
        assert device.wait("postTags")[0]["code"] == 200
        device.call("deleteTags", ["floor"])
        assert device.wait("deleteTags")[0]["code"] == 200
        assert set(maker.get("tags", "/tags")["tags"]) == {"room"}
        device.call("getConfig")
        assert device.wait("getConfig")[0]["code"] == 6710
        device.call("postShadow", {"Power": 5})  # its versions are the time
        assert device.wait("onShadow")[0]["payload"]["status"] == "success"
        maker.desire("tags", Switch=1)
        told = device.wait("onShadow", lambda arguments: arguments[0]["method"] == "control")[0]
        assert told["payload"]["state"] == {"reported": {"Power": 5}, "desired": {"Switch": 1}}
        device.call("deleteShadow", "Power")
        wait_until(lambda: maker.get("tags", "/shadow")["reported"] == {}, 10, "Power is taken back")
        device.call("getShadow")
        device.wait("onShadow", lambda arguments: arguments[0]["payload"].get("state") == {"reported": {}, "desired": {"Switch": 1}})


def test_the_time_and_desired_values_come_without_a_subscription(maker: Maker) -> None:
    with device_of(maker, "asks") as device:
        own = f"{maker.product_key}/asks"
        device.call("publish", f"/ext/ntp/{own}/request", '{"deviceSendTime":"1"}')
        told = json.loads(device.wait("message", lambda arguments: arguments[0] == f"/ext/ntp/{own}/response")[1])
        assert told["deviceSendTime"] == "1"
        maker.desire("asks", Power=40)
        topic = f"/sys/{own}/thing/property/desired/get"
        device.call("publish", topic, '{"id":"88","version":"1.0","params":["Power"]}')
        answer = json.loads(device.wait("message", lambda arguments: arguments[0] == f"{topic}_reply")[1])
        assert (answer["id"], answer["data"]) == ("88", {"Power": {"value": 40, "version": 1}})


def test_a_firmware_is_offered_on_its_topic_and_downloads(maker: Maker) -> None:
    image = b"an image for node" * 1_000
    with device_of(maker, "ota") as device:
        own = f"{maker.product_key}/ota"
        device.call("publish", f"/ota/device/inform/{own}", '{"id":1,"params":{"version":"1.0.0"}}')
        wait_until(lambda: "default" in maker.get("ota", "/modules")["modules"], 10, "1.0.0 is reported")
        firmware_id = maker.upload("3.0.0", image, "SHA256")
        maker.cloud.post(f"/v1/firmware/{firmware_id}/offers", {"device_names": ["ota"]})
        push = json.loads(device.wait("message", lambda arguments: arguments[0] == f"/ota/device/upgrade/{own}")[1])
        offer = push["data"]
        with urllib.request.urlopen(offer["url"], timeout=10) as answer:
            assert answer.headers["Content-Length"] == str(len(image))
            data = answer.read()
        assert (hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()) == (offer["sign"], offer["md5"])
        device.call("publish", f"/ota/device/progress/{own}", '{"id":2,"params":{"step":"50","desc":"half"}}')
        wait_until(lambda: maker.offer(firmware_id)["step"] == 50, 10, "half of it is reported")
        device.call("publish", f"/ota/device/inform/{own}", '{"id":3,"params":{"version":"3.0.0"}}')
        wait_until(lambda: maker.offer(firmware_id)["state"] == "succeeded", 10, "the offer has succeeded")


def test_a_gateway_speaks_for_two_sub_devices(maker: Maker) -> None:
    subs = [
        {"productKey": maker.product_key, "deviceName": name, "deviceSecret": maker.cloud.device(maker.product_key, name)}
        for name in ("sub-1", "sub-2")
    ]
    with device_of(maker, "gateway", "gateway") as gateway:
        gateway.call("addTopo", subs)
        assert gateway.wait("addTopo")[0]["code"] == 200
        gateway.call("getTopo")
        assert {entry["deviceName"] for entry in gateway.wait("getTopo")[0]["data"]} == {"sub-1", "sub-2"}
        for config in subs:
            gateway.send(sub={"config": config})
            name, answer = gateway.wait("login", lambda arguments, name=config["deviceName"]: arguments[0] == name)  # type: ignore[misc]
            assert (name, answer["code"]) == (config["deviceName"], 200)
        wait_until(lambda: all(maker.get(name)["online"] for name in ("sub-1", "sub-2")), 10, "both are online")
        gateway.send(call="postProps", of="sub-1", args=[{"Power": 12}])
        assert gateway.wait("sub-1.postProps")[0]["code"] == 200
        wait_until(lambda: "Power" in maker.get("sub-1")["reported"], 10, "its value is there")
        gateway.send(of="sub-2", service="Blink", type="async", answer={"code": 200, "data": {"done": 1}})
        blinked = maker.ask("sub-2", "/services/Blink", {"times": 1})
        assert (blinked["state"], blinked["reply"]) == ("completed", {"done": 1})
        gateway.call("logout", {"productKey": maker.product_key, "deviceName": "sub-1"})
        assert gateway.wait("logout")[0]["code"] == 200
        wait_until(lambda: not maker.get("sub-1")["online"], 10, "one is offline")
        gateway.call("removeTopo", [{"productKey": maker.product_key, "deviceName": "sub-2"}])
        assert gateway.wait("removeTopo")[0]["code"] == 200
        wait_until(lambda: not maker.get("sub-2")["online"], 10, "the other is offline")
    wait_until(lambda: not maker.get("gateway")["online"], 10, "the gateway is offline")


def test_a_device_registers_over_http_and_then_connects(maker: Maker) -> None:
    product_secret = maker.open_registration()
    expected = maker.cloud.device(maker.product_key, "registers")
    url = f"{maker.cloud.api_url}/auth/register/device"
    request = {"productKey": maker.product_key, "productSecret": product_secret, "deviceName": "registers", "registerURL": url}
    with node(maker.folder / "register.log") as driver:
        driver.send(register={**request, "productSecret": "wrong"})
        assert driver.wait("register")[0]["code"] == 6600
    with node(maker.folder / "register-2.log") as driver:
        driver.send(register=request)
        answer = driver.wait("register")[0]
        assert (answer["code"], answer["data"]["deviceSecret"]) == (200, expected)
    with device_of(maker, "registers", secret=expected):
        wait_until(lambda: maker.get("registers")["online"], 20, "it has connected with its own secret")
