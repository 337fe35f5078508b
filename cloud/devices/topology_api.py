"""Routes of gateways that speak Alink: their sub-devices, and what applications tell them (alink.md par. 9)."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.model import Device
from cloud.devices.ports import Changes, Downlink
from cloud.devices.registry import device_ids, find_device
from cloud.devices.service import device_keys
from cloud.devices.topology import TopologyRefused, add_known_devices, gateway_of, remove_sub_devices, sub_devices_of
from cloud.foundation.audit import record
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.logs import get_logger
from cloud.foundation.problems import Problem, not_found
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.alink.messages import encode_command
from protocols.alink.topics import Kind, Topic
from protocols.alink.topology import TopologyChange, names
from protocols.errors import TryAgain

router = APIRouter(prefix="/v1/devices/{product_key}/{device_name}", tags=["topology"])

MOST_AT_ONCE: Final = 200


class Pair(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product_key: str
    device_name: str


class SubDeviceList(BaseModel):
    model_config = ConfigDict(extra="forbid")

    devices: Annotated[list[Pair], Field(min_length=1, max_length=MOST_AT_ONCE)]


class Topology(BaseModel):
    gateway: Annotated[Pair | None, Field(description="The gateway that it belongs to, for a sub-device.")]
    sub_devices: Annotated[list[Pair], Field(description="What belongs to it, for a gateway.")]


class Permit(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[int, Field(ge=0, le=3_600, description="So long the gateway lets new sub-devices join; 0 ends it.")] = 60
    product_key: Annotated[str, Field(max_length=32, description="Only devices of this product; empty for all.")] = ""


class Told(BaseModel):
    delivered: Annotated[bool, Field(description="Whether the device was connected and took the message.")]


def _pairs(keys: list[tuple[str, str]]) -> list[Pair]:
    return [Pair(product_key=product_key, device_name=device_name) for product_key, device_name in keys]


def _gateway(work: UnitOfWork, product_key: str, device_name: str) -> Device:
    device = find_device(work, product_key, device_name, lease_held=False)
    if device is None:
        raise not_found(f"Device {product_key}/{device_name}")
    return device


@router.get("/topology", operation_id="get_topology")
def get(request: Request, caller: Caller, product_key: str, device_name: str) -> Topology:
    """Which gateway a device belongs to, and what belongs to it."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        device = _gateway(work, product_key, device_name)
        return _topology(work, device.device_id)


def _topology(work: UnitOfWork, device_id: int) -> Topology:
    owner = gateway_of(work.session, device_id)
    keys = {} if owner is None else device_keys(work.session, [owner])
    return Topology(gateway=next(iter(_pairs(list(keys.values()))), None), sub_devices=_pairs(sub_devices_of(work.session, device_id)))


@router.post("/topology", operation_id="add_sub_devices")
async def add(request: Request, caller: Caller, product_key: str, device_name: str, body: SubDeviceList) -> Topology:
    """Give a gateway sub-devices, as their owner: it proves their secrets only to log them in. It is told of the change."""
    keys = [(pair.product_key, pair.device_name) for pair in body.devices]

    def enter() -> Topology:
        database: Database = request.app.state.database
        with database.unit_of_work(caller.tenant_id) as work:
            gateway = _gateway(work, product_key, device_name)
            try:
                add_known_devices(work.session, gateway.device_id, _ids(work, keys), now_ms())
            except TopologyRefused as refused:
                raise Problem(409, "topology", str(refused), more={"code": int(refused.code)}) from refused
            record(work.session, caller.tenant_id, caller.key_name, "add_sub_devices", f"{product_key}/{device_name}", {"devices": keys})
            work.commit()
            return _topology(work, gateway.device_id)

    changed = await asyncio.to_thread(enter)
    await _changed(request, keys)
    await tell_change(request, (product_key, device_name), TopologyChange.CREATED, keys)
    return changed


