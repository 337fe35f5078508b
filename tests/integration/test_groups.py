"""Groups and search: which devices there are, by what is known of them."""

from typing import Any

from tests.integration.api_rig import Rig, problem


async def found(rig: Rig, **asked: Any) -> list[str]:
    answer = await rig.one.get("/v1/devices", params=asked)
    assert answer.status_code == 200, answer.text
    return [item["device_name"] for item in answer.json()["items"]]


async def test_a_group_is_made_filled_renamed_and_deleted_and_its_devices_stay(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    for name in ("s1", "s2", "s3"):
        await rig.device(rig.one, product_key, name)
    group = rig.created(await rig.one.post("/v1/groups", json={"name": "east"}))
    path = f"/v1/groups/{group['group_id']}"
    problem(await rig.one.post("/v1/groups", json={"name": "east"}), 409, "group-exists")

    def names(*devices: str) -> list[dict[str, str]]:
        return [{"product_key": product_key, "device_name": name} for name in devices]

    changed = (await rig.one.post(f"{path}/members", json={"add": names("s1", "s2", "nope")})).json()
    assert (changed["devices"], changed["unknown"]) == (2, names("nope"))
    changed = (await rig.one.post(f"{path}/members", json={"add": names("s2", "s3"), "remove": names("s1")})).json()
    assert (changed["devices"], changed["unknown"]) == (2, [])
    assert await found(rig, group=group["group_id"]) == ["s2", "s3"]
    assert (await rig.one.patch(path, json={"name": "west"})).json()["name"] == "west"
    other = rig.created(await rig.one.post("/v1/groups", json={"name": "east"}))
    problem(await rig.one.patch(path, json={"name": "east"}), 409, "group-exists")
    listed = (await rig.one.get("/v1/groups")).json()["items"]
    assert [(item["group_id"], item["name"], item["devices"]) for item in listed] == [
        (group["group_id"], "west", 2),
        (other["group_id"], "east", 0),
    ]
    assert (await rig.one.delete(path)).status_code == 204
    problem(await rig.one.get(path), 404, "not-found")
    assert await found(rig) == ["s1", "s2", "s3"]


async def test_a_group_takes_no_device_of_another_tenant_and_shows_it_to_nobody_else(rig: Rig) -> None:
    theirs = await rig.product(rig.two)
    await rig.device(rig.two, theirs, "t1")
    group = rig.created(await rig.one.post("/v1/groups", json={"name": "east"}))
    body = {"add": [{"product_key": theirs, "device_name": "t1"}]}
    changed = (await rig.one.post(f"/v1/groups/{group['group_id']}/members", json=body)).json()
    assert (changed["devices"], changed["unknown"]) == (0, body["add"])
    assert (await rig.two.get("/v1/groups")).json()["items"] == []
    assert [item["device_name"] for item in (await rig.two.get("/v1/devices", params={"group": group["group_id"]})).json()["items"]] == []


async def test_devices_are_found_by_everything_that_is_known_of_them(rig: Rig) -> None:
    product_key, other = await rig.product(rig.one), await rig.product(rig.one)
    first = await rig.device(rig.one, product_key, "stove-1", "kitchen")
    await rig.device(rig.one, product_key, "stove-2", "garden")
    await rig.device(rig.one, other, "hood-1", "kitchen")
    await rig.one.patch(f"/v1/devices/{product_key}/stove-2", json={"nickname": "Barbecue 100%"})
    await rig.one.patch(f"/v1/devices/{product_key}/stove-1/tags", json={"tags": {"floor": "1", "colour": "red"}})
    await rig.one.patch(f"/v1/devices/{other}/hood-1/tags", json={"tags": {"floor": "2"}})
    rig.online(first)
    assert await found(rig) == ["stove-1", "stove-2", "hood-1"]
    assert await found(rig, q="STOVE") == ["stove-1", "stove-2"]
    assert await found(rig, q="barb") == ["stove-2"]
    assert await found(rig, q="%") == ["stove-2"]
    assert await found(rig, q="kitch") == ["stove-1", "hood-1"]
    assert await found(rig, q=other) == ["hood-1"]
    assert await found(rig, product_key=product_key, site="kitchen") == ["stove-1"]
    assert await found(rig, tag="floor") == ["stove-1", "hood-1"]
    assert await found(rig, tag="floor=2") == ["hood-1"]
    assert await found(rig, tag=["floor", "colour=red"]) == ["stove-1"]
    assert await found(rig, state="claimed") == ["stove-1"]
    assert await found(rig, online=True) == ["stove-1"]
    assert await found(rig, online=False) == ["stove-2", "hood-1"]
    rig.sessions.held = False
    assert await found(rig, online=True) == []
    assert await found(rig, online=False) == ["stove-1", "stove-2", "hood-1"]
    problem(await rig.one.get("/v1/devices", params={"state": "asleep"}), 422, "invalid-request")


async def test_a_search_comes_in_pages_and_counts_when_asked(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    for n in range(5):
        await rig.device(rig.one, product_key, f"d{n}")
    names, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        asked: dict[str, Any] = {"limit": 2, "q": "d", "total": True} | ({"cursor": cursor} if cursor else {})
        page = (await rig.one.get("/v1/devices", params=asked)).json()
        names += [item["device_name"] for item in page["items"]]
        cursor, pages = page["next"], pages + 1
        assert page["total"] == 5
    assert (names, pages) == ([f"d{n}" for n in range(5)], 3)
    assert (await rig.one.get("/v1/devices")).json()["total"] is None
