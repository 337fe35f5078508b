"""Products, their versions and the library over HTTP: drafts, reports, ETags, and requests that are sent again."""

import asyncio
import copy
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from cloud.devices.tables import CommandRow, DeviceRow
from cloud.foundation.bus import BusAway, NobodyAnswers
from cloud.foundation.idempotency import KEPT_MS, IdempotencyRow, forget_expired
from cloud.products.service import thing_models
from cloud.products.tables import ProductRow, ThingModelVersionRow
from protocols.thing import library
from protocols.thing.model import parse_thing_model
from tests.integration.api_rig import TSL, Rig, problem


def rows(rig: Rig, table: Any) -> int:
    with rig.database.system_reading() as work:
        return work.session.scalar(select(func.count()).select_from(table)) or 0


def with_level(kind: str = "int", **specs: str) -> dict[str, Any]:
    document = copy.deepcopy(TSL)
    document["properties"][0]["dataType"] = {"type": kind, "specs": {"min": "0", "max": "9"} | specs}
    return document


def added(identifier: str) -> dict[str, Any]:
    document = copy.deepcopy(TSL)
    document["properties"].append({"identifier": identifier, "name": "", "accessMode": "r", "dataType": {"type": "int", "specs": {}}})
    return document


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_draft_changes_nothing_until_it_is_published_and_then_everybody_hears_of_it(rig: Rig) -> None:
    key = await rig.product(rig.one)
    model = f"/v1/products/{key}/thing-model"
    draft = ok(await rig.one.put(f"{model}/draft", json=added("Heat")))
    assert (draft["version"], draft["state"], draft["created_by"]) == (2, "draft", "test")
    assert "Heat" not in thing_models(rig.database, [key])[key].properties
    assert ok(await rig.one.get(model))["version"] == 1
    report = ok(await rig.one.get(f"{model}/draft/report"))
    assert (report["base"], report["version"], report["publishable"], report["breaks"], report["devices"]) == (1, 2, "yes", [], 0)
    assert [(change["kind"], change["path"]) for change in report["changes"]] == [("added", "properties.Heat")]
    assert rig.changes.seen == []
    published = ok(await rig.one.post(f"{model}/draft/publish", json={"note": "with heat"}))
    assert (published["state"], published["note"], published["published_by"]) == ("published", "with heat", "test")
    assert rig.changes.seen == [(key, None)]
    assert "Heat" in thing_models(rig.database, [key])[key].properties
    product = ok(await rig.one.get(f"/v1/products/{key}"))
    assert (product["version"], product["tsl"]) == (2, added("Heat"))
    assert ok(await rig.one.get(model, params={"version": 1}))["tsl"] == TSL
    assert ok(await rig.one.get(f"{model}/versions/1"))["tsl"] == TSL
    problem(await rig.one.get(f"{model}/draft"), 404, "not-found")
    problem(await rig.one.post(f"{model}/draft/publish", json={}), 404, "not-found")
    problem(await rig.one.get(f"{model}/versions/3"), 404, "not-found")
    problem(await rig.one.get(f"{model}/versions/99999999999"), 404, "not-found")
    listed = ok(await rig.one.get(f"{model}/versions", params={"limit": 1}))
    assert [entry["version"] for entry in listed["items"]] == [1]
    listed = ok(await rig.one.get(f"{model}/versions", params={"limit": 1, "cursor": listed["next"]}))
    assert ([entry["version"] for entry in listed["items"]], listed["next"]) == ([2], None)


async def test_what_breaks_somebody_is_published_only_when_that_is_accepted(rig: Rig) -> None:
    key = await rig.product(rig.one)
    await rig.device(rig.one, key, "stove-1")
    rig.changes.seen.clear()
    draft = f"/v1/products/{key}/thing-model/draft"
    ok(await rig.one.put(draft, json=with_level(max="5")))
    refused = problem(await rig.one.post(f"{draft}/publish", json={}), 409, "breaking-change")
    report = refused["report"]
    assert report == ok(await rig.one.get(f"{draft}/report"))
    assert (report["publishable"], report["devices"]) == ("with_accept_breaking", 1)
    assert report["breaks"] == ["applications", "devices", "rules"]
    assert report["changes"][0]["en"] == "It takes [0, 5], it took [0, 9]: 9 is refused from now on."
    assert "accept_breaking" in refused["detail"]
    assert "1 devices" in refused["detail"]
    assert rig.changes.seen == []
    ok(await rig.one.post(f"{draft}/publish", json={"accept_breaking": True}))
    assert rig.changes.seen == [(key, None)]


