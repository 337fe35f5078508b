"""Routes of the quarantine: what devices sent and nobody could take."""

import base64
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from cloud.foundation.db import Database
from cloud.foundation.paging import Cursor, Limit, read_cursor, write_cursor
from cloud.ingest.service import count_quarantine, list_quarantine
from cloud.tenancy.api import Caller

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])


class QuarantineEntry(BaseModel):
    id: int
    product_key: str
    device_name: str
    topic: str
    reason: Annotated[str, Field(description="Stable word, the label of the counter.")]
    detail: Annotated[str, Field(description="What was wrong, for a person.")]
    received: Annotated[int, Field(description="Epoch ms.")]
    size: Annotated[int, Field(description="Bytes of the payload as it came.")]
    payload: Annotated[str, Field(description="The payload, base64, up to 256 KiB.")]


class QuarantinePage(BaseModel):
    items: list[QuarantineEntry]
    next: str | None


@router.get("", operation_id="list_quarantine")
def list_all(
    request: Request,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    reason: Annotated[str | None, Query(max_length=64)] = None,
    product_key: Annotated[str | None, Query(max_length=64)] = None,
    device_name: Annotated[str | None, Query(max_length=64)] = None,
) -> QuarantinePage:
    """The tenant's quarantined payloads, oldest first."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        rows = list_quarantine(work, read_cursor(cursor), limit + 1, reason, product_key, device_name)
    items = [
        QuarantineEntry(
            id=row.id,
            product_key=row.product_key,
            device_name=row.device_name,
            topic=row.topic,
            reason=row.reason,
            detail=row.detail,
            received=row.received_ms,
            size=row.size,
            payload=base64.b64encode(row.payload).decode(),
        )
        for row in rows[:limit]
    ]
    return QuarantinePage(items=items, next=write_cursor(rows[limit - 1].id) if len(rows) > limit else None)


@router.get("/count", operation_id="count_quarantine")
def count(request: Request, caller: Caller) -> dict[str, int]:
    """How many payloads lie in the tenant's quarantine, by reason."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return count_quarantine(work)
