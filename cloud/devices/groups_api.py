"""Routes of groups: named sets of devices. `GET /v1/devices?group=` lists the devices of one."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.api import DeviceName
from cloud.devices.groups import MOST_AT_ONCE, change_members, create_group, delete_group, find_group, list_groups, rename_group
from cloud.devices.model import Group
from cloud.foundation.audit import record
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.idempotency import Once
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import not_found
from cloud.tenancy.api import Caller

router = APIRouter(prefix="/v1/groups", tags=["groups"])

GroupId = Annotated[int, Path(ge=1, lt=1 << 63)]


class GroupName(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]


class GroupView(BaseModel):
    group_id: int
    name: str
    created: int
    devices: Annotated[int, Field(description="How many it holds.")]


class GroupPage(BaseModel):
    items: list[GroupView]
    next: str | None


class MemberChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    add: Annotated[list[DeviceName], Field(max_length=MOST_AT_ONCE)] = []
    remove: Annotated[list[DeviceName], Field(max_length=MOST_AT_ONCE)] = []


class ChangedGroup(GroupView):
    unknown: Annotated[list[DeviceName], Field(description="Named, and no devices of yours.")]


def _view(group: Group) -> GroupView:
    return GroupView(group_id=group.group_id, name=group.name, created=group.created_ms, devices=group.devices)


def _held(work: UnitOfWork, group_id: int) -> Group:
    found = find_group(work, group_id)
    if found is None:
        raise not_found(f"Group {group_id}")
    return found


@router.post("", status_code=201, operation_id="create_group", response_model=GroupView)
def create(request: Request, caller: Caller, body: GroupName, once: Once) -> Response:
    """Make a group; it begins empty."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        if (known := once.known(work)) is not None:
            return known
        made = create_group(work, body.name)
        record(work.session, caller.tenant_id, caller.key_name, "create_group", f"group/{made.group_id}", {"name": body.name})
        return once.commit(work, _view(made), 201)


@router.get("", operation_id="list_groups")
def list_all(request: Request, caller: Caller, limit: Limit = 100, cursor: Cursor = None) -> GroupPage:
    """The tenant's groups, oldest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        found = list_groups(work, read_cursor(cursor), limit + 1)
    return GroupPage(items=[_view(one) for one in found[:limit]], next=next_page(found, limit, lambda one: one.group_id))


@router.get("/{group_id}", operation_id="get_group")
def get(request: Request, caller: Caller, group_id: GroupId) -> GroupView:
    """One group."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return _view(_held(work, group_id))


@router.patch("/{group_id}", operation_id="change_group")
def change(request: Request, caller: Caller, group_id: GroupId, body: GroupName) -> GroupView:
    """Give a group another name."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        _held(work, group_id)
        rename_group(work, group_id, body.name)
        record(work.session, caller.tenant_id, caller.key_name, "change_group", f"group/{group_id}", {"name": body.name})
        work.commit()
    return get(request, caller, group_id)


@router.delete("/{group_id}", status_code=204, operation_id="delete_group")
def remove(request: Request, caller: Caller, group_id: GroupId) -> None:
    """Delete a group. Its devices stay."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        held = _held(work, group_id)
        delete_group(work, group_id)
        record(work.session, caller.tenant_id, caller.key_name, "delete_group", f"group/{group_id}", {"name": held.name})
        work.commit()


@router.post("/{group_id}/members", operation_id="change_group_members")
def members(request: Request, caller: Caller, group_id: GroupId, body: MemberChange) -> ChangedGroup:
    """Take devices in and put others out, all at once. Sent again it changes nothing more."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        _held(work, group_id)
        add, remove = ([(one.product_key, one.device_name) for one in names] for names in (body.add, body.remove))
        unknown = change_members(work, group_id, add, remove)
        detail = {"added": len(add), "removed": len(remove), "unknown": len(unknown)}
        record(work.session, caller.tenant_id, caller.key_name, "change_group_members", f"group/{group_id}", detail)
        work.commit()
        view = _view(_held(work, group_id))
    return ChangedGroup(**dict(view), unknown=[DeviceName(product_key=key[0], device_name=key[1]) for key in unknown])
