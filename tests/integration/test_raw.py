"""Commands for devices that speak bytes, over the API: made by the table of their product, handed over as they were made."""

from pathlib import Path
from typing import Any

from cloud.access.service import downlink_of
from cloud.devices.delivery import Redelivery
from cloud.devices.model import CommandReply
from cloud.devices.service import apply_reported, complete_commands
from protocols.mqtt.codec import PublishRun
from tests.e2e.platform import Cloud, wait_until
from tests.integration.access_rig import RawClient
from tests.integration.api_rig import TSL, Rig, problem

TABLE: dict[str, Any] = {
    "down": [
        {
            "prefix": "05",
            "fields": [{"identifier": "Level", "offset": 1, "type": "u8"}],
            "id": {"offset": 2},
            "checksum": {"type": "sum8"},
        }
    ]
}


async def product(rig: Rig, table: dict[str, Any]) -> str:
    body = {"name": "Stove", "tsl": {**TSL, "rawTable": table}}
    return str(rig.created(await rig.one.post("/v1/products", json=body))["product_key"])


async def test_a_property_set_goes_down_as_bytes_at_once_or_when_the_device_is_back(rig: Rig) -> None:
    product_key = await product(rig, TABLE)
    device = await rig.device(rig.one, product_key, "s1")
    path = f"/v1/devices/{product_key}/s1/properties"
    waiting = (await rig.one.post(path, json={"Level": 7})).json()["command_id"]
    rig.online(device)
    assert await Redelivery(rig.database, rig.downlink).turn_of_waiting() == 1
    direct = (await rig.one.post(path, json={"Level": 8})).json()["command_id"]
    for order, command_id, level in zip(rig.downlink.sent, (waiting, direct), (7, 8), strict=True):
        body = bytes([5, level]) + int(command_id).to_bytes(4, "big")
        message = downlink_of(order)
        assert (message.topic, message.payload) == (f"/sys/{product_key}/s1/thing/model/down_raw", body + bytes([sum(body) & 0xFF]))
    with rig.database.system() as work:
        complete_commands(work.session, [CommandReply(direct, device, 200, None, 5000)])
        work.commit()
    assert (await rig.one.get(f"/v1/commands/{direct}")).json()["state"] == "completed"


async def test_what_is_desired_goes_down_as_bytes_too(rig: Rig) -> None:
    product_key = await product(rig, TABLE)
    rig.online(await rig.device(rig.one, product_key, "s1"))
    await rig.one.patch(f"/v1/devices/{product_key}/s1/shadow", json={"desired": {"Level": 3}})
    (order,) = rig.downlink.sent
    assert order.raw is not None
    assert order.raw[:2] == b"\x05\x03"


async def test_what_is_desired_together_goes_down_together_when_the_table_has_no_message_for_a_part(rig: Rig) -> None:
    fields = [{"identifier": "Level", "offset": 0, "type": "u8"}, {"identifier": "Light", "offset": 1, "type": "u8"}]
    light = {"identifier": "Light", "name": "Light", "accessMode": "rw", "dataType": {"type": "bool", "specs": {"0": "off", "1": "on"}}}
    tsl = {"properties": [*TSL["properties"], light], "rawTable": {"down": [{"fields": fields}]}}
    product_key = str(rig.created(await rig.one.post("/v1/products", json={"name": "Stove", "tsl": tsl}))["product_key"])
    device = await rig.device(rig.one, product_key, "s1")
    rig.online(device)
    with rig.database.system() as work:
        apply_reported(work.session, {device: {"Light": (1, 5_000)}})
        work.commit()
    answer = await rig.one.patch(f"/v1/devices/{product_key}/s1/shadow", json={"desired": {"Level": 3, "Light": 1}})
    assert answer.json()["delta"] == {"Level": 3}
    (order,) = rig.downlink.sent
    assert order.raw == b"\x03\x01"


async def test_a_set_that_the_table_has_no_message_for_is_refused_and_leaves_no_command(rig: Rig) -> None:
    product_key = await product(rig, {"down": [{"fields": [{"identifier": "Level", "offset": 0, "type": "bit"}]}]})
    rig.online(await rig.device(rig.one, product_key, "s1"))
    answer = await rig.one.post(f"/v1/devices/{product_key}/s1/properties", json={"Level": 2})
    assert "Level" in problem(answer, 422, "bad-raw")["detail"]
    assert (await rig.one.get(f"/v1/devices/{product_key}/s1/commands")).json()["items"] == []


async def test_a_table_that_is_wrong_is_refused_with_the_product(rig: Rig) -> None:
    wrong = {"name": "x", "tsl": {**TSL, "rawTable": {"up": [{"kind": "post", "fields": [{"identifier": "Nope"}]}]}}}
    assert "$.rawTable.up[0].fields[0]" in problem(await rig.one.post("/v1/products", json=wrong), 422, "bad-thing-model")["detail"]


def test_a_device_that_speaks_bytes_is_seen_and_commanded_on_a_running_platform(tmp_path: Path) -> None:
    post = {"kind": "post", "match": [{"hex": "01"}], "fields": [{"identifier": "Level", "offset": 1, "type": "u8"}], "answer": "0100"}
    reply = {"kind": "reply", "match": [{"hex": "03"}], "id": {"offset": 1}}
    with Cloud(tmp_path, crash_points=False) as cloud:
        tsl: dict[str, Any] = {**TSL}
        product_key = cloud.product("Stove", tsl | {"rawTable": TABLE | {"up": [post, reply]}})
        device = RawClient(cloud.mqtt_port, "s1", product_key=product_key, secret=cloud.device(product_key, "s1").encode()).open()
        model, path = f"/sys/{product_key}/s1/thing/model", f"/v1/devices/{product_key}/s1"
        device.publish(b"\x01\x06", topic=f"{model}/up_raw")
        answer = device.next()
        assert isinstance(answer, PublishRun)
        assert (answer.topic, answer.payloads()) == (f"{model}/up_raw_reply", [b"\x01\x00"])
        assert cloud.api.get(path)["reported"]["Level"]["value"] == 6
        wait_until(lambda: cloud.api.get(path)["online"], 15, "it to be online")
        command_id = cloud.post(f"{path}/properties", {"Level": 7})["command_id"]
        told = device.next()
        assert isinstance(told, PublishRun)
        assert (told.topic, told.payloads()[0][:6]) == (f"{model}/down_raw", b"\x05\x07" + int(command_id).to_bytes(4, "big"))
        device.publish(b"\x03" + told.payloads()[0][2:6], topic=f"{model}/down_raw_reply")
        wait_until(lambda: cloud.api.get(f"/v1/commands/{command_id}")["state"] == "completed", 15, "the command to be completed")
        device.close()
