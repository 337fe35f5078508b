"""What the roles ask and tell about devices. Everything here blocks: asyncio code runs it in a thread.

`session` is that of a unit of work of the whole system (`database.system()`); the caller commits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, Table, and_, case, or_, select, tuple_, update
from sqlalchemy.orm import Session

from cloud.devices.identity import IDENTITY_COLUMNS, read_identity
from cloud.devices.lifecycle import Move, State, moved
from cloud.devices.model import (
    CommandReply,
    CommandState,
    Credentials,
    DeviceFacts,
    PresenceChange,
    SubDevice,
    secret_context,
)
from cloud.devices.tables import CommandRow, DeviceIdentityRow, DeviceRow, PresenceRow, ReportedRow, TopologyRow
from cloud.foundation.audit import record
from cloud.foundation.clock import now_ms
from cloud.foundation.db import KEYS_A_STATEMENT, Database, upsert
from cloud.foundation.vault import Vault
from cloud.products.model import GATEWAY
from cloud.products.service import owners
from cloud.tenancy.service import operators_tenant

DeviceKey = tuple[str, str]  # (product key, device name)
DeviceColumns = Row[int, int, str, str, int | None, bool, bytes]  # as `_device_rows` selects them

_reported: Table = ReportedRow.__table__  # type: ignore[assignment]
_device: Table = DeviceRow.__table__  # type: ignore[assignment]
_presence: Table = PresenceRow.__table__  # type: ignore[assignment]


def credentials_for(database: Database, vault: Vault, keys: Sequence[DeviceKey]) -> dict[DeviceKey, Credentials]:
    """The credentials of the devices that exist. Raises DatabaseAway, Broken (a secret that does not open)."""
    with database.system_reading() as work:
        return credentials_in(work.session, vault, keys)


def credentials_in(session: Session, vault: Vault, keys: Sequence[DeviceKey]) -> dict[DeviceKey, Credentials]:
    """The same within a transaction."""
    now, found = now_ms(), dict[DeviceKey, Credentials]()
    columns = _COLUMNS.add_columns(*IDENTITY_COLUMNS).outerjoin(DeviceIdentityRow, DeviceIdentityRow.device_id == DeviceRow.id)
    for row in _device_rows(session, keys, columns):
        secret = vault.open(row.sealed_secret, secret_context(row.product_key, row.device_name))
        found[row.product_key, row.device_name] = Credentials(*_identity(row), secret, read_identity(row, vault, now))
    return found


def sub_devices_for(database: Database, vault: Vault, keys: Sequence[DeviceKey]) -> dict[DeviceKey, SubDevice]:
    """The same with the gateways in whose topology they are. Raises DatabaseAway, Broken."""
    with database.system_reading() as work:
        found = credentials_in(work.session, vault, keys)
        gateways = gateways_of(work.session, [credentials.device_id for credentials in found.values()])
    return {key: SubDevice(credentials, gateways.get(credentials.device_id, 0)) for key, credentials in found.items()}


def device_facts(database: Database, keys: Sequence[DeviceKey]) -> dict[DeviceKey, DeviceFacts]:
    """Who these devices are; a pair that does not exist is left out. Raises DatabaseAway."""
    with database.system_reading() as work:
        rows = list(_device_rows(work.session, keys))
        gateways = gateways_of(work.session, [row.id for row in rows])
        return {(row.product_key, row.device_name): DeviceFacts(*_identity(row), gateways.get(row.id, 0)) for row in rows}


def device_keys(session: Session, device_ids: Sequence[int]) -> dict[int, DeviceKey]:
    """(product key, device name) by id, of those that exist."""
    found: dict[int, DeviceKey] = {}
    for start in range(0, len(device_ids), KEYS_A_STATEMENT):
        chunk = device_ids[start : start + KEYS_A_STATEMENT]
        rows = session.execute(select(DeviceRow.id, DeviceRow.product_key, DeviceRow.device_name).where(DeviceRow.id.in_(chunk)))
        found |= {row.id: (row.product_key, row.device_name) for row in rows}
    return found


def gateways_of(session: Session, device_ids: Sequence[int]) -> dict[int, int]:
    """The gateways in whose topology these devices are, by the device's id."""
    found: dict[int, int] = {}
    for start in range(0, len(device_ids), KEYS_A_STATEMENT):
        chunk = device_ids[start : start + KEYS_A_STATEMENT]
        rows = session.execute(select(TopologyRow.device_id, TopologyRow.gateway_id).where(TopologyRow.device_id.in_(chunk)))
        found |= {row.device_id: row.gateway_id for row in rows}
    return found


def device_with_gateways(database: Database, product_key: str, device_name: str) -> tuple[DeviceFacts, list[DeviceKey]] | None:
    """A device, and the gateways of the site on which it stands; None: there is none. Raises DatabaseAway."""
    with database.system_reading() as work:
        row = next(_device_rows(work.session, [(product_key, device_name)]), None)
        if row is None:
            return None
        rows = select(DeviceRow.product_key, DeviceRow.device_name)
        found = rows.where(DeviceRow.product_key == GATEWAY, DeviceRow.site_id == row.site_id).order_by(DeviceRow.id)
        gateways = [] if row.site_id is None else [(gateway[0], gateway[1]) for gateway in work.session.execute(found)]
        return DeviceFacts(*_identity(row)), gateways


def tenants_concerned(database: Database, claims: Sequence[DeviceKey]) -> list[int]:
    """Who has to know that somebody who claims to be one of these was refused: the device's tenant, else the product's, else the operator.

    In the order of `claims`. Raises DatabaseAway.
    """
    with database.system_reading() as work:
        devices = {(row.product_key, row.device_name): row.tenant_id for row in _device_rows(work.session, claims)}
        products = owners(work, {product_key for product_key, _ in claims})
        operator = operators_tenant(work)
    return [devices.get(claim, products.get(claim[0], operator)) for claim in claims]


