"""The API over HTTP on a real database, a real telemetry store and a real bus; only the ports towards devices are in memory."""

import asyncio
import json
from collections.abc import AsyncIterator

from sqlalchemy import update

from cloud.devices.delivery import Redelivery
from cloud.devices.model import CommandReply
from cloud.devices.service import apply_reported, complete_commands, credentials_for
from cloud.devices.tables import CommandRow
from cloud.foundation.bus import BusAway, NobodyAnswers
from cloud.foundation.vault import Vault
from cloud.ingest.model import Booking, Effects, Mark
from cloud.ingest.service import commit
from cloud.telemetry.model import Append, Position
from protocols.edgelink.lanes import Lane
from protocols.edgelink.stretches import STRETCH_MS
from tests.integration.api_rig import TSL, Rig, problem


async def test_a_product_and_its_devices_are_entered_and_found(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    answer = await rig.one.post(f"/v1/products/{product_key}/devices", json={"device_name": "stove-1", "site": "kitchen"})
    secret = rig.created(answer)["device_secret"]
    assert len(secret) == 32
    assert int(secret, 16) >= 0
    assert rig.changes.seen == [(product_key, "stove-1")]
    product = (await rig.one.get(f"/v1/products/{product_key}")).json()
    assert (product["name"], product["tsl"]) == ("Stove", TSL)
    device = (await rig.one.get(f"/v1/devices/{product_key}/stove-1")).json()
    expected = {"site": "kitchen", "enabled": True, "online": False, "since": None, "via": None, "reported": {}}
    assert {name: device[name] for name in expected} == expected
    assert secret not in json.dumps(device)
    assert (await rig.one.get("/v1/products/gateway")).json()["built_in"] is True


async def test_a_device_shows_who_carries_it_and_its_newest_values(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    device = await rig.device(rig.one, product_key, "stove-1", "kitchen")
    gateway = await rig.device(rig.one, "gateway", "gw1", "kitchen")
    rig.online(gateway)
    rig.online(device, via=gateway)
    with rig.database.system() as work:
        apply_reported(work.session, {device: {"Power": (12.5, 1234)}})
        work.commit()
    seen = (await rig.one.get(f"/v1/devices/{product_key}/stove-1")).json()
    assert (seen["online"], seen["since"]) == (True, 1000)
    assert seen["via"] == {"product_key": "gateway", "device_name": "gw1"}
    assert seen["reported"] == {"Power": {"value": 12.5, "time": 1234}}
    rig.sessions.held = False
    assert (await rig.one.get(f"/v1/devices/{product_key}/stove-1")).json()["online"] is False


async def test_lists_come_in_pages_that_leave_nothing_out(rig: Rig) -> None:
    keys = [await rig.product(rig.one) for _ in range(3)]
    for n in range(5):
        await rig.device(rig.one, keys[0], f"d{n}")

    async def pages(path: str, name: str) -> list[list[str]]:
        found, cursor = [], None
        while True:
            page = (await rig.one.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
            found.append([item[name] for item in page["items"]])
            cursor = page["next"]
            if cursor is None:
                return found

    assert await pages("/v1/products", "product_key") == [keys[:2], keys[2:]]
    assert await pages(f"/v1/products/{keys[0]}/devices", "device_name") == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    problem(await rig.one.get("/v1/products", params={"cursor": "%%"}), 400, "bad-cursor")
    problem(await rig.one.get("/v1/products", params={"limit": 0}), 422, "invalid-request")


async def test_a_property_set_leaves_for_the_session_or_the_gateway_and_its_answer_is_found(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    device = await rig.device(rig.one, product_key, "stove-1", "kitchen")
    gateway = await rig.device(rig.one, "gateway", "gw1", "kitchen")
    path = f"/v1/devices/{product_key}/stove-1/properties"
    problem(await rig.one.post(path, json={"Level": 3}, params={"only_online": True}), 409, "device-offline")
    rig.online(gateway)
    through = await rig.one.post(path, json={"Level": 3})
    rig.online(device)
    direct = await rig.one.post(path, json={"Level": 4})
    assert (through.status_code, direct.status_code) == (202, 202)
    ids = [through.json()["command_id"], direct.json()["command_id"]]
    key = (product_key, "stove-1")
    assert [(order.target, order.gateway, order.command_id, order.params) for order in rig.downlink.sent] == [
        (key, ("gateway", "gw1"), ids[0], {"Level": 3}),
        (key, None, ids[1], {"Level": 4}),
    ]
    with rig.database.system() as work:
        complete_commands(work.session, [CommandReply(ids[1], device, 200, {}, 5000)])
        work.commit()
    states = [(await rig.one.get(f"/v1/commands/{command_id}")).json() for command_id in ids]
    assert [state["state"] for state in states] == ["sent", "completed"]
    assert (states[1]["code"], states[1]["finished"], states[1]["params"]) == (200, 5000, {"Level": 4})


async def test_a_property_set_that_the_thing_model_forbids_names_the_identifier(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    rig.online(await rig.device(rig.one, product_key, "stove-1"))
    path = f"/v1/devices/{product_key}/stove-1/properties"
    for body, kind, named in (
        ({"Level": 10}, "out-of-range", "Level"),
        ({"Level": "high"}, "wrong-type", "Level"),
        ({"Level": 2**53 + 1}, "integer-too-large", "Level"),
        ({"Power": 1.0}, "not-writable", "Power"),
        ({"Heat": 1}, "unknown-identifier", "Heat"),
        ({}, "bad-envelope", "identifier"),
    ):
        assert named in problem(await rig.one.post(path, json=body), 422, kind)["detail"]
    assert rig.downlink.sent == []


async def test_the_account_of_an_interval_is_that_of_the_ten_minutes_it_touches(rig: Rig) -> None:
    gateway = await rig.device(rig.one, "gateway", "gw-1", "line-1")
    live, bulk = ((gateway, "a" * 32, lane) for lane in (Lane.LIVE, Lane.BULK))
    entries = {(*live, 0): (5, 1), (*live, STRETCH_MS): (7, 0), (*bulk, STRETCH_MS): (0, 2), (*live, 2 * STRETCH_MS): (9, 0)}
    marks = {live: Mark(40, readings=21, in_gaps=1), bulk: Mark(3, in_gaps=2)}
    append = Append(Position("s", 0), Position("s", 1))
    commit(rig.database, 0, Effects(append, 1, marks, {}, (), (), (), (), (), 1, Booking(entries)))

    async def asked(**bounds: str) -> tuple[object, ...]:
        answer = (await rig.one.get("/v1/gateways/gw-1/account", params=bounds)).json()
        lanes = {lane["lane"]: (lane["watermark"], lane["delivered"], lane["in_gaps"]) for lane in answer["lanes"]}
        return answer["from_ms"], answer["to_ms"], answer["delivered"], answer["in_gaps"], lanes

    assert await asked() == (None, None, 21, 3, {"live": (40, 21, 1), "bulk": (3, 0, 2)})
    minutes = {"from": "1970-01-01T00:10:00Z", "to": "1970-01-01T00:12:00Z"}
    assert await asked(**minutes) == (600_000, 1_200_000, 7, 2, {"live": (40, 7, 0), "bulk": (3, 0, 2)})
    assert await asked(to="1") == (None, 600_000, 5, 1, {"live": (40, 5, 1), "bulk": (3, 0, 0)})
    assert (await asked(**{"from": "1800000"}))[2:4] == (0, 0)
    problem(await rig.one.get("/v1/gateways/gw-1/account", params={"from": "noon"}), 422, "bad-time")


async def test_a_command_for_a_gateway_that_is_away_waits_for_it_and_is_handed_over_until_it_ends(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    device = await rig.device(rig.one, product_key, "stove-1", "line-1")
    gateway = await rig.device(rig.one, "gateway", "gw-1", "line-1")
    path = f"/v1/devices/{product_key}/stove-1/properties"
    command_id = (await rig.one.post(path, json={"Level": 2}, params={"expires_in_s": 3600})).json()["command_id"]
    short = (await rig.one.post(path, json={"Level": 3}, params={"expires_in_s": 1})).json()["command_id"]

    async def state(of: str) -> str:
        return str((await rig.one.get(f"/v1/commands/{of}")).json()["state"])

    assert await state(command_id) == "queued"
    seconds = 0.0
    redelivery = Redelivery(rig.database, rig.downlink, now_s=lambda: seconds)
    with rig.database.system() as work:  # a while ago
        work.session.execute(update(CommandRow).values(created_ms=CommandRow.created_ms - 60_000))
        work.session.execute(update(CommandRow).where(CommandRow.id == int(short)).values(expires_ms=1))
        work.commit()
    assert await redelivery.turn() == 0, "nobody to hand it to"
    rig.online(gateway)
    assert await redelivery.turn() == 1
    (order,) = rig.downlink.sent
    assert (order.target, order.gateway, order.command_id) == ((product_key, "stove-1"), ("gateway", "gw-1"), command_id)
    assert (await state(command_id), await state(short)) == ("sent", "expired")
    assert await redelivery.turn() == 0, "it waits for an answer first"
    seconds = 11.0
    assert await redelivery.turn() == 1, "and then asks again: the gateway carries it out once"
    with rig.database.system() as work:
        complete_commands(work.session, [CommandReply(command_id, gateway, 200, {}, 5000)])
        work.commit()
    seconds = 22.0
    assert await redelivery.turn() == 0
    assert await state(command_id) == "completed"
    assert device


async def test_commands_without_an_answer_do_not_keep_later_ones_from_being_handed_over(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "stove-1", "line-1")
    gateway = await rig.device(rig.one, "gateway", "gw-1", "line-1")
    path = f"/v1/devices/{product_key}/stove-1/properties"
    ids = [(await rig.one.post(path, json={"Level": n}, params={"expires_in_s": 3600})).json()["command_id"] for n in range(5)]
    with rig.database.system() as work:
        work.session.execute(update(CommandRow).values(created_ms=CommandRow.created_ms - 60_000))
        work.commit()
    rig.online(gateway)
    redelivery = Redelivery(rig.database, rig.downlink, now_s=lambda: 0.0, at_once=2)
    for _ in range(3):
        await redelivery.turn()
    assert [order.command_id for order in rig.downlink.sent] == ids


async def test_a_command_that_did_not_leave_waits_or_fails_as_asked_and_one_of_unknown_fate_is_still_open(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    rig.online(await rig.device(rig.one, product_key, "stove-1"))
    path = f"/v1/devices/{product_key}/stove-1/properties"
    now = {"only_online": True}
    rig.downlink.takes = False
    problem(await rig.one.post(path, json={"Level": 1}, params=now), 409, "device-offline")
    stays = [(await rig.one.post(path, json={"Level": 1})).json()["command_id"]]
    rig.downlink.error = NobodyAnswers("no access")
    answer = await rig.one.post(path, json={"Level": 1}, params=now)
    problem(answer, 503, "try-again")
    assert answer.headers["retry-after"] == "1"
    stays.append((await rig.one.post(path, json={"Level": 1})).json()["command_id"])
    rig.downlink.error = BusAway("lost while waiting")
    unknown = await rig.one.post(path, json={"Level": 1})
    assert unknown.status_code == 202
    states = [(await rig.one.get(f"/v1/commands/{n}")).json()["state"] for n in (1, 3, *stays, unknown.json()["command_id"])]
    assert states == ["failed", "failed", "queued", "queued", "sent"]


async def test_a_disabled_device_is_announced_to_the_front_door(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "stove-1")
    rig.changes.seen.clear()
    answer = await rig.one.patch(f"/v1/devices/{product_key}/stove-1", json={"enabled": False})
    assert answer.json()["enabled"] is False
    assert rig.changes.seen == [(product_key, "stove-1")]


async def test_every_error_is_a_problem_that_says_what_to_do(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    problem(await rig.one.get("/nowhere"), 404, "not-found")
    problem(await rig.one.put("/v1/products"), 405, "method-not-allowed")
    problem(await rig.nobody.get("/v1/products"), 401, "bad-key")
    problem(await rig.nobody.get("/v1/products", headers={"Authorization": "Bearer hl_00000000_" + "0" * 64}), 401, "bad-key")
    faults = problem(await rig.one.post("/v1/products", json={"name": "x", "tenant_id": 2}), 422, "invalid-request")["errors"]
    assert {fault["where"] for fault in faults} == {"body/tenant_id"}
    assert "give either" in problem(await rig.one.post("/v1/products", json={"name": "x"}), 422, "bad-thing-model")["detail"]
    problem(await rig.one.post("/v1/products", content=b"{", headers={"Content-Type": "application/json"}), 422, "bad-json")
    wrong = {"name": "x", "tsl": {"properties": [{"identifier": "a b"}]}}
    assert "$.properties[0]" in problem(await rig.one.post("/v1/products", json=wrong), 422, "bad-thing-model")["detail"]
    problem(await rig.one.post("/v1/products", content=bytes(2_000_000)), 413, "body-too-large")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(65_536)

    problem(await rig.one.post("/v1/products", content=endless()), 413, "body-too-large")
    await rig.device(rig.one, product_key, "d1")
    problem(await rig.one.post(f"/v1/products/{product_key}/devices", json={"device_name": "d1"}), 409, "device-exists")
    problem(await rig.one.post(f"/v1/products/{product_key}/devices", json={"device_name": "a/b"}), 422, "out-of-range")
    problem(await rig.one.post("/v1/products/nothing/devices", json={"device_name": "d1"}), 404, "not-found")


async def test_the_platform_is_ready_when_every_part_is_and_otherwise_names_what_is_missing(rig: Rig) -> None:
    assert (await rig.nobody.get("/healthz")).json() == {"status": "ok"}
    assert (await rig.nobody.get("/readyz")).json() == {"status": "ready", "parts": {"access": "ready"}}
    rig.faults["access"] = "starting"
    body = problem(await rig.nobody.get("/readyz"), 503, "not-ready")
    assert body["parts"] == {"access": "starting"}


async def test_one_scrape_holds_the_metrics_of_every_role_that_answers(rig: Rig) -> None:
    answer = await rig.nobody.get("/metrics")
    assert answer.status_code == 200
    lines = answer.text.splitlines()
    assert any(line.startswith('process_resident_memory_bytes{role="core"}') for line in lines)
    assert any(line.startswith('process_resident_memory_bytes{role="access"}') for line in lines)
    assert sum(line.startswith("# TYPE process_resident_memory_bytes") for line in lines) == 1


# What another tenant and nobody get of each operation, told apart by operation id: a route that is not here fails the test.
PUBLIC = {
    "get_health",
    "get_readiness",
    "get_metrics",
    "download_firmware",
    "download_configuration",
    "register_device",
    "bootstrap_device",
}
SHARED = {"list_library", "get_library_model"}  # the same for every tenant
LISTS_OWN = {
    "list_firmware",
    "list_jobs",
    "list_groups",
    "search_devices",
    "list_products",
    "list_quarantine",
    "count_quarantine",
    "list_authorities",
    "list_audit",
}
MAKES_OWN = {"create_product", "add_authority", "upload_firmware", "create_group"}
OF_A_RESOURCE: dict[str, object] = {
    "get_product": None,
    "change_product": {"name": "Mine"},
    "delete_product": None,
    "get_thing_model": None,
    "list_thing_model_versions": None,
    "get_thing_model_version": None,
    "put_draft": TSL,
    "get_draft": None,
    "delete_draft": None,
    "check_draft": None,
    "publish_draft": {"accept_breaking": True},
    "export_tsl": None,
    "create_device": {"device_name": "intruder"},
    "list_devices": None,
    "get_device": None,
    "change_device": {"enabled": False},
    "disable_device": {},
    "enable_device": {},
    "claim_device": {"site": "theirs"},
    "transfer_device": {"site": "theirs"},
    "unclaim_device": {},
    "retire_device": {},
    "list_device_audit": None,
    "set_properties": {"Level": 1},
    "read_properties": ["Level"],
    "call_service": {},
    "get_command": None,
    "list_commands": None,
    "get_shadow": None,
    "change_desired": {"desired": {"Level": 1}},
    "get_tags": None,
    "change_tags": {"tags": {"a": "b"}},
    "list_device_log": None,
    "get_topology": None,
    "add_sub_devices": {"devices": [{"product_key": "x", "device_name": "y"}]},
    "remove_sub_devices": {"devices": [{"product_key": "x", "device_name": "y"}]},
    "ask_to_add_sub_devices": {"devices": [{"product_key": "x", "device_name": "y"}]},
    "permit_joining": {},
    "notify_bootstrap": {},
    "get_firmware": None,
    "delete_firmware": None,
    "offer_firmware": {"device_names": ["stove-1"]},
    "list_firmware_offers": None,
    "cancel_firmware_offer": None,
    "get_device_modules": None,
    "put_configuration": {},
    "get_configuration": None,
    "get_configuration_content": None,
    "switch_configuration": {"enabled": False},
    "delete_configuration": None,
    "push_configuration": {},
    "get_job": None,
    "list_job_tasks": None,
    "cancel_job": {},
    "get_group": None,
    "change_group": {"name": "theirs"},
    "delete_group": None,
    "change_group_members": {},
    "broadcast": {"text": "x"},
    "send_message": {"topic": "a", "text": "x"},
    "get_log_mode": None,
    "set_log_mode": {"mode": 1},
    "list_device_events": None,
    "get_latest": None,
    "get_history": None,
    "get_gateway_account": None,
    "get_quarantine_entry": None,
    "replay_quarantine_entry": {},
    "discard_quarantine_entry": {},
    "list_unreadable_messages": None,
    "get_registration": None,
    "set_registration": {"mode": "open"},
    "rotate_product_secret": {},
    "import_devices": {},
    "get_identity": None,
    "set_identity": {"accepts": "secret"},
    "rotate_secret": {},
    "reset_registration": None,
    "retire_authority": None,
}
NAMES_IN_BODY: dict[str, dict[str, object]] = {  # what the body names is another tenant's: no such thing
    "bind_device": {"token": "01234567", "site": "theirs"},
    "create_job": {"name": "x", "product_key": "nope", "device_names": ["stove-1"], "document": {}},
}
NOT_THERE = {"bind_device": "no-such-token"}
DECIDES_ABOUT_OWN = {"replay_quarantine", "discard_quarantine"}  # each about everything its tenant holds: nothing, here


async def test_no_operation_shows_or_changes_anything_of_another_tenant(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    rig.online(await rig.device(rig.one, product_key, "stove-1"))
    command_id = (await rig.one.post(f"/v1/devices/{product_key}/stove-1/properties", json={"Level": 2})).json()["command_id"]
    names = {"product_key": product_key, "device_name": "stove-1", "identifier": "Level", "command_id": command_id}
    names |= {"number": rig.quarantined(product_key, "stove-1"), "version": "1", "key": "range_hood"}
    draft = (await rig.one.put(f"/v1/products/{product_key}/thing-model/draft", json=TSL)).json()
    image = {"product_key": product_key, "version": "2.0.0"}
    names["firmware_id"] = rig.created(await rig.one.post("/v1/firmware", params=image, content=b"an image"))["firmware_id"]
    rig.created(await rig.one.post("/v1/groups", json={"name": "east"}))
    names["group_id"] = "1"
    task = {"name": "x", "product_key": product_key, "device_names": ["stove-1"], "document": {}}
    names["job_id"] = rig.created(await rig.one.post("/v1/jobs", json=task))["job_id"]
    await rig.one.put(f"/v1/products/{product_key}/configuration", content=b"x")
    rig.downlink.messages.clear()
    before = credentials_for(rig.database, Vault(bytes(32)), [(product_key, "stove-1")])
    seen: set[str] = set()
    for path, methods in rig.paths.items():
        for method, operation in methods.items():
            name = operation["operationId"]
            seen.add(name)
            if name in PUBLIC:
                continue
            body = (
                OF_A_RESOURCE.get(name)
                or NAMES_IN_BODY.get(name)
                or ({"all": True} if name in DECIDES_ABOUT_OWN else {} if method != "get" else None)
            )
            url = path.format(**names)
            problem(await rig.nobody.request(method, url, json=body), 401, "bad-key")
            answer = await rig.two.request(method, url, json=body)
            if name in LISTS_OWN | SHARED:
                assert answer.status_code == 200
                assert product_key not in answer.text
            elif name in DECIDES_ABOUT_OWN:
                assert (answer.status_code, answer.json()["done"]) == (200, 0)
            elif name not in MAKES_OWN:
                assert name in OF_A_RESOURCE or name in NAMES_IN_BODY, f"{name} has no place in the matrix"
                problem(answer, 404, NOT_THERE.get(name, "not-found"))
    assert seen == PUBLIC | SHARED | LISTS_OWN | MAKES_OWN | DECIDES_ABOUT_OWN | set(OF_A_RESOURCE) | set(NAMES_IN_BODY), (
        "the matrix and the routes differ"
    )
    assert (len(rig.downlink.sent), rig.downlink.messages, rig.downlink.broadcasts) == (1, [], [])
    assert (await rig.one.get(f"/v1/jobs/{names['job_id']}")).json()["counts"] == {"SENT": 1}
    assert (await rig.one.get("/v1/groups/1")).json()["name"] == "east"
    assert (await rig.one.get(f"/v1/products/{product_key}/configuration")).json()["enabled"] is True
    assert (await rig.one.get(f"/v1/products/{product_key}/thing-model/draft")).json() == draft
    assert (await rig.one.get(f"/v1/products/{product_key}")).json()["name"] == "Stove"
    assert (await rig.one.get(f"/v1/quarantine/{names['number']}")).json()["state"] == "held"
    assert (await rig.one.get(f"/v1/devices/{product_key}/stove-1")).json()["enabled"] is True
    assert credentials_for(rig.database, Vault(bytes(32)), [(product_key, "stove-1")]) == before
    assert (await rig.one.get(f"/v1/products/{product_key}/registration")).json() == {
        "mode": "closed",
        "has_secret": False,
        "changed": None,
    }


async def test_requests_at_once_each_get_their_own_answer(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    path = f"/v1/products/{product_key}/devices"
    answers = await asyncio.gather(*(rig.one.post(path, json={"device_name": f"d{n}", "site": "kitchen"}) for n in range(12)))
    assert {answer.status_code for answer in answers} <= {201, 503}
    made = [answer.json()["device_name"] for answer in answers if answer.status_code == 201]
    items = (await rig.one.get(path)).json()["items"]
    assert sorted(item["device_name"] for item in items) == sorted(made)
