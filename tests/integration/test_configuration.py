"""Configurations and log switches: what people set over the API, and what devices get, are told and download."""

import hashlib
import json

from protocols.errors import TryAgain
from tests.integration.api_rig import Rig, problem
from tests.integration.device_talk import Talker

GET = {"configScope": "product", "getType": "file"}


async def test_a_device_gets_the_file_of_its_product_and_downloads_it(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    device, path = Talker.of(rig, product_key, "s1"), f"/v1/products/{product_key}/configuration"
    assert device.ask("thing/config/get", GET)["code"] == 6710
    problem(await rig.one.get(path), 404, "no-configuration")
    content = b'{"interval": 5}' * 100
    made = (await rig.one.put(path, content=content)).json()
    sha256 = hashlib.sha256(content).hexdigest()
    assert (made["size"], made["sha256"], made["enabled"]) == (1500, sha256, True)
    answer = device.ask("thing/config/get", GET)
    assert answer["code"] == 200
    url = answer["data"].pop("url")
    assert answer["data"] == {
        "configId": made["configuration_id"],
        "configSize": 1500,
        "sign": sha256,
        "signMethod": "Sha256",
        "getType": "file",
    }
    got = await rig.nobody.get(url.replace("http://device.test", ""))
    assert (got.status_code, got.content) == (200, content)
    part = await rig.nobody.get(url.replace("http://device.test", ""), headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert (await rig.one.get(f"{path}/content")).content == content
    assert (await rig.one.get(path)).json() == made


async def test_an_address_ends_with_the_next_file_with_the_switch_and_with_the_configuration(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    device, path = Talker.of(rig, product_key, "s1"), f"/v1/products/{product_key}/configuration"

    def address() -> str:
        return str(device.ask("thing/config/get", GET)["data"]["url"]).replace("http://device.test", "")

    first = (await rig.one.put(path, content=b"one")).json()
    old = address()
    second = (await rig.one.put(path, content=b"two")).json()
    assert first["configuration_id"] != second["configuration_id"]
    problem(await rig.nobody.get(old), 404, "no-such-download")
    new = address()
    assert (await rig.nobody.get(new)).content == b"two"
    assert (await rig.one.patch(path, json={"enabled": False})).json()["enabled"] is False
    assert device.ask("thing/config/get", GET)["code"] == 6713
    problem(await rig.nobody.get(new), 404, "no-such-download")
    problem(await rig.one.post(f"{path}/push"), 409, "configuration-off")
    await rig.one.patch(path, json={"enabled": True})
    assert (await rig.nobody.get(new)).content == b"two"
    assert (await rig.one.delete(path)).status_code == 204
    assert device.ask("thing/config/get", GET)["code"] == 6710
    problem(await rig.nobody.get(new), 404, "no-such-download")


async def test_a_product_is_not_deleted_with_its_configuration(rig: Rig) -> None:
    path = f"/v1/products/{await rig.product(rig.one)}"
    await rig.one.put(f"{path}/configuration", content=b"one")
    answer = await rig.one.delete(path)
    assert (answer.status_code, "configuration" in answer.json()["detail"]) == (409, True)
    await rig.one.delete(f"{path}/configuration")
    assert (await rig.one.delete(path)).status_code == 204


async def test_a_push_tells_the_connected_devices_and_their_answers_are_in_their_logs(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    path = f"/v1/products/{product_key}/configuration"
    problem(await rig.one.post(f"{path}/push"), 404, "no-configuration")
    await rig.one.put(path, content=b"one")
    rig.downlink.reaches = 7
    assert (await rig.one.post(f"{path}/push")).json() == {"told": 7}
    ((told, topic, payload),) = rig.downlink.broadcasts
    message = json.loads(payload)
    assert (told, topic, message["method"]) == (product_key, f"/sys/{product_key}/*/thing/config/push", "thing.config.push")
    assert message["params"] == Talker.of(rig, product_key, "s1").ask("thing/config/get", GET)["data"]
    device = Talker.of(rig, product_key, "s1")
    device.sequence = 5
    assert device.send(f"/sys/{product_key}/s1/thing/config/push_reply", {"id": message["id"], "code": 200, "data": {}}) == []
    (line,) = (await rig.one.get(f"/v1/devices/{product_key}/s1/log")).json()["items"]
    assert (line["module"], line["content"]) == ("config", "told of its configuration, it answered 200")


async def test_a_configuration_is_neither_empty_nor_large_nor_the_platforms(rig: Rig) -> None:
    path = f"/v1/products/{await rig.product(rig.one)}/configuration"
    problem(await rig.one.put(path), 422, "missing-parameter")
    problem(await rig.one.put(path, content=bytes((1 << 20) + 1)), 413, "body-too-large")
    assert (await rig.one.put(path, content=bytes(1 << 20))).json()["size"] == 1 << 20
    problem(await rig.one.put("/v1/products/gateway/configuration", content=b"x"), 409, "built-in-product")


async def test_the_log_of_a_device_is_switched_on_and_off(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    device, path = Talker.of(rig, product_key, "s1"), f"/v1/devices/{product_key}/s1/log/mode"
    asked = {"configScope": "device", "getType": "content"}
    assert device.ask("thing/config/log/get", asked)["data"] == {"getType": "content", "content": {"mode": 0}}
    assert (await rig.one.put(path, json={"mode": 1})).json() == {"mode": 1}
    assert device.ask("thing/config/log/get", asked)["data"] == {"getType": "content", "content": {"mode": 1}}
    assert (await rig.one.get(path)).json() == {"mode": 1}
    ((key, topic, payload),) = rig.downlink.messages
    assert (key, topic) == ((product_key, "s1"), f"/sys/{product_key}/s1/thing/config/log/push")
    assert json.loads(payload)["params"] == {"getType": "content", "content": {"mode": 1}}
    problem(await rig.one.put(path, json={"mode": 2}), 422, "invalid-request")
    rig.downlink.error = TryAgain("no access")
    assert (await rig.one.put(path, json={"mode": 0})).json() == {"mode": 0}
    assert device.ask("thing/config/log/get", asked)["data"]["content"] == {"mode": 0}