async def test_a_type_that_was_ever_published_stays_whatever_is_accepted(rig: Rig) -> None:
    key = await rig.product(rig.one)
    draft = f"/v1/products/{key}/thing-model/draft"
    ok(await rig.one.put(draft, json={"properties": TSL["properties"][1:]}))
    ok(await rig.one.post(f"{draft}/publish", json={"accept_breaking": True}))
    ok(await rig.one.put(draft, json=with_level("float")))
    assert ok(await rig.one.get(f"{draft}/report"))["publishable"] == "no"
    refused = problem(await rig.one.post(f"{draft}/publish", json={"accept_breaking": True}), 409, "type-changed")
    assert refused["report"]["conflicts"] == [
        {"path": "properties.Level.dataType", "version": 1, "was": "int", "wanted": "float"},
    ]
    assert "version 1" in refused["detail"]
    ok(await rig.one.put(draft, json=with_level(max="20")))
    ok(await rig.one.post(f"{draft}/publish", json={}))


async def test_a_draft_is_thrown_away_and_a_new_one_takes_its_number(rig: Rig) -> None:
    key = await rig.product(rig.one)
    draft = f"/v1/products/{key}/thing-model/draft"
    first = await rig.one.put(draft, json=added("A"))
    assert (await rig.one.delete(draft, headers={"If-Match": '"other"'})).status_code == 412
    assert (await rig.one.delete(draft, headers={"If-Match": first.headers["etag"]})).status_code == 204
    problem(await rig.one.delete(draft), 404, "not-found")
    second = await rig.one.put(draft, json=added("A"))
    assert second.json()["version"] == 2
    problem(await rig.one.put(draft, json={"properties": [{"identifier": "a b"}]}), 422, "bad-thing-model")
    assert ok(await rig.one.get(draft))["tsl"] == added("A")


