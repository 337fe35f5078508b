"""The commands of the how-to pages, run in their order as a reader would paste them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from protocols.thing.export import full_tsl
from protocols.thing.model import parse_thing_model
from tests.e2e.platform import Cloud, wait_until
from tests.integration.access_rig import RawClient

ROOT = Path(__file__).parent.parent.parent
PAGES = ROOT / "docs" / "how-to"


def run(page: str, folder: Path, blocks: int, environment: Mapping[str, str] = {}) -> str:
    """What the page's `sh` blocks print; there have to be so many."""
    if shutil.which("bash") is None:
        pytest.skip("the pages use bash, which is not installed")
    found = re.findall(r"^```sh\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(found) == blocks
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    whole = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
    done = subprocess.run(
        ["bash", "-c", "set -eu\n" + "\n".join(found)], cwd=folder, env=whole, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_model_is_trained_and_its_gateway_s_configuration_is_right(tmp_path: Path) -> None:
    trained = run("train-an-anomaly-model.md", tmp_path, 2)
    assert "press-anomaly" in trained
    assert (tmp_path / "press.onnx").stat().st_size > 1_000
    configured = run("run-a-model-on-a-gateway.md", tmp_path, 1)
    assert re.search(r"press-anomaly +press-1 +not running", configured)


def test_an_entry_of_the_quarantine_is_shown_replayed_and_discarded(tmp_path: Path) -> None:
    with Cloud(tmp_path, crash_points=False) as cloud:
        tsl = {"properties": [{"identifier": "Power", "name": "Power", "accessMode": "r", "dataType": {"type": "float", "specs": {}}}]}
        product_key = cloud.product("Stove", tsl)
        secret = cloud.device(product_key, "stove-1").encode()
        device = RawClient(cloud.mqtt_port, "stove-1", product_key=product_key, secret=secret).open()
        device.publish(b'{"id":"1","params":{"Smoke":1}}', 1)
        wait_until(lambda: cloud.api.get("/v1/quarantine")["items"], 15, "an entry")
        environment = {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key}
        said = run("deal-with-the-quarantine.md", tmp_path, 3, environment)
        device.close()
    assert "Add the property to the thing model, then replay" in said
    assert re.search(r"entry \d+ is replayed", said)
    assert re.search(r"[12] entries; say --yes to discard them", said)
    assert "discard done" in said


def test_a_platform_is_backed_up_checked_and_restored(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, crash_points=False)
    cloud.data = tmp_path / "hearthline-data"
    with cloud:
        said = run("back-up-and-restore.md", tmp_path, 2)
    assert said.count("held_ms") == 3
    assert (tmp_path / "restored" / "telemetry.duckdb").exists()


def test_a_gateway_is_configured_for_tls_with_the_exported_authority(tmp_path: Path) -> None:
    said = run("connect-over-tls.md", tmp_path, 2)
    assert "CN=Hearthline CA" in said
    assert "BEGIN CERTIFICATE" in (tmp_path / "ca.pem").read_text()
    assert 'ca_file = "ca.pem"' in (tmp_path / "edge.toml").read_text()


def test_a_buffer_is_given_a_key(tmp_path: Path) -> None:
    said = run("encrypt-a-buffer.md", tmp_path, 2)
    assert "wrote buffer.key" in said
    assert (tmp_path / "buffer.key").stat().st_mode & 0o777 == 0o600


def test_a_controller_on_a_serial_line_is_tried_without_hardware(tmp_path: Path) -> None:
    said = run("put-the-agent-into-an-appliance.md", tmp_path, 2, {"HEARTHLINE_EDGE_FRONT_DOOR_PORT": "0"})
    assert re.search(r"^6 +0 +6 +0 +yes", said, re.MULTILINE), said
    assert '"event":"stopped","rows":3,"readings":6,"held":0,"dropped":0' in (tmp_path / "controller.jsonl").read_text()


def test_a_device_registers_and_a_fleet_is_imported(tmp_path: Path) -> None:
    needs("openssl", "curl")
    with Cloud(tmp_path, crash_points=False) as cloud:
        environment = identity_environment(cloud)
        said = run("let-devices-register.md", tmp_path, 4, environment)
        secret = re.search(r'{"code":200,"data":{.*"deviceSecret":"([0-9a-f]{32})"},"message":"success"}', said)
        assert secret is not None, said
        assert re.search(r"both +False +given", said), said
        assert re.search(r"both +False +reset", said), said
        assert "2 created, 0 there already, 0 failed" in said
        moved = RawClient(cloud.mqtt_port, "stove-2", product_key=environment["PRODUCT_KEY"], secret=b"f00d" * 8).open()
        moved.close()


def test_a_device_connects_by_a_certificate_and_the_authority_changes(tmp_path: Path) -> None:
    needs("openssl")
    cloud = Cloud(tmp_path, crash_points=False)
    cloud.data = tmp_path / "hearthline-data"
    with cloud:
        said = run("use-client-certificates.md", tmp_path, 5, identity_environment(cloud) | {"MQTTS_PORT": str(cloud.mqtts_port)})
        retired = {one["subject"]: one["retired"] for one in cloud.api.get("/v1/certificate-authorities")["items"]}
    assert "posted by certificate" in said
    assert (bool(retired["CN=Maker CA 1"]), retired["CN=Maker CA 2"]) == (True, None)


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"the page uses {program}, which is not installed")


def identity_environment(cloud: Cloud) -> dict[str, str]:
    tsl = {"properties": [{"identifier": "Power", "name": "Power", "accessMode": "r", "dataType": {"type": "float", "specs": {}}}]}
    return {
        "HEARTHLINE_API_URL": cloud.api_url,
        "HEARTHLINE_API_KEY": cloud.admin_key,
        "PRODUCT_KEY": cloud.product("Stove", tsl),
    }


def test_a_thing_model_is_changed_in_a_draft_and_published(tmp_path: Path) -> None:
    with Cloud(tmp_path, crash_points=False) as cloud:
        environment = {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key}
        said = run("change-a-thing-model.md", tmp_path, 4, environment)
    assert re.search(r"range_hood +Range hood +吸油烟机", said)
    assert "It takes [0, 800], it took [0, 1000]: 1000" in said
    assert "publishable: with_accept_breaking" in said
    assert "it breaks devices: `draft publish --accept-breaking`" in said
    assert "refused, as it should be" in said
    assert re.search(r"^2 +published +the motor takes 800 W", said, re.MULTILINE), said
    assert "2 versions of its thing model would be deleted; say --yes" in said


def test_an_alink_fleet_is_moved(tmp_path: Path) -> None:
    needs("curl")
    library = ROOT / "protocols" / "thing" / "library" / "integrated_stove.json"
    with Cloud(tmp_path, crash_points=False) as cloud:
        exported = full_tsl(parse_thing_model(library.read_bytes()), "a1TestPk001")  # with the entries that the vendor's console generates
        (tmp_path / "tsl.json").write_text(json.dumps(exported))
        environment = {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key, "MQTT_PORT": str(cloud.mqtt_port)}
        said = run("move-an-alink-fleet.md", tmp_path, 5, environment)
        devices = {item["device_name"]: item for item in cloud.api.get("/v1/products/a1TestPk001/devices")["items"]}
    assert "3 created, 0 there already, 0 failed" in said
    assert set(devices) == {"stove-001", "stove-002", "stove-003"}
    assert (devices["stove-001"]["state"], devices["stove-002"]["state"]) == ("activated", "manufactured")
    assert re.search(r'"state":\s?"completed"', said), said
    assert re.search(r'"delta":\s?{}', said)
    assert "registered_only" in said
