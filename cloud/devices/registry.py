"""Use cases of the API: enter devices, look at them, find the way to them. Everything here blocks: asyncio code runs it in a thread."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, Select, case, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from cloud.devices.model import (
    COMMAND_TTL_MS,
    Command,
    CommandState,
    Device,
    Route,
    Undelivered,
    check_device_name,
    secret_context,
    state_at,
)
from cloud.devices.tables import CommandRow, DeviceRow, PresenceRow, ReportedRow, SiteRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork, is_duplicate
from cloud.foundation.problems import Problem
from cloud.foundation.vault import Vault
from cloud.products.model import GATEWAY

_Gateway = aliased(DeviceRow, name="gateway")
_GatewayPresence = aliased(PresenceRow, name="gateway_presence")


def create_device(work: UnitOfWork, vault: Vault, product_key: str, device_name: str, site: str | None) -> str:
    """Enter a device, make its site if it is new, and return the device secret: the only time it can be seen.

    Raises Refused (its name), Problem 409 (there is such a device).
    """
    check_device_name(device_name)
    secret = secrets.token_hex(16)
    device = DeviceRow(
        product_key=product_key,
        device_name=device_name,
        site_id=None if site is None else _site_id(work, site),
        sealed_secret=vault.seal(secret.encode(), secret_context(product_key, device_name)),
        enabled=True,
        created_ms=now_ms(),
    )
    try:
        with work.session.begin_nested():
            work.session.add(device)
    except IntegrityError as error:
        if not is_duplicate(error):
            raise
        detail = f"Product {product_key} has a device {device_name} already; choose another device_name."
        raise Problem(409, "device-exists", detail) from error
    return secret


def _site_id(work: UnitOfWork, name: str) -> int:
    found = select(SiteRow.id).where(SiteRow.name == name)
    known = work.session.scalar(found)
    if known is not None:
        return known
    row = SiteRow(name=name, created_ms=now_ms())
    try:
        with work.session.begin_nested():
            work.session.add(row)
    except IntegrityError:  # on PostgreSQL another request may have made it meanwhile
        return work.session.scalars(found).one()
    return row.id


def _devices() -> Select[DeviceRow, str | None, PresenceRow | None, DeviceRow | None, PresenceRow | None]:
    """Each device with its site's name, its presence, and the gateway it was last seen through with that one's presence."""
    return (
        select(DeviceRow, SiteRow.name, PresenceRow, _Gateway, _GatewayPresence)
        .outerjoin(SiteRow, SiteRow.id == DeviceRow.site_id)
        .outerjoin(PresenceRow, PresenceRow.device_id == DeviceRow.id)
        .outerjoin(_Gateway, _Gateway.id == PresenceRow.via)
        .outerjoin(_GatewayPresence, _GatewayPresence.device_id == PresenceRow.via)
    )


def _device(row: Row[DeviceRow, str | None, PresenceRow | None, DeviceRow | None, PresenceRow | None], lease_held: bool) -> Device:
    device, site, presence, gateway, gateway_presence = row
    online = presence is not None and presence.online and lease_held
    if gateway is not None:  # a device behind a gateway that is away cannot be online, whatever was last heard
        online = online and gateway_presence is not None and gateway_presence.online
    return Device(
        device_id=device.id,
        product_key=device.product_key,
        device_name=device.device_name,
        site=site,
        enabled=device.enabled,
        created_ms=device.created_ms,
        online=online,
        since_ms=None if presence is None else presence.since_ms,
        via=None if gateway is None else (gateway.product_key, gateway.device_name),
    )


def find_device(work: UnitOfWork, product_key: str, device_name: str, *, lease_held: bool) -> Device | None:
    query = _devices().where(DeviceRow.product_key == product_key, DeviceRow.device_name == device_name)
    row = work.session.execute(query).one_or_none()
    return None if row is None else _device(row, lease_held)


def list_devices(work: UnitOfWork, product_key: str, after: int, limit: int, *, lease_held: bool) -> list[Device]:
    """The product's devices whose id is beyond `after`, by time of creation."""
    query = _devices().where(DeviceRow.product_key == product_key, DeviceRow.id > after).order_by(DeviceRow.id).limit(limit)
    return [_device(row, lease_held) for row in work.session.execute(query)]


def count_devices(work: UnitOfWork, product_key: str) -> int:
    """How many devices of the product the tenant has."""
    return work.session.scalar(select(func.count()).select_from(DeviceRow).where(DeviceRow.product_key == product_key)) or 0


def search_devices(work: UnitOfWork, words: str, skip: int, limit: int, *, lease_held: bool) -> tuple[list[Device], int]:
    """The tenant's devices in whose name, product key or site `words` stands, by name, and how many there are in all."""
    query = _devices()
    if words:
        columns = (DeviceRow.device_name, DeviceRow.product_key, SiteRow.name)
        query = query.where(or_(*(column.icontains(words, autoescape=True) for column in columns)))
    total = work.session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    rows = work.session.execute(query.order_by(DeviceRow.device_name, DeviceRow.id).offset(skip).limit(limit))
    return [_device(row, lease_held) for row in rows], total


def count_online(work: UnitOfWork) -> tuple[int, int]:
    """How many devices the tenant has, and how many of them were last heard to be online."""
    online = PresenceRow.online & (_Gateway.id.is_(None) | _GatewayPresence.online)
    counted = (
        select(func.count(DeviceRow.id), func.coalesce(func.sum(case((online, 1), else_=0)), 0))
        .outerjoin(PresenceRow, PresenceRow.device_id == DeviceRow.id)
        .outerjoin(_Gateway, _Gateway.id == PresenceRow.via)
        .outerjoin(_GatewayPresence, _GatewayPresence.device_id == PresenceRow.via)
    )
    total, there = work.session.execute(counted).one()
    return int(total), int(there)


