"""Bad payloads on a running platform, one by one: the answer, the count, the quarantine, and the next good message.

One platform for the module; every case has a device of its own. What is refused in a payload was acknowledged before: it is on disk.
"""

import json
import queue
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
import zstandard
from paho.mqtt.enums import CallbackAPIVersion

from protocols.alink.credentials import sign
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import FrameHeader, encode_body, encode_frame, stamp
from protocols.edgelink.lanes import Lane
from protocols.edgelink.topics import uplink_topic
from protocols.errors import Reason
from tests.e2e.platform import ROOT, Cloud, wait_until

FAR_MS = 4_102_444_800_000
HOUR_MS = 3_600_000
AHEAD_MS = time.time_ns() // 1_000_000 + 48 * HOUR_MS
GATEWAY_TSL = ROOT / "protocols" / "thing" / "library" / "gateway.json"
GATEWAY_PROPERTY = json.loads(GATEWAY_TSL.read_text())["properties"][0]["identifier"]
TSL: dict[str, Any] = {
    "properties": [
        {"identifier": "Power", "name": "Power", "accessMode": "rw", "dataType": {"type": "float", "specs": {"min": "0", "max": "9000"}}},
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}},
        {"identifier": "Total", "name": "Total", "accessMode": "r", "dataType": {"type": "int", "specs": {}}},
        {"identifier": "Mode", "name": "Mode", "accessMode": "r", "dataType": {"type": "enum", "specs": {"0": "off", "2": "on"}}},
        {"identifier": "Note", "name": "Note", "accessMode": "r", "dataType": {"type": "text", "specs": {"length": "20"}}},
    ],
    "events": [{"identifier": "Boiled", "name": "Boiled", "type": "alert", "outputData": []}],
    "services": [],
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Device:
    """One MQTT client that waits for PUBACKs and keeps what it is told."""

    def __init__(self, port: int, product_key: str, name: str, secret: str) -> None:
        self.product_key, self.name = product_key, name
        self.heard: queue.Queue[tuple[str, Any]] = queue.Queue()
        proof = sign(product_key, name, secret)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=proof.client_id)
        self._client.username_pw_set(proof.username, proof.password.decode())
        self._client.on_message = lambda _c, _u, message: self.heard.put((message.topic, json.loads(message.payload)))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(self._client.is_connected, 10, f"{name} is let in")

    def publish(self, topic: str, payload: bytes) -> None:
        """Returns when it is acknowledged."""
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def sys(self, tail: str) -> str:
        return f"/sys/{self.product_key}/{self.name}/{tail}"

    def post(self, payload: bytes | dict[str, Any], tail: str = "thing/event/property/post") -> None:
        self.publish(self.sys(tail), payload if isinstance(payload, bytes) else json.dumps(payload).encode())

    def answer(self, timeout_s: float = 10.0) -> Any:
        """The next reply."""
        return self.heard.get(timeout=timeout_s)[1]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Scene:
    cloud: Cloud
    product_key: str
    count: int = 0
    devices: list[Device] = field(default_factory=list)

    def device(self, product_key: str | None = None, site: str | None = None) -> Device:
        self.count += 1
        product_key = product_key or self.product_key
        name = f"d{self.count}"
        made = Device(self.cloud.mqtt_port, product_key, name, self.cloud.device(product_key, name, site))
        self.devices.append(made)
        return made

    def entries(self, device: Device, **query: object) -> list[dict[str, Any]]:
        found = self.cloud.api.get("/v1/quarantine", product_key=device.product_key, device_name=device.name, **query)
        items: list[dict[str, Any]] = found["items"]
        return items

    def points(self, product_key: str, name: str, identifier: str) -> list[list[Any]]:
        found: list[list[Any]] = list(self.cloud.api.points(product_key, name, identifier, raw=False))  # type: ignore[arg-type]
        return found

    def counted(self, reason: str) -> float:
        with urllib.request.urlopen(f"{self.cloud.api_url}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("hearthline_ingest_quarantined_total") and f'reason="{reason}"' in line:
                    return float(line.rsplit(" ", 1)[1])
        return 0.0

    def call(self, path: str, body: object = None) -> Any:
        return self.cloud.post(path, body if body is not None else {})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Cloud(tmp_path_factory.mktemp("cloud"), crash_points=False) as cloud:
        found = Scene(cloud, cloud.product("Bad input", TSL))
        yield found
        for device in found.devices:
            device.close()


def good(scene: Scene, device: Device) -> None:
    """A good message behind the bad one: acknowledged, answered, and stored."""
    at = now_ms()
    device.post({"id": "77", "params": {"Power": {"value": 4.5, "time": at}}})
    answer = device.answer()
    while answer["id"] != "77":
        answer = device.answer()
    assert (answer["code"], answer["data"]) == (200, {})
    assert [at, 4.5] in scene.points(device.product_key, device.name, "Power")


def posted(params: str, message_id: str = '"1"') -> bytes:
    return f'{{"id": {message_id}, "version": "1.0", "params": {params}}}'.encode()


CASES = {
    "invalid UTF-8": (Reason.BAD_JSON, b'{"id":"1","params":{"Note":"\xff\xfe"}}', 6207, ()),
    "broken JSON": (Reason.BAD_JSON, b'{"id":"1","params":{"Power":1', 6207, ()),
    "10,000 brackets": (Reason.BAD_ENVELOPE, b"[" * 10_000, 460, ()),
    "a number": (Reason.BAD_ENVELOPE, b"7", 460, ()),
    "params of another kind": (Reason.BAD_ENVELOPE, posted("[1]"), 460, ()),
    "an unknown property": (Reason.UNKNOWN_IDENTIFIER, posted('{"Nope": 1, "Level": 3}'), 200, ("Nope",)),
    "a text where a number belongs": (Reason.WRONG_TYPE, posted('{"Power": "hot", "Level": 3}'), 200, ("Power",)),
    "too high": (Reason.OUT_OF_RANGE, posted('{"Power": 9000.5, "Level": 3}'), 200, ("Power",)),
    "an enum's missing key": (Reason.OUT_OF_RANGE, posted('{"Mode": 1, "Level": 3}'), 200, ("Mode",)),
    "a text too long": (Reason.OUT_OF_RANGE, posted(json.dumps({"Note": "x" * 21, "Level": 3})), 200, ("Note",)),
    "NaN": (Reason.BAD_JSON, posted('{"Power": NaN}'), 6207, ()),
    "a number beyond a float": (Reason.OUT_OF_RANGE, posted('{"Power": 1e999, "Level": 3}'), 200, ("Power",)),
    "2^63": (Reason.INTEGER_TOO_LARGE, posted('{"Total": 9223372036854775808, "Level": 3}'), 200, ("Total",)),
    "2^53 + 1": (Reason.INTEGER_TOO_LARGE, posted('{"Total": 9007199254740993, "Level": 3}'), 200, ("Total",)),
    "48 hours ahead": (
        Reason.BAD_TIME,
        posted(f'{{"Power": {{"value": 1, "time": {AHEAD_MS}}}, "Level": 3}}'),
        200,
        ("Power",),
    ),
    "a time before time": (Reason.BAD_TIME, posted('{"Power": {"value": 1, "time": -5}, "Level": 3}'), 200, ("Power",)),
    "201 properties": (Reason.TOO_MANY, posted(json.dumps({f"P{n}": n for n in range(201)})), 6106, ()),
}


@pytest.mark.refusal(Reason.BAD_JSON, Reason.BAD_ENVELOPE, Reason.UNKNOWN_IDENTIFIER, Reason.WRONG_TYPE, Reason.OUT_OF_RANGE)
@pytest.mark.refusal(Reason.INTEGER_TOO_LARGE, Reason.BAD_TIME, Reason.TOO_MANY)
@pytest.mark.parametrize("case", CASES)
def test_a_bad_post_is_answered_counted_and_kept_and_its_good_values_are_stored(scene: Scene, case: str) -> None:
    reason, payload, code, named = CASES[case]
    device, before = scene.device(), scene.counted(reason)
    device.post(payload)
    if b'"id"' in payload and code != 6207:
        answer = device.answer()
        assert answer["code"] == code
        assert set(named) <= set(answer["data"])
        assert "Level" not in answer["data"]
    good(scene, device)
    (entry,) = scene.entries(device)
    assert entry["reason"] == reason
    assert entry["count"] == 1
    assert len(entry["detail"]) > 10
    assert scene.counted(reason) >= before + 1
    details = scene.cloud.api.get(f"/v1/quarantine/{entry['id']}")
    assert all((details["next_step"]["en"], details["next_step"]["zh"], details["preview"]))
    if b'"Level": 3' in payload:
        assert [value for _, value in scene.points(device.product_key, device.name, "Level")] == [3]


@pytest.mark.refusal(Reason.UNKNOWN_EVENT)
def test_an_event_that_the_product_does_not_have(scene: Scene) -> None:
    device = scene.device()
    device.post({"id": "1", "params": {}}, "thing/event/Exploded/post")
    assert device.answer()["code"] == 5160
    good(scene, device)
    assert [entry["reason"] for entry in scene.entries(device)] == ["unknown_event"]


@pytest.mark.refusal(Reason.UNKNOWN_TOPIC)
def test_a_topic_that_nobody_serves(scene: Scene) -> None:
    device = scene.device()
    device.post({"id": "1", "params": {}}, "thing/nobody/serves/this")
    good(scene, device)
    assert [entry["reason"] for entry in scene.entries(device)] == ["unknown_topic"]


# --- frames of a gateway


@dataclass
class Gateway:
    device: Device
    buffer_id: bytes
    seq: int = 0

    def send(self, columns: Columns, body: bytes | None = None) -> bytes:
        """A frame; another `body` comes with a checksum that fits it."""
        self.seq += 1
        header = FrameHeader(self.buffer_id, 1, Lane.LIVE, self.seq, 1, now_ms(), 0)
        data = encode_frame(header, columns) if body is None else stamp(body, header)
        self.device.publish(uplink_topic("gateway", self.device.name, Lane.LIVE), data)
        return data


def columns(product_key: str, *readings: tuple[str, str, int, float]) -> Columns:
    names = list(dict.fromkeys((device, identifier) for device, identifier, _, _ in readings))
    return Columns(
        tuple((product_key, device, identifier) for device, identifier in names),
        np.array([names.index((device, identifier)) for device, identifier, _, _ in readings], np.uint32),
        np.array([at for _, _, at, _ in readings], np.int64),
        np.array([value for _, _, _, value in readings], np.float64),
        texts=(),
    )


@pytest.fixture
def gateway(scene: Scene) -> tuple[Gateway, Device]:
    """A gateway and a device of its site."""
    scene.count += 1
    site = f"site-{scene.count}"
    made = scene.device("gateway", site)
    device = Device.__new__(Device)
    device.product_key, device.name = scene.product_key, f"behind-{scene.count}"
    scene.cloud.device(scene.product_key, device.name, site)
    return Gateway(made, struct.pack(">QQ", scene.count, now_ms())), device


def good_frame(scene: Scene, gateway: Gateway, name: str) -> None:
    """The next frame of the same lane is stored."""
    at = now_ms()
    gateway.send(columns(scene.product_key, (name, "Power", at, 7.5)))
    wait_until(lambda: [at, 7.5] in scene.points(scene.product_key, name, "Power"), 10, "the next good frame")


def refused(scene: Scene, gateway: Gateway, reason: Reason) -> dict[str, Any]:
    """The one entry of this gateway with this reason."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [entry for entry in scene.entries(gateway.device) if entry["reason"] == reason]
        return bool(found)

    wait_until(there, 10, f"an entry about {reason}")
    (entry,) = found
    assert scene.counted(reason) >= 1
    return entry


def gaps(scene: Scene, product_key: str, name: str, identifier: str) -> list[tuple[int, int, int | None, str]]:
    return [(gap.from_ms, gap.to_ms, gap.count, gap.reason) for gap in scene.cloud.api.gaps(product_key, name, identifier)]


BODY = encode_body(columns("pk", ("d", "Power", 1_760_000_000_000, 1.0)))
BOMB = struct.pack("<II", 1 << 28, 0) + zstandard.ZstdCompressor().compress(bytes(1 << 28))
BODIES = {
    "a body cut off": (BODY[:-3], Reason.BAD_FRAME),
    "a byte of the body turned over": (BODY[:12] + bytes([BODY[12] ^ 0x40]) + BODY[13:], Reason.BAD_FRAME),
    "noise": (bytes(range(256)) * 4, Reason.BAD_FRAME),
    "a compression bomb of 256 MiB": (BOMB, Reason.TOO_MANY),
    "a bomb that lies about its size": (struct.pack("<II", 100, 0) + BOMB[8:], Reason.BAD_FRAME),
}


@pytest.mark.refusal(Reason.BAD_FRAME, Reason.TOO_MANY)
@pytest.mark.parametrize("case", BODIES)
def test_a_frame_that_does_not_decode_becomes_a_gap_and_the_next_one_is_stored(
    scene: Scene, gateway: tuple[Gateway, Device], case: str
) -> None:
    sender, behind = gateway
    body, reason = BODIES[case]
    good_frame(scene, sender, behind.name)
    began = time.monotonic()
    sender.send(columns(scene.product_key), body)
    good_frame(scene, sender, behind.name)
    assert time.monotonic() - began < 8
    entry = refused(scene, sender, reason)
    assert "frame 2 of lane live" in scene.cloud.api.get(f"/v1/quarantine/{entry['id']}")["preview"]
    assert "refused_frame" in {reason for _, _, _, reason in gaps(scene, "gateway", sender.device.name, GATEWAY_PROPERTY)}


@pytest.mark.refusal(Reason.OUT_OF_RANGE, Reason.WRONG_TYPE)
def test_a_frame_s_values_that_break_the_thing_model_are_refused_alone_and_named_as_gaps(
    scene: Scene, gateway: tuple[Gateway, Device]
) -> None:
    sender, behind = gateway
    at, name = now_ms() - 1_000, behind.name  # the good frame's reading, which is of now, must not share a ms with one of these
    values = (
        (name, "Power", at, 1.0), (name, "Power", at + 1, 9000.25), (name, "Power", at + 2, -0.5), (name, "Power", at + 3, 9000.0),
        (name, "Level", at, 9.0), (name, "Level", at + 1, 2.5), (name, "Mode", at, 1.0), (name, "Mode", at + 1, 2.0),
    )  # fmt: skip
    sender.send(columns(scene.product_key, *values))
    good_frame(scene, sender, name)

    def shown(identifier: str) -> list[list[Any]]:
        return [point for point in scene.points(scene.product_key, name, identifier) if point[0] <= at + 3 and point[1] != 7.5]

    assert shown("Power") == [[at, 1.0], [at + 3, 9000.0]]
    assert (shown("Level"), shown("Mode")) == ([[at, 9]], [[at + 1, 2]])
    assert gaps(scene, scene.product_key, name, "Power") == [(at, at + 2, 1, "refused_value"), (at + 1, at + 3, 1, "refused_value")]
    found = {(entry["reason"], entry["detail"]) for entry in scene.entries(sender.device)}
    assert found == {
        ("out_of_range", "2 readings, the first: Power: 9000.25 is outside [0.0, 9000.0]"),
        ("wrong_type", "Level: expected an integer, got 2.5"),
        ("out_of_range", "Mode: 1 is not a key of the enum"),
    }


@pytest.mark.refusal(Reason.FOREIGN_DEVICE)
def test_a_device_that_is_not_the_gateway_s_own_and_its_replay_once_it_is_bound(scene: Scene, gateway: tuple[Gateway, Device]) -> None:
    sender, behind = gateway
    at, late = now_ms(), f"late-{scene.count}"
    sender.send(columns(scene.product_key, (behind.name, "Power", at, 1.0), (late, "Power", at, 2.0)))
    good_frame(scene, sender, behind.name)
    entry = refused(scene, sender, Reason.FOREIGN_DEVICE)
    assert late in entry["detail"]
    assert [at, 1.0] in scene.points(scene.product_key, behind.name, "Power")
    site = scene.cloud.api.get(f"/v1/devices/{scene.product_key}/{behind.name}")["site"]
    scene.cloud.device(scene.product_key, late, site)
    assert scene.call(f"/v1/quarantine/{entry['id']}/replay")["state"] == "replayed"
    wait_until(lambda: scene.points(scene.product_key, late, "Power") == [[at, 2.0]], 10, "the replayed reading")
    assert scene.points(scene.product_key, behind.name, "Power").count([at, 1.0]) == 1
    good_frame(scene, sender, behind.name)  # the lane's watermark stayed where it was
    assert scene.entries(sender.device) == []


@pytest.mark.refusal(Reason.BAD_TIME)
def test_readings_of_a_frame_stamped_48_hours_ahead(scene: Scene, gateway: tuple[Gateway, Device]) -> None:
    sender, behind = gateway
    sender.send(columns(scene.product_key, (behind.name, "Power", now_ms() + 48 * HOUR_MS, 1.0)))
    good_frame(scene, sender, behind.name)
    assert "more than 24 h ahead" in refused(scene, sender, Reason.BAD_TIME)["detail"]


# --- what becomes of an entry


def bad(scene: Scene) -> tuple[Device, dict[str, Any]]:
    """A device with one entry in the quarantine."""
    device = scene.device()
    device.post(posted('{"Power": 9001, "Level": 4}'))
    assert device.answer()["code"] == 200
    (entry,) = scene.entries(device)
    return device, entry


def problem(scene: Scene, path: str, body: object = None) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as raised:
        scene.call(path, body)
    return raised.value.code, "".join(raised.value.__notes__)


def test_a_replay_keeps_the_time_of_receipt_answers_nobody_and_is_refused_again_while_the_cause_stands(scene: Scene) -> None:
    device, entry = bad(scene)
    ((at, _),) = scene.points(scene.product_key, device.name, "Level")
    assert at == entry["received"]
    assert scene.call(f"/v1/quarantine/{entry['id']}/replay")["state"] == "replayed"
    wait_until(lambda: scene.entries(device), 10, "refused again")
    (again,) = scene.entries(device)
    assert (again["replay_of"], again["reason"], again["received"]) == (entry["id"], "out_of_range", entry["received"])
    assert scene.points(scene.product_key, device.name, "Level") == [[at, 4]]  # the good value once, as before
    assert device.heard.empty()
    assert problem(scene, f"/v1/quarantine/{entry['id']}/replay")[0] == 409


def test_a_discarded_entry_is_gone_from_the_list_and_stays_visible_among_the_discarded(scene: Scene) -> None:
    device, entry = bad(scene)
    held = scene.cloud.api.get("/v1/quarantine/count")["out_of_range"]
    assert scene.call(f"/v1/quarantine/{entry['id']}/discard")["resolved_by"] == "admin"
    assert scene.entries(device) == []
    assert [found["id"] for found in scene.entries(device, state="discarded")] == [entry["id"]]
    assert scene.cloud.api.get("/v1/quarantine/count").get("out_of_range", 0) == held - 1
    assert problem(scene, f"/v1/quarantine/{entry['id']}/replay")[0] == 409
    assert problem(scene, f"/v1/quarantine/{entry['id']}/discard")[0] == 409
    assert problem(scene, "/v1/quarantine/987654321/replay")[0] == 404


def test_a_selection_of_nothing_in_particular_is_refused_and_one_of_a_device_is_carried_out(scene: Scene) -> None:
    device, _ = bad(scene)
    device.post(posted('{"Power": 9002}'))
    wait_until(lambda: len(scene.entries(device)) == 2, 10, "two entries")
    assert problem(scene, "/v1/quarantine/discard", {})[0] == 422
    outcome = scene.call("/v1/quarantine/discard", {"device_name": device.name, "product_key": scene.product_key})
    assert outcome["done"] == 2
    assert scene.entries(device) == []


def test_of_several_replays_of_one_entry_at_once_one_is_carried_out(scene: Scene) -> None:
    _, entry = bad(scene)

    def once(_: int) -> int:
        try:
            scene.call(f"/v1/quarantine/{entry['id']}/replay")
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(once, range(8))) == [200] + [409] * 7


def hearthline(scene: Scene, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cloud", "quarantine", *words, "--key", scene.cloud.admin_key, "--api-url", scene.cloud.api_url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_the_command_line_shows_what_to_do_and_asks_before_it_does_much(scene: Scene) -> None:
    device, entry = bad(scene)
    listed = hearthline(scene, "list", "--device", device.name, "-o", "json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] == [entry["id"]]
    shown = hearthline(scene, "show", str(entry["id"])).stdout
    assert "A value lies outside its range" in shown
    assert "数值超出物模型规定的范围" in shown
    assert '"Power": 9001' in shown
    asked = hearthline(scene, "discard", "--device", device.name)
    assert (asked.returncode, asked.stderr.strip()) == (0, "1 entries; say --yes to discard them")
    assert len(scene.entries(device)) == 1
    assert hearthline(scene, "discard", "--device", device.name, "--yes").returncode == 0
    assert scene.entries(device) == []
    assert hearthline(scene, "replay").returncode == 2
    gone = hearthline(scene, "replay", str(entry["id"]))
    assert (gone.returncode, "only one that is held" in gone.stderr) == (1, True)


def test_a_refusal_at_the_door_is_in_the_quarantine_of_the_device_s_tenant_and_cannot_be_replayed(scene: Scene) -> None:
    device = scene.device()
    proof = sign(scene.product_key, device.name, "not its secret")
    wrong = paho.Client(CallbackAPIVersion.VERSION2, client_id=proof.client_id)
    wrong.username_pw_set(proof.username, proof.password.decode())
    wrong.connect("127.0.0.1", scene.cloud.mqtt_port)
    wrong.loop_start()
    try:
        wait_until(lambda: [entry for entry in scene.entries(device) if entry["reason"] == "bad_credentials"], 15, "the refusal")
    finally:
        wrong.loop_stop()
    entry = scene.entries(device)[0]
    assert entry["address"].startswith("127.0.0.1")
    assert not entry["replayable"]
    code, text = problem(scene, f"/v1/quarantine/{entry['id']}/replay")
    assert (code, "mend the cause and discard it" in text) == (409, True)
    good(scene, device)
