"""A command's way: the API asks, the device does it, its answer completes the command, its next post changes the reported shadow."""

import json
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.platform import ROOT, Cloud, simulator, wait_until
from tests.e2e.scenes import Site


def library(name: str) -> Any:
    """A standard thing model as a maker would send it."""
    return json.loads((ROOT / "protocols" / "thing" / "library" / f"{name}.json").read_text(encoding="utf-8"))


@dataclass(slots=True)
class Home:
    """A hood at a gateway's front door, and a stove that talks to the cloud itself."""

    cloud: Cloud
    site: Site
    keys: dict[str, str]

    def device(self, name: str) -> Any:
        return self.cloud.api.get(f"/v1/devices/{self.keys[name]}/{name}")

    def reported(self, name: str, identifier: str) -> Any:
        return self.device(name)["reported"].get(identifier, {}).get("value")

    def set(self, name: str, **values: int) -> str:
        """The id of a new command."""
        return str(self.cloud.post(f"/v1/devices/{self.keys[name]}/{name}/properties", values)["command_id"])

    def state(self, command_id: str) -> str:
        return str(self.cloud.api.get(f"/v1/commands/{command_id}")["state"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    with Cloud(folder) as cloud:
        site = Site.build(cloud, folder / "edge", "kitchen", appliances={"hood": library("range_hood")})
        stove_key = cloud.product("stove", library("integrated_stove"))
        devices = [
            {"kind": "range_hood", "product_key": site.keys["hood"], "device_name": "hood", "device_secret": site.secrets["hood"]},
            {
                "kind": "integrated_stove",
                "product_key": stove_key,
                "device_name": "stove",
                "device_secret": cloud.device(stove_key, "stove"),
            },
        ]
        for entry, port in zip(devices, (site.front_port, cloud.mqtt_port), strict=True):
            entry["port"] = port  # type: ignore[assignment]  # JSON of mixed values
        file = folder / "devices.json"
        file.write_text(json.dumps(devices))
        try:
            site.gateway.start()
            with simulator("home", ["home", "--devices", str(file), "--log-dir", str(folder / "logs"), "--rate", "5"], folder):
                found = Home(cloud, site, site.keys | {"stove": stove_key})
                wait_until(lambda: all(found.device(name)["online"] for name in ("hood", "stove")), 30, "both are online")
                yield found
        finally:
            site.end()


@pytest.mark.parametrize(("name", "identifier", "value"), [("hood", "LightLevel", 37), ("stove", "OvenTargetTemperature", 185)])
def test_a_property_set_is_completed_by_the_device_and_seen_in_the_shadow(home: Home, name: str, identifier: str, value: int) -> None:
    assert (home.device(name)["via"] is None) is (name == "stove")
    assert home.reported(name, identifier) != value
    command_id = home.set(name, **{identifier: value})
    wait_until(lambda: home.state(command_id) == "completed", 15, f"command {command_id} completed (it is {home.state(command_id)})")
    wait_until(lambda: home.reported(name, identifier) == value, 15, f"{identifier} reported as {value}")


def test_a_command_to_a_device_that_cannot_be_reached_waits_or_is_a_conflict_when_it_must_not(home: Home) -> None:
    home.site.uplink.cut()
    try:
        wait_until(lambda: not home.device("hood")["online"], 20, "the hood is offline with its gateway")
        with pytest.raises(urllib.error.HTTPError) as refused:
            home.cloud.post(f"/v1/devices/{home.keys['hood']}/hood/properties?only_online=true", {"LightLevel": 1})
        assert refused.value.code == 409
        command_id = home.set("hood", LightLevel=61)
        assert home.state(command_id) == "queued"
    finally:
        home.site.uplink.restore()
    wait_until(lambda: home.state(command_id) == "completed", 30, "the command that waited is completed")
    wait_until(lambda: home.reported("hood", "LightLevel") == 61, 15, "LightLevel reported as 61")