def newest_times(work: UnitOfWork, device_ids: Sequence[int]) -> dict[int, int]:
    """The event time of the newest reported value of each device that has one."""
    query = select(ReportedRow.device_id, func.max(ReportedRow.time_ms)).where(ReportedRow.device_id.in_(device_ids))
    return {row[0]: row[1] for row in work.session.execute(query.group_by(ReportedRow.device_id))}


def reported(work: UnitOfWork, device_id: int) -> dict[str, tuple[Any, int]]:
    """The reported shadow of a device found in the same unit of work: `{identifier: (value, event time in ms)}`."""
    rows = work.session.scalars(select(ReportedRow).where(ReportedRow.device_id == device_id).order_by(ReportedRow.identifier))
    return {row.identifier: (msgspec.json.decode(row.value), row.time_ms) for row in rows}


def set_enabled(work: UnitOfWork, product_key: str, device_name: str, enabled: bool) -> bool:
    """Let a device in or lock it out; False when there is none."""
    change = update(DeviceRow).where(DeviceRow.product_key == product_key, DeviceRow.device_name == device_name).values(enabled=enabled)
    return bool(work.session.execute(change).rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def find_route(work: UnitOfWork, device: Device, *, lease_held: bool, away: bool = False) -> Route | None:
    """The way to a device that can be reached now: its own session, else the gateway of its site; None when there is none.

    With `away` also a gateway that is not connected now.
    """
    key = (device.product_key, device.device_name)
    if device.online and device.via is None:
        return Route(device.device_id, key)
    unreachable = not lease_held or (device.via is not None and not device.online)
    if (unreachable and not away) or device.product_key == GATEWAY:
        return None
    query = (
        select(_Gateway)
        .join(DeviceRow, DeviceRow.site_id == _Gateway.site_id)
        .outerjoin(_GatewayPresence, _GatewayPresence.device_id == _Gateway.id)
        .where(DeviceRow.id == device.device_id, _Gateway.product_key == GATEWAY, _Gateway.enabled)
        .order_by(_Gateway.id)
    )
    if not away:
        query = query.where(_GatewayPresence.online)
    gateways = [(row.id, (row.product_key, row.device_name)) for row in work.session.scalars(query)]
    if not gateways:
        return None
    gateway_id, gateway = next((found for found in gateways if found[1] == device.via), gateways[0])
    return Route(device.device_id, key, gateway_id, gateway)


def create_command(
    work: UnitOfWork, route: Route, method: str, params: object, *, ttl_ms: int = COMMAND_TTL_MS, state: CommandState = CommandState.SENT
) -> Command:
    """Note a command as sent, before it is: an answer must find it."""
    now = now_ms()
    row = CommandRow(
        device_id=route.device_id,
        via=route.gateway_id,
        method=method,
        params=msgspec.json.encode(params).decode(),
        state=str(state),
        created_ms=now,
        expires_ms=now + ttl_ms,
    )
    work.session.add(row)
    work.session.flush()
    product_key, device_name = route.key
    return Command(str(row.id), product_key, device_name, method, params, row.state, now, row.expires_ms, None, None, None)


def fail_command(work: UnitOfWork, command_id: str) -> None:
    """The command did not leave."""
    change = update(CommandRow).where(CommandRow.id == int(command_id), CommandRow.state == CommandState.SENT)
    work.session.execute(change.values(state=str(CommandState.FAILED), finished_ms=now_ms()))


def undelivered(work: UnitOfWork, created_before_ms: int, after: int, limit: int) -> list[Undelivered]:
    """Commands through connected gateways that are neither answered nor expired, the oldest behind the id `after` first."""
    query = (
        select(CommandRow, DeviceRow, _Gateway)
        .join(DeviceRow, DeviceRow.id == CommandRow.device_id)
        .join(_Gateway, _Gateway.id == CommandRow.via)
        .join(_GatewayPresence, _GatewayPresence.device_id == _Gateway.id)
        .where(
            CommandRow.state.in_((CommandState.QUEUED, CommandState.SENT)),
            CommandRow.expires_ms > now_ms(),
            CommandRow.id > after,
            CommandRow.created_ms < created_before_ms,
            _GatewayPresence.online,
        )
        .order_by(CommandRow.id)
        .limit(limit)
    )
    return [
        Undelivered(
            row.tenant_id,
            str(row.id),
            (device.product_key, device.device_name),
            (gateway.product_key, gateway.device_name),
            row.method,
            msgspec.json.decode(row.params),
            row.expires_ms,
        )
        for row, device, gateway in work.session.execute(query)
    ]


def command_left(work: UnitOfWork, command_id: str) -> None:
    """A queued command was handed to its gateway's session."""
    change = update(CommandRow).where(CommandRow.id == int(command_id), CommandRow.state == CommandState.QUEUED)
    work.session.execute(change.values(state=str(CommandState.SENT)))


def find_command(work: UnitOfWork, command_id: str) -> Command | None:
    if not (command_id.isascii() and command_id.isdigit() and len(command_id) <= 18):
        return None
    query = select(CommandRow, DeviceRow).join(DeviceRow, DeviceRow.id == CommandRow.device_id).where(CommandRow.id == int(command_id))
    found = work.session.execute(query).one_or_none()
    if found is None:
        return None
    row, device = found
    return Command(
        command_id=str(row.id),
        product_key=device.product_key,
        device_name=device.device_name,
        method=row.method,
        params=msgspec.json.decode(row.params),
        state=state_at(row.state, row.expires_ms, now_ms()),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        finished_ms=row.finished_ms,
        code=row.code,
        reply=None if row.reply is None else msgspec.json.decode(row.reply),
    )
