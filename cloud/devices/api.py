"""Routes of devices and commands. `app.state` holds what the composition root filled: database, vault, downlink, sessions, changes."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.model import COMMAND_TTL_MS, LONGEST_COMMAND_S, Command, CommandState, Device, Route
from cloud.devices.ports import Changes, Downlink, Sessions
from cloud.devices.registry import (
    create_command,
    create_device,
    fail_command,
    find_command,
    find_device,
    find_route,
    list_devices,
    reported,
    set_enabled,
)
from cloud.foundation.bus import NobodyAnswers
from cloud.foundation.db import Database
from cloud.foundation.idempotency import Idempotent, Once
from cloud.foundation.logs import get_logger
from cloud.foundation.paging import Cursor, Limit, read_cursor, write_cursor
from cloud.foundation.problems import Problem, not_found
from cloud.foundation.vault import Vault
from cloud.products.service import find_product
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.errors import Reason, Refused, TryAgain

router = APIRouter(tags=["devices"])

SET_METHOD = "thing.service.property.set"


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


class CommandAccepted(BaseModel):
    command_id: str


class CommandView(BaseModel):
    command_id: str
    product_key: str
    device_name: str
    method: str
    params: Any
    state: Annotated[str, Field(description="queued (its gateway is away), sent, completed, failed or expired.")]
    created: int
    expires: int
    finished: int | None
    code: Annotated[int | None, Field(description="The device's code; 200 is done.")]
    reply: Any


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


@router.post(
    "/v1/devices/{product_key}/{device_name}/properties", status_code=202, operation_id="set_properties", response_model=CommandAccepted
)
async def set_properties(
    request: Request,
    caller: Caller,
    product_key: str,
    device_name: str,
    body: dict[str, Any],
    once: Once,
    expires_in_s: Annotated[
        int | None,
        Query(
            ge=1,
            le=LONGEST_COMMAND_S,
            description="How long the command may wait for its end. Given, a device behind a gateway that is away can be asked too.",
        ),
    ] = None,
) -> Response:
    """Ask a device to take these property values (identifier -> value); read the outcome at /v1/commands/{command_id}.

    Through a gateway it is carried out at most once, and survives restarts of both sides until it expires.
    """
    downlink: Downlink = request.app.state.downlink
    answer, prepared = await asyncio.to_thread(_prepare, request, caller, product_key, device_name, body, expires_in_s, once)
    if prepared is None or prepared[1].state == CommandState.QUEUED:
        return answer
    route, command = prepared
    try:
        left = await downlink.deliver_command(
            route.key, route.gateway, command.command_id, command.method, command.params, command.expires_ms
        )
    except NobodyAnswers:
        await asyncio.to_thread(_fail, request, caller, command.command_id, once)
        raise
    except TryAgain as error:
        # It may have left: the command stays `sent`, and the answer or the expiry decides.
        get_logger().warning("command.delivery_unknown", command_id=command.command_id, error=str(error))
        left = True
    if not left:
        await asyncio.to_thread(_fail, request, caller, command.command_id, once)
        raise _offline(product_key, device_name)
    if once.given:
        await asyncio.to_thread(_settle, request, caller, once)
    return answer


def _prepare(
    request: Request,
    caller: Principal,
    product_key: str,
    device_name: str,
    values: dict[str, Any],
    expires_in_s: int | None,
    once: Idempotent,
) -> tuple[Response, tuple[Route, Command] | None]:
    """The answer, and the command that has to leave; no command when the request was carried out before."""
    database: Database = request.app.state.database
    sessions: Sessions = request.app.state.sessions
    with database.unit_of_work(caller.tenant_id) as work:
        known = once.known(work)
        if known is not None:
            return known, None
        device = find_device(work, product_key, device_name, lease_held=sessions.lease_held())
        product = find_product(work, product_key)
        if device is None or product is None:
            raise not_found(f"Device {product_key}/{device_name}")
        if not values:
            raise Refused(Reason.BAD_ENVELOPE, "The body must map at least one property identifier to a value.")
        params = product.thing_model.coerce_set(values)
        route, state = find_route(work, device, lease_held=sessions.lease_held()), CommandState.SENT
        if route is None and expires_in_s is not None:
            route, state = find_route(work, device, lease_held=sessions.lease_held(), away=True), CommandState.QUEUED
        if route is None:
            raise _offline(product_key, device_name)
        ttl_ms = COMMAND_TTL_MS if expires_in_s is None else 1000 * expires_in_s
        command = create_command(work, route, SET_METHOD, params, ttl_ms=ttl_ms, state=state)
        accepted = CommandAccepted(command_id=command.command_id)
        return once.commit(work, accepted, 202, running=state == CommandState.SENT), (route, command)


def _fail(request: Request, caller: Principal, command_id: str, once: Idempotent) -> None:
    """The command did not leave: it is failed, and the same request may be tried again."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        fail_command(work, command_id)
        once.release(work)
        work.commit()


def _settle(request: Request, caller: Principal, once: Idempotent) -> None:
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        once.settle(work)
        work.commit()


def _offline(product_key: str, device_name: str) -> Problem:
    detail = f"Device {product_key}/{device_name} is not connected; send the request again once GET shows `online`."
    return Problem(409, "device-offline", detail)


@router.get("/v1/commands/{command_id}", operation_id="get_command")
def get_command(request: Request, caller: Caller, command_id: str) -> CommandView:
    """What became of a command."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = find_command(work, command_id)
    if found is None:
        raise not_found(f"Command {command_id}")
    return CommandView(
        command_id=found.command_id,
        product_key=found.product_key,
        device_name=found.device_name,
        method=found.method,
        params=found.params,
        state=found.state,
        created=found.created_ms,
        expires=found.expires_ms,
        finished=found.finished_ms,
        code=found.code,
        reply=found.reply,
    )
