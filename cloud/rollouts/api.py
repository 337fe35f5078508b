"""Routes of firmware: upload, offers, what became of them, and the address that devices download from."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from cloud.artefacts.model import Kind as ArtefactKind
from cloud.artefacts.service import Depot, Upload, keep
from cloud.devices.ports import Downlink
from cloud.devices.registry import device_ids
from cloud.foundation.audit import record
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database
from cloud.foundation.logs import get_logger
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import Problem, not_found
from cloud.products.service import own_product
from cloud.rollouts.model import Firmware, Offer, OfferState
from cloud.rollouts.service import (
    MOST_AT_ONCE,
    cancel_offer,
    create_firmware,
    delete_firmware,
    download_of,
    find_firmware,
    image_for,
    list_firmware,
    list_offers,
    modules_of,
    offer_to,
)
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.alink.ota import DEFAULT_MODULE, SignMethod, upgrade_push
from protocols.alink.topics import Kind, Topic
from protocols.errors import TryAgain

router = APIRouter(tags=["firmware"])


class FirmwareView(BaseModel):
    firmware_id: int
    product_key: str
    module: str
    version: str
    size: Annotated[int, Field(description="Bytes.")]
    sha256: str
    md5: str
    sign_method: Annotated[str, Field(description="The digest that devices are told to check: SHA256 or Md5.")]
    is_diff: bool
    note: str
    created: int


class FirmwarePage(BaseModel):
    items: list[FirmwareView]
    next: str | None


class OfferView(BaseModel):
    product_key: str
    device_name: str
    state: Annotated[str, Field(description="offered, in_progress, succeeded, failed or cancelled.")]
    step: Annotated[int, Field(description="Percent, in the device's words; -1 to -4 say what failed.")]
    detail: str
    tries: int
    created: int
    updated: int


class OfferPage(BaseModel):
    items: list[OfferView]
    next: str | None


class NewOffer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    device_names: Annotated[list[str], Field(min_length=1, max_length=MOST_AT_ONCE)]


class Offered(BaseModel):
    offers: list[OfferView]
    unknown: Annotated[list[str], Field(description="Names that are no devices of the product.")]


class ModuleView(BaseModel):
    version: str
    time: Annotated[int, Field(description="When the device said so, epoch ms.")]


class Modules(BaseModel):
    modules: dict[str, ModuleView]


def _view(firmware: Firmware) -> FirmwareView:
    return FirmwareView(
        firmware_id=firmware.firmware_id,
        product_key=firmware.product_key,
        module=firmware.module,
        version=firmware.version,
        size=firmware.size,
        sha256=firmware.sha256,
        md5=firmware.md5,
        sign_method=firmware.sign_method,
        is_diff=firmware.is_diff,
        note=firmware.note,
        created=firmware.created_ms,
    )


def _offer_view(offer: Offer) -> OfferView:
    return OfferView(
        product_key=offer.product_key,
        device_name=offer.device_name,
        state=offer.state,
        step=offer.step,
        detail=offer.detail,
        tries=offer.tries,
        created=offer.created_ms,
        updated=offer.updated_ms,
    )


@router.post(
    "/v1/firmware",
    status_code=201,
    operation_id="upload_firmware",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def upload(
    request: Request,
    caller: Caller,
    product_key: Annotated[str, Query(description="Whose devices it is for.")],
    version: Annotated[str, Query(min_length=1, max_length=64)],
    module: Annotated[str, Query(min_length=1, max_length=64)] = DEFAULT_MODULE,
    sign_method: SignMethod = SignMethod.SHA256,
    is_diff: Annotated[bool, Query(description="The image is a difference to the version before.")] = False,
    note: Annotated[str, Query(max_length=1000)] = "",
) -> FirmwareView:
    """Take a firmware image in: its bytes are the body of the request. An image never changes; a new one has a new version."""
    database: Database = request.app.state.database
    depot: Depot = request.app.state.depot
    await asyncio.to_thread(_known_product, database, caller, product_key)
    upload = depot.receive(request.app.state.firmware_bytes)
    with upload:
        async for chunk in request.stream():
            await asyncio.to_thread(upload.write, chunk)
        return _view(await asyncio.to_thread(_finish, database, caller, upload, product_key, module, version, sign_method, is_diff, note))


def _known_product(database: Database, caller: Principal, product_key: str) -> None:
    with database.reading(caller.tenant_id) as work:
        own_product(work, product_key)


def _finish(
    database: Database,
    caller: Principal,
    upload: Upload,
    product_key: str,
    module: str,
    version: str,
    method: SignMethod,
    is_diff: bool,
    note: str,
) -> Firmware:
    sha256, md5 = upload.finish()
    with database.unit_of_work(caller.tenant_id) as work:
        own_product(work, product_key)  # it may have been deleted while the image came
        artefact = keep(work, ArtefactKind.FIRMWARE, sha256, md5, upload.size)
        firmware = create_firmware(work, artefact, product_key, module, version, method, is_diff=is_diff, note=note)
        detail = {"product_key": product_key, "module": module, "version": version, "sha256": sha256}
        record(work.session, caller.tenant_id, caller.key_name, "create_firmware", f"firmware/{firmware.firmware_id}", detail)
        work.commit()
    return firmware


@router.get("/v1/firmware", operation_id="list_firmware")
def list_all(request: Request, caller: Caller, product_key: str | None = None, limit: Limit = 100, cursor: Cursor = None) -> FirmwarePage:
    """The tenant's images, oldest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = list_firmware(work, product_key, read_cursor(cursor), limit + 1)
    return FirmwarePage(items=[_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: one.firmware_id))


