"""Use cases of commands: what people ask of devices, until its definite end. Everything here blocks: asyncio code runs it in a thread.

A command is on disk before it leaves. One for a device that is away is `queued`. It is handed over once: before it leaves it is `sent`, and
only when a session certainly did not take it is it `queued` again. Only a gateway, which remembers on its own disk what it was told, is
handed one again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, and_, or_, select, update
from sqlalchemy.orm import aliased

from cloud.devices.model import COMMAND_TTL_MS, Command, CommandState, Order, Route, state_at
from cloud.devices.tables import CommandRow, DeviceRow, PresenceRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from cloud.products.model import GATEWAY
from protocols.thing.raw_bytes import encode
from protocols.thing.raw_table import RawTable

SET_METHOD: Final = "thing.service.property.set"

_Gateway = aliased(DeviceRow, name="gateway")
_GatewayPresence = aliased(PresenceRow, name="gateway_presence")
_Carrier = aliased(DeviceRow, name="carrier")
_CarrierPresence = aliased(PresenceRow, name="carrier_presence")


def create_command(
    work: UnitOfWork,
    route: Route,
    method: str,
    params: object,
    *,
    ttl_ms: int = COMMAND_TTL_MS,
    state: CommandState = CommandState.SENT,
    is_call: bool = False,
    requested_by: str = "",
    table: RawTable | None = None,
) -> Command:
    """Note a command before it leaves: an answer must find it. `is_call`: the device is asked for an answer at once (RRPC).

    A property set by a raw `table` that has messages for the way down leaves as bytes. Raises Refused(BAD_RAW).
    """
    now = now_ms()
    row = CommandRow(
        device_id=route.device_id,
        via=route.gateway_id,
        method=method,
        params=msgspec.json.encode(params).decode(),
        state=str(state),
        created_ms=now,
        expires_ms=now + ttl_ms,
        is_call=is_call,
        requested_by=requested_by[:64],
        sent_ms=now if state is CommandState.SENT else None,
    )
    work.session.add(row)
    work.session.flush()
    if table is not None and table.down and method == SET_METHOD and isinstance(params, Mapping):
        row.raw = encode(table, params, row.id)
        work.session.flush()
    return _command(row, *route.key)


def order_of(work: UnitOfWork, command: Command, route: Route) -> Order:
    """What is handed to the downlink."""
    assert work.tenant_id is not None
    return Order(
        work.tenant_id,
        command.command_id,
        route.key,
        route.gateway,
        command.method,
        command.params,
        command.expires_ms,
        command.is_call,
        command.raw,
    )


def fail_command(work: UnitOfWork, command_id: str) -> None:
    """The command did not leave, and must not later."""
    change = update(CommandRow).where(CommandRow.id == int(command_id), CommandRow.state == CommandState.SENT)
    work.session.execute(change.values(state=str(CommandState.FAILED), finished_ms=now_ms()))


def leaves(work: UnitOfWork, command_id: str) -> bool:
    """The command is about to be handed over; False when somebody else has done so, or it has ended."""
    change = update(CommandRow).where(CommandRow.id == int(command_id), CommandRow.state == CommandState.QUEUED)
    changed = work.session.execute(change.values(state=str(CommandState.SENT), sent_ms=now_ms()))
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def stayed(work: UnitOfWork, command_id: str) -> None:
    """No session took it, so it waits on."""
    change = update(CommandRow).where(CommandRow.id == int(command_id), CommandRow.state == CommandState.SENT)
    work.session.execute(change.values(state=str(CommandState.QUEUED), sent_ms=None))


def undelivered(work: UnitOfWork, created_before_ms: int, after: int, limit: int) -> list[Order]:
    """Commands through connected gateways of ours that are neither answered nor expired, the oldest behind the id `after` first."""
    query = (
        _pending()
        .add_columns(_Gateway)
        .join(_Gateway, _Gateway.id == CommandRow.via)
        .join(_GatewayPresence, _GatewayPresence.device_id == _Gateway.id)
        .where(
            CommandRow.state.in_((CommandState.QUEUED, CommandState.SENT)),
            CommandRow.id > after,
            CommandRow.created_ms < created_before_ms,
            _GatewayPresence.online,
            DeviceRow.enabled,
        )
        .order_by(CommandRow.id)
        .limit(limit)
    )
    return [_order(row, device, (gateway.product_key, gateway.device_name)) for row, device, gateway in work.session.execute(query)]


def waiting(work: UnitOfWork, after: int, limit: int) -> list[Order]:
    """Commands for devices that have come back, by themselves or through a gateway that speaks Alink; the oldest behind `after` first."""
    alink = or_(_Carrier.id.is_(None), and_(_Carrier.product_key != GATEWAY, _CarrierPresence.online))
    query = (
        _pending()
        .join(PresenceRow, PresenceRow.device_id == CommandRow.device_id)
        .outerjoin(_Carrier, _Carrier.id == PresenceRow.via)
        .outerjoin(_CarrierPresence, _CarrierPresence.device_id == PresenceRow.via)
        .where(CommandRow.state == CommandState.QUEUED, CommandRow.via == 0, CommandRow.id > after, PresenceRow.online, alink)
        .where(DeviceRow.enabled)
        .order_by(CommandRow.id)
        .limit(limit)
    )
    return [_order(row, device, None) for row, device in work.session.execute(query)]


def behind_gateways(work: UnitOfWork, limit: int) -> dict[str, int]:
    """Commands that waited for a device by itself, which is now there through a gateway of ours: command id to gateway's id."""
    query = (
        select(CommandRow.id, PresenceRow.via)
        .join(PresenceRow, PresenceRow.device_id == CommandRow.device_id)
        .join(_Carrier, _Carrier.id == PresenceRow.via)
        .where(CommandRow.state == CommandState.QUEUED, CommandRow.via == 0, CommandRow.expires_ms > now_ms())
        .where(PresenceRow.online, _Carrier.product_key == GATEWAY)
        .order_by(CommandRow.id)
        .limit(limit)
    )
    return {str(row.id): row.via for row in work.session.execute(query)}


