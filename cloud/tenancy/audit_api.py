"""Route of the audit trail: who did what, and when."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from cloud.foundation.audit import deeds
from cloud.foundation.db import Database, UnitOfWork
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.tenancy.api import Caller

router = APIRouter(tags=["audit"])

Subject = Annotated[
    str | None,
    Query(
        max_length=128,
        description="What was done to this alone: `{product_key}`, `{product_key}/{device_name}`, `firmware/{id}`, `job/{id}`, "
        "`group/{id}`, `certificate-authorities`.",
    ),
]


class DeedView(BaseModel):
    number: int
    time: Annotated[int, Field(description="Epoch ms.")]
    actor: Annotated[str, Field(description="The name of an API key, `device`, or `platform`.")]
    action: str
    subject: str
    detail: Any


class DeedPage(BaseModel):
    items: list[DeedView]
    next: str | None


def deed_page(work: UnitOfWork, subject: str | None, limit: int, cursor: str | None) -> DeedPage:
    """Deeds, newest first, of one subject or of all."""
    found = deeds(work, subject, read_cursor(cursor), limit + 1)
    items = [
        DeedView(number=one.number, time=one.time_ms, actor=one.actor, action=one.action, subject=one.subject, detail=one.detail)
        for one in found[:limit]
    ]
    return DeedPage(items=items, next=next_page(found, limit, lambda one: one.number))


@router.get("/v1/audit", operation_id="list_audit")
def audit(request: Request, caller: Caller, subject: Subject = None, limit: Limit = 100, cursor: Cursor = None) -> DeedPage:
    """Who did what, newest first: all of the tenant, or what was done to one subject."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return deed_page(work, subject, limit, cursor)
