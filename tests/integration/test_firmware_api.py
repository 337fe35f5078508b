"""Firmware over the API: what may be uploaded, whom it is offered to, and what may be downloaded."""

import hashlib
import json
from typing import Any

import pytest

from cloud.rollouts.service import device_progressed
from protocols.alink.ota import Progress
from tests.integration.api_rig import Rig, problem


class Product:
    """A product of tenant one with two devices."""

    def __init__(self, rig: Rig, product_key: str) -> None:
        self.rig, self.product_key = rig, product_key
        self.numbers: dict[str, int] = {}

    @classmethod
    async def made(cls, rig: Rig) -> "Product":
        product = cls(rig, await rig.product(rig.one))
        for name in ("d1", "d2"):
            product.numbers[name] = await rig.device(rig.one, product.product_key, name)
        return product

    async def upload(self, version: str = "2.0.0", image: bytes = b"an image", **more: Any) -> Any:
        return await self.rig.one.post("/v1/firmware", params={"product_key": self.product_key, "version": version, **more}, content=image)

    async def offer(self, firmware_id: int, *names: str) -> Any:
        return (await self.rig.one.post(f"/v1/firmware/{firmware_id}/offers", json={"device_names": list(names)})).json()

    async def states(self, firmware_id: int) -> dict[str, str]:
        items = (await self.rig.one.get(f"/v1/firmware/{firmware_id}/offers")).json()["items"]
        return {item["device_name"]: item["state"] for item in items}

    def pushed(self) -> list[tuple[str, dict[str, Any]]]:
        """(device, offer) of what was sent."""
        found = [(key[1], json.loads(payload)["data"]) for key, topic, payload in self.rig.downlink.messages if "/ota/" in topic]
        self.rig.downlink.messages.clear()
        return found


async def test_an_image_is_kept_with_its_digests_and_never_changes(rig: Rig) -> None:
    product = await Product.made(rig)
    made = rig.created(await product.upload(note="first"))
    assert (made["size"], made["sha256"], made["md5"]) == (8, hashlib.sha256(b"an image").hexdigest(), hashlib.md5(b"an image").hexdigest())
    assert (made["module"], made["sign_method"], made["note"]) == ("default", "SHA256", "first")
    detail = problem(await product.upload(image=b"another"), 409, "firmware-exists")["detail"]
    assert "give it a new version" in detail
    rig.created(await product.upload("2.0.1"))  # the same bytes: one artefact, two images
    listed = (await rig.one.get("/v1/firmware", params={"product_key": product.product_key, "limit": 1})).json()
    assert (listed["items"], listed["next"] is not None) == ([made], True)
    assert (await rig.one.get(f"/v1/firmware/{made['firmware_id']}")).json() == made
    problem(await rig.one.delete(f"/v1/products/{product.product_key}"), 409, "product-in-use")


@pytest.mark.parametrize(
    ("query", "image", "status", "kind"),
    [
        ({"version": "a b"}, b"x", 422, "out-of-range"),
        ({"version": "1", "module": "../x"}, b"x", 422, "out-of-range"),
        ({"version": "1", "sign_method": "MD5"}, b"x", 422, "invalid-request"),
        ({"version": "1"}, b"", 422, "missing-parameter"),
        ({"version": "1"}, b"x" * ((1 << 20) + 1), 413, "body-too-large"),
    ],
)
async def test_what_cannot_be_an_image_is_refused(rig: Rig, query: dict[str, str], image: bytes, status: int, kind: str) -> None:
    product = await Product.made(rig)
    answer = await rig.one.post("/v1/firmware", params={"product_key": product.product_key, **query}, content=image)
    problem(answer, status, kind)
    problem(await rig.one.post("/v1/firmware", params={"product_key": "nobody", "version": "1"}, content=b"x"), 404, "not-found")
    assert (await rig.one.get("/v1/firmware")).json()["items"] == []


async def test_devices_are_offered_an_image_once_and_a_newer_one_takes_its_place(rig: Rig) -> None:
    product = await Product.made(rig)
    first = rig.created(await product.upload("2.0.0"))["firmware_id"]
    second = rig.created(await product.upload("3.0.0", b"newer", sign_method="Md5"))["firmware_id"]
    offered = await product.offer(first, "d1", "d2", "d1", "nobody")
    assert ([one["device_name"] for one in offered["offers"]], offered["unknown"]) == (["d1", "d2"], ["nobody"])
    assert [(name, offer["version"], offer["signMethod"]) for name, offer in product.pushed()] == [
        ("d1", "2.0.0", "SHA256"),
        ("d2", "2.0.0", "SHA256"),
    ]
    problem(await rig.one.delete(f"/v1/firmware/{first}"), 409, "firmware-offered")
    with rig.database.system() as work:
        assert device_progressed(work.session, product.numbers["d2"], Progress(module="default", step=40), 5_000)
        work.commit()
    again = await product.offer(first, "d2", "d1")
    assert {one["device_name"]: (one["state"], one["step"], one["tries"]) for one in again["offers"]} == {
        "d2": ("in_progress", 40, 1),
        "d1": ("offered", 0, 1),
    }, "an offer that is open goes on as it was"
    assert [name for name, _ in product.pushed()] == ["d1"]
    await product.offer(second, "d1")
    assert [(name, offer["signMethod"]) for name, offer in product.pushed()] == [("d1", "Md5")]
    assert (await product.states(first), await product.states(second)) == ({"d1": "cancelled", "d2": "in_progress"}, {"d1": "offered"})
    assert (await rig.one.delete(f"/v1/firmware/{first}/offers/d2")).status_code == 204
    problem(await rig.one.delete(f"/v1/firmware/{first}/offers/d2"), 404, "no-open-offer")
    assert (await rig.one.delete(f"/v1/firmware/{first}")).status_code == 204
    problem(await rig.one.get(f"/v1/firmware/{first}"), 404, "not-found")
    problem(await rig.one.post(f"/v1/firmware/{second}/offers", json={"device_names": []}), 422, "invalid-request")


async def test_a_download_goes_on_where_it_stopped_and_ends_with_its_offer(rig: Rig) -> None:
    product = await Product.made(rig)
    image = bytes(range(256)) * 40
    firmware_id = rig.created(await product.upload(image=image))["firmware_id"]
    await product.offer(firmware_id, "d1")
    ((_, offer),) = product.pushed()
    path = str(offer["url"]).removeprefix("http://device.test")
    whole = await rig.nobody.get(path)
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, image, str(len(image)))
    rest = await rig.nobody.get(path, headers={"Range": "bytes=5000-"})
    assert (rest.status_code, rest.content, rest.headers["content-range"]) == (206, image[5000:], f"bytes 5000-10239/{len(image)}")
    assert (await rig.nobody.get(path, headers={"Range": "bytes=20000-"})).status_code == 416
    problem(await rig.nobody.get(path[:-1] + "0" * 2), 404, "no-such-download")
    await rig.one.delete(f"/v1/firmware/{firmware_id}/offers/d1")
    assert "its offer has ended" in problem(await rig.nobody.get(path), 404, "no-such-download")["detail"]
