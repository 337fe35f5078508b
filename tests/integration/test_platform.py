"""`hearthline up` as a user runs it: real processes, real ports, a real MQTT client, and SIGKILL."""

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import psutil
import pytest

from cloud.tenancy.service import KnownKeys
from protocols.alink.credentials import sign
from tests.e2e.platform import Cloud, wait_until

ROLES = ("nats", "core", "access", "ingest")
TSL = {
    "properties": [
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}},
        {"identifier": "Power", "name": "Power", "accessMode": "r", "dataType": {"type": "float", "specs": {}}},
    ]
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture
def api(cloud: Cloud) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cloud.admin_key}"}
    with httpx.Client(base_url=cloud.api_url, headers=headers, timeout=10) as client:
        yield client


def cli(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cloud", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})})


def mqtt(cloud: Cloud, product_key: str, device_name: str, secret: str) -> aiomqtt.Client:
    proof = sign(product_key, device_name, secret)
    return aiomqtt.Client(
        "127.0.0.1", cloud.mqtt_port, identifier=proof.client_id, username=proof.username, password=proof.password.decode(), timeout=20
    )


def test_an_empty_directory_holds_its_secrets_for_its_owner_only(cloud: Cloud) -> None:
    assert cloud.admin_key.startswith("hl_")
    for path in cloud.data.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert cloud.admin_key.split("_")[2].encode() not in b"".join(path.read_bytes() for path in cloud.data.glob("meta.db*"))
    assert cloud.admin_key not in cloud.tail(10_000)


def test_ports_are_open_on_loopback_only(cloud: Cloud) -> None:
    pids = [cloud.pid, *(cloud.role_pid(role) or 0 for role in ROLES)]
    listening = [c.laddr for pid in pids for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {cloud.mqtt_port, cloud.api_port} <= {address.port for address in listening}


async def test_a_device_reports_is_seen_and_takes_a_command(cloud: Cloud, api: httpx.Client) -> None:
    product_key = cloud.product("Stove", TSL)
    secret = cloud.device(product_key, "stove-1", "kitchen")
    own, path = f"/sys/{product_key}/stove-1/thing", f"/v1/devices/{product_key}/stove-1"

    def device() -> dict[str, Any]:
        seen: dict[str, Any] = api.get(path).json()
        return seen

    async with mqtt(cloud, product_key, "stove-1", secret) as client:
        post = {"id": "1", "version": "1.0", "params": {"Level": 3, "Power": {"value": 1.5, "time": 1_700_000_000_000}}}
        await client.publish(f"{own}/event/property/post", json.dumps(post | {"method": "thing.event.property.post"}), qos=1)
        reply = await asyncio.wait_for(anext(client.messages), 20)
        assert str(reply.topic) == f"{own}/event/property/post_reply"
        assert isinstance(reply.payload, bytes)
        assert json.loads(reply.payload)["code"] == 200
        await asyncio.to_thread(wait_until, lambda: device()["online"] and device()["reported"], 10, "the shadow")
        seen = device()
        assert seen["via"] is None
        assert seen["reported"]["Power"] == {"value": 1.5, "time": 1_700_000_000_000}
        assert seen["reported"]["Level"]["value"] == 3
        history = api.get(f"/v1/telemetry/{product_key}/stove-1/Power", params={"from": 0, "to": 1_800_000_000_000}).json()
        assert history["points"] == [[1_700_000_000_000, 1.5]]

        command_id = api.post(f"{path}/properties", json={"Level": 7}).raise_for_status().json()["command_id"]
        command = await asyncio.wait_for(anext(client.messages), 20)
        assert str(command.topic) == f"{own}/service/property/set"
        assert isinstance(command.payload, bytes)
        request = json.loads(command.payload)
        assert (request["id"], request["params"]) == (command_id, {"Level": 7})
        await client.publish(f"{own}/service/property/set_reply", json.dumps({"id": command_id, "code": 200, "data": {}}), qos=1)
        await asyncio.to_thread(
            wait_until, lambda: api.get(f"/v1/commands/{command_id}").json()["state"] == "completed", 10, "the command's answer"
        )
    await asyncio.to_thread(wait_until, lambda: not device()["online"], 10, "the device gone")
    answer = api.post(f"{path}/properties", json={"Level": 1}, params={"only_online": True})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:hearthline:problem:device-offline")
    waits = api.post(f"{path}/properties", json={"Level": 2}).raise_for_status().json()["command_id"]
    assert api.get(f"/v1/commands/{waits}").json()["state"] == "queued"
    async with mqtt(cloud, product_key, "stove-1", secret) as client:
        command = await asyncio.wait_for(anext(client.messages), 20)
        assert isinstance(command.payload, bytes)
        request = json.loads(command.payload)
        assert (request["id"], request["params"]) == (waits, {"Level": 2})


async def test_a_disabled_device_is_told_thrown_out_and_stays_out(cloud: Cloud, api: httpx.Client) -> None:
    product_key = cloud.product("Stove", TSL)
    secret = cloud.device(product_key, "stove-2")
    async with mqtt(cloud, product_key, "stove-2", secret) as client:
        api.patch(f"/v1/devices/{product_key}/stove-2", json={"enabled": False}).raise_for_status()
        told = await asyncio.wait_for(anext(client.messages), 20)
        assert str(told.topic) == f"/sys/{product_key}/stove-2/thing/disable"
        with pytest.raises(aiomqtt.MqttError):
            await asyncio.wait_for(anext(client.messages), 20)
    with pytest.raises(aiomqtt.MqttError):
        async with mqtt(cloud, product_key, "stove-2", secret):
            pass


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_role_comes_back_on_the_same_ports(cloud: Cloud, api: httpx.Client, role: str) -> None:
    cloud.kill_role(role)

    def ready() -> bool:
        try:
            return api.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(ready, 30, f"ready without {role}")
    died = [json.loads(line) for line in cloud.log.read_text().splitlines() if '"role.died"' in line]
    assert [event for event in died if event["name"] == role][-1]["restart_in_s"] <= 0.3


def test_metrics_of_every_role_come_in_one_scrape(api: httpx.Client) -> None:
    text = api.get("/metrics").text
    assert all(f'process_resident_memory_bytes{{role="{role}"}}' in text for role in ("core", "access", "ingest"))


def test_tenants_and_keys_are_administered_beside_the_running_platform(cloud: Cloud) -> None:
    made = cli("tenant", "create", "acme", "--data", str(cloud.data), "-o", "json")
    key = json.loads(made.stdout)["key"]
    url = {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": key}
    assert cli("product", "list", "-o", "json", env=url).stdout == ""
    again = cli("tenant", "create", "acme", "--data", str(cloud.data))
    assert (again.returncode, again.stdout) == (1, "")
    assert "choose another name" in again.stderr
    listed = [json.loads(line) for line in cli("tenant", "list", "--data", str(cloud.data), "-o", "json").stdout.splitlines()]
    assert [tenant["tenant"] for tenant in listed] == ["default", "acme"]
    cli("tenant", "revoke", "_".join(key.split("_")[:2]), "--data", str(cloud.data))
    time.sleep(KnownKeys.FRESH_S)
    refused = cli("product", "list", env=url)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "hearthline tenant key" in refused.stderr


def test_products_and_devices_are_entered_from_the_command_line(cloud: Cloud, tmp_path: Path) -> None:
    url = {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key}
    (tmp_path / "tsl.json").write_text(json.dumps(TSL))
    product_key = json.loads(cli("product", "create", "Hood", str(tmp_path / "tsl.json"), "-o", "json", env=url).stdout)["product_key"]
    made = json.loads(cli("device", "create", product_key, "hood-1", "--site", "kitchen", "-o", "json", env=url).stdout)
    assert len(made["device_secret"]) == 32
    assert json.loads(cli("device", "show", product_key, "hood-1", env=url).stdout)["site"] == "kitchen"
    assert "hood-1" in cli("device", "list", product_key, env=url).stdout
    assert isinstance(json.loads(cli("quarantine", "count", env=url).stdout), dict)
    assert cli("quarantine", "list", env=url).returncode == 0


def test_a_directory_or_a_port_in_use_is_refused_with_a_reason(cloud: Cloud, tmp_path: Path) -> None:
    taken = cli("up", "--data", str(cloud.data), "--mqtt-port", "0", "--api-port", "0")
    assert (taken.returncode, taken.stdout) == (1, "")
    assert "in use by another" in taken.stderr
    port = cli("up", "--data", str(tmp_path / "other"), "--mqtt-port", str(cloud.mqtt_port), "--api-port", "0")
    assert port.returncode == 1
    assert "choose another port" in port.stderr


def test_sigterm_ends_everything_in_ten_seconds_and_the_next_start_has_the_data_and_no_new_key(cloud: Cloud) -> None:
    product_key = cloud.product("Kept", TSL)
    key = cloud.admin_key
    family = [psutil.Process(cloud.pid), *psutil.Process(cloud.pid).children(recursive=True)]
    assert len(family) == 5
    start = time.monotonic()
    assert cloud.stop() == 0
    assert time.monotonic() - start < 10
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert sorted(path.name for path in (cloud.data / "run").glob("*.pid")) == []
    cloud.admin_key = ""
    cloud.start()
    assert cloud.admin_key == ""
    answer = httpx.get(f"{cloud.api_url}/v1/products/{product_key}", headers={"Authorization": f"Bearer {key}"}, timeout=10)
    assert answer.json()["name"] == "Kept"
    children = psutil.Process(cloud.pid).children(recursive=True)
    assert len(children) == 4
    cloud.kill()  # the worst way to end: the children must not stay behind
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in children), 10, "children gone")


def test_a_wrong_setting_or_file_is_named_without_a_traceback(tmp_path: Path) -> None:
    level = cli("up", "--data", str(tmp_path), env={"HEARTHLINE_LOG_LEVEL": "loud"})
    (tmp_path / "file").touch()
    place = cli("up", "--data", str(tmp_path / "file"), "--mqtt-port", "0", "--api-port", "0")
    model = cli("product", "create", "X", str(tmp_path / "missing.json"), "--key", "hl_x")
    none = cli("tenant", "list", "--data", str(tmp_path / "none"))
    for answer, named in ((level, "HEARTHLINE_LOG_LEVEL"), (place, "cannot keep data"), (model, "missing.json"), (none, "hearthline up")):
        assert (answer.returncode, answer.stdout) == (1, "")
        assert named in answer.stderr
        assert "Traceback" not in answer.stderr


async def test_a_device_disabled_while_the_bus_is_away_is_thrown_out_when_it_is_back(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        product_key = cloud.product("Stove", TSL)
        secret = cloud.device(product_key, "stove-3")
        nats = psutil.Process(cloud.role_pid("nats"))
        async with mqtt(cloud, product_key, "stove-3", secret) as client:
            nats.suspend()
            try:
                headers = {"Authorization": f"Bearer {cloud.admin_key}"}
                path = f"{cloud.api_url}/v1/devices/{product_key}/stove-3"
                httpx.patch(path, json={"enabled": False}, headers=headers, timeout=20).raise_for_status()
            finally:
                nats.kill()  # what was announced to it is gone with it
            with pytest.raises(aiomqtt.MqttError):
                await asyncio.wait_for(anext(client.messages), 20)
