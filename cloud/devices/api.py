"""Routes of devices. `app.state` holds what the composition root filled: database, vault, downlink, sessions, changes."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.model import Device
from cloud.devices.ports import Changes, Sessions
from cloud.devices.registry import (
    create_device,
    find_device,
    list_devices,
    reported,
    set_enabled,
)
from cloud.foundation.db import Database
from cloud.foundation.paging import Cursor, Limit, read_cursor, write_cursor
from cloud.foundation.problems import not_found
from cloud.foundation.vault import Vault
from cloud.products.service import find_product
from cloud.tenancy.api import Caller

router = APIRouter(tags=["devices"])


class NewDevice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    device_name: Annotated[str, Field(min_length=1, max_length=64)]
    site: Annotated[str | None, Field(min_length=1, max_length=128, description="Home or line; made when it is new.")] = None


class CreatedDevice(BaseModel):
    product_key: str
    device_name: str
    site: str | None
    device_secret: Annotated[str, Field(description="Shown this once.")]


class GatewayName(BaseModel):
    product_key: str
    device_name: str


class ReportedValue(BaseModel):
    value: Any
    time: Annotated[int, Field(description="Event time, epoch ms.")]


class DeviceSummary(BaseModel):
    product_key: str
    device_name: str
    site: str | None
    enabled: bool
    created: int
    online: bool
    since: Annotated[int | None, Field(description="When it came or went, epoch ms; null before its first connection.")]
    via: Annotated[GatewayName | None, Field(description="The gateway that carries its session; null for its own.")]


class DeviceView(DeviceSummary):
    reported: dict[str, ReportedValue]


class DevicePage(BaseModel):
    items: list[DeviceSummary]
    next: str | None


class DeviceChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enabled: bool


def _summary(device: Device) -> DeviceSummary:
    return DeviceSummary(
        product_key=device.product_key,
        device_name=device.device_name,
        site=device.site,
        enabled=device.enabled,
        created=device.created_ms,
        online=device.online,
        since=device.since_ms,
        via=None if device.via is None else GatewayName(product_key=device.via[0], device_name=device.via[1]),
    )


@router.post("/v1/products/{product_key}/devices", status_code=201, operation_id="create_device")
async def create(request: Request, caller: Caller, product_key: str, body: NewDevice) -> CreatedDevice:
    """Enter a device; the answer holds its `device_secret`, which cannot be read again."""
    database: Database = request.app.state.database
    vault: Vault = request.app.state.vault
    changes: Changes = request.app.state.changes

    def enter() -> str:
        with database.unit_of_work(caller.tenant_id) as work:
            if find_product(work, product_key) is None:
                raise not_found(f"Product {product_key}")
            secret = create_device(work, vault, product_key, body.device_name, body.site)
            work.commit()
        return secret

    secret = await asyncio.to_thread(enter)
    await changes.registry_changed(product_key, body.device_name)
    return CreatedDevice(product_key=product_key, device_name=body.device_name, site=body.site, device_secret=secret)


@router.get("/v1/products/{product_key}/devices", operation_id="list_devices")
def list_all(request: Request, caller: Caller, product_key: str, limit: Limit = 100, cursor: Cursor = None) -> DevicePage:
    """The tenant's devices of a product, oldest first."""
    database: Database = request.app.state.database
    sessions: Sessions = request.app.state.sessions
    with database.reading(caller.tenant_id) as work:
        if find_product(work, product_key) is None:
            raise not_found(f"Product {product_key}")
        devices = list_devices(work, product_key, read_cursor(cursor), limit + 1, lease_held=sessions.lease_held())
    more = len(devices) > limit
    return DevicePage(items=[_summary(d) for d in devices[:limit]], next=write_cursor(devices[limit - 1].device_id) if more else None)


@router.get("/v1/devices/{product_key}/{device_name}", operation_id="get_device")
def get(request: Request, caller: Caller, product_key: str, device_name: str) -> DeviceView:
    """One device: where it is, whether it is online and through whom, and its reported shadow."""
    database: Database = request.app.state.database
    sessions: Sessions = request.app.state.sessions
    with database.reading(caller.tenant_id) as work:
        device = find_device(work, product_key, device_name, lease_held=sessions.lease_held())
        if device is None:
            raise not_found(f"Device {product_key}/{device_name}")
        values = reported(work, device.device_id)
    shadow = {identifier: ReportedValue(value=value, time=time_ms) for identifier, (value, time_ms) in values.items()}
    return DeviceView(**dict(_summary(device)), reported=shadow)


@router.patch("/v1/devices/{product_key}/{device_name}", operation_id="change_device")
async def change(request: Request, caller: Caller, product_key: str, device_name: str, body: DeviceChange) -> DeviceView:
    """Enable or disable a device; a disabled one is disconnected and stays out."""
    database: Database = request.app.state.database
    changes: Changes = request.app.state.changes

    def apply() -> bool:
        with database.unit_of_work(caller.tenant_id) as work:
            found = set_enabled(work, product_key, device_name, body.enabled)
            work.commit()
        return found

    if not await asyncio.to_thread(apply):
        raise not_found(f"Device {product_key}/{device_name}")
    await changes.registry_changed(product_key, device_name)
    return await asyncio.to_thread(get, request, caller, product_key, device_name)
