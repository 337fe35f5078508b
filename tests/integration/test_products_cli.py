"""`hearthline product` on a running platform: what it prints and refuses, and that devices feel what is published."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.platform import Cloud, wait_until
from tests.integration.access_rig import RawClient

LEVEL = {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}}
HEAT = {"identifier": "Heat", "name": "Heat", "accessMode": "r", "dataType": {"type": "float", "specs": {}}}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


@pytest.fixture
def product_key(cloud: Cloud) -> str:
    return cloud.product("Stove", {"properties": [LEVEL]})


def run(cloud: Cloud, *words: str, given: object = None) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key, "COLUMNS": "200"}
    command = [sys.executable, "-m", "cloud", "product", *words]
    entered = None if given is None else json.dumps(given)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, input=entered)


def said(cloud: Cloud, *words: str, given: object = None) -> Any:
    """The JSON it prints."""
    done = run(cloud, *words, "-o", "json", given=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_property_that_is_published_is_taken_from_a_device_that_stays_connected(cloud: Cloud, product_key: str) -> None:
    secret = cloud.device(product_key, "stove-1").encode()
    device = RawClient(cloud.mqtt_port, "stove-1", product_key=product_key, secret=secret).open()
    path = f"/v1/devices/{product_key}/stove-1"
    device.publish(b'{"id":"1","params":{"Level":1,"Heat":20.5}}', 1)
    wait_until(lambda: "Level" in cloud.api.get(path)["reported"], 15, "the first post")
    assert "Heat" not in cloud.api.get(path)["reported"]
    assert said(cloud, "draft", "put", product_key, "-", given={"properties": [LEVEL, HEAT]})["version"] == 2
    assert said(cloud, "draft", "publish", product_key)["state"] == "published"

    def heated() -> bool:
        device.publish(b'{"id":"2","params":{"Heat":20.5}}', 2)
        return "Heat" in cloud.api.get(path)["reported"]

    wait_until(heated, 15, "the property of the new version", every_s=0.5)
    device.close()


def test_the_report_tells_people_and_programs_whom_a_draft_breaks(cloud: Cloud, product_key: str) -> None:
    narrow = {**LEVEL, "dataType": {"type": "int", "specs": {"min": "0", "max": "5"}}}
    assert run(cloud, "draft", "put", product_key, "-", given={"properties": [narrow, HEAT]}).returncode == 0
    shown = run(cloud, "draft", "report", product_key)
    assert "properties.Level.dataType" in shown.stdout
    assert "devices, applications, rules" in shown.stdout
    assert "version 2 after 1, 0 devices" in shown.stderr
    assert "draft publish --accept-breaking" in shown.stderr
    as_yaml = run(cloud, "draft", "report", product_key, "-o", "yaml").stdout
    assert list(yaml.safe_load_all(as_yaml)) == [said(cloud, "draft", "report", product_key)]
    refused = run(cloud, "draft", "publish", product_key)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "properties.Level.dataType: It takes [0, 5], it took [0, 9]: 9 is refused from now on. Breaks devices" in refused.stderr
    accepted = run(cloud, "draft", "publish", product_key, "--accept-breaking", "--note", "five is enough")
    assert "five is enough" in accepted.stdout
    assert [row["version"] for row in yaml.safe_load_all(run(cloud, "versions", product_key, "-o", "yaml").stdout)] == [1, 2]


def test_a_type_that_was_published_stays(cloud: Cloud, product_key: str) -> None:
    real = {**LEVEL, "dataType": {"type": "float", "specs": {}}}
    assert run(cloud, "draft", "put", product_key, "-", given={"properties": [real]}).returncode == 0
    assert "properties.Level.dataType was int in version 1 and cannot be float" in run(cloud, "draft", "report", product_key).stderr
    refused = run(cloud, "draft", "publish", product_key, "--accept-breaking")
    assert refused.returncode == 1
    assert "take a new identifier" in refused.stderr


def test_a_product_of_the_library_is_shown_changed_and_deleted(cloud: Cloud) -> None:
    key = said(cloud, "create", "Meter", "--library", "power_meter", "--gateway")["product_key"]
    shown = said(cloud, "show", key)
    assert (shown["category"], shown["node_type"]) == ("power_meter", "gateway")
    assert said(cloud, "library", "power_meter")["tsl"] == shown["tsl"]
    assert said(cloud, "change", key, "--name", "Meter 2", "--description", "three phases")["name"] == "Meter 2"
    assert "Meter 2" in run(cloud, "list").stdout
    exported = said(cloud, "export", key)
    assert exported["profile"]["productKey"] == key
    assert yaml.safe_load(run(cloud, "export", key, "-o", "yaml").stdout) == exported
    asked = run(cloud, "delete", key)
    assert (asked.returncode, "say --yes" in asked.stderr) == (1, True)
    assert run(cloud, "delete", key, "--yes").returncode == 0
    assert "does not exist" in run(cloud, "show", key).stderr


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (("create", "Stove"), 2, "hearthline product library"),
        (("create", "Stove", "no-such-file"), 1, "hearthline product export"),
        (("create", "Stove", "--library", "kettle"), 1, "there is: air_compressor"),
        (("change", "nothing"), 2, "--name or --description"),
        (("export", "gateway", "-o", "table"), 2, "-o yaml"),
        (("delete", "gateway", "--yes"), 1, "make a product of your own"),
        (("draft", "publish", "nothing"), 1, "has no draft"),
        (("draft", "put", "gateway", str(Path(__file__))), 1, "no readable JSON"),
    ],
)
def test_a_refusal_says_what_to_do_next(cloud: Cloud, words: tuple[str, ...], code: int, advice: str) -> None:
    done = run(cloud, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert advice in done.stderr
