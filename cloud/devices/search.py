"""Use cases of finding devices among all of a tenant's. Everything here blocks: asyncio code runs it in a thread."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, func, or_, select

from cloud.devices.model import Device
from cloud.devices.registry import devices_query, online_clause, read_device
from cloud.devices.tables import DeviceRow, GroupMemberRow, GroupRow, SiteRow, TagRow
from cloud.foundation.db import UnitOfWork


@dataclass(frozen=True, slots=True)
class Wanted:
    """What devices have to be; None and "" leave a thing open. `words` stands in a name, nickname, product key or site.

    `tags` are keys, or (key, value): every one of them has to be there.
    """

    words: str = ""
    product_key: str | None = None
    site: str | None = None
    group_id: int | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    state: str | None = None
    online: bool | None = None


def find_devices(work: UnitOfWork, wanted: Wanted, after: int, limit: int, *, lease_held: bool) -> list[Device]:
    """Those that fit, in the order of their ids, beyond `after`."""
    if wanted.online and not lease_held:
        return []
    query = devices_query().where(*_clauses(wanted, lease_held), DeviceRow.id > after).order_by(DeviceRow.id).limit(limit)
    return [read_device(row, lease_held) for row in work.session.execute(query)]


def count_found(work: UnitOfWork, wanted: Wanted, *, lease_held: bool) -> int:
    """How many fit in all."""
    if wanted.online and not lease_held:
        return 0
    query = devices_query().where(*_clauses(wanted, lease_held)).with_only_columns(func.count(DeviceRow.id))
    return work.session.scalar(query) or 0


def _clauses(wanted: Wanted, lease_held: bool) -> list[ColumnElement[bool]]:
    """What a row of `devices_query` has to be."""
    found: list[ColumnElement[bool]] = []
    if wanted.words:
        columns = (DeviceRow.device_name, DeviceRow.nickname, DeviceRow.product_key, SiteRow.name)
        found.append(or_(*(column.icontains(wanted.words, autoescape=True) for column in columns)))
    if wanted.product_key is not None:
        found.append(DeviceRow.product_key == wanted.product_key)
    if wanted.site is not None:
        found.append(SiteRow.name == wanted.site)
    if wanted.group_id is not None:
        members = select(GroupMemberRow.device_id).join(GroupRow, GroupRow.id == GroupMemberRow.group_id)
        found.append(DeviceRow.id.in_(members.where(GroupRow.id == wanted.group_id)))
    for key, value in wanted.tags:
        held = [TagRow.device_id == DeviceRow.id, TagRow.key == key, *([] if value is None else [TagRow.value == value])]
        found.append(exists().where(*held))
    if wanted.state is not None:
        found.append(DeviceRow.state == wanted.state)
    if wanted.online is not None and lease_held:
        found.append(online_clause() if wanted.online else ~online_clause())
    return found