def _identity(row: DeviceColumns) -> tuple[int, int, str, str, int | None, bool, bool]:
    """The fields that `Credentials` and `DeviceFacts` begin with, in their order."""
    return row.tenant_id, row.id, row.product_key, row.device_name, row.site_id, row.product_key == GATEWAY, row.enabled


_COLUMNS: Final = select(
    DeviceRow.id,
    DeviceRow.tenant_id,
    DeviceRow.product_key,
    DeviceRow.device_name,
    DeviceRow.site_id,
    DeviceRow.enabled,
    DeviceRow.sealed_secret,
)


def _device_rows(session: Session, keys: Sequence[DeviceKey], columns: Select[*tuple[Any, ...]] = _COLUMNS) -> Iterator[Any]:
    for start in range(0, len(keys), KEYS_A_STATEMENT):
        chunk = keys[start : start + KEYS_A_STATEMENT]
        yield from session.execute(columns.where(tuple_(DeviceRow.product_key, DeviceRow.device_name).in_(chunk)))


def apply_reported(session: Session, values: Mapping[int, Mapping[str, tuple[object, int]]]) -> None:
    """Update the reported shadows: `{device_id: {identifier: (value, event time in ms)}}`. An older time never overwrites a newer one."""
    rows = [
        {"device_id": device_id, "identifier": identifier, "value": msgspec.json.encode(value).decode(), "time_ms": time_ms}
        for device_id, properties in values.items()
        for identifier, (value, time_ms) in properties.items()
    ]
    upsert(session, _reported, rows, keys=("device_id", "identifier"), newer_if=_not_older)


def apply_presence(session: Session, changes: Iterable[PresenceChange]) -> None:
    """Note that sessions opened and closed, in this order. A close of an older session, or through another door, changes nothing."""
    last: dict[int, PresenceChange] = {}
    for change in changes:
        held = last.get(change.device_id)
        if held is None or _supersedes(change, held):
            last[change.device_id] = change
    upsert(
        session,
        _presence,
        [{"device_id": c.device_id, "online": c.online, "since_ms": c.time_ms, "epoch": c.epoch, "via": c.via} for c in last.values()],
        keys=("device_id",),
        newer_if=_takes_over,
    )
    _activate(session, {c.device_id: c.time_ms for c in last.values() if c.online})


def _activate(session: Session, times: Mapping[int, int]) -> None:
    """Devices that connected for the first time: activated, and claimed at once where their site is known."""
    ids = list(times)
    for start in range(0, len(ids), KEYS_A_STATEMENT):
        chunk = ids[start : start + KEYS_A_STATEMENT]
        new = select(_device.c.id).where(_device.c.id.in_(chunk), _device.c.state == State.MANUFACTURED)
        ids_of_new = session.connection().execute(new).scalars().all()  # none, when all of them come back
        if not ids_of_new:
            continue
        fresh = select(DeviceRow).where(DeviceRow.id.in_(ids_of_new), DeviceRow.state == State.MANUFACTURED).with_for_update()
        for device in session.scalars(fresh).all():
            subject = f"{device.product_key}/{device.device_name}"
            device.state, device.activated_ms = str(moved(State.MANUFACTURED, None, Move.ACTIVATE)[0]), times[device.id]
            record(session, device.tenant_id, "device", Move.ACTIVATE, subject)
            if device.site_id is not None:
                device.state = str(moved(State.ACTIVATED, None, Move.CLAIM)[0])
                record(session, device.tenant_id, "platform", Move.CLAIM, subject, {"site_known_before": True})
    session.flush()


def _not_older(new: Any, old: Any) -> Any:
    return new.time_ms >= old.time_ms


def _takes_over(new: Any, old: Any) -> Any:
    return or_(
        and_(new.via == old.via, new.epoch >= old.epoch),
        and_(new.via != old.via, new.online, or_(new.since_ms >= old.since_ms, ~old.online)),
    )


def _supersedes(new: PresenceChange, old: PresenceChange) -> bool:
    """The condition of `apply_presence` once more, between two changes of one call."""
    if new.via == old.via:
        return new.epoch >= old.epoch
    return new.online and (new.time_ms >= old.time_ms or not old.online)


def reset_presence(session: Session, time_ms: int, epoch: int) -> None:
    """`access` started: every session of its own that was opened before `epoch` is closed."""
    session.execute(
        update(PresenceRow)
        .where(PresenceRow.via == 0, PresenceRow.online, PresenceRow.epoch < epoch)
        .values(online=False, since_ms=time_ms)
    )


def complete_commands(session: Session, replies: Iterable[CommandReply]) -> None:
    """Note the devices' answers. Only the device asked, or the gateway it was asked through, can answer, and only once.

    One that comes too late is noted too, and its command stays expired: whoever asked was told so.
    """
    for reply in replies:
        if not (reply.command_id.isascii() and reply.command_id.isdigit() and len(reply.command_id) <= 10):
            continue  # an id that we never gave
        state = CommandState.COMPLETED if reply.code == 200 else CommandState.FAILED
        session.execute(
            update(CommandRow)
            .where(
                CommandRow.id == int(reply.command_id),
                CommandRow.state.in_((CommandState.SENT, CommandState.QUEUED)),
                or_(CommandRow.device_id == reply.from_device, CommandRow.via == reply.from_device),
            )
            .values(
                state=case((CommandRow.expires_ms < reply.time_ms, str(CommandState.EXPIRED)), else_=str(state)),
                code=reply.code,
                reply=msgspec.json.encode(reply.data).decode(),
                finished_ms=reply.time_ms,
            )
            .execution_options(synchronize_session=False)
        )
