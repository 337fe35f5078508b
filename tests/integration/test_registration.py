"""A device without a secret meets the running platform: over MQTT and over HTTP, with real clients, until it is let in as itself."""

import asyncio
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud.app import build_api
from cloud.devices.registration_api import MOST_IN_LINE, MOST_WAITING, Doorkeeper
from cloud.foundation.db import Database
from cloud.foundation.metrics import Metrics
from cloud.foundation.vault import Vault
from protocols.alink.codes import Code
from protocols.alink.credentials import Connection, sign, signature
from protocols.alink.registration import Grant, RegistrationRefused, ask, claim_of_form, show_token, signed_text
from protocols.alink.topology import sign_identity
from protocols.errors import Reason
from protocols.mqtt.codec import Connect, Disconnect, PingReq, PingResp, PublishRun, encode
from protocols.mqtt.pace import BURST
from protocols.mqtt.throttle import FREE
from tests.e2e.platform import Cloud, wait_until
from tests.integration.access_rig import RawClient

TSL = {"properties": [{"identifier": "Power", "name": "Power", "accessMode": "r", "dataType": {"type": "float", "specs": {}}}]}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


@pytest.fixture
def api(cloud: Cloud) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cloud.admin_key}"}
    with httpx.Client(base_url=cloud.api_url, headers=headers, timeout=60) as client:
        yield client


class Product:
    """A product whose devices register."""

    def __init__(self, api: httpx.Client, mode: str) -> None:
        self._api = api
        self.key = str(api.post("/v1/products", json={"name": "Stove", "tsl": TSL}).json()["product_key"])
        self.secret = str(api.post(f"/v1/products/{self.key}/registration/secret").json()["product_secret"])
        assert api.put(f"/v1/products/{self.key}/registration", json={"mode": mode}).json()["mode"] == mode

    def enter(self, name: str) -> str:
        return str(self._api.post(f"/v1/products/{self.key}/devices", json={"device_name": name}).json()["device_secret"])

    def form(self, name: str, **more: str) -> dict[str, str]:
        proof = signature(signed_text(self.key, name, "42"), self.secret, "hmacsha1")
        return {"productKey": self.key, "deviceName": name, "random": "42", "sign": proof or "", "signMethod": "hmacsha1", **more}


def registered(cloud: Cloud, fields: Connection) -> tuple[str, dict[str, str]]:
    """What an SDK is pushed that registers and subscribes to nothing: (topic, payload); then it disconnects."""
    pushed: queue.Queue[tuple[str, bytes]] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, fields.client_id)
    client.username_pw_set(fields.username, fields.password.decode())
    client.on_message = lambda _client, _data, message: pushed.put((message.topic, bytes(message.payload)))
    client.connect("127.0.0.1", cloud.mqtt_port)
    client.loop_start()
    try:
        topic, payload = pushed.get(timeout=20)
    finally:
        client.disconnect()
        client.loop_stop()
    return topic, msgspec.json.decode(payload)


def answer(cloud: Cloud, fields: Connection, host: str = "127.0.0.1") -> int:
    """The CONNACK's code."""
    client = RawClient(cloud.mqtt_port, "x", host=host)
    client.sock.sendall(encode(Connect(fields.client_id, fields.username, fields.password), 4))
    code = getattr(client.next(20), "reason", None)
    client.close()
    assert code is not None
    return int(code)


def held(api: httpx.Client, reason: Reason) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get("/v1/quarantine", params={"reason": reason.value}).json()["items"]
    return items


def opened(cloud: Cloud, product_key: str, name: str, secret: str, version: int = 5) -> RawClient:
    return RawClient(cloud.mqtt_port, name, version=version, product_key=product_key, secret=secret.encode()).open()


def lives(client: RawClient) -> bool:
    client.sock.sendall(encode(PingReq()))
    return isinstance(client.next(20), PingResp)


def test_a_device_gets_its_secret_over_mqtt_and_connects_with_it(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "registered_only")
    secret = product.enter("d1")
    fields = ask(product.key, "d1", product.secret, random="4711")
    for _ in range(2):  # the first answer was lost, as far as the device knows
        topic, payload = registered(cloud, fields)
        assert (topic, payload) == ("/ext/register", {"productKey": product.key, "deviceName": "d1", "deviceSecret": secret})
    device = opened(cloud, product.key, "d1", secret)
    device.publish(b'{"id":"1","params":{"Power":7}}', 1)
    assert device.acks(1) == [(1, 0)]
    device.close()
    path = f"/v1/devices/{product.key}/d1"
    wait_until(lambda: api.get(path).json()["reported"], 20, "the value is there")
    assert api.get(f"{path}/identity").json()["registration"] == "connected"
    assert answer(cloud, fields, "127.0.0.3") == 4
    wait_until(lambda: held(api, Reason.ALREADY_ACTIVE), 20, "the operator is told")
    entry = held(api, Reason.ALREADY_ACTIVE)[0]
    assert (entry["product_key"], entry["device_name"]) == (product.key, "d1")
    assert "6289" in entry["detail"]
    assert "reset its registration" in entry["detail"]


