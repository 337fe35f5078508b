"""Routes of the shadow, of tags and of devices' own logs."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cloud.devices.commands import SET_METHOD, create_command, fail_command, order_of
from cloud.devices.device_log import log_mode, log_of, set_log_mode
from cloud.devices.model import COMMAND_TTL_MS, CommandState, Device, Order, Route, Shadow
from cloud.devices.ports import Downlink, Sessions
from cloud.devices.registry import find_device, find_route
from cloud.devices.shadow import change_desired, delta_of, document_of, load_shadow
from cloud.devices.tags import delete_tags, set_tags, tags_of
from cloud.foundation.audit import record
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.logs import get_logger
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import Problem, not_found
from cloud.products.service import find_product
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from protocols.alink.deviceinfo import LONGEST_KEY, LONGEST_VALUE, log_content
from protocols.alink.messages import encode_command
from protocols.alink.shadow import MOST_ATTRIBUTES, shadow_content
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused, TryAgain
from protocols.thing.raw_bytes import message_for
from protocols.thing.raw_table import RawTable

router = APIRouter(prefix="/v1/devices/{product_key}/{device_name}", tags=["shadow"])


class DesiredMeta(BaseModel):
    time: int
    version: Annotated[int, Field(description="Counts the changes of this property.")]


class ReportedMeta(BaseModel):
    time: int


class ShadowMeta(BaseModel):
    desired: dict[str, DesiredMeta]
    reported: dict[str, ReportedMeta]


class ShadowView(BaseModel):
    desired: Annotated[dict[str, Any], Field(description="What should be, by identifier.")]
    reported: Annotated[dict[str, Any], Field(description="What the device said last.")]
    delta: Annotated[dict[str, Any], Field(description="What the device still has to change.")]
    version: Annotated[int, Field(description="Counts changes of what is desired, and those that the device makes to its shadow.")]
    metadata: ShadowMeta


class DesiredChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    desired: Annotated[dict[str, Any], Field(description="Values by identifier; null takes one back.")]
    version: Annotated[int | None, Field(ge=0, description="Only if the shadow still has this version; 409 otherwise.")] = None


class TagView(BaseModel):
    value: str
    source: Annotated[str, Field(description="Who set it last: device or api.")]
    time: int


TagKey = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_KEY, pattern=r"^[^\x00]+$")]
TagText = Annotated[str, StringConstraints(max_length=LONGEST_VALUE, pattern=r"^[^\x00]*$")]


class TagChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tags: Annotated[dict[TagKey, TagText | None], Field(description="Values by key; null deletes one.")]


class Tags(BaseModel):
    tags: dict[str, TagView]


class LogLineView(BaseModel):
    number: int
    received: int
    time: Annotated[str, Field(description="As the device wrote it.")]
    level: str
    module: str
    code: str
    trace: str
    content: str


class LogMode(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Annotated[Literal[0, 1], Field(description="1: the device is to post its log; 0: it is not.")]


class LogPage(BaseModel):
    items: list[LogLineView]
    next: str | None


def _device(work: UnitOfWork, request: Request, product_key: str, device_name: str) -> Device:
    sessions: Sessions = request.app.state.sessions
    device = find_device(work, product_key, device_name, lease_held=sessions.lease_held())
    if device is None:
        raise not_found(f"Device {product_key}/{device_name}")
    return device


def _view(shadow: Shadow) -> ShadowView:
    return ShadowView(
        desired={name: held.value for name, held in shadow.desired.items()},
        reported={name: entry.value for name, entry in shadow.reported.items()},
        delta=delta_of(shadow),
        version=shadow.version,
        metadata=ShadowMeta(
            desired={name: DesiredMeta(time=held.time_ms, version=held.version) for name, held in shadow.desired.items()},
            reported={name: ReportedMeta(time=entry.time_ms) for name, entry in shadow.reported.items()},
        ),
    )


@router.get("/shadow", operation_id="get_shadow")
def get_shadow(request: Request, caller: Caller, product_key: str, device_name: str) -> ShadowView:
    """What is desired of a device and what it reported, with the time of each value."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        device = _device(work, request, product_key, device_name)
        return _view(load_shadow(work.session, device.device_id))


@router.patch("/shadow", operation_id="change_desired")
async def change(request: Request, caller: Caller, product_key: str, device_name: str, body: DesiredChange) -> ShadowView:
    """Say what should be. A device that is connected is told at once; one that is away asks, or is told, when it comes.

    A device that uses the shadow's own topics gets the whole shadow (`control`); any other a property set.
    """
    shadow, device, order = await asyncio.to_thread(_change, request, caller, product_key, device_name, body)
    if device.online:
        await _tell(request, caller, device, shadow, order)
    return _view(shadow)