def _ids(work: UnitOfWork, keys: list[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for product_key, device_name in keys:
        ids = device_ids(work, product_key, [device_name])
        if device_name not in ids:
            raise not_found(f"Device {product_key}/{device_name}")
        found[product_key, device_name] = ids[device_name]
    return found


@router.post("/topology/remove", operation_id="remove_sub_devices")
async def remove(request: Request, caller: Caller, product_key: str, device_name: str, body: SubDeviceList) -> Topology:
    """Take sub-devices from a gateway: those that are logged in are logged out (6401), and it is told of the change."""
    keys = [(pair.product_key, pair.device_name) for pair in body.devices]

    def take() -> tuple[Topology, list[tuple[str, str]]]:
        database: Database = request.app.state.database
        with database.unit_of_work(caller.tenant_id) as work:
            gateway = _gateway(work, product_key, device_name)
            gone = remove_sub_devices(work.session, gateway.device_id, keys)
            detail = {"devices": gone}
            record(work.session, caller.tenant_id, caller.key_name, "remove_sub_devices", f"{product_key}/{device_name}", detail)
            work.commit()
            return _topology(work, gateway.device_id), gone

    changed, gone = await asyncio.to_thread(take)
    await _changed(request, gone)
    if gone:
        await tell_change(request, (product_key, device_name), TopologyChange.DELETED, gone)
    return changed


async def _changed(request: Request, keys: list[tuple[str, str]]) -> None:
    changes: Changes = request.app.state.changes
    for key in keys:
        await changes.registry_changed(*key)


@router.post("/topology/notify", operation_id="ask_to_add_sub_devices")
async def notify(request: Request, caller: Caller, product_key: str, device_name: str, body: SubDeviceList) -> Told:
    """Ask a gateway to add sub-devices itself, proving their secrets; its answer is not waited for."""
    await asyncio.to_thread(_known, request, caller, product_key, device_name)
    keys = [(pair.product_key, pair.device_name) for pair in body.devices]
    return Told(delivered=await tell(request, (product_key, device_name), Kind.TOPO_ADD_NOTIFY, names(keys)))


@router.post("/permit", operation_id="permit_joining")
async def permit(request: Request, caller: Caller, product_key: str, device_name: str, body: Permit) -> Told:
    """Let a gateway take new sub-devices in for a while (Living products)."""
    await asyncio.to_thread(_known, request, caller, product_key, device_name)
    params = {"time": body.seconds, "productKey": body.product_key}
    return Told(delivered=await tell(request, (product_key, device_name), Kind.GATEWAY_PERMIT, params))


@router.post("/bootstrap", operation_id="notify_bootstrap")
async def bootstrap(request: Request, caller: Caller, product_key: str, device_name: str) -> Told:
    """Tell a device to ask again where it should connect to (`POST /auth/bootstrap`)."""
    await asyncio.to_thread(_known, request, caller, product_key, device_name)
    return Told(delivered=await tell(request, (product_key, device_name), Kind.BOOTSTRAP_NOTIFY, {"cmd": 0}))


def _known(request: Request, caller: Principal, product_key: str, device_name: str) -> None:
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        _gateway(work, product_key, device_name)


async def tell_change(request: Request, gateway: tuple[str, str], change: TopologyChange, keys: list[tuple[str, str]]) -> bool:
    """Tell a gateway what became of its sub-devices."""
    return await tell(request, gateway, Kind.TOPO_CHANGE, {"status": int(change), "subList": names(keys)})


async def tell(request: Request, key: tuple[str, str], kind: Kind, params: object) -> bool:
    """Hand a request of ours to a device that is connected; whoever is away finds out when it comes. Nobody waits for the answer."""
    downlink: Downlink = request.app.state.downlink
    topic = Topic(kind, *key)
    payload = encode_command(now_ms() % 4_294_967_295 + 1, topic.method, params)
    try:
        return await downlink.deliver_message(key, str(topic), payload)
    except TryAgain as error:
        get_logger().warning("device.not_told", device="/".join(key), topic=str(topic), error=str(error))
        return False