def test_a_sub_device_that_logs_in_through_its_gateway_has_used_its_registration(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "registered_only")
    secret, gateway_secret = product.enter("s1"), product.enter("gw")
    fields = ask(product.key, "s1", product.secret, random="4711")
    assert registered(cloud, fields)[1]["deviceSecret"] == secret
    body = {"devices": [{"product_key": product.key, "device_name": "s1"}]}
    assert api.post(f"/v1/devices/{product.key}/gw/topology", json=body).is_success
    identity = f"/v1/devices/{product.key}/s1/identity"
    assert api.get(identity).json()["registration"] == "given"
    gateway = opened(cloud, product.key, "gw", gateway_secret, version=4)
    params = sign_identity(product.key, "s1", secret, "s1", "1")
    login = f"/ext/session/{product.key}/gw/combine/login"
    gateway.publish(msgspec.json.encode({"id": "1", "params": params}), topic=login)
    while not isinstance(told := gateway.next(20), PublishRun) or told.topic != f"{login}_reply":
        assert told is not None
    assert msgspec.json.decode(told.payloads()[0])["code"] == 200
    assert api.get(identity).json()["registration"] == "connected"
    assert answer(cloud, fields, "127.0.0.7") == 4, "and it registers no more"
    gateway.close()


async def test_a_device_that_nobody_knows_gets_a_token_and_connects_with_it(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "open")
    fields = ask(product.key, "d1", product.secret, random="1", token=True)
    topic, payload = await asyncio.to_thread(registered, cloud, fields)
    assert topic == "/ext/regnwl"
    assert set(payload) == {"productKey", "deviceName", "clientId", "deviceToken"}
    shown = show_token(Grant(product.key, "d1", client_id=payload["clientId"], device_token=payload["deviceToken"]))
    async with aiomqtt.Client(
        "127.0.0.1", cloud.mqtt_port, identifier=shown.client_id, username=shown.username, password=shown.password.decode()
    ) as client:
        await client.publish(f"/sys/{product.key}/d1/thing/event/property/post", b'{"id":"1","params":{"Power":8}}', qos=1)
    assert await asyncio.to_thread(answer, cloud, Connection(shown.client_id, shown.username, b"x" * 32), "127.0.0.4") == 4
    assert await asyncio.to_thread(answer, cloud, fields, "127.0.0.4") == 4


def test_a_form_is_answered_with_the_code_of_what_became_of_it(cloud: Cloud, api: httpx.Client) -> None:
    product, closed = Product(api, "registered_only"), Product(api, "closed")
    secret = product.enter("d1")
    product.enter("gone")
    opened(cloud, product.key, "gone", _secret(api, product.key, "gone")).close()
    wait_until(lambda: api.get(f"/v1/devices/{product.key}/gone").json()["since"], 20, "it was seen")

    def asked(form: dict[str, str]) -> dict[str, Any]:
        with httpx.Client(base_url=cloud.api_url, timeout=60) as device:
            response = device.post("/auth/register/device", data=form)
        assert response.status_code == 200
        assert response.headers["content-length"] == str(len(response.content))
        assert "transfer-encoding" not in response.headers
        body: dict[str, Any] = response.json()
        return body

    granted = {"code": 200, "data": {"productKey": product.key, "deviceName": "d1", "deviceSecret": secret}, "message": "success"}
    assert asked(product.form("d1")) == granted
    for form, code in (
        (product.form("d1", random=""), 460),
        (product.form("d1", productKey="nothing"), 6250),
        (closed.form("d1"), 6288),
        (product.form("gone"), 6289),
        (product.form("d1", signMethod="sm3"), 6292),
        (product.form("d1", sign="0" * 40), 6600),
        (product.form("stranger"), 6100),
        ({}, 460),
        ({"productKey": "x" * 5000}, 460),
    ):
        refused = asked(form)
        assert refused["code"] == code
        assert refused["message"]
        assert "data" not in refused
    assert asked(product.form("d1")) == granted, "the right form is never slowed nor locked out"
    counted = api.get("/metrics").text
    assert 'hearthline_registrations_total{code="6600",role="core"} 1.0' in counted


