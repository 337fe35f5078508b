"""A device over the API: the moves of its life, its shadow, tags and log, and what is asked of it. Only its session is in memory."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import update

from cloud.devices.delivery import Redelivery
from cloud.devices.device_log import KEPT_LINES, add_log
from cloud.devices.model import CommandReply
from cloud.devices.service import apply_reported, complete_commands
from cloud.devices.shadow import load_shadow, set_spoken
from cloud.devices.tables import CommandRow
from cloud.foundation.bus import BusAway, NobodyAnswers
from protocols.alink.deviceinfo import LogLine
from tests.fakes.maker import Maker
from tests.integration.api_rig import Rig, problem

MODEL: dict[str, Any] = {
    "properties": [
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {"min": "0", "max": "9"}}},
        {"identifier": "Fan", "name": "Fan", "accessMode": "rw", "dataType": {"type": "bool", "specs": {"0": "off", "1": "on"}}},
        {"identifier": "Power", "name": "Power", "accessMode": "r", "dataType": {"type": "float", "specs": {}}},
    ],
    "services": [
        {
            "identifier": name,
            "name": name,
            "callType": kind,
            "inputData": [
                {"identifier": "times", "name": "Times", "required": True, "dataType": {"type": "int", "specs": {"min": "1", "max": "9"}}}
            ],
            "outputData": [],
        }
        for name, kind in (("Blink", "async"), ("Beep", "sync"))
    ],
}


class Stove:
    """A device of tenant one and the calls about it."""

    def __init__(self, rig: Rig, product_key: str, number: int) -> None:
        self.rig, self.product_key, self.number = rig, product_key, number
        self.key = (product_key, "stove-1")
        self.path = f"/v1/devices/{product_key}/stove-1"

    @classmethod
    async def made(cls, rig: Rig, site: str | None = None) -> "Stove":
        made = rig.created(await rig.one.post("/v1/products", json={"name": "Stove", "tsl": MODEL}))
        return cls(rig, str(made["product_key"]), await rig.device(rig.one, str(made["product_key"]), "stove-1", site))

    async def get(self, rest: str = "", **query: Any) -> Any:
        answer = await self.rig.one.get(self.path + rest, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, rest: str, body: object = None, **query: Any) -> Any:
        return await self.rig.one.post(self.path + rest, json=body, params=query)

    async def patch(self, rest: str, body: object) -> Any:
        return await self.rig.one.patch(self.path + rest, json=body)

    async def command(self, command_id: str) -> Any:
        return (await self.rig.one.get(f"/v1/commands/{command_id}")).json()

    def reported(self, **values: object) -> None:
        with self.rig.database.system() as work:
            apply_reported(work.session, {self.number: {name: (value, 5_000) for name, value in values.items()}})
            work.commit()

    def answered(self, command_id: str, code: int = 200, data: object = None) -> None:
        with self.rig.database.system() as work:
            complete_commands(work.session, [CommandReply(command_id, self.number, code, data, 6_000)])
            work.commit()


async def test_a_life_goes_by_its_table_and_leaves_a_trail(rig: Rig) -> None:
    stove = await Stove.made(rig)
    assert ((await stove.get())["state"], (await stove.get())["moves"]) == ("manufactured", ["activate", "disable", "retire"])
    problem(await stove.post("/claim", {"site": "home"}), 422, "not-allowed")
    rig.online(stove.number)
    assert (await stove.get())["state"] == "activated"
    claimed = (await stove.post("/claim", {"site": "home"})).json()
    assert (claimed["state"], claimed["site"]) == ("claimed", "home")
    assert (await stove.post("/transfer", {"site": "another home"})).json()["site"] == "another home"
    for _ in range(2):  # the second time nothing is left to do
        disabled = (await stove.post("/disable")).json()
        assert (disabled["state"], disabled["enabled"]) == ("disabled", False)
    problem(await stove.post("/properties", {"Level": 1}), 409, "device-disabled")
    enabled = (await stove.post("/enable")).json()
    assert (enabled["state"], enabled["enabled"]) == ("claimed", True)
    assert (await stove.post("/unclaim")).json()["site"] is None
    assert (await stove.patch("", {"nickname": "Our stove"})).json()["nickname"] == "Our stove"
    retired = (await stove.post("/retire")).json()
    assert (retired["state"], retired["moves"]) == ("retired", [])
    detail = problem(await stove.post("/enable"), 422, "not-allowed")["detail"]
    assert "retired" in detail
    trail = (await stove.get("/audit"))["items"]
    moves = ["create", "activate", "claim", "transfer", "disable", "enable", "unclaim", "rename", "retire"]
    assert [line["action"] for line in reversed(trail)] == moves
    assert [line["actor"] for line in reversed(trail)] == ["test", "device", *["test"] * 7]
    assert trail[-3]["detail"] == {"from": "activated", "to": "claimed", "site": "home"}
    assert len(rig.changes.seen) >= 7, "the other roles heard of each"
    first = await stove.get("/audit", limit=5)
    assert [line["action"] for line in (await stove.get("/audit", limit=5, cursor=first["next"]))["items"]] == moves[3::-1]


async def test_a_device_whose_site_is_known_is_claimed_when_it_first_connects(rig: Rig) -> None:
    stove = await Stove.made(rig, "kitchen")
    rig.online(stove.number)
    assert (await stove.get())["state"] == "claimed"
    assert [line["action"] for line in (await stove.get("/audit"))["items"]] == ["claim", "activate", "create"]


async def test_the_shadow_holds_both_sides_and_says_what_is_left_to_do(rig: Rig) -> None:
    stove = await Stove.made(rig)
    assert await stove.get("/shadow") == {
        "desired": {},
        "reported": {},
        "delta": {},
        "version": 0,
        "metadata": {"desired": {}, "reported": {}},
    }
    stove.reported(Level=3, Power=12.5)
    changed = (await stove.patch("/shadow", {"desired": {"Level": 3, "Fan": 1}})).json()
    assert (changed["delta"], changed["version"]) == ({"Fan": 1}, 1)
    assert changed["metadata"]["reported"]["Level"] == {"time": 5_000}
    assert changed["metadata"]["desired"]["Fan"]["version"] == 1
    stale = problem(await stove.patch("/shadow", {"desired": {"Fan": 0}, "version": 0}), 409, "shadow-version")
    assert stale["version"] == 1
    again = (await stove.patch("/shadow", {"desired": {"Fan": 0, "Level": None}, "version": 1})).json()
    assert (again["desired"], again["version"], again["metadata"]["desired"]["Fan"]["version"]) == ({"Fan": 0}, 2, 2)
    for body, kind in (
        ({"desired": {"Nope": 1}}, "unknown-identifier"),
        ({"desired": {"Power": 1}}, "not-writable"),
        ({"desired": {"Level": 99}}, "out-of-range"),
        ({"desired": {}}, "bad-envelope"),
    ):
        problem(await stove.patch("/shadow", body), 422, kind)
    assert rig.downlink.sent == [], "nobody is there to be told"


async def test_a_device_that_is_there_is_told_what_it_still_has_to_change(rig: Rig) -> None:
    stove = await Stove.made(rig)
    rig.online(stove.number)
    stove.reported(Level=3)
    await stove.patch("/shadow", {"desired": {"Level": 3, "Fan": 1}})
    (order,) = rig.downlink.sent
    assert (order.target, order.method, order.params) == (stove.key, "thing.service.property.set", {"Fan": 1})
    with rig.database.system() as work:  # from now on it uses the shadow's own topics
        set_spoken(work.session, stove.number, load_shadow(work.session, stove.number), 1)
        work.commit()
    await stove.patch("/shadow", {"desired": {"Level": 4}})
    (message,) = rig.downlink.messages
    told = json.loads(message[2])
    assert (message[:2], told["method"]) == ((stove.key, f"/shadow/get/{stove.product_key}/stove-1"), "control")
    assert (told["payload"]["state"]["desired"], told["version"]) == ({"Fan": 1, "Level": 4}, 2)
    assert len(rig.downlink.sent) == 1
    rig.downlink.error = BusAway("lost")
    assert (await stove.patch("/shadow", {"desired": {"Level": 5}})).status_code == 200, "the device asks when it comes"


async def test_what_is_desired_of_a_device_whose_session_took_nothing_is_no_command_on_its_way(rig: Rig) -> None:
    stove = await Stove.made(rig)
    rig.online(stove.number)
    rig.downlink.takes = False
    assert (await stove.patch("/shadow", {"desired": {"Level": 5}})).json()["delta"] == {"Level": 5}
    (order,) = rig.downlink.sent
    assert (await stove.command(order.command_id))["state"] == "failed"


async def test_every_deed_of_people_has_its_line_in_the_audit_trail(rig: Rig) -> None:
    stove = await Stove.made(rig)
    rig.online(stove.number)
    key, device, one = stove.product_key, "/".join(stove.key), rig.one
    image = rig.created(await one.post("/v1/firmware", params={"product_key": key, "version": "2.0.0"}, content=b"x"))["firmware_id"]
    secret = rig.created(await one.post(f"{stove.path}/secret", json={"grace_s": 60}))["device_secret"]
    product_secret = rig.created(await one.post(f"/v1/products/{key}/registration/secret"))["product_secret"]
    for method, path, body in (
        ("PATCH", stove.path, {"nickname": "Ours"}),
        ("PATCH", f"{stove.path}/tags", {"tags": {"room": "hall"}}),
        ("PUT", f"{stove.path}/identity", {"accepts": "certificate"}),
        ("DELETE", f"{stove.path}/registration", None),
        ("PATCH", f"/v1/products/{key}", {"name": "Hob"}),
        ("PUT", f"/v1/products/{key}/registration", {"mode": "open"}),
        ("PUT", f"/v1/products/{key}/thing-model/draft", MODEL | {"events": []}),
        ("POST", f"/v1/products/{key}/thing-model/draft/publish", {}),
        ("POST", f"/v1/firmware/{image}/offers", {"device_names": ["stove-1"]}),
        ("DELETE", f"/v1/firmware/{image}/offers/stove-1", None),
        ("DELETE", f"/v1/firmware/{image}", None),
    ):
        assert (await one.request(method, path, json=body)).is_success, path
    maker = Maker.new("CA of the trail")
    authority = rig.created(await one.post("/v1/certificate-authorities", json={"pem": maker.pem}))
    assert (await one.delete(f"/v1/certificate-authorities/{authority['number']}")).is_success
    await one.post(f"/v1/products/{key}/devices/import", content=b"device_name,device_secret\ns7,0123456789abcdef\n")
    trail = (await one.get("/v1/audit")).json()["items"]
    assert [(line["action"], line["subject"]) for line in reversed(trail)] == [
        ("create_product", key),
        ("create", device),
        ("activate", device),
        ("create_firmware", f"firmware/{image}"),
        ("rotate_secret", device),
        ("rotate_product_secret", key),
        ("rename", device),
        ("set_tags", device),
        ("set_identity", device),
        ("reset_registration", device),
        ("change_product", key),
        ("set_registration", key),
        ("publish_version", key),
        ("offer_firmware", f"firmware/{image}"),
        ("cancel_offer", f"firmware/{image}"),
        ("delete_firmware", f"firmware/{image}"),
        ("add_authority", "certificate-authorities"),
        ("retire_authority", "certificate-authorities"),
        ("import", f"{key}/s7"),
    ]
    assert {line["actor"] for line in trail if line["action"] != "activate"} == {"test"}
    assert not any(held in str(trail) for held in (secret, product_secret, "0123456789abcdef")), "no secret is in the trail"
    only = (await one.get("/v1/audit", params={"subject": f"firmware/{image}"})).json()["items"]
    assert [line["action"] for line in only] == ["delete_firmware", "cancel_offer", "offer_firmware", "create_firmware"]
    assert only[-1]["detail"]["version"] == "2.0.0"
    retired, added = (await one.get("/v1/audit", params={"subject": "certificate-authorities"})).json()["items"]
    assert (added["detail"]["fingerprint"], added["detail"]["number"]) == (authority["fingerprint"], authority["number"])
    assert retired["detail"] == {"number": authority["number"]}


async def test_tags_are_set_and_deleted_and_bounded(rig: Rig) -> None:
    stove = await Stove.made(rig)
    changed = (await stove.patch("/tags", {"tags": {"room": "kitchen", "floor": "2"}})).json()["tags"]
    assert {key: (tag["value"], tag["source"]) for key, tag in changed.items()} == {"room": ("kitchen", "api"), "floor": ("2", "api")}
    assert set((await stove.patch("/tags", {"tags": {"floor": None, "room": "hall"}})).json()["tags"]) == {"room"}
    problem(await stove.patch("/tags", {"tags": {f"k{n}": "v" for n in range(101)}}), 422, "too-many")
    problem(await stove.patch("/tags", {"tags": {"": "v"}}), 422, "invalid-request")
    assert (await stove.get("/tags"))["tags"]["room"]["value"] == "hall"


async def test_a_log_keeps_its_newest_lines(rig: Rig) -> None:
    stove = await Stove.made(rig)
    with rig.database.system() as work:
        for start in range(0, KEPT_LINES + 40, 104):
            add_log(work.session, stove.number, [LogLine(logLevel="warn", logContent=str(start + n)) for n in range(104)], 7)
        work.commit()
    lines: list[str] = []
    cursor: Mapping[str, Any] = {}
    while True:
        page = await stove.get("/log", limit=400, **cursor)
        lines += [line["content"] for line in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len(lines) == KEPT_LINES
    assert lines == [str(n) for n in range(1_039, 39, -1)]
    assert page["items"][0]["level"] == "WARN"


async def test_a_service_is_called_with_its_input_checked(rig: Rig) -> None:
    stove = await Stove.made(rig)
    rig.online(stove.number)
    for rest, body, kind, named in (
        ("/services/Nope", {}, "unknown-identifier", "Nope"),
        ("/services/Blink", {}, "missing-parameter", "times"),
        ("/services/Blink", {"times": 99}, "out-of-range", "times"),
        ("/services/Blink", {"times": 1, "more": 1}, "unknown-identifier", "more"),
    ):
        assert named in problem(await stove.post(rest, body), 422, kind)["detail"]
    assert rig.downlink.sent == []
    blink = (await stove.post("/services/Blink", {"times": 3})).json()["command_id"]
    beep = (await stove.post("/services/Beep", {"times": 2})).json()["command_id"]
    calls = [(order.command_id, order.method, order.params, order.is_call) for order in rig.downlink.sent]
    assert calls == [(blink, "thing.service.Blink", {"times": 3}, False), (beep, "thing.service.Beep", {"times": 2}, True)]
    asked = [await stove.command(command_id) for command_id in (blink, beep)]
    assert [(one["state"], one["expires"] - one["created"], one["requested_by"]) for one in asked] == [
        ("sent", 60_000, "test"),
        ("sent", 8_000, "test"),
    ]
    stove.answered(blink, data={"done": 3})
    stove.answered(beep, code=100_001)
    ended = [await stove.command(command_id) for command_id in (blink, beep)]
    assert [(one["state"], one["code"], one["reply"]) for one in ended] == [("completed", 200, {"done": 3}), ("failed", 100_001, None)]
    read = (await stove.post("/properties/read", ["Level", "Power"])).json()["command_id"]
    assert (await stove.command(read))["method"] == "thing.service.property.get"
    problem(await stove.post("/properties/read", ["Nope"]), 422, "unknown-identifier")
    listed = (await stove.get("/commands", limit=2))["items"]
    assert [one["command_id"] for one in listed] == [read, beep]


async def test_an_answer_that_comes_too_late_is_shown_and_its_command_stays_expired(rig: Rig) -> None:
    stove = await Stove.made(rig)
    rig.online(stove.number)
    command_id = (await stove.post("/services/Blink", {"times": 3})).json()["command_id"]
    with rig.database.system() as work:
        work.session.execute(update(CommandRow).values(expires_ms=5_999))
        work.commit()
    for data in ({"done": 3}, {"done": 4}):
        stove.answered(command_id, data=data)
    seen = await stove.command(command_id)
    assert [seen[name] for name in ("state", "code", "reply", "finished")] == ["expired", 200, {"done": 3}, 6_000]


async def test_a_caller_may_wait_for_the_end(rig: Rig) -> None:
    stove = await Stove.made(rig)
    rig.online(stove.number)
    waiting = asyncio.create_task(stove.post("/services/Blink", {"times": 1}, wait_s=20))
    while not rig.downlink.sent:
        await asyncio.sleep(0.01)
    stove.answered(rig.downlink.sent[0].command_id, data={"done": 1})
    answer = await waiting
    assert (answer.status_code, answer.json()["state"], answer.json()["reply"]) == (200, "completed", {"done": 1})
    late = await stove.post("/services/Blink", {"times": 1}, wait_s=1)
    assert (late.status_code, late.json()["state"]) == (202, "sent")


async def test_a_command_for_a_device_that_is_away_is_handed_over_once_when_it_comes(rig: Rig) -> None:
    stove = await Stove.made(rig)
    ids = [(await stove.post("/properties", {"Level": n})).json()["command_id"] for n in range(3)]
    expired = (await stove.post("/properties", {"Level": 9})).json()["command_id"]
    with rig.database.system() as work:
        work.session.execute(update(CommandRow).where(CommandRow.id == int(expired)).values(expires_ms=1))
        work.commit()
    assert rig.downlink.sent == []
    redelivery = Redelivery(rig.database, rig.downlink)
    assert await redelivery.turn_of_waiting() == 0, "it is not there yet"
    rig.online(stove.number)
    rig.downlink.takes = False
    assert await redelivery.turn_of_waiting() == 3
    assert {(await stove.command(command_id))["state"] for command_id in ids} == {"queued"}, "no session took them"
    rig.downlink.error = NobodyAnswers("no access")
    await redelivery.turn_of_waiting()
    assert {(await stove.command(command_id))["state"] for command_id in ids} == {"queued"}
    rig.downlink.sent.clear()
    rig.downlink.takes, rig.downlink.error = True, None
    assert await redelivery.turn_of_waiting() == 3
    assert [order.command_id for order in rig.downlink.sent] == ids
    assert await redelivery.turn_of_waiting() == 0, "never twice"
    assert [(await stove.command(command_id))["state"] for command_id in (*ids, expired)] == ["sent", "sent", "sent", "expired"]


async def test_a_command_of_unknown_fate_is_never_handed_over_again(rig: Rig) -> None:
    stove = await Stove.made(rig)
    command_id = (await stove.post("/properties", {"Level": 1})).json()["command_id"]
    rig.online(stove.number)
    rig.downlink.error = BusAway("lost while waiting")
    redelivery = Redelivery(rig.database, rig.downlink)
    assert await redelivery.turn_of_waiting() == 1
    rig.downlink.error = None
    assert await redelivery.turn_of_waiting() == 0
    assert (await stove.command(command_id))["state"] == "sent"


async def test_a_command_that_waited_goes_through_the_gateway_that_the_device_comes_back_behind(rig: Rig) -> None:
    stove = await Stove.made(rig)
    command_id = (await stove.post("/properties", {"Level": 1})).json()["command_id"]
    gateway = await rig.device(rig.one, "gateway", "gw-1", "line-1")
    rig.online(gateway)
    rig.online(stove.number, via=gateway)
    with rig.database.system() as work:
        work.session.execute(update(CommandRow).values(created_ms=CommandRow.created_ms - 60_000))
        work.commit()
    redelivery = Redelivery(rig.database, rig.downlink)
    assert await redelivery.turn_of_waiting() == 0
    assert await redelivery.turn() == 1
    (order,) = rig.downlink.sent
    assert (order.command_id, order.gateway) == (command_id, ("gateway", "gw-1"))
    with rig.database.system() as work:
        complete_commands(work.session, [CommandReply(command_id, gateway, 200, {}, 6_000)])
        work.commit()
    assert (await stove.command(command_id))["state"] == "completed"