def go_through_gateways(work: UnitOfWork, adopted: Mapping[str, int]) -> None:
    """From now on these wait for their gateways (a unit of work of the whole system)."""
    for command_id, gateway_id in adopted.items():
        change = update(CommandRow).where(CommandRow.id == int(command_id), CommandRow.state == CommandState.QUEUED)
        work.session.execute(change.values(via=gateway_id))


def _pending() -> Select[CommandRow, DeviceRow]:
    return select(CommandRow, DeviceRow).join(DeviceRow, DeviceRow.id == CommandRow.device_id).where(CommandRow.expires_ms > now_ms())


def _order(row: CommandRow, device: DeviceRow, gateway: tuple[str, str] | None) -> Order:
    return Order(
        row.tenant_id,
        str(row.id),
        (device.product_key, device.device_name),
        gateway,
        row.method,
        msgspec.json.decode(row.params),
        row.expires_ms,
        row.is_call,
        row.raw,
    )


def find_command(work: UnitOfWork, command_id: str) -> Command | None:
    if not (command_id.isascii() and command_id.isdigit() and len(command_id) <= 18):
        return None
    query = select(CommandRow, DeviceRow).join(DeviceRow, DeviceRow.id == CommandRow.device_id).where(CommandRow.id == int(command_id))
    found = work.session.execute(query).one_or_none()
    return None if found is None else _found(found)


def commands_of(work: UnitOfWork, device_id: int, before: int, limit: int) -> Sequence[Command]:
    """A device's commands, newest first; `before` is an id, 0 for the newest."""
    query = select(CommandRow, DeviceRow).join(DeviceRow, DeviceRow.id == CommandRow.device_id).where(CommandRow.device_id == device_id)
    if before:
        query = query.where(CommandRow.id < before)
    return [_found(row) for row in work.session.execute(query.order_by(CommandRow.id.desc()).limit(limit))]


def _found(found: Row[CommandRow, DeviceRow]) -> Command:
    row, device = found
    return _command(row, device.product_key, device.device_name)


def _command(row: CommandRow, product_key: str, device_name: str) -> Command:
    reply: Any = None if row.reply is None else msgspec.json.decode(row.reply)
    return Command(
        command_id=str(row.id),
        product_key=product_key,
        device_name=device_name,
        method=row.method,
        params=msgspec.json.decode(row.params),
        state=state_at(row.state, row.expires_ms, now_ms()),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        finished_ms=row.finished_ms,
        code=row.code,
        reply=reply,
        is_call=bool(row.is_call),
        requested_by=row.requested_by or "",
        sent_ms=row.sent_ms,
        raw=row.raw,
    )