def _secret(api: httpx.Client, product_key: str, name: str) -> str:
    return str(api.post(f"/v1/devices/{product_key}/{name}/secret", json={}).json()["device_secret"])


async def test_a_database_that_is_away_is_told_as_500_and_a_guesser_waits(tmp_path: Path) -> None:
    database: Any = Database(f"sqlite:///{tmp_path}/missing/meta.db")
    parts: Any = dict.fromkeys(("bus", "downlink", "sessions", "changes", "history"))
    app = build_api(database=database, vault=Vault(bytes(32)), metrics=Metrics(), checks={}, **parts)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        form = {"productKey": "pk", "deviceName": "dn", "random": "1", "sign": "00", "signMethod": "hmacsha256"}
        assert (await client.post("/auth/register/device", data=form)).json()["code"] == 500
        keeper: Doorkeeper = app.state.doorkeeper
        waiting = [asyncio.create_task(keeper.refused("1.2.3.4", Code.SIGNATURE_WRONG)) for _ in range(FREE + MOST_WAITING + 1)]
        done, _ = await asyncio.wait(waiting, timeout=0.2)
        codes = sorted(task.result() for task in done)
        assert codes == [Code.TOO_MANY_REQUESTS] + [Code.SIGNATURE_WRONG] * FREE
        for task in waiting:
            task.cancel()
        claim = claim_of_form(form)
        line = [asyncio.create_task(keeper.register(database, app.state.vault, claim)) for _ in range(MOST_IN_LINE + 1)]
        with pytest.raises(RegistrationRefused) as refused:
            await line[-1]
        assert refused.value.code is Code.TOO_MANY_REQUESTS
        for registering in line:
            registering.cancel()
        await asyncio.gather(*line, return_exceptions=True)


def test_bootstrap_tells_a_device_where_to_connect_to(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "closed")
    secret = product.enter("d1")
    form = {"productKey": product.key, "deviceName": "d1", "clientId": f"{product.key}.d1", "resources": "mqtt"}
    with httpx.Client(base_url=cloud.api_url) as device:
        told = device.post("/auth/bootstrap", data=form).json()
        assert device.post("/auth/bootstrap", data={"productKey": product.key}).json()["code"] == 460
    assert told["data"]["resources"]["mqtt"] == {"host": "localhost", "port": cloud.mqtt_port}
    opened(cloud, product.key, "d1", secret).close()


def test_a_new_secret_ends_the_session_that_rests_on_the_old_one(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "closed")
    first = product.enter("d1")
    path = f"/v1/devices/{product.key}/d1"
    device = opened(cloud, product.key, "d1", first)
    second = _secret(api, product.key, "d1")
    assert device.next(60) == Disconnect(0x98)
    assert answer(cloud, sign(product.key, "d1", first), "127.0.0.5") == 4
    device = opened(cloud, product.key, "d1", second)
    third = str(api.post(f"{path}/secret", json={"grace_s": 600}).json()["device_secret"])
    assert api.get(f"{path}/identity").json()["previous_secret_until"] > time.time() * 1000
    assert lives(device), "the old secret has its grace"
    device.close()
    for secret in (second, third):
        device = opened(cloud, product.key, "d1", secret)
        assert lives(device)
    assert api.post(f"{path}/secret", json={"grace_s": 8 * 86_400}).status_code == 422
    assert api.put(f"{path}/identity", json={"accepts": "certificate"}).status_code == 200
    assert device.next(60) == Disconnect(0x98)


def test_a_device_that_is_reset_registers_once_more_and_loses_its_session(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "registered_only")
    device = opened(cloud, product.key, "d1", product.enter("d1"))
    wait_until(lambda: api.get(f"/v1/devices/{product.key}/d1").json()["since"], 20, "it was seen")
    fields = ask(product.key, "d1", product.secret, random="1")
    assert answer(cloud, fields, "127.0.0.6") == 4
    assert api.delete(f"/v1/devices/{product.key}/d1/registration").json()["registration"] == "reset"
    assert device.next(60) == Disconnect(0x98)
    _, payload = registered(cloud, fields)
    opened(cloud, product.key, "d1", payload["deviceSecret"]).close()


def test_two_devices_with_one_identity_are_slowed_and_named_and_one_is_in(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "closed")
    secret = product.enter("d1")
    twins = [opened(cloud, product.key, "d1", secret, version=4) for _ in range(BURST + 3)]
    assert lives(twins[-1])
    wait_until(lambda: held(api, Reason.TOO_MANY_CONNECTS), 20, "the operator is told")
    entry = held(api, Reason.TOO_MANY_CONNECTS)[0]
    assert (entry["product_key"], entry["device_name"]) == (product.key, "d1")
    assert "two devices may have its identity" in entry["detail"]
