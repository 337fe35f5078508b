"""Gateways that speak Alink over the API: who belongs to them, and what they are told. Only their sessions are in memory."""

import json
from typing import Any

from tests.integration.api_rig import Rig, problem


class Home:
    """A gateway and two sub-devices of tenant one."""

    def __init__(self, rig: Rig, product_key: str) -> None:
        self.rig, self.product_key = rig, product_key

    @classmethod
    async def made(cls, rig: Rig) -> "Home":
        home = cls(rig, await rig.product(rig.one))
        for name in ("gw", "gw2", "s1", "s2"):
            await rig.device(rig.one, home.product_key, name)
        return home

    async def post(self, name: str, rest: str, body: object = None) -> Any:
        return await self.rig.one.post(f"/v1/devices/{self.product_key}/{name}{rest}", json=body)

    def pairs(self, *names: str) -> dict[str, Any]:
        return {"devices": [{"product_key": self.product_key, "device_name": name} for name in names]}

    def told(self) -> list[tuple[str, str, Any]]:
        """(device, topic without its name space, params) of every message, in order."""
        messages = [(key[1], topic.partition(f"/{key[1]}/")[2], json.loads(payload)) for key, topic, payload in self.rig.downlink.messages]
        self.rig.downlink.messages.clear()
        assert all(str(message["id"]).isdigit() and message["method"] for _, _, message in messages)
        return [(name, topic, message["params"]) for name, topic, message in messages]


def listed(home: Home, *names: str) -> list[dict[str, str]]:
    return [{"productKey": home.product_key, "deviceName": name} for name in names]


async def test_an_owner_gives_a_gateway_sub_devices_and_takes_them_away_and_it_is_told(rig: Rig) -> None:
    home = await Home.made(rig)
    added = (await home.post("gw", "/topology", home.pairs("s1", "s2"))).json()
    assert [pair["device_name"] for pair in added["sub_devices"]] == ["s1", "s2"]
    sub = (await rig.one.get(f"/v1/devices/{home.product_key}/s1/topology")).json()
    assert sub["gateway"]["device_name"] == "gw"
    assert home.told() == [("gw", "thing/topo/change", {"status": 0, "subList": listed(home, "s1", "s2")})]
    for body, status, code in (
        (home.pairs("gw2"), 200, None),
        (home.pairs("gw"), 409, 6402),
    ):
        answer = await home.post("gw", "/topology", body)
        assert (answer.status_code, answer.json().get("code")) == (status, code)
    taken = problem(await home.post("gw2", "/topology", home.pairs("s1")), 409, "topology")
    assert (taken["code"], "delete it from the topology" in taken["detail"]) == (6619, True)
    problem(await home.post("gw", "/topology", home.pairs("nobody")), 404, "not-found")
    home.told()
    left = (await home.post("gw", "/topology/remove", home.pairs("s1", "nobody"))).json()
    assert [pair["device_name"] for pair in left["sub_devices"]] == ["s2", "gw2"]
    assert home.told() == [("gw", "thing/topo/change", {"status": 1, "subList": listed(home, "s1")})]
    assert (home.product_key, "s1") in rig.changes.seen, "whoever holds its session looks again"


async def test_what_becomes_of_a_sub_device_is_told_to_it_and_to_its_gateway(rig: Rig) -> None:
    home = await Home.made(rig)
    await home.post("gw", "/topology", home.pairs("s1"))
    home.told()
    for verb, topic, status in (("disable", "thing/disable", 8), ("enable", "thing/enable", 2), ("retire", "thing/delete", 1)):
        assert (await home.post("s1", f"/{verb}")).status_code == 200
        assert home.told() == [
            ("s1", topic, {}),
            ("gw", "thing/topo/change", {"status": status, "subList": listed(home, "s1")}),
        ]


async def test_a_gateway_is_asked_to_add_to_permit_and_to_bootstrap(rig: Rig) -> None:
    home = await Home.made(rig)
    assert (await home.post("gw", "/topology/notify", home.pairs("s1"))).json() == {"delivered": True}
    assert (await home.post("gw", "/permit", {"seconds": 30, "product_key": "x"})).json() == {"delivered": True}
    rig.downlink.takes = False
    assert (await home.post("gw", "/bootstrap")).json() == {"delivered": False}
    assert home.told() == [
        ("gw", "thing/topo/add/notify", listed(home, "s1")),
        ("gw", "thing/gateway/permit", {"time": 30, "productKey": "x"}),
        ("gw", "thing/bootstrap/notify", {"cmd": 0}),
    ]
