"""Use cases of the API: enter devices, look at them, find the way to them. Everything here blocks: asyncio code runs it in a thread."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Select, and_, case, false, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from cloud.devices.model import (
    Device,
    Route,
    check_device_name,
    secret_context,
)
from cloud.devices.tables import DeviceRow, PresenceRow, ReportedRow, SiteRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import KEYS_A_STATEMENT, UnitOfWork, is_duplicate
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
        site_id=None if site is None else site_id(work, site),
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


def site_id(work: UnitOfWork, name: str) -> int:
    """The id of a site, made when it is new."""
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


def devices_query() -> Select[DeviceRow, str | None, PresenceRow | None, DeviceRow | None, PresenceRow | None]:
    """Each device with its site's name, its presence, and the gateway it was last seen through with that one's presence."""
    return (
        select(DeviceRow, SiteRow.name, PresenceRow, _Gateway, _GatewayPresence)
        .outerjoin(SiteRow, SiteRow.id == DeviceRow.site_id)
        .outerjoin(PresenceRow, PresenceRow.device_id == DeviceRow.id)
        .outerjoin(_Gateway, _Gateway.id == PresenceRow.via)
        .outerjoin(_GatewayPresence, _GatewayPresence.device_id == PresenceRow.via)
    )


def read_device(row: Row[DeviceRow, str | None, PresenceRow | None, DeviceRow | None, PresenceRow | None], lease_held: bool) -> Device:
    """One row of `devices_query`."""
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
        state=device.state,
        activated_ms=device.activated_ms,
        nickname=device.nickname,
    )


def find_device(work: UnitOfWork, product_key: str, device_name: str, *, lease_held: bool) -> Device | None:
    query = devices_query().where(DeviceRow.product_key == product_key, DeviceRow.device_name == device_name)
    row = work.session.execute(query).one_or_none()
    return None if row is None else read_device(row, lease_held)


def list_devices(work: UnitOfWork, product_key: str, after: int, limit: int, *, lease_held: bool) -> list[Device]:
    """The product's devices whose id is beyond `after`, by time of creation."""
    query = devices_query().where(DeviceRow.product_key == product_key, DeviceRow.id > after).order_by(DeviceRow.id).limit(limit)
    return [read_device(row, lease_held) for row in work.session.execute(query)]


def count_devices(work: UnitOfWork, product_key: str) -> int:
    """How many devices of the product the tenant has."""
    return work.session.scalar(select(func.count()).select_from(DeviceRow).where(DeviceRow.product_key == product_key)) or 0


def search_devices(work: UnitOfWork, words: str, skip: int, limit: int, *, lease_held: bool) -> tuple[list[Device], int]:
    """The tenant's devices in whose name, product key or site `words` stands, by name, and how many there are in all."""
    query = devices_query()
    if words:
        columns = (DeviceRow.device_name, DeviceRow.product_key, SiteRow.name)
        query = query.where(or_(*(column.icontains(words, autoescape=True) for column in columns)))
    total = work.session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    rows = work.session.execute(query.order_by(DeviceRow.device_name, DeviceRow.id).offset(skip).limit(limit))
    return [read_device(row, lease_held) for row in rows], total


def online_clause() -> ColumnElement[bool]:
    """Whether a row of `devices_query` was last heard to be online: itself, and the gateway that carries it."""
    gateway_there = or_(_Gateway.id.is_(None), func.coalesce(_GatewayPresence.online, false()))
    return and_(func.coalesce(PresenceRow.online, false()), gateway_there)


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


def device_ids(work: UnitOfWork, product_key: str, device_names: Sequence[str]) -> dict[str, int]:
    """The ids of those devices of a product that exist, by name and in this order."""
    found: dict[str, int] = {}
    for start in range(0, len(device_names), KEYS_A_STATEMENT):
        chunk = device_names[start : start + KEYS_A_STATEMENT]
        query = select(DeviceRow.device_name, DeviceRow.id).where(DeviceRow.product_key == product_key, DeviceRow.device_name.in_(chunk))
        found |= {row.device_name: row.id for row in work.session.execute(query)}
    return {name: found[name] for name in device_names if name in found}


def rename(work: UnitOfWork, product_key: str, device_name: str, nickname: str | None) -> None:
    """Give a device a name for people, or take it away."""
    change = update(DeviceRow).where(DeviceRow.product_key == product_key, DeviceRow.device_name == device_name)
    work.session.execute(change.values(nickname=nickname))


def find_route(work: UnitOfWork, device: Device, *, lease_held: bool, away: bool = False) -> Route | None:
    """The way to a device that can be reached now: its own session, else the gateway of its site; None when there is none.

    With `away` also a gateway that is not connected now.
    """
    key = (device.product_key, device.device_name)
    if device.online and (device.via is None or device.via[0] != GATEWAY):  # a gateway that speaks Alink holds its sub-devices' sessions
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
