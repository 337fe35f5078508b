"""Use cases of groups: named sets of devices. Everything here blocks: asyncio code runs it in a thread."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from cloud.devices.model import Group
from cloud.devices.service import DeviceKey
from cloud.devices.tables import DeviceRow, GroupMemberRow, GroupRow
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork, is_duplicate
from cloud.foundation.problems import Problem

MOST_AT_ONCE: Final = 1_000
"""Devices added or removed in one request."""


def create_group(work: UnitOfWork, name: str) -> Group:
    """Raises Problem 409: there is a group of this name."""
    row = GroupRow(name=name, created_ms=now_ms())
    try:
        with work.session.begin_nested():
            work.session.add(row)
    except IntegrityError as error:
        raise _exists(name, error) from error
    return Group(row.id, row.name, row.created_ms, 0)


def rename_group(work: UnitOfWork, group_id: int, name: str) -> None:
    """The same for one that is there."""
    row = work.session.scalars(select(GroupRow).where(GroupRow.id == group_id)).one()
    try:
        with work.session.begin_nested():
            row.name = name
    except IntegrityError as error:
        raise _exists(name, error) from error


def _exists(name: str, error: IntegrityError) -> Exception:
    return Problem(409, "group-exists", f"There is a group {name} already; choose another name.") if is_duplicate(error) else error


def delete_group(work: UnitOfWork, group_id: int) -> None:
    """Its devices stay."""
    work.session.execute(delete(GroupMemberRow).where(GroupMemberRow.group_id == group_id))
    work.session.execute(delete(GroupRow).where(GroupRow.id == group_id))


def find_group(work: UnitOfWork, group_id: int) -> Group | None:
    row = work.session.scalars(select(GroupRow).where(GroupRow.id == group_id)).one_or_none()
    return None if row is None else Group(row.id, row.name, row.created_ms, _counts(work, [row.id]).get(row.id, 0))


def list_groups(work: UnitOfWork, after: int, limit: int) -> list[Group]:
    """The tenant's groups, oldest first."""
    rows = work.session.scalars(select(GroupRow).where(GroupRow.id > after).order_by(GroupRow.id).limit(limit)).all()
    counts = _counts(work, [row.id for row in rows])
    return [Group(row.id, row.name, row.created_ms, counts.get(row.id, 0)) for row in rows]


def _counts(work: UnitOfWork, group_ids: Sequence[int]) -> dict[int, int]:
    counted = select(GroupMemberRow.group_id, func.count()).join(GroupRow, GroupRow.id == GroupMemberRow.group_id)
    rows = work.session.execute(counted.where(GroupMemberRow.group_id.in_(group_ids)).group_by(GroupMemberRow.group_id))
    return {row[0]: row[1] for row in rows}


def change_members(work: UnitOfWork, group_id: int, add: Sequence[DeviceKey], remove: Sequence[DeviceKey]) -> list[DeviceKey]:
    """Take devices in and put them out; the names that are no devices of the tenant. Done twice it is as done once."""
    ids = _ids(work, [*add, *remove])
    held = set(work.session.scalars(select(GroupMemberRow.device_id).where(GroupMemberRow.group_id == group_id)))
    fresh = {ids[key] for key in add if key in ids} - held
    work.session.add_all([GroupMemberRow(group_id=group_id, device_id=device_id) for device_id in sorted(fresh)])
    work.session.flush()
    gone = [ids[key] for key in remove if key in ids]
    work.session.execute(delete(GroupMemberRow).where(GroupMemberRow.group_id == group_id, GroupMemberRow.device_id.in_(gone)))
    return [key for key in dict.fromkeys([*add, *remove]) if key not in ids]


def _ids(work: UnitOfWork, keys: Sequence[DeviceKey]) -> dict[DeviceKey, int]:
    found: dict[DeviceKey, int] = {}
    for product_key in {key[0] for key in keys}:
        names = list({key[1] for key in keys if key[0] == product_key})
        query = select(DeviceRow.device_name, DeviceRow.id)
        rows = work.session.execute(query.where(DeviceRow.product_key == product_key, DeviceRow.device_name.in_(names)))
        found |= {(product_key, row.device_name): row.id for row in rows}
    return found
