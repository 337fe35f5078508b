"""Routes of devices. `app.state` holds what the composition root filled: database, vault, downlink, sessions, changes."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.lifecycle import Move, State, allowed
from cloud.devices.model import Device
from cloud.devices.moves import move_device
from cloud.devices.ports import Changes, Sessions
from cloud.devices.registry import (
    create_device,
    find_device,
    list_devices,
    rename,
    reported,
)
from cloud.devices.topology import gateway_key
from cloud.devices.topology_api import tell, tell_change
from cloud.foundation.audit import record
from cloud.foundation.db import Database
from cloud.foundation.idempotency import Once
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import not_found
from cloud.foundation.vault import Vault
from cloud.products.service import find_product
from cloud.tenancy.api import Caller
from cloud.tenancy.audit_api import DeedPage, deed_page
from cloud.tenancy.model import Principal
from protocols.alink.topics import Kind
from protocols.alink.topology import TopologyChange

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


class DeviceName(BaseModel):
    product_key: str
    device_name: str


class ReportedValue(BaseModel):
    value: Any
    time: Annotated[int, Field(description="Event time, epoch ms.")]


class DeviceSummary(BaseModel):
    product_key: str
    device_name: str
    nickname: str | None
    site: str | None
    state: Annotated[str, Field(description="manufactured, activated, claimed, disabled or retired.")]
    enabled: bool
    created: int
    activated: Annotated[int | None, Field(description="Its first connection, epoch ms.")]
    online: bool
    since: Annotated[int | None, Field(description="When it came or went, epoch ms; null before its first connection.")]
    via: Annotated[DeviceName | None, Field(description="The gateway that carries its session; null for its own.")]


class DeviceView(DeviceSummary):
    reported: dict[str, ReportedValue]
    moves: Annotated[list[str], Field(description="What can be done next in its life.")]


class DevicePage(BaseModel):
    items: list[DeviceSummary]
    next: str | None


class DeviceChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enabled: bool | None = None
    nickname: Annotated[str | None, Field(max_length=128, description="A name for people; an empty one takes it away.")] = None


class SiteName(BaseModel):
    model_config = ConfigDict(extra="forbid")

    site: Annotated[str, Field(min_length=1, max_length=128, description="Home or line; made when it is new.")]


def summary(device: Device) -> DeviceSummary:
    """A device as lists show it."""
    return DeviceSummary(
        product_key=device.product_key,
        device_name=device.device_name,
        nickname=device.nickname,
        site=device.site,
        state=device.state,
        enabled=device.enabled,
        created=device.created_ms,
        activated=device.activated_ms,
        online=device.online,
        since=device.since_ms,
        via=None if device.via is None else DeviceName(product_key=device.via[0], device_name=device.via[1]),
    )


@router.post("/v1/products/{product_key}/devices", status_code=201, operation_id="create_device", response_model=CreatedDevice)
async def create(request: Request, caller: Caller, product_key: str, body: NewDevice, once: Once) -> Response:
    """Enter a device; the answer holds its `device_secret`, which cannot be read again."""
    database: Database = request.app.state.database
    vault: Vault = request.app.state.vault
    changes: Changes = request.app.state.changes

    def enter() -> Response:
        with database.unit_of_work(caller.tenant_id) as work:
            known = once.known(work)
            if known is not None:
                return known
            if find_product(work, product_key, keep=True) is None:
                raise not_found(f"Product {product_key}")
            secret = create_device(work, vault, product_key, body.device_name, body.site)
            record(work.session, caller.tenant_id, caller.key_name, "create", f"{product_key}/{body.device_name}")
            made = CreatedDevice(product_key=product_key, device_name=body.device_name, site=body.site, device_secret=secret)
            return once.commit(work, made, 201)

    answer = await asyncio.to_thread(enter)
    await changes.registry_changed(product_key, body.device_name)
    return answer


@router.get("/v1/products/{product_key}/devices", operation_id="list_devices")
def list_all(request: Request, caller: Caller, product_key: str, limit: Limit = 100, cursor: Cursor = None) -> DevicePage:
    """The tenant's devices of a product, oldest first."""
    database: Database = request.app.state.database
    sessions: Sessions = request.app.state.sessions
    with database.reading(caller.tenant_id) as work:
        if find_product(work, product_key) is None:
            raise not_found(f"Product {product_key}")
        devices = list_devices(work, product_key, read_cursor(cursor), limit + 1, lease_held=sessions.lease_held())
    return DevicePage(items=[summary(d) for d in devices[:limit]], next=next_page(devices, limit, lambda one: one.device_id))


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
    return DeviceView(**dict(summary(device)), reported=shadow, moves=[str(move) for move in allowed(State(device.state))])


