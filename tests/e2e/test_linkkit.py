"""Devices on the vendor's own Python SDK, which changed nothing but the endpoint. It sends no SUBSCRIBE: answers come anyway."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.drivers import Driver, linkkit
from tests.e2e.alink_maker import Maker
from tests.e2e.platform import Cloud, wait_until

PORTS = ("plain", "tls")


@contextmanager
def device_of(maker: Maker, name: str, transport: str = "plain") -> Iterator["Device"]:
    """A new device of the maker's."""
    secret = maker.cloud.device(maker.product_key, name)
    with linkkit(maker.folder / f"{name}.log") as driver:
        device = Device(maker, name, secret, driver)
        device.set_up(transport, device_secret=secret)
        yield device


@dataclass(slots=True)
class Device:
    maker: Maker
    name: str
    secret: str
    sdk: Driver

    def set_up(self, transport: str, **identity: Any) -> None:
        cloud = self.maker.cloud
        mqtt: dict[str, Any] = {"endpoint": "127.0.0.1", "port": cloud.mqtt_port, "secure": "", "auto_reconnect_max_sec": 2}
        if transport == "tls":
            ca = (cloud.data / "tls" / "ca.pem").read_text()
            mqtt |= {"port": cloud.mqtts_port, "secure": "TLS", "cadata": ca}
        new = {"host_name": "127.0.0.1", "product_key": self.maker.product_key, "device_name": self.name, **identity}
        new.setdefault("device_secret", "")
        assert self.sdk.send(new=new, mqtt=mqtt, tsl=str(self.maker.tsl_file)) == 0

    def connect(self) -> None:
        self.sdk.call("connect_async")
        self.sdk.wait("on_thing_enable")

    def get(self, rest: str = "") -> Any:
        return self.maker.get(self.name, rest)

    def ask(self, rest: str, body: object) -> dict[str, Any]:
        return self.maker.ask(self.name, rest, body)

    def replied(self, event: str, request_id: object) -> list[Any]:
        """(id, code, data, message) of the answer to a request."""
        return self.sdk.wait(event, lambda arguments: str(arguments[0]) == str(request_id))


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    folder = tmp_path_factory.mktemp("linkkit")
    with linkkit(folder / "probe.log"):
        pass  # skips before a platform is started
    with Cloud(folder) as cloud:
        yield Maker.on(cloud, folder)


@pytest.mark.parametrize("transport", PORTS)
def test_what_a_device_posts_is_answered_and_stored(maker: Maker, transport: str) -> None:
    with device_of(maker, f"posts-{transport}", transport) as device:
        device.connect()
        _, request_id = device.sdk.call("thing_post_property", {"Power": 21.5, "Switch": 1})
        assert device.replied("on_thing_prop_post", request_id)[1:] == [200, {}, "success"]
        _, request_id = device.sdk.call("thing_trigger_event", {"tuple": ["Alarm", {"code": 7}]})
        event = device.sdk.wait("on_thing_event_post", lambda arguments: str(arguments[1]) == str(request_id))
        assert event[0] == "Alarm"
        assert event[2] == 200
        wait_until(lambda: device.get()["reported"].get("Power", {}).get("value") == 21.5, 20, "Power is in the shadow")
        state = device.get()
        assert (state["state"], state["online"], state["reported"]["Switch"]["value"]) == ("activated", True, 1)


def test_a_post_with_a_bad_value_is_answered_200_naming_it_and_the_rest_is_kept(maker: Maker) -> None:
    with device_of(maker, "half-bad") as device:
        device.connect()
        _, request_id = device.sdk.call("thing_post_property", {"Power": 9_999.0, "Nope": 1, "Switch": 0})
        _, code, data, _ = device.replied("on_thing_prop_post", request_id)
        assert code == 200
        assert set(data) == {"Power", "Nope"}
        assert data["Nope"] == "tsl parse: params not exist"
        wait_until(lambda: "Switch" in device.get()["reported"], 20, "the good value is in the shadow")


