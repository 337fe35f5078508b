"""Routes of events: what a device announced, newest first."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from cloud.devices.registry import find_device
from cloud.foundation.db import Database
from cloud.foundation.paging import Limit
from cloud.foundation.problems import not_found
from cloud.telemetry.model import EARLIEST_MS, LATEST_MS, Cursor, parse_time
from cloud.telemetry.service import History
from cloud.tenancy.api import Caller

router = APIRouter(tags=["telemetry"])


class OccurrenceView(BaseModel):
    event: str
    time: Annotated[int, Field(description="Epoch ms.")]
    output: Annotated[Any, Field(description="By identifier.")]


class OccurrencePage(BaseModel):
    items: list[OccurrenceView]
    next: str | None


@router.get("/v1/devices/{product_key}/{device_name}/events", operation_id="list_device_events")
def events(
    request: Request,
    caller: Caller,
    product_key: str,
    device_name: str,
    event: Annotated[str | None, Query(max_length=129, description="Of this one only.")] = None,
    from_: Annotated[str | None, Query(alias="from", description="RFC 3339 or epoch ms, inclusive; the beginning by default.")] = None,
    to: Annotated[str | None, Query(description="RFC 3339 or epoch ms, exclusive; the end by default.")] = None,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
) -> OccurrencePage:
    """What a device announced, newest first, with the outputs of each event."""
    database: Database = request.app.state.database
    history: History = request.app.state.history
    with database.reading(caller.tenant_id) as work:
        if find_device(work, product_key, device_name, lease_held=False) is None:
            raise not_found(f"Device {product_key}/{device_name}")
    start = EARLIEST_MS if from_ is None else parse_time(from_)
    end = LATEST_MS if to is None else parse_time(to)
    at = None if cursor is None else Cursor.parse(cursor)
    found, following = history.events(product_key, device_name, start, end, limit, at, event)
    items = [OccurrenceView(event=one.event, time=one.ts, output=msgspec.json.decode(one.output)) for one in found]
    return OccurrencePage(items=items, next=None if following is None else str(following))
