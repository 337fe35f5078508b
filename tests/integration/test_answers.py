"""What devices ask and how they are answered, with the codes of alink.md par. 11."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cloud.access.model import SessionRow
from cloud.artefacts.model import Kind as ArtefactKind
from cloud.artefacts.service import Depot, keep
from cloud.devices.answers import ANSWERS
from cloud.devices.lifecycle import Move
from cloud.devices.moves import move_device
from cloud.devices.registry import create_device
from cloud.devices.service import apply_reported, credentials_in, device_facts
from cloud.devices.shadow import change_desired, load_shadow
from cloud.devices.topology import TopologyRefused, add_sub_devices
from cloud.foundation.db import Database
from cloud.foundation.schema import upgrade
from cloud.foundation.vault import Vault
from cloud.ingest.answering import Answering
from cloud.ingest.model import Answered, Asked
from cloud.products.registration import RegistrationMode, rotate_product_secret, set_mode
from cloud.products.service import create_product
from cloud.rollouts.answers import answers as firmware_answers
from cloud.rollouts.service import create_firmware, list_offers, modules_of, offer_to
from cloud.tenancy.service import create_tenant
from protocols.alink.credentials import signature
from protocols.alink.ota import SignMethod
from protocols.alink.registration import signed_text
from protocols.alink.requests import is_request, read_request
from protocols.alink.topics import Kind, Topic
from protocols.alink.topology import sign_identity
from protocols.thing.model import ThingModel, parse_thing_model
from tests.contract.databases import sqlite_database

TSL: dict[str, Any] = {
    "properties": [
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}},
    ],
    "services": [{"identifier": "Blink", "name": "Blink", "callType": "async", "inputData": [], "outputData": []}],
}
NOW = 1_700_000_000_000


@dataclass(slots=True)
class World:
    """Two tenants; the first with a product, a gateway `gw`, another gateway `gw2`, and sub-devices `s0` to `s9`."""

    database: Database
    vault: Vault
    product_key: str
    tenants: tuple[int, int]
    model: ThingModel
    secrets: dict[str, str] = field(default_factory=dict)
    handlers: Mapping[Kind, Any] = field(default_factory=dict)
    last: Answered = field(default_factory=Answered)

    @classmethod
    def on(cls, database: Database) -> "World":
        vault = Vault(b"k" * 32)
        upgrade(database)
        with database.system() as work:
            tenants = tuple(create_tenant(work, name).tenant_id for name in ("one", "two"))
            work.commit()
        with database.unit_of_work(tenants[0]) as work:
            product_key = create_product(work, "Stove", TSL).product_key
            work.commit()
        world = cls(database, vault, product_key, (tenants[0], tenants[1]), parse_thing_model(TSL))
        world.handlers = {**ANSWERS, **firmware_answers(lambda: "http://files")}
        for name in ("gw", "gw2", *(f"s{n}" for n in range(10))):
            world.enter(name)
        return world

    def enter(self, name: str) -> None:
        with self.database.unit_of_work(self.tenants[0]) as work:
            self.secrets[name] = create_device(work, self.vault, self.product_key, name, None)
            work.commit()

    def number(self, name: str) -> int:
        key = (self.product_key, name)
        return device_facts(self.database, [key])[key].device_id

    def request(self, kind: Kind, params: object, name: str = "gw", raw: bytes | None = None) -> Asked:
        payload = json.dumps({"id": "7", "params": params}).encode() if raw is None else raw
        topic = Topic(kind, self.product_key, name)
        session = SessionRow(self.tenants[0], self.number(name), self.product_key, name, 1)
        answer_topic = None if topic.reply is None else str(topic.reply)
        return Asked(1, 0, session, str(topic), read_request(kind, payload), topic.method, answer_topic, self.model, NOW)

    def ask(self, kind: Kind, params: object = None, name: str = "gw", raw: bytes | None = None) -> Any:
        """The answer to one request, decoded; None if it has none. What else leaves is in `last`."""
        with self.database.system() as work:
            self.last = Answering(self.vault, self.handlers, lambda: NOW + 5)(work, [self.request(kind, params, name, raw)])
            work.commit()
        reply = Topic(kind, self.product_key, name).reply
        answers = [message for message in self.last.downlinks if reply is not None and message.topic == str(reply)]
        return json.loads(answers[0].payload) if answers else None

    def pushed(self, kind: Kind, name: str = "gw") -> Any:
        """What was sent on another topic."""
        topic = str(Topic(kind, self.product_key, name))
        return [json.loads(message.payload) for message in self.last.downlinks if message.topic == topic]

    def signed(self, name: str, secret: str = "") -> dict[str, str]:
        return sign_identity(self.product_key, name, secret or self.secrets[name], f"{self.product_key}.{name}|lan=Python|", "1")

    def pair(self, name: str) -> dict[str, str]:
        return {"productKey": self.product_key, "deviceName": name}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """A world, and the file that its database lies in."""
    folder = tmp_path_factory.mktemp("world")
    database = sqlite_database(folder)
    world = World.on(database)
    database.close()
    return world, folder


@pytest.fixture
def world(made: tuple[World, Path], tmp_path: Path) -> Iterator[World]:
    world, folder = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    database = sqlite_database(tmp_path)
    yield replace(world, database=database)
    database.close()


def test_an_answer_echoes_the_id_and_has_all_six_fields(world: World) -> None:
    answer = world.ask(Kind.TOPO_GET, "{}")
    assert answer == {"id": "7", "code": 200, "data": [], "message": "success", "method": "thing.topo.get", "version": "1.0"}


def test_who_wants_no_answer_gets_none(world: World) -> None:
    world.ask(Kind.TAGS_UPDATE, raw=b'{"id":"1","sys":{"ack":0},"params":[{"attrKey":"a","attrValue":"b"}]}')
    silent = replace(world.request(Kind.TAGS_UPDATE, [{"attrKey": "a", "attrValue": "b"}]), answer_topic=None)
    with world.database.system() as work:
        assert Answering(world.vault, world.handlers)(work, [silent]).downlinks == []


def test_a_topology_is_built_asked_for_and_taken_down(world: World) -> None:
    assert world.ask(Kind.TOPO_ADD, [world.signed("s0"), world.signed("s1")])["data"] == [world.pair("s0"), world.pair("s1")]
    assert world.ask(Kind.TOPO_ADD, [world.signed("s0")])["code"] == 200, "twice is harmless"
    assert world.ask(Kind.TOPO_GET)["data"] == [world.pair("s0"), world.pair("s1")]
    facts = device_facts(world.database, [(world.product_key, "s0")])[world.product_key, "s0"]
    assert facts.topology == world.number("gw")
    refused = world.ask(Kind.TOPO_DELETE, [world.pair("s0"), world.pair("s5")])
    assert (refused["code"], world.last.changes) == (6401, []), "all or none"
    assert world.ask(Kind.TOPO_GET)["data"] == [world.pair("s0"), world.pair("s1")]
    assert world.ask(Kind.TOPO_DELETE, [world.pair("s0")])["data"] == [world.pair("s0")]
    assert [change.device_name for change in world.last.changes] == ["s0"], "whoever holds its session hears of it"
    assert world.ask(Kind.TOPO_GET)["data"] == [world.pair("s1")]


def test_what_is_wrong_with_a_topology_has_a_code_and_changes_nothing(world: World) -> None:
    world.ask(Kind.TOPO_ADD, [world.signed("s9")], name="gw2")
    with world.database.unit_of_work(world.tenants[0]) as work:
        move_device(work, world.product_key, "s8", Move.DISABLE, "test")
        work.commit()
    good = world.signed("s0")
    for bad, code in (
        (world.signed("s1", "wrong"), 401),
        ({**world.signed("s1"), "deviceName": "nobody"}, 6100),
        (world.signed("gw"), 6402),
        (world.signed("s8"), 6204),
        (world.signed("s9"), 6619),
    ):
        answer = world.ask(Kind.TOPO_ADD, [good, bad])
        assert (answer["code"], answer["data"]) == (code, {}), bad
        assert len(answer["message"]) > 10
        assert world.ask(Kind.TOPO_GET)["data"] == [], "all or nothing"
    assert world.ask(Kind.TOPO_DELETE, [world.pair("s0")])["code"] == 6401


def test_a_full_topology_takes_no_more(world: World) -> None:
    world.ask(Kind.TOPO_ADD, [world.signed("s0")])
    key = (world.product_key, "s1")
    gateway = world.number("gw")
    with world.database.system() as work:
        known = credentials_in(work.session, world.vault, [key])
        with pytest.raises(TopologyRefused) as refused:
            add_sub_devices(work.session, gateway, [known[key]], NOW, most=1)
    assert refused.value.code == 6400


def test_another_tenants_device_does_not_exist(world: World) -> None:
    with world.database.unit_of_work(world.tenants[1]) as work:
        theirs = create_product(work, "Theirs", TSL).product_key
        secret = create_device(work, world.vault, theirs, "x", None)
        work.commit()
    assert world.ask(Kind.TOPO_ADD, [sign_identity(theirs, "x", secret, "c", "1")])["code"] == 6100


def test_a_gateway_registers_sub_devices_if_their_product_is_open(world: World) -> None:
    assert world.ask(Kind.SUB_REGISTER, [world.pair("s0")])["code"] == 6288
    with world.database.unit_of_work(world.tenants[0]) as work:
        set_mode(work, world.product_key, RegistrationMode.REGISTERED_ONLY)
        product_secret = rotate_product_secret(work, world.vault, world.product_key)
        work.commit()
    given = world.ask(Kind.SUB_REGISTER, [world.pair("s0"), world.pair("s1")])
    assert [entry["deviceSecret"] for entry in given["data"]] == [world.secrets["s0"], world.secrets["s1"]]
    assert all(entry["iotId"] for entry in given["data"])
    nobody = world.ask(Kind.SUB_REGISTER, [world.pair("s2"), world.pair("nobody")])
    assert (nobody["code"], nobody["data"]) == (6100, {})
    assert world.ask(Kind.SUB_REGISTER, [{"productKey": "none", "deviceName": "x"}])["code"] == 6250

    def proxied(name: str, secret: str) -> dict[str, str | None]:
        sign = signature(signed_text(world.product_key, name, "r"), secret, "hmacsha256")
        return {**world.pair(name), "random": "r", "signMethod": "hmacSha256", "sign": sign}

    mixed = world.ask(Kind.PRODUCT_REGISTER, {"proxieds": [proxied("s3", product_secret), proxied("s4", "wrong")]})["data"]
    assert [(entry["deviceName"], entry["deviceSecret"]) for entry in mixed["successes"]] == [("s3", world.secrets["s3"])]
    assert [(entry["deviceName"], entry["code"]) for entry in mixed["failures"]] == [("s4", 6600)]


def test_desired_values_are_read_with_their_versions_and_taken_back_by_them(world: World) -> None:
    with world.database.system() as work:
        for value in (3, 4):
            change_desired(work.session, world.number("gw"), {"Level": value, "Other": value}, NOW)
        work.commit()
    assert world.ask(Kind.DESIRED_GET, ["Level", "Nothing"])["data"] == {"Level": {"value": 4, "version": 2}}
    world.ask(Kind.DESIRED_DELETE, {"Level": {"version": 1}})
    assert set(world.ask(Kind.DESIRED_GET, ["Level", "Other"])["data"]) == {"Level", "Other"}, "a newer one stays"
    world.ask(Kind.DESIRED_DELETE, {"Level": {"version": 2}, "Other": {}})
    assert world.ask(Kind.DESIRED_GET, ["Level", "Other"])["data"] == {}


def test_a_shadow_is_updated_refused_and_shown(world: World) -> None:
    with world.database.system() as work:
        apply_reported(work.session, {world.number("gw"): {"Level": (1, 5_000)}})
        work.commit()
    world.ask(Kind.SHADOW_UPDATE, raw=b'{"method":"update","state":{"reported":{"mood":"good"}},"version":3}')
    assert world.pushed(Kind.SHADOW_GET)[0]["payload"] == {"status": "success", "version": 3}
    world.ask(Kind.SHADOW_UPDATE, raw=b'{"method":"update","state":{"reported":{"mood":"bad"}},"version":3}')
    assert world.pushed(Kind.SHADOW_GET)[0]["payload"]["content"]["errorcode"] == "409"
    world.ask(Kind.SHADOW_UPDATE, raw=b"{")
    assert world.pushed(Kind.SHADOW_GET)[0]["payload"]["content"]["errorcode"] == "400"
    world.ask(Kind.SHADOW_UPDATE, raw=b'{"method":"get"}')
    shown = world.pushed(Kind.SHADOW_GET)[0]
    assert shown["payload"]["state"] == {"reported": {"Level": 1, "mood": "good"}, "desired": {}}
    assert shown["payload"]["metadata"]["reported"]["Level"] == {"timestamp": 5}
    world.ask(Kind.SHADOW_UPDATE, raw=b'{"method":"delete","state":{"reported":{"mood":"null"}},"version":4}')
    with world.database.system_reading() as work:
        shadow = load_shadow(work.session, world.number("gw"))
    assert (shadow.version, shadow.spoken, set(shadow.reported)) == (4, True, {"Level"})


def test_the_time_the_thing_model_logs_and_the_rest(world: World) -> None:
    world.ask(Kind.NTP_REQUEST, raw=b'{"deviceSendTime":"12"}')
    assert world.pushed(Kind.NTP_RESPONSE) == [
        {"deviceSendTime": "12", "serverRecvTime": str(NOW), "serverSendTime": str(NOW + 5)},
    ]
    model = world.ask(Kind.TSL_GET, {})["data"]
    assert model["link"] == f"/sys/{world.product_key}/gw/thing/"
    assert {entry["identifier"] for entry in model["services"]} == {"set", "get", "Blink"}
    assert world.ask(Kind.DYNAMIC_TSL_GET, {"nodes": ["identifier"], "addDefault": False})["code"] == 200
    lines = [{"logLevel": "WARN", "module": "m", "code": "1", "logContent": "hot"}]
    assert world.ask(Kind.LOG_POST, lines)["code"] == 200
    assert world.ask(Kind.OTHER_LOG_POST, {"template": "t", "contents": [1]})["code"] == 200
    assert world.ask(Kind.DIAG_POST, {"p": {"wifi": {"rssi": -60}}, "model": "format=simple"})["code"] == 200
    assert world.ask(Kind.LIST_FOUND, [world.pair("s0")])["code"] == 200
    assert world.ask(Kind.LAN_PREFIX_GET, {})["code"] == 400
    for kind in (Kind.AWSS_FOUND, Kind.AWSS_CHECKIN, Kind.AWSS_SWITCHAP, Kind.CIPHER_GET):
        assert world.ask(kind, {})["code"] == 200


def test_a_firmware_goes_from_offer_to_success_in_the_devices_own_words(world: World, tmp_path: Path) -> None:
    with Depot(tmp_path).receive(100) as upload, world.database.unit_of_work(world.tenants[0]) as work:
        upload.write(b"image")
        sha256, md5 = upload.finish()
        artefact = keep(work, ArtefactKind.FIRMWARE, sha256, md5, 5)
        firmware = create_firmware(work, artefact, world.product_key, "mcu", "2.0.0", SignMethod.MD5, is_diff=False, note="")
        offer_to(work, firmware, ["gw"])
        work.commit()

    def state() -> tuple[str, int]:
        with world.database.reading(world.tenants[0]) as work:
            (offer,) = list_offers(work, firmware.firmware_id, 0, 10)
            return offer.state, offer.step

    assert world.ask(Kind.OTA_FIRMWARE_GET, {"module": "default"})["data"] == {}, "another module"
    offered = world.ask(Kind.OTA_FIRMWARE_GET, {"module": "mcu"})["data"]
    assert (offered["version"], offered["size"], offered["signMethod"], offered["sign"]) == ("2.0.0", 5, "Md5", md5)
    assert offered["url"].startswith("http://files/firmware/")
    world.ask(Kind.OTA_INFORM, {"version": "1.0.0", "module": "mcu"})
    assert world.pushed(Kind.OTA_UPGRADE)[0]["data"] == offered
    world.ask(Kind.OTA_REQUEST, {"module": "mcu"})
    assert len(world.pushed(Kind.OTA_UPGRADE)) == 1
    world.ask(Kind.OTA_PROGRESS, {"step": "50", "desc": "", "module": "mcu"})
    assert state() == ("in_progress", 50)
    world.ask(Kind.OTA_PROGRESS, {"step": "-3", "desc": "no match", "module": "mcu"})
    assert state() == ("failed", -3)
    world.ask(Kind.OTA_PROGRESS, {"step": "70", "module": "mcu"})
    assert state() == ("failed", -3), "an ended offer stays as it is"
    world.ask(Kind.OTA_INFORM, {"version": "2.0.0", "module": "mcu"})
    assert state() == ("succeeded", 100)
    assert world.pushed(Kind.OTA_UPGRADE) == []
    with world.database.reading(world.tenants[0]) as work:
        assert modules_of(work, world.number("gw")) == {"mcu": ("2.0.0", NOW)}


def test_a_request_that_trips_over_a_bug_is_answered_500_put_aside_and_stops_nobody(world: World) -> None:
    def bug(_talk: object) -> None:
        raise ZeroDivisionError

    handlers = {**world.handlers, Kind.TOPO_GET: bug}
    requests = [world.request(Kind.TOPO_GET, {}), world.request(Kind.TAGS_UPDATE, [{"attrKey": "a", "attrValue": "b"}])]
    with world.database.system() as work:
        answered = Answering(world.vault, handlers)(work, requests)
        work.commit()
    assert [json.loads(message.payload)["code"] for message in answered.downlinks] == [500, 200]
    (entry,) = answered.quarantined
    assert (entry.reason, entry.replayable) == ("unexpected_error", False)
    assert "ZeroDivisionError" in entry.detail


def test_a_request_that_nobody_handles_is_answered_6203(world: World) -> None:
    with world.database.system() as work:
        answered = Answering(world.vault, {})(work, [world.request(Kind.TOPO_GET, {})])
    assert json.loads(answered.downlinks[0].payload)["code"] == 6203


def test_every_request_of_the_grammar_has_a_handler_or_belongs_to_the_front_door(world: World) -> None:
    at_the_door = {Kind.LOGIN, Kind.BATCH_LOGIN, Kind.LOGOUT, Kind.BATCH_LOGOUT}
    missing = {kind for kind in Kind if is_request(kind)} - set(world.handlers) - at_the_door
    assert missing == set()