@pytest.mark.parametrize("transport", PORTS)
def test_an_application_sets_properties_and_calls_services_of_both_kinds(maker: Maker, transport: str) -> None:
    with device_of(maker, f"obeys-{transport}", transport) as device:
        device.connect()
        command = device.ask("/properties", {"Switch": 1})
        assert (command["state"], command["code"]) == ("completed", 200)
        assert device.sdk.wait("on_thing_prop_changed") == [{"Switch": 1}]
        device.sdk.send(answer={"Blink": [200, {"done": 3}], "Beep": [200, {"done": 2}]})
        blinked = device.ask("/services/Blink", {"times": 3})
        assert (blinked["state"], blinked["reply"]) == ("completed", {"done": 3})
        beeped = device.ask("/services/Beep", {"times": 2})  # sync: by RRPC, on the topic of the call
        assert (beeped["state"], beeped["reply"]) == ("completed", {"done": 2})
        device.sdk.send(answer={"Blink": [100001, {}]})
        refused = device.ask("/services/Blink", {"times": 1})
        assert (refused["state"], refused["code"]) == ("failed", 100001)
        called = [arguments[0] for event, arguments in device.sdk.events if event == "on_thing_call_service"]
        assert called == ["Blink", "Beep", "Blink"]


def test_a_command_for_a_device_that_is_away_waits_for_it(maker: Maker) -> None:
    with device_of(maker, "away") as device:
        command_id = maker.cloud.post(maker.path("away", "/services/Blink?expires_in_s=60"), {"times": 4})["command_id"]
        late = maker.cloud.post(maker.path("away", "/services/Blink?expires_in_s=1"), {"times": 5})["command_id"]
        assert maker.cloud.api.get(f"/v1/commands/{command_id}")["state"] == "queued"
        wait_until(lambda: maker.cloud.api.get(f"/v1/commands/{late}")["state"] == "expired", 10, "the other has expired")
        device.connect()
        wait_until(lambda: maker.cloud.api.get(f"/v1/commands/{command_id}")["state"] == "completed", 20, "it is completed")
        assert [arguments[2] for event, arguments in device.sdk.events if event == "on_thing_call_service"] == [{"times": 4}]


def test_tags_of_a_device_are_seen_and_changed_on_both_sides(maker: Maker) -> None:
    with device_of(maker, "tags") as device:
        device.connect()
        _, request_id = device.sdk.call("thing_update_tags", {"room": "kitchen", "floor": "2"})
        assert device.replied("on_thing_device_info_update", request_id)[1] == 200
        tags = device.get("/tags")["tags"]
        assert {key: (tag["value"], tag["source"]) for key, tag in tags.items()} == {
            "room": ("kitchen", "device"),
            "floor": ("2", "device"),
        }
        _, request_id = device.sdk.call("thing_remove_tags", ["floor"])
        assert device.replied("on_thing_device_info_delete", request_id)[1] == 200
        assert set(device.get("/tags")["tags"]) == {"room"}