@pytest.mark.parametrize(
    "tsl",
    [
        b'{"note":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"properties":[{"identifier":"A","name":"\\ud800","dataType":{"type":"int"}}]}',
        b'{"note":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=["half a pair", "in a key", "in a name", "nesting"],
)
async def test_a_thing_model_that_cannot_be_stored_is_refused(rig: Rig, tsl: bytes) -> None:
    key, kind = await rig.product(rig.one), {"Content-Type": "application/json"}
    answer = await rig.one.put(f"/v1/products/{key}/thing-model/draft", content=tsl, headers=kind)
    problem(answer, 422, "bad-thing-model")
    answer = await rig.one.post("/v1/products", content=b'{"name":"x","tsl":' + tsl + b"}", headers=kind)
    problem(answer, 422, "bad-thing-model")


async def test_the_vendors_own_document_goes_in_and_comes_out(rig: Rig) -> None:
    key = await rig.product(rig.one)
    stove = library.load("integrated_stove")
    vendor = ok(await rig.one.get("/v1/products/gateway/tsl"))
    assert [entry["identifier"] for entry in vendor["services"][:2]] == ["set", "get"]
    own: dict[str, Any] = stove.to_dict()
    level = {"identifier": "Level", "accessMode": "rw", "dataType": {"type": "int32", "specs": {"min": "0", "max": "12", "step": "1"}}}
    document = own | {
        "schema": "https://example.org/schema.json",
        "link": "/sys/a1b2/x/thing/",
        "profile": {"productKey": "a1b2", "deviceName": "x"},
        "properties": [level, *own["properties"]],
        "events": [{"identifier": "post", "method": "thing.event.property.post", "outputData": [level]}, *own["events"]],
        "services": [{"identifier": "get", "inputData": ["Level"]}, *own["services"]],
    }
    draft = ok(await rig.one.put(f"/v1/products/{key}/thing-model/draft", json=document))
    identifiers = [entry["identifier"] for entry in (*draft["tsl"]["events"], *draft["tsl"]["services"])]
    assert identifiers == [*stove.events, *stove.services]
    ok(await rig.one.post(f"/v1/products/{key}/thing-model/draft/publish", json={"accept_breaking": True}))
    exported = ok(await rig.one.get(f"/v1/products/{key}/tsl"))
    assert exported["profile"]["productKey"] == key
    again, model = parse_thing_model(exported), parse_thing_model(draft["tsl"])
    assert (again.properties, again.events, again.services) == (model.properties, model.events, model.services)
    assert parse_thing_model(ok(await rig.one.get(f"/v1/products/{key}/tsl", params={"version": 1}))).properties.keys() == {
        "Level",
        "Power",
    }


async def test_a_product_is_made_from_the_standard_library(rig: Rig) -> None:
    listed = ok(await rig.one.get("/v1/library"))
    assert [entry["key"] for entry in listed["items"]] == list(library.names())
    assert all(entry["names"]["zh"] for entry in listed["items"])
    page = ok(await rig.one.get("/v1/library", params={"limit": 2}))
    rest = ok(await rig.one.get("/v1/library", params={"cursor": page["next"]}))
    assert page["items"] + rest["items"] == listed["items"]
    hood = ok(await rig.one.get("/v1/library/range_hood"))
    assert parse_thing_model(hood["tsl"]) == library.load("range_hood")
    body = {"name": "Hood", "library": "range_hood", "node_type": "gateway", "description": "d"}
    product = ok(await rig.one.post("/v1/products", json=body), 201)
    assert (product["category"], product["node_type"], product["description"], product["tsl"]) == (
        "range_hood",
        "gateway",
        "d",
        hood["tsl"],
    )
    problem(await rig.one.get("/v1/library/kettle"), 404, "not-found")
    problem(await rig.one.post("/v1/products", json={"name": "x", "library": "kettle"}), 422, "unknown-product")
    problem(await rig.one.post("/v1/products", json={"name": "x", "library": "range_hood", "tsl": TSL}), 422, "bad-thing-model")


async def test_a_product_with_devices_is_not_deleted_and_one_without_is_gone(rig: Rig) -> None:
    key = await rig.product(rig.one)
    await rig.device(rig.one, key, "stove-1")
    ok(await rig.one.put(f"/v1/products/{key}/thing-model/draft", json=TSL))
    refused = problem(await rig.one.delete(f"/v1/products/{key}"), 409, "product-in-use")
    assert refused["in_use"] == {"devices": 1}
    other = await rig.product(rig.one)
    assert (await rig.one.post(f"/v1/products/{other}/registration/secret")).json()["product_secret"]
    rig.changes.seen.clear()
    assert (await rig.one.delete(f"/v1/products/{other}", headers={"If-Match": '"old"'})).status_code == 412
    assert (await rig.one.delete(f"/v1/products/{other}")).status_code == 204
    assert rig.changes.seen == [(other, None)]
    problem(await rig.one.delete(f"/v1/products/{other}"), 404, "not-found")
    assert (rows(rig, ProductRow), rows(rig, ThingModelVersionRow)) == (1, 2)


async def test_the_built_in_product_is_read_and_never_changed(rig: Rig) -> None:
    model = "/v1/products/gateway/thing-model"
    assert ok(await rig.one.get(model))["version"] == 1
    assert [entry["version"] for entry in ok(await rig.one.get(f"{model}/versions"))["items"]] == [1]
    for method, path in (("PATCH", ""), ("DELETE", ""), ("PUT", "/thing-model/draft")):
        problem(await rig.one.request(method, f"/v1/products/gateway{path}", json={}), 409, "built-in")
    tag = (await rig.one.get("/v1/products/gateway")).headers["etag"]
    assert (await rig.one.get("/v1/products/gateway", headers={"If-None-Match": tag})).status_code == 304


async def test_an_answer_that_is_held_is_not_sent_again_and_an_old_one_is_no_base_for_a_change(rig: Rig) -> None:
    key = await rig.product(rig.one)
    path = f"/v1/products/{key}"
    old = (await rig.one.get(path)).headers["etag"]
    held = await rig.one.get(path, headers={"If-None-Match": f'"other", W/{old}'})
    assert (held.status_code, held.content, held.headers["etag"]) == (304, b"", old)
    changed = await rig.one.patch(path, json={"name": "Range"}, headers={"If-Match": old})
    assert (ok(changed)["name"], changed.headers["etag"] != old) == ("Range", True)
    late = await rig.one.patch(path, json={"name": "Hob"}, headers={"If-Match": old})
    assert "read it again" in problem(late, 412, "precondition-failed")["detail"]
    assert ok(await rig.one.get(path, headers={"If-None-Match": old}))["name"] == "Range"
    assert ok(await rig.one.patch(path, json={"description": "d"}, headers={"If-Match": "*"}))["name"] == "Range"
    weak = await rig.one.patch(path, json={"name": "Hob"}, headers={"If-Match": f"W/{changed.headers['etag']}"})
    problem(weak, 412, "precondition-failed")
    draft = f"{path}/thing-model/draft"
    problem(await rig.one.put(draft, json=TSL, headers={"If-Match": "*"}), 412, "precondition-failed")
    first = (await rig.one.put(draft, json=TSL)).headers["etag"]
    second = (await rig.one.put(draft, json=added("A"), headers={"If-Match": first})).headers["etag"]
    problem(await rig.one.put(draft, json=added("B"), headers={"If-Match": first}), 412, "precondition-failed")
    problem(await rig.one.post(f"{draft}/publish", json={}, headers={"If-Match": first}), 412, "precondition-failed")
    assert (await rig.one.get(draft, headers={"If-None-Match": second})).status_code == 304
    ok(await rig.one.post(f"{draft}/publish", json={}, headers={"If-Match": second}))


async def test_a_request_sent_again_has_no_second_effect_and_the_same_answer(rig: Rig) -> None:
    named = {"Idempotency-Key": "order-1"}
    first = await rig.one.post("/v1/products", json={"name": "Stove", "tsl": TSL}, headers=named)
    again = await rig.one.post("/v1/products", json={"name": "Stove", "tsl": TSL}, headers=named)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert (again.headers["etag"], again.headers["idempotency-replayed"]) == (first.headers["etag"], "true")
    assert "idempotency-replayed" not in first.headers
    assert rows(rig, ProductRow) == 1
    problem(await rig.one.post("/v1/products", json={"name": "Hob", "tsl": TSL}, headers=named), 422, "idempotency-key-reused")
    other = await rig.two.post("/v1/products", json={"name": "Stove", "tsl": TSL}, headers=named)
    assert other.json()["product_key"] != first.json()["product_key"], "a key belongs to its tenant"
    key = first.json()["product_key"]
    path, body = f"/v1/products/{key}/devices", {"device_name": "stove-1"}
    made = [await rig.one.post(path, json=body, headers={"Idempotency-Key": "d"}) for _ in range(3)]
    assert {answer.content for answer in made} == {made[0].content}
    assert (rows(rig, DeviceRow), rig.changes.seen) == (1, [(key, "stove-1")] * 3)
    with rig.database.system_reading() as work:
        stored = b"".join(answer or b"" for answer in work.session.scalars(select(IdempotencyRow.answer)))
    assert made[0].json()["device_secret"].encode() not in stored
    await rig.one.put(f"/v1/products/{key}/thing-model/draft", json=added("A"))
    published = [
        await rig.one.post(f"/v1/products/{key}/thing-model/draft/publish", json={}, headers={"Idempotency-Key": "p"}) for _ in range(2)
    ]
    assert (published[0].json()["version"], published[1].content) == (2, published[0].content)
    problem(
        await rig.one.post("/v1/products", json={"name": "x", "tsl": TSL}, headers={"Idempotency-Key": "x" * 256}), 422, "invalid-request"
    )


async def test_requests_with_one_key_at_once_have_one_effect(rig: Rig) -> None:
    body, named = {"name": "Stove", "tsl": TSL}, {"Idempotency-Key": "same"}
    answers = await asyncio.gather(*(rig.one.post("/v1/products", json=body, headers=named) for _ in range(6)))
    assert {answer.status_code for answer in answers} <= {201, 409, 503}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert rows(rig, ProductRow) == 1


async def test_a_request_that_failed_had_no_effect_and_is_tried_again(rig: Rig) -> None:
    key = await rig.product(rig.one)
    draft, named = f"/v1/products/{key}/thing-model/draft", {"Idempotency-Key": "p"}
    problem(await rig.one.post(f"{draft}/publish", json={}, headers=named), 404, "not-found")
    await rig.one.put(draft, json=added("A"))
    assert ok(await rig.one.post(f"{draft}/publish", json={}, headers=named))["version"] == 2


async def test_a_command_that_is_sent_again_is_delivered_once_and_tried_again_only_if_it_never_left(rig: Rig) -> None:
    key = await rig.product(rig.one)
    rig.online(await rig.device(rig.one, key, "stove-1"))
    path = f"/v1/devices/{key}/stove-1/properties"

    async def send(name: str) -> httpx.Response:
        now = {"only_online": True}
        return await rig.one.post(path, json={"Level": 3}, params=now, headers={"Idempotency-Key": name})

    first, again = await send("a"), await send("a")
    assert (ok(first, 202), again.content) == (again.json(), first.content)
    assert len(rig.downlink.sent) == 1
    rig.downlink.error = NobodyAnswers("no access")
    problem(await send("b"), 503, "try-again")
    rig.downlink.error = None
    assert ok(await send("b"), 202)["command_id"] not in (first.json()["command_id"], None)
    assert len(rig.downlink.sent) == 2
    rig.downlink.error = BusAway("lost while waiting")
    unknown = ok(await send("c"), 202)
    assert ok(await send("c"), 202) == unknown
    assert rows(rig, CommandRow) == 4


async def test_a_key_whose_request_is_still_running_says_when_to_ask_again(rig: Rig) -> None:
    key = await rig.product(rig.one)
    rig.online(await rig.device(rig.one, key, "stove-1"))
    path, named = f"/v1/devices/{key}/stove-1/properties", {"Idempotency-Key": "a"}
    first = ok(await rig.one.post(path, json={"Level": 3}, headers=named), 202)
    with rig.database.system() as work:  # as a process leaves it that died while the command was on its way
        work.session.execute(update(IdempotencyRow).values(state="running"))
        work.commit()
    answer = await rig.one.post(path, json={"Level": 3}, headers=named)
    problem(answer, 409, "idempotency-in-progress")
    assert answer.headers["retry-after"] == "1"
    with rig.database.system() as work:
        work.session.execute(update(IdempotencyRow).values(created_ms=IdempotencyRow.created_ms - 30_001))
        work.commit()
    assert ok(await rig.one.post(path, json={"Level": 3}, headers=named), 202) == first
    assert len(rig.downlink.sent) == 1


async def test_a_key_is_forgotten_after_a_day(rig: Rig) -> None:
    body, named = {"name": "Stove", "tsl": TSL}, {"Idempotency-Key": "a"}
    first = ok(await rig.one.post("/v1/products", json=body, headers=named), 201)
    assert forget_expired(rig.database) == 0
    with rig.database.system() as work:
        work.session.execute(update(IdempotencyRow).values(created_ms=IdempotencyRow.created_ms - KEPT_MS - 1))
        work.commit()
    assert ok(await rig.one.post("/v1/products", json=body, headers=named), 201)["product_key"] != first["product_key"]
    with rig.database.system() as work:
        work.session.execute(update(IdempotencyRow).values(created_ms=IdempotencyRow.created_ms - KEPT_MS - 1))
        work.commit()
    assert (forget_expired(rig.database), rows(rig, IdempotencyRow)) == (1, 0)


async def test_a_maker_brings_the_key_that_its_firmware_carries(rig: Rig) -> None:
    body = {"name": "Stove", "tsl": TSL, "product_key": "a1TestPk001"}
    assert rig.created(await rig.one.post("/v1/products", json=body))["product_key"] == "a1TestPk001"
    for client in (rig.one, rig.two):
        detail = problem(await client.post("/v1/products", json=body), 409, "product-exists")["detail"]
        assert "ask whoever runs the platform" in detail
    for key in ("sys", "gateway", "a b c d", "abc", "x" * 33, "a/b/c"):
        assert (await rig.one.post("/v1/products", json={**body, "product_key": key})).status_code == 422
    path = "/v1/products/a1TestPk001/registration/secret"
    assert (await rig.one.post(path, json={"product_secret": "VendorSecret16ch"})).json() == {"product_secret": "VendorSecret16ch"}
    problem(await rig.one.post(path, json={"product_secret": "short"}), 422, "invalid-request")
    assert len((await rig.one.post(path)).json()["product_secret"]) == 32