@router.patch("/v1/devices/{product_key}/{device_name}", operation_id="change_device")
async def change(request: Request, caller: Caller, product_key: str, device_name: str, body: DeviceChange) -> DeviceView:
    """Name a device, enable or disable it; a disabled one is disconnected and stays out."""
    database: Database = request.app.state.database
    move = None if body.enabled is None else Move.ENABLE if body.enabled else Move.DISABLE

    def apply() -> tuple[str, str] | None:
        with database.unit_of_work(caller.tenant_id) as work:
            if find_device(work, product_key, device_name, lease_held=False) is None:
                raise not_found(f"Device {product_key}/{device_name}")
            gateway = gateway_key(work, product_key, device_name)
            if body.nickname is not None:
                rename(work, product_key, device_name, body.nickname or None)
                detail = {"nickname": body.nickname}
                record(work.session, caller.tenant_id, caller.key_name, "rename", f"{product_key}/{device_name}", detail)
            if move is not None:
                move_device(work, product_key, device_name, move, caller.key_name)
            work.commit()
        return gateway

    gateway = await asyncio.to_thread(apply)
    if move is not None:
        await _announce(request, (product_key, device_name), gateway, move)
    return await _changed(request, caller, product_key, device_name)


async def _changed(request: Request, caller: Principal, product_key: str, device_name: str) -> DeviceView:
    """Tell the other roles, and show the device."""
    changes: Changes = request.app.state.changes
    await changes.registry_changed(product_key, device_name)
    return await asyncio.to_thread(get, request, caller, product_key, device_name)


async def _move(request: Request, caller: Principal, product_key: str, device_name: str, move: Move, site: str | None = None) -> DeviceView:
    database: Database = request.app.state.database

    def apply() -> tuple[bool, tuple[str, str] | None]:
        with database.unit_of_work(caller.tenant_id) as work:
            gateway = gateway_key(work, product_key, device_name)
            found = move_device(work, product_key, device_name, move, caller.key_name, site=site)
            work.commit()
        return found, gateway

    found, gateway = await asyncio.to_thread(apply)
    if not found:
        raise not_found(f"Device {product_key}/{device_name}")
    await _announce(request, (product_key, device_name), gateway, move)
    return await _changed(request, caller, product_key, device_name)


_ANNOUNCED = {
    Move.DISABLE: (Kind.DISABLE, TopologyChange.DISABLED),
    Move.ENABLE: (Kind.ENABLE, TopologyChange.ENABLED),
    Move.RETIRE: (Kind.DELETE, TopologyChange.DELETED),
}


async def _announce(request: Request, key: tuple[str, str], gateway: tuple[str, str] | None, move: Move) -> None:
    """Tell the device, as long as it has a session, and the gateway that it belongs to."""
    if move in _ANNOUNCED:
        kind, change = _ANNOUNCED[move]
        await tell(request, key, kind, {})
        if gateway is not None:
            await tell_change(request, gateway, change, [key])


@router.post("/v1/devices/{product_key}/{device_name}/disable", operation_id="disable_device")
async def disable(request: Request, caller: Caller, product_key: str, device_name: str) -> DeviceView:
    """Lock a device out: its session ends within a second, and it is not let in again until it is enabled."""
    return await _move(request, caller, product_key, device_name, Move.DISABLE)


@router.post("/v1/devices/{product_key}/{device_name}/enable", operation_id="enable_device")
async def enable(request: Request, caller: Caller, product_key: str, device_name: str) -> DeviceView:
    """Let a disabled device in again; it is then what it was before."""
    return await _move(request, caller, product_key, device_name, Move.ENABLE)


@router.post("/v1/devices/{product_key}/{device_name}/claim", operation_id="claim_device")
async def claim(request: Request, caller: Caller, product_key: str, device_name: str, body: SiteName) -> DeviceView:
    """Bind an activated device to a home or a line."""
    return await _move(request, caller, product_key, device_name, Move.CLAIM, body.site)


@router.post("/v1/devices/{product_key}/{device_name}/transfer", operation_id="transfer_device")
async def transfer(request: Request, caller: Caller, product_key: str, device_name: str, body: SiteName) -> DeviceView:
    """Bind a claimed device to another home or line. It is disconnected first, and comes back there."""
    return await _move(request, caller, product_key, device_name, Move.TRANSFER, body.site)


@router.post("/v1/devices/{product_key}/{device_name}/unclaim", operation_id="unclaim_device")
async def unclaim(request: Request, caller: Caller, product_key: str, device_name: str) -> DeviceView:
    """Free a device of its home or line."""
    return await _move(request, caller, product_key, device_name, Move.UNCLAIM)


@router.post("/v1/devices/{product_key}/{device_name}/retire", operation_id="retire_device")
async def retire(request: Request, caller: Caller, product_key: str, device_name: str) -> DeviceView:
    """End a device's life for good: it is not let in any more. Its history stays."""
    return await _move(request, caller, product_key, device_name, Move.RETIRE)


@router.get("/v1/devices/{product_key}/{device_name}/audit", operation_id="list_device_audit")
def audit(request: Request, caller: Caller, product_key: str, device_name: str, limit: Limit = 100, cursor: Cursor = None) -> DeedPage:
    """Who did what to a device, newest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        if find_device(work, product_key, device_name, lease_held=False) is None:
            raise not_found(f"Device {product_key}/{device_name}")
        return deed_page(work, f"{product_key}/{device_name}", limit, cursor)