def _change(
    request: Request, caller: Principal, product_key: str, device_name: str, body: DesiredChange
) -> tuple[Shadow, Device, Order | None]:
    database: Database = request.app.state.database
    sessions: Sessions = request.app.state.sessions
    with database.unit_of_work(caller.tenant_id) as work:
        device = _device(work, request, product_key, device_name)
        product = find_product(work, product_key)
        if product is None:
            raise not_found(f"Device {product_key}/{device_name}")
        if not body.desired:
            raise Refused(Reason.BAD_ENVELOPE, "`desired` must map at least one property identifier to a value, or to null.")
        wanted = product.thing_model.coerce_set({name: value for name, value in body.desired.items() if value is not None})
        before = load_shadow(work.session, device.device_id)
        if body.version is not None and body.version != before.version:
            detail = f"The shadow has version {before.version}, not {body.version}: read it again, and decide anew."
            raise Problem(409, "shadow-version", detail, more={"version": before.version})
        if len(before.desired.keys() | wanted.keys()) > MOST_ATTRIBUTES:
            raise Refused(Reason.TOO_MANY, f"at most {MOST_ATTRIBUTES} values can be desired of a device: take some back first")
        changes = {name: wanted.get(name) for name in body.desired}
        shadow = change_desired(work.session, device.device_id, changes, now_ms())
        order = None
        delta = {name: value for name, value in delta_of(shadow).items() if name in wanted}
        route = find_route(work, device, lease_held=sessions.lease_held()) if delta and not shadow.spoken else None
        if route is not None:
            table = product.thing_model.raw_table
            whole = (
                table is not None and bool(table.down) and message_for(table, delta) is None
            )  # a part of what was asked may have no bytes
            order = _set_order(work, route, wanted if whole else delta, caller.key_name, table)
        record(work.session, caller.tenant_id, caller.key_name, "desire", f"{product_key}/{device_name}", changes)
        work.commit()
    return shadow, device, order


def _set_order(work: UnitOfWork, route: Route, values: Mapping[str, object], by: str, table: RawTable | None) -> Order:
    state = CommandState.SENT
    command = create_command(work, route, SET_METHOD, values, ttl_ms=COMMAND_TTL_MS, state=state, requested_by=by, table=table)
    return order_of(work, command, route)


async def _tell(request: Request, caller: Principal, device: Device, shadow: Shadow, order: Order | None) -> None:
    """What does not arrive is asked for by the device; the shadow says what is still to do."""
    downlink: Downlink = request.app.state.downlink
    try:
        if order is not None:
            if not await downlink.deliver_command(order):
                await asyncio.to_thread(_not_told, request, caller, order)
        elif shadow.spoken:
            payload = shadow_content(document_of(shadow), now_ms(), method="control")
            key = (device.product_key, device.device_name)
            await downlink.deliver_message(key, str(Topic(Kind.SHADOW_GET, *key)), payload)
    except TryAgain as error:
        get_logger().warning("shadow.not_told", device=f"{device.product_key}/{device.device_name}", error=str(error))


def _not_told(request: Request, caller: Principal, order: Order) -> None:
    """No session took the property set: it ends here, what is desired stays."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        fail_command(work, order.command_id)
        work.commit()


@router.get("/tags", operation_id="get_tags")
def get_tags(request: Request, caller: Caller, product_key: str, device_name: str) -> Tags:
    """The tags of a device, its own and those that people gave it."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return _tags(work, _device(work, request, product_key, device_name))


def _tags(work: UnitOfWork, device: Device) -> Tags:
    found = tags_of(work.session, device.device_id)
    return Tags(tags={key: TagView(value=tag.value, source=tag.source, time=tag.time_ms) for key, tag in found.items()})


@router.patch("/tags", operation_id="change_tags")
def change_tags(request: Request, caller: Caller, product_key: str, device_name: str, body: TagChange) -> Tags:
    """Set and delete tags; others stay."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        device = _device(work, request, product_key, device_name)
        delete_tags(work.session, device.device_id, [key for key, value in body.tags.items() if value is None])
        wanted = {key: value for key, value in body.tags.items() if value is not None}
        set_tags(work.session, device.device_id, wanted, "api", now_ms())
        record(work.session, caller.tenant_id, caller.key_name, "set_tags", f"{product_key}/{device_name}", {"tags": body.tags})
        work.commit()
        return _tags(work, device)


@router.get("/log", operation_id="list_device_log")
def list_log(request: Request, caller: Caller, product_key: str, device_name: str, limit: Limit = 100, cursor: Cursor = None) -> LogPage:
    """What a device wrote about itself, newest first: the last thousand lines."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        device = _device(work, request, product_key, device_name)
        found = log_of(work.session, device.device_id, read_cursor(cursor), limit + 1)
    items = [
        LogLineView(
            number=line.number,
            received=line.received_ms,
            time=line.time,
            level=line.level,
            module=line.module,
            code=line.code,
            trace=line.trace,
            content=line.content,
        )
        for line in found[:limit]
    ]
    return LogPage(items=items, next=next_page(found, limit, lambda one: one.number))


@router.get("/log/mode", operation_id="get_log_mode")
def get_log_mode(request: Request, caller: Caller, product_key: str, device_name: str) -> LogMode:
    """Whether a device is to post its log."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return LogMode.model_validate({"mode": log_mode(work.session, _device(work, request, product_key, device_name).device_id)})


@router.put("/log/mode", operation_id="set_log_mode")
async def put_log_mode(request: Request, caller: Caller, product_key: str, device_name: str, body: LogMode) -> LogMode:
    """Say whether a device is to post its log. One that is connected is told at once, any other asks when it comes."""
    database: Database = request.app.state.database
    downlink: Downlink = request.app.state.downlink

    def apply() -> None:
        with database.unit_of_work(caller.tenant_id) as work:
            device = _device(work, request, product_key, device_name)
            set_log_mode(work.session, device.device_id, body.mode, now_ms())
            record(work.session, caller.tenant_id, caller.key_name, "log_mode", f"{product_key}/{device_name}", {"mode": body.mode})
            work.commit()

    await asyncio.to_thread(apply)
    key = (product_key, device_name)
    push = encode_command(secrets.randbelow(1 << 32), "thing.config.log.push", log_content(body.mode))
    try:
        await downlink.deliver_message(key, str(Topic(Kind.LOG_CONFIG_PUSH, *key)), push)
    except TryAgain as error:
        get_logger().warning("log_mode.not_told", device="/".join(key), error=str(error))
    return body
