"""`hearthline device|group|firmware|configuration|job` on a running platform: what they print, refuse, and how they end."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import Cloud, wait_until
from tests.integration.access_rig import RawClient

TSL = {
    "properties": [
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}}
    ],
    "events": [{"identifier": "Alarm", "name": "Alarm", "type": "alert", "outputData": []}],
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


@pytest.fixture
def product_key(cloud: Cloud) -> str:
    return cloud.product("Stove", TSL)


def run(cloud: Cloud, *words: str, given: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    environment = os.environ | {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key, "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "cloud", *words], capture_output=True, timeout=60, env=environment, input=given)


def said(cloud: Cloud, *words: str, given: bytes | None = None) -> list[Any]:
    """The JSON lines it prints."""
    done = run(cloud, *words, "-o", "json", given=given)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_device_is_commanded_described_and_moved_through_its_life(cloud: Cloud, product_key: str) -> None:
    secret = cloud.device(product_key, "s1").encode()
    name = (product_key, "s1")
    (waiting,) = said(cloud, "device", "set", *name, "Level=3")
    asked = run(cloud, "device", "command", waiting["command_id"])
    assert b"queued" in asked.stdout
    refused = run(cloud, "device", "set", *name, "Level=3", "--only-online")
    assert (refused.returncode, b"409" in refused.stderr) == (1, True)
    assert b"name=value" in run(cloud, "device", "set", *name, "Level").stderr
    device = RawClient(cloud.mqtt_port, "s1", product_key=product_key, secret=secret).open()
    device.publish(b'{"id":"1","params":{}}', 1, topic=f"/sys/{product_key}/s1/thing/event/Alarm/post")
    wait_until(lambda: said(cloud, "device", "search", "s1", "--product", product_key, "--online"), 20, "it to be online")
    assert said(cloud, "device", "events", *name)[0]["event"] == "Alarm"
    assert [one["method"] for one in said(cloud, "device", "commands", *name)] == ["thing.service.property.set"]
    (late,) = said(cloud, "device", "desire", *name, "Level=5")
    assert late["desired"] == {"Level": 5}
    assert b"Level" in run(cloud, "device", "shadow", *name).stdout
    assert said(cloud, "device", "tags", *name, "floor=1") == [{"key": "floor", "value": "1", "source": "api"} | _time(cloud, name)]
    assert said(cloud, "device", "tags", *name, "--delete", "floor") == []
    assert run(cloud, "device", "log", *name, "--on").returncode == 0
    (claimed,) = said(cloud, "device", "claim", *name, "kitchen")
    assert (claimed["state"], claimed["site"]) == ("claimed", "kitchen")
    assert said(cloud, "device", "transfer", *name, "garden")[0]["site"] == "garden"
    assert said(cloud, "device", "unclaim", *name)[0]["state"] == "activated"
    assert said(cloud, "device", "disable", *name)[0]["state"] == "disabled"
    assert said(cloud, "device", "enable", *name)[0]["state"] == "activated"
    assert run(cloud, "device", "retire", *name).returncode == 1
    assert said(cloud, "device", "retire", *name, "--yes")[0]["state"] == "retired"
    assert [one["action"] for one in said(cloud, "device", "audit", *name, "--limit", "3")] == ["retire", "enable", "disable"]
    assert said(cloud, "device", "modules", *name) == []
    device.close()


def _time(cloud: Cloud, name: tuple[str, str]) -> dict[str, int]:
    return {"time": cloud.api.get(f"/v1/devices/{name[0]}/{name[1]}/tags")["tags"]["floor"]["time"]}


def test_groups_firmware_configurations_and_jobs_are_made_shown_and_ended(cloud: Cloud, product_key: str, tmp_path: Path) -> None:
    cloud.device(product_key, "s1")
    (group,) = said(cloud, "group", "create", f"east of {product_key}")
    number = str(group["group_id"])
    assert said(cloud, "group", "add", number, product_key, "s1")[0]["devices"] == 1
    unknown = run(cloud, "group", "add", number, product_key, "nope")
    assert (unknown.returncode, b"nope" in unknown.stderr) == (1, True)
    assert [one["device_name"] for one in said(cloud, "group", "show", number)] == ["s1"]
    assert said(cloud, "group", "remove", number, product_key, "s1")[0]["devices"] == 0
    assert run(cloud, "group", "delete", number).returncode == 0
    assert b"404" in run(cloud, "group", "show", number).stderr

    (image,) = said(cloud, "firmware", "upload", product_key, "2.0.0", "-", given=b"an image")
    number = str(image["firmware_id"])
    assert [one["state"] for one in said(cloud, "firmware", "offer", number, "s1")] == ["offered"]
    assert run(cloud, "firmware", "delete", number).returncode == 1
    assert run(cloud, "firmware", "cancel", number, "s1").returncode == 0
    assert [one["state"] for one in said(cloud, "firmware", "offers", number)] == ["cancelled"]
    assert said(cloud, "firmware", "show", number) == said(cloud, "firmware", "list", "--product", product_key) == [image]
    assert run(cloud, "firmware", "delete", number).returncode == 0

    file = tmp_path / "settings.bin"
    file.write_bytes(bytes(range(256)))
    assert said(cloud, "configuration", "put", product_key, str(file))[0]["size"] == 256
    assert run(cloud, "configuration", "get", product_key).stdout == bytes(range(256))
    assert said(cloud, "configuration", "push", product_key) == [{"told": 0}]
    assert said(cloud, "configuration", "switch", product_key, "--off")[0]["enabled"] is False
    assert b"switch it on" in run(cloud, "configuration", "push", product_key).stderr
    assert run(cloud, "configuration", "delete", product_key).returncode == 0
    assert b"PUT one" in run(cloud, "configuration", "show", product_key).stderr

    (job,) = said(cloud, "job", "create", "descale", product_key, "-", "s1", given=b'{"do": "descale"}')
    number = str(job["job_id"])
    assert [one["status"] for one in said(cloud, "job", "tasks", number)] == ["QUEUED"]
    assert said(cloud, "job", "cancel", number)[0]["counts"] == {"CANCELLED": 1}
    assert number.encode() in run(cloud, "job", "list").stdout
    assert b"not JSON" in run(cloud, "job", "create", "x", product_key, "-", "s1", given=b"{").stderr


def test_who_did_what_is_shown(cloud: Cloud, product_key: str) -> None:
    said(cloud, "device", "create", product_key, "a1")
    lines = said(cloud, "audit", "--of", f"{product_key}/a1")
    assert [(line["action"], line["subject"], line["actor"]) for line in lines] == [("create", f"{product_key}/a1", "admin")]
    assert [line["action"] for line in said(cloud, "audit", "--limit", "2")] == ["create", "create_product"]
    assert b"create_product" in run(cloud, "audit", "--of", product_key).stdout


def test_the_likeliest_mistakes_say_what_to_do_next(cloud: Cloud, tmp_path: Path) -> None:
    der = tmp_path / "authority.der"
    der.write_bytes(bytes.fromhex("3082 0222 ff80"))
    for words, code, advice in (
        (("authority", "add", str(der)), 1, "openssl x509 -inform der"),
        (("product", "list", "--api-url", "http://127.0.0.1:1"), 3, "is the platform running there?"),
        (("product", "list", "--api-url", "http://[::1"), 2, "--api-url"),
        (("device", "set", "no-such-product", "d", "Level=1"), 1, "does not exist"),
    ):
        done = run(cloud, *words)
        assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
        assert advice in done.stderr.decode(), done.stderr