@router.get("/v1/firmware/{firmware_id}", operation_id="get_firmware")
def get(request: Request, caller: Caller, firmware_id: int) -> FirmwareView:
    """One image."""
    return _view(_found(request, caller, firmware_id))


def _found(request: Request, caller: Principal, firmware_id: int) -> Firmware:
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_firmware(work, firmware_id)
    if found is None:
        raise not_found(f"Firmware {firmware_id}")
    return found


@router.delete("/v1/firmware/{firmware_id}", status_code=204, operation_id="delete_firmware")
def remove(request: Request, caller: Caller, firmware_id: int) -> None:
    """Delete an image that nobody is offered any more, with the record of its offers."""
    database: Database = request.app.state.database
    _found(request, caller, firmware_id)
    with database.unit_of_work(caller.tenant_id) as work:
        delete_firmware(work, firmware_id)
        record(work.session, caller.tenant_id, caller.key_name, "delete_firmware", f"firmware/{firmware_id}")
        work.commit()


@router.post("/v1/firmware/{firmware_id}/offers", operation_id="offer_firmware")
async def offer(request: Request, caller: Caller, firmware_id: int, body: NewOffer) -> Offered:
    """Offer an image to devices of its product. One that is connected is told at once, any other when it says what it runs.

    Success is when the device says that it runs the version. A newer offer for the same module takes the place of an open one.
    """
    firmware = await asyncio.to_thread(_found, request, caller, firmware_id)
    offers, unknown = await asyncio.to_thread(_offer, request, caller, firmware, body.device_names)
    for one in offers:
        if one.state == OfferState.OFFERED:
            await _tell(request, caller, firmware, one)
    return Offered(offers=[_offer_view(one) for one in offers], unknown=unknown)


def _offer(request: Request, caller: Principal, firmware: Firmware, names: list[str]) -> tuple[list[Offer], list[str]]:
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        result = offer_to(work, firmware, list(dict.fromkeys(names)))
        detail = {"devices": len(result[0]), "unknown": len(result[1])}
        record(work.session, caller.tenant_id, caller.key_name, "offer_firmware", f"firmware/{firmware.firmware_id}", detail)
        work.commit()
    return result


async def _tell(request: Request, caller: Principal, firmware: Firmware, one: Offer) -> None:
    downlink: Downlink = request.app.state.downlink
    database: Database = request.app.state.database

    def payload() -> bytes | None:
        with database.reading(caller.tenant_id) as work:
            device_id = device_ids(work, firmware.product_key, [one.device_name])[one.device_name]
            image = image_for(work.session, device_id, firmware.module, request.app.state.base_url())
        return None if image is None else upgrade_push(now_ms() // 1000, image)

    key = (one.product_key, one.device_name)
    try:
        if (push := await asyncio.to_thread(payload)) is not None:
            await downlink.deliver_message(key, str(Topic(Kind.OTA_UPGRADE, *key)), push, 1)
    except TryAgain as error:  # it is told when it says what it runs
        get_logger().warning("firmware.not_told", device="/".join(key), error=str(error))


@router.get("/v1/firmware/{firmware_id}/offers", operation_id="list_firmware_offers")
def offers(request: Request, caller: Caller, firmware_id: int, limit: Limit = 100, cursor: Cursor = None) -> OfferPage:
    """Whom an image was offered to, and what became of it."""
    database: Database = request.app.state.database
    _found(request, caller, firmware_id)
    with database.reading(caller.tenant_id) as work:
        found = list_offers(work, firmware_id, read_cursor(cursor), limit + 1)
    return OfferPage(items=[_offer_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: one.offer_id))


@router.delete("/v1/firmware/{firmware_id}/offers/{device_name}", status_code=204, operation_id="cancel_firmware_offer")
def cancel(request: Request, caller: Caller, firmware_id: int, device_name: str) -> None:
    """Take an offer back. What the device has downloaded by then it may still install."""
    database: Database = request.app.state.database
    firmware = _found(request, caller, firmware_id)
    with database.unit_of_work(caller.tenant_id) as work:
        found = device_ids(work, firmware.product_key, [device_name])
        if device_name not in found or not cancel_offer(work, firmware_id, found[device_name]):
            raise Problem(404, "no-open-offer", f"Firmware {firmware_id} is not offered to {device_name} now.")
        detail = {"device_name": device_name}
        record(work.session, caller.tenant_id, caller.key_name, "cancel_offer", f"firmware/{firmware_id}", detail)
        work.commit()


@router.get("/v1/devices/{product_key}/{device_name}/modules", operation_id="get_device_modules")
def modules(request: Request, caller: Caller, product_key: str, device_name: str) -> Modules:
    """Which firmware a device runs, module by module, in its own words."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = device_ids(work, product_key, [device_name])
        if device_name not in found:
            raise not_found(f"Device {product_key}/{device_name}")
        held = modules_of(work, found[device_name])
    return Modules(modules={name: ModuleView(version=version, time=time_ms) for name, (version, time_ms) in held.items()})


@router.get("/firmware/{token}", operation_id="download_firmware", tags=["devices' own"], response_class=FileResponse)
def download(request: Request, token: str) -> Any:
    """Where a device downloads what it was offered: the token is the key, as long as the offer is open. Takes `Range`."""
    database: Database = request.app.state.database
    depot: Depot = request.app.state.depot
    found = download_of(database, token) if len(token) <= 64 else None
    if found is None:
        raise Problem(404, "no-such-download", "There is no such download, or its offer has ended; ask for the firmware again.")
    sha256, name = found
    return FileResponse(depot.path_of(sha256), media_type="application/octet-stream", filename=name)
