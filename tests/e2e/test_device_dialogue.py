"""What simulated devices and the platform say to each other beside posts: services, registration, shadow, sub-devices of a gateway."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.platform import ROOT, Cloud, Process, simulator, wait_until

LIBRARY = ROOT / "protocols" / "thing" / "library"
OVEN = {"Mode": 2, "Temperature": 190, "Duration": 900}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


@pytest.fixture
def api(cloud: Cloud) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloud.api_url, headers={"Authorization": f"Bearer {cloud.admin_key}"}, timeout=60) as client:
        yield client


def product(cloud: Cloud, kind: str) -> str:
    return cloud.product(kind, json.loads((LIBRARY / f"{kind}.json").read_text(encoding="utf-8")))


def entry(cloud: Cloud, product_key: str, kind: str, name: str) -> dict[str, str]:
    secret = cloud.device(product_key, name)
    return {"kind": kind, "product_key": product_key, "device_name": name, "device_secret": secret}


def home(cloud: Cloud, folder: Path, devices: list[dict[str, Any]], run: str, *more: str) -> Process:
    (folder / "devices.json").write_text(json.dumps(devices))
    where = ["--devices", str(folder / "devices.json"), "--log-dir", str(folder / run)]
    return simulator(run, ["home", "--port", str(cloud.mqtt_port), "--rate", "2", *where, *more], folder)


def online(api: httpx.Client, product_key: str, name: str) -> bool:
    return bool(api.get(f"/v1/devices/{product_key}/{name}").json()["online"])


def called(api: httpx.Client, product_key: str, name: str, service: str, given: dict[str, int]) -> dict[str, Any]:
    path = f"/v1/devices/{product_key}/{name}/services/{service}"
    found: dict[str, Any] = api.post(path, json=given, params={"wait_s": 20, "expires_in_s": 20}).json()
    return found


def reported(api: httpx.Client, product_key: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/devices/{product_key}/{name}/shadow").json()["reported"]
    return found


def test_a_stove_serves_what_its_thing_model_says_at_once_and_later(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    key = product(cloud, "integrated_stove")
    with home(cloud, tmp_path, [entry(cloud, key, "integrated_stove", "stove")], "run"):
        wait_until(lambda: online(api, key, "stove"), 30, "the stove is online")
        started = called(api, key, "stove", "StartOven", OVEN)
        assert (started["state"], started["code"], started["reply"]["Accepted"]) == ("completed", 200, 1)
        wait_until(lambda: reported(api, key, "stove").get("OvenTargetTemperature") == 190, 20, "the oven heats")
        assert called(api, key, "stove", "CloseGas", {})["state"] == "completed"
        assert (
            api.post(f"/v1/devices/{key}/stove/properties", json={"PowerSwitch": 0}, params={"wait_s": 20}).json()["state"] == "completed"
        )
        assert called(api, key, "stove", "StartOven", OVEN)["reply"]["Accepted"] == 0


@pytest.mark.parametrize(("mode", "token"), [("registered_only", False), ("open", True)])
def test_a_device_that_registers_keeps_what_it_is_given_though_it_is_killed(
    cloud: Cloud, api: httpx.Client, tmp_path: Path, mode: str, token: bool
) -> None:
    key = product(cloud, "range_hood")
    secret = api.post(f"/v1/products/{key}/registration/secret").json()["product_secret"]
    assert api.put(f"/v1/products/{key}/registration", json={"mode": mode}).status_code == 200
    if not token:
        cloud.device(key, "hood")
    who = {"kind": "range_hood", "product_key": key, "device_name": "hood", "product_secret": secret, "token": token}
    state = ["--state-dir", str(tmp_path / "state")]
    first = home(cloud, tmp_path, [who], "first", *state)
    with first:
        while first.hear()["event"] != "registered":
            pass
        first.kill()  # it may not have connected with it yet
    kept = tmp_path / "state" / "hood" / "credentials.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    given = kept.read_bytes()
    wait_until(lambda: not online(api, key, "hood"), 30, "its first life is over")
    second = home(cloud, tmp_path, [who], "second", *state)
    with second:
        wait_until(lambda: online(api, key, "hood"), 30, "it connects")
        os.kill(second.pid, signal.SIGTERM)
        events = [second.hear()["event"]]
        while events[-1] != "summary":
            events.append(second.hear()["event"])
        assert "registered" not in events
    assert kept.read_bytes() == given


def test_a_device_keeps_its_shadow_on_its_own_topics_and_does_what_is_desired(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    key = product(cloud, "range_hood")
    path = f"/v1/devices/{key}/hood/shadow"
    who = [entry(cloud, key, "range_hood", "hood")]
    api.patch(path, json={"desired": {"LightLevel": 33}}).raise_for_status()
    with home(cloud, tmp_path, who, "run", "--shadow", "document"):
        wait_until(lambda: reported(api, key, "hood").get("LightLevel") == 33, 30, "what was desired before it came")
        for level in (44, 55):  # each counts the version up behind the device's back
            api.patch(path, json={"desired": {"LightLevel": level}}).raise_for_status()
        wait_until(lambda: reported(api, key, "hood").get("LightLevel") == 55, 30, "what was desired meanwhile")
        version = api.get(path).json()["version"]
        assert version > 3
        assert api.get(f"/v1/devices/{key}/hood/commands").json()["items"] == [], "it was told by its shadow"


def test_a_device_asks_for_desired_values_when_it_comes_and_takes_them_back_when_done(
    cloud: Cloud, api: httpx.Client, tmp_path: Path
) -> None:
    key = product(cloud, "range_hood")
    who = [entry(cloud, key, "range_hood", "hood")]
    api.patch(f"/v1/devices/{key}/hood/shadow", json={"desired": {"LightLevel": 21, "Light": 1}}).raise_for_status()
    with home(cloud, tmp_path, who, "run", "--shadow", "desired"):
        wait_until(lambda: reported(api, key, "hood").get("LightLevel") == 21, 30, "it did it")
        wait_until(lambda: not api.get(f"/v1/devices/{key}/hood/shadow").json()["desired"], 30, "it took it back")


class Gateway:
    """`fwsim gateway` with stoves and hoods behind it."""

    def __init__(self, cloud: Cloud, api: httpx.Client, folder: Path) -> None:
        self.api = api
        hub, self.stoves, self.hoods = (product(cloud, kind) for kind in ("gateway", "integrated_stove", "range_hood"))
        own = entry(cloud, hub, "", "hub")
        self.names = {f"stove-{n}": self.stoves for n in range(4)} | {f"hood-{n}": self.hoods for n in range(3)}
        kinds = {self.stoves: "integrated_stove", self.hoods: "range_hood"}
        (folder / "hub.json").write_text(json.dumps(own))
        (folder / "subs.json").write_text(json.dumps([entry(cloud, key, kinds[key], name) for name, key in self.names.items()]))
        where = ["--gateway", str(folder / "hub.json"), "--devices", str(folder / "subs.json"), "--log-dir", str(folder / "logs")]
        self.process = simulator("gateway", ["gateway", "--port", str(cloud.mqtt_port), "--rate", "2", *where], folder)
        self.process.stdin = subprocess.PIPE

    def all_online(self) -> None:
        wait_until(lambda: all(online(self.api, key, name) for name, key in self.names.items()), 40, "all are online")

    def standing(self, name: str) -> str:
        return str(self.process.tell("count")["standing"][name])


def test_a_gateway_carries_sub_devices_answers_for_them_and_brings_them_back(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    gateway = Gateway(cloud, api, tmp_path)
    with gateway.process as process:
        assert process.hear()["event"] == "ready"
        gateway.all_online()
        view = api.get(f"/v1/devices/{gateway.stoves}/stove-0").json()
        assert view["via"]["device_name"] == "hub"
        started = called(api, gateway.stoves, "stove-1", "StartOven", OVEN)
        assert (started["state"], started["reply"]["Accepted"]) == ("completed", 1)
        assert called(api, gateway.hoods, "hood-2", "ResetFilter", {})["state"] == "completed"
        wait_until(lambda: reported(api, gateway.hoods, "hood-1"), 30, "it posts for them")
        process.tell("logout hood-0")
        wait_until(lambda: not online(api, gateway.hoods, "hood-0"), 20, "it is logged out")
        process.tell("login hood-0")
        gateway.all_online()

        api.post(f"/v1/devices/{gateway.stoves}/stove-3/disable").raise_for_status()
        wait_until(lambda: gateway.standing("stove-3") == "refused", 20, "the gateway keeps it out")
        wait_until(lambda: process.tell("count")["codes"] == {"522": 1}, 20, "the gateway was told 522")
        api.post(f"/v1/devices/{gateway.stoves}/stove-3/enable").raise_for_status()
        process.tell("login stove-3")
        gateway.all_online()

        before = process.tell("count")["logged_in"]
        cloud.kill_role("access")
        wait_until(lambda: process.tell("count")["logged_in"] >= before + len(gateway.names), 60, "they came in again", every_s=0.5)
        gateway.all_online()
        assert process.stop(20) == 0
    wait_until(lambda: not online(api, gateway.stoves, "stove-0"), 20, "they went with their gateway")
