"""Routes of finding devices among all of a tenant's."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from cloud.devices.api import DeviceSummary, summary
from cloud.devices.lifecycle import State
from cloud.devices.ports import Sessions
from cloud.devices.search import Wanted, count_found, find_devices
from cloud.foundation.db import Database
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.tenancy.api import Caller

router = APIRouter(tags=["devices"])

MOST_TAGS: Final = 8


class FoundDevices(BaseModel):
    items: list[DeviceSummary]
    next: str | None
    total: Annotated[int | None, Field(description="How many fit in all, if it was asked for.")]


@router.get("/v1/devices", operation_id="search_devices")
def search(
    request: Request,
    caller: Caller,
    q: Annotated[str, Query(max_length=128, description="Stands in the name, nickname, product key or site.")] = "",
    product_key: Annotated[str | None, Query(max_length=32)] = None,
    site: Annotated[str | None, Query(max_length=128)] = None,
    group: Annotated[int | None, Query(ge=1, lt=1 << 63, description="The id of a group.")] = None,
    tag: Annotated[list[str], Query(max_length=MOST_TAGS, description="A key, or key=value; given again, each has to be there.")] = [],  # noqa: B006 - FastAPI copies it
    state: Annotated[State | None, Query(description="Where it is in its life.")] = None,
    online: Annotated[bool | None, Query()] = None,
    total: Annotated[bool, Query(description="Count how many fit in all.")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> FoundDevices:
    """The tenant's devices that fit everything that is asked, oldest first."""
    database: Database = request.app.state.database
    sessions: Sessions = request.app.state.sessions
    parts = (one.partition("=") for one in tag)
    tags = tuple((key, value if equals else None) for key, equals, value in parts)
    wanted = Wanted(q, product_key, site, group, tags, None if state is None else str(state), online)
    held = sessions.lease_held()
    with database.reading(caller.tenant_id) as work:
        found = find_devices(work, wanted, read_cursor(cursor), limit + 1, lease_held=held)
        number = count_found(work, wanted, lease_held=held) if total else None
    following = next_page(found, limit, lambda one: one.device_id)
    return FoundDevices(items=[summary(device) for device in found[:limit]], next=following, total=number)