def test_the_shadow_is_read_written_and_told_to_the_device(maker: Maker) -> None:
    with device_of(maker, "shadow") as device:
        device.connect()

        def shadows(holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            found: dict[str, Any] = device.sdk.wait("on_thing_shadow_get", lambda arguments: holds(arguments[0]))[0]
            return found

        device.sdk.call("thing_get_shadow")
        assert shadows(lambda shadow: "state" in shadow["payload"])["payload"]["state"] == {"reported": {}, "desired": {}}
        device.sdk.call("thing_update_shadow", {"Power": 5, "mood": "good"}, 1)
        assert shadows(lambda shadow: shadow["payload"].get("version") == 1)["payload"]["status"] == "success"
        device.sdk.call("thing_update_shadow", {"Power": 6}, 1)
        assert shadows(lambda shadow: shadow["payload"]["status"] == "error")["payload"]["content"]["errorcode"] == "409"
        shadow = device.get("/shadow")
        assert (shadow["reported"], shadow["version"]) == ({"Power": 5, "mood": "good"}, 1)
        changed = maker.desire("shadow", Switch=1)
        assert (changed["desired"], changed["delta"], changed["version"]) == ({"Switch": 1}, {"Switch": 1}, 2)
        told = shadows(lambda shadow: shadow["method"] == "control")
        assert (told["payload"]["state"]["desired"], told["version"]) == ({"Switch": 1}, 2)
        device.sdk.call("thing_update_shadow", {"Switch": 1}, 3)
        wait_until(lambda: device.get("/shadow")["delta"] == {}, 10, "there is no delta left")


def test_the_time_desired_values_and_the_thing_model_are_answered_without_a_subscription(maker: Maker) -> None:
    with device_of(maker, "asks") as device:
        device.connect()
        own = f"{maker.product_key}/asks"

        def answered(topic: str, request: object, reply: str) -> Any:
            device.sdk.call("publish_topic", topic, json.dumps(request))
            return json.loads(device.sdk.wait("on_topic_message", lambda arguments: arguments[0] == reply)[1])

        before = time.time() * 1000
        told = answered(f"/ext/ntp/{own}/request", {"deviceSendTime": "1571724098000"}, f"/ext/ntp/{own}/response")
        assert told["deviceSendTime"] == "1571724098000"
        assert before - 5_000 <= int(told["serverRecvTime"]) <= int(told["serverSendTime"]) <= time.time() * 1000 + 5_000
        maker.desire("asks", Power=40)
        topic = f"/sys/{own}/thing/property/desired/get"
        desired = answered(topic, {"id": "88", "version": "1.0", "params": ["Power", "Switch"]}, f"{topic}_reply")
        assert (desired["id"], desired["code"], desired["data"]) == ("88", 200, {"Power": {"value": 40, "version": 1}})
        topic = f"/sys/{own}/thing/property/desired/delete"
        assert answered(topic, {"id": 89, "params": {"Power": {"version": 1}}}, f"{topic}_reply")["id"] == 89
        assert device.get("/shadow")["desired"] == {}
        topic = f"/sys/{own}/thing/dsltemplate/get"
        model = answered(topic, {"id": "90", "params": "{}"}, f"{topic}_reply")["data"]
        assert {entry["identifier"] for entry in model["services"]} == {"set", "get", "Blink", "Beep"}


@pytest.mark.parametrize("method", ["Md5", "SHA256"])
def test_a_firmware_is_offered_downloaded_checked_and_reported(maker: Maker, method: str) -> None:
    image = f"a firmware image with {method}".encode() * 5_000
    version = f"2.0.0-{method}"
    name = f"ota-{method}"
    with device_of(maker, name) as device:
        device.connect()
        device.sdk.call("ota_report_version", "default", "1.0.0")
        wait_until(lambda: device.get("/modules")["modules"].get("default", {}).get("version") == "1.0.0", 10, "1.0.0 is reported")
        firmware_id = maker.upload(version, image, method)
        offered = maker.cloud.post(f"/v1/firmware/{firmware_id}/offers", {"device_names": [name, "nobody"]})
        assert (offered["unknown"], offered["offers"][0]["state"]) == (["nobody"], "offered")
        kind, told, size, url, sign_method, sign, module = device.sdk.wait("on_ota_message_arrived")
        assert (kind, told, int(size), sign_method, module) == (1, version, len(image), method, "default")
        assert sign == hashlib.new(method.lower(), image).hexdigest()
        target = maker.folder / f"{name}.bin"
        assert device.sdk.call("download_ota_firmware", url, str(target), sign_method, sign) == 0
        assert target.read_bytes() == image
        assert maker.offer(firmware_id)["state"] == "offered"
        device.sdk.call("query_ota_firmware")
        assert device.sdk.wait("on_ota_message_arrived", lambda arguments: arguments[0] == 2)[1] == version
        device.sdk.call("ota_report_version", "default", version)
        wait_until(lambda: maker.offer(firmware_id)["state"] == "succeeded", 10, "the offer has succeeded")


@pytest.mark.parametrize("transport", PORTS)
def test_a_gateway_speaks_for_two_sub_devices(maker: Maker, transport: str) -> None:
    with device_of(maker, f"gateway-{transport}", transport) as gateway:
        names = [f"sub-{transport}-{n}" for n in (1, 2)]
        subs = [[maker.product_key, name, maker.cloud.device(maker.product_key, name)] for name in names]
        gateway.connect()

        def done(call: str, event: str, devices: list[list[str]]) -> list[Any]:
            _, request_id = gateway.sdk.call(call, devices)
            return gateway.replied(event, request_id)

        wrong = [[maker.product_key, names[0], "not the secret"]]
        assert done("gateway_add_subdev_topo", "on_gateway_add_subdev_topo_reply", wrong)[1] == 401
        assert done("gateway_login_subdev", "on_gateway_login_subdev_reply", subs)[1] == 6401
        assert done("gateway_add_subdev_topo", "on_gateway_add_subdev_topo_reply", subs)[1] == 200
        assert done("gateway_login_subdev", "on_gateway_login_subdev_reply", subs)[1] == 200
        wait_until(lambda: all(maker.cloud.api.get(maker.path(name))["online"] for name in names), 10, "both are online")
        assert maker.cloud.api.get(maker.path(names[0]))["via"] == {"product_key": maker.product_key, "device_name": gateway.name}

        topic = f"/sys/{maker.product_key}/{names[0]}/thing/event/property/post"
        gateway.sdk.call("publish_topic", topic, json.dumps({"id": "5", "version": "1.0", "params": {"Power": 12}}))
        reply = json.loads(gateway.sdk.wait("on_topic_message", lambda arguments: arguments[0] == f"{topic}_reply")[1])
        assert (reply["id"], reply["code"]) == ("5", 200)
        wait_until(lambda: "Power" in maker.cloud.api.get(maker.path(names[0]))["reported"], 10, "its value is there")

        command_id = maker.cloud.post(maker.path(names[1], "/properties"), {"Switch": 1})["command_id"]
        topic = f"/sys/{maker.product_key}/{names[1]}/thing/service/property/set"
        asked = json.loads(gateway.sdk.wait("on_topic_message", lambda arguments: arguments[0] == topic)[1])
        assert (asked["id"], asked["params"]) == (command_id, {"Switch": 1})
        gateway.sdk.call("publish_topic", f"{topic}_reply", json.dumps({"id": asked["id"], "code": 200, "data": {}}))
        wait_until(lambda: maker.cloud.api.get(f"/v1/commands/{command_id}")["state"] == "completed", 10, "it is completed")

        pairs = [entry[:2] for entry in subs]
        assert done("gateway_logout_subdev", "on_gateway_logout_subdev_reply", pairs[:1])[1] == 200
        wait_until(lambda: not maker.cloud.api.get(maker.path(names[0]))["online"], 10, "one is offline")
        assert done("gateway_delete_subdev_topo", "on_gateway_delete_subdev_topo_reply", pairs)[1] == 200
        gone = gateway.sdk.wait("on_topic_message", lambda arguments: arguments[0].startswith("/ext/error/"))
        assert json.loads(gone[1])["code"] == 6401
        wait_until(lambda: not maker.cloud.api.get(maker.path(names[1]))["online"], 10, "the other is offline")


def test_a_device_registers_with_the_secret_of_its_product_and_then_connects(maker: Maker) -> None:
    product_secret = maker.open_registration()
    expected = maker.cloud.device(maker.product_key, "registers")
    with linkkit(maker.folder / "register.log") as driver:
        device = Device(maker, "registers", "", driver)
        device.set_up("plain", product_secret=product_secret, auth_type="register")
        driver.call("connect_async")
        code, secret = driver.wait("on_device_dynamic_register")[:2]
        assert (code, secret) == (0, expected)
    with linkkit(maker.folder / "registered.log") as driver:
        device = Device(maker, "registers", secret, driver)
        device.set_up("plain", device_secret=secret)
        device.connect()
        wait_until(lambda: device.get()["online"], 20, "it has connected with its own secret")


def test_a_disabled_device_is_gone_within_seconds_and_comes_back_when_it_is_enabled(maker: Maker) -> None:
    with device_of(maker, "disabled") as device:
        device.connect()
        wait_until(lambda: device.get()["online"], 10, "it is online")
        assert maker.cloud.post(maker.path("disabled", "/disable"), {})["state"] == "disabled"
        device.sdk.wait("on_disconnect")
        wait_until(lambda: not device.get()["online"], 10, "it is offline")
        assert maker.cloud.post(maker.path("disabled", "/enable"), {})["state"] == "activated"
        wait_until(lambda: device.get()["online"], 60, "the SDK came back by itself")
        actions = [line["action"] for line in device.get("/audit")["items"]]
        assert actions == ["enable", "disable", "activate", "create"]
