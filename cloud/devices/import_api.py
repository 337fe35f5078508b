"""The route that enters many devices at once, from CSV."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from cloud.devices.importing import Fault, NewRow, Outcome, Result, import_devices, read_rows
from cloud.devices.ports import Changes
from cloud.foundation.db import Database
from cloud.foundation.problems import not_found
from cloud.foundation.vault import Vault
from cloud.products.service import find_product
from cloud.tenancy.api import Caller
from protocols.errors import Reason, Refused

router = APIRouter(tags=["devices"])

PATH_END: Final = "/devices/import"
MOST_BYTES: Final = 4 * 1024 * 1024
"""10,000 rows with a secret of 64 and a site of 128 characters are half of it."""


class RowResult(BaseModel):
    row: Annotated[int, Field(description="From 1; the header is not counted.")]
    device_name: str
    outcome: Outcome
    fault: Annotated[Fault | None, Field(description="What is wrong with the row, for programs.")]
    detail: str
    device_secret: Annotated[str | None, Field(description="Of a device that was created: shown this once.")]


class ImportResult(BaseModel):
    created: int
    exists: int
    errors: int
    rows: list[RowResult]


def _row(result: Result) -> RowResult:
    return RowResult(
        row=result.row,
        device_name=result.device_name,
        outcome=result.outcome,
        fault=result.fault,
        detail=result.detail,
        device_secret=result.device_secret,
    )


@router.post(
    "/v1/products/{product_key}" + PATH_END,
    operation_id="import_devices",
    openapi_extra={"requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def import_all(request: Request, caller: Caller, product_key: str) -> ImportResult:
    """Enter many devices from CSV (columns device_name, device_secret, site), up to 10,000 rows; each row is judged alone."""
    database: Database = request.app.state.database
    vault: Vault = request.app.state.vault
    changes: Changes = request.app.state.changes
    body = await request.body()

    def known() -> bool:
        with database.reading(caller.tenant_id) as work:
            return find_product(work, product_key) is not None

    def enter() -> list[RowResult]:
        try:
            rows: list[NewRow] = read_rows(body.decode())
        except UnicodeDecodeError as error:
            raise Refused(Reason.BAD_ENVELOPE, f"the body is not UTF-8 at byte {error.start}: save the file as UTF-8") from error
        return [_row(result) for result in import_devices(database, vault, caller.tenant_id, product_key, rows, caller.key_name)]

    if not await asyncio.to_thread(known):
        raise not_found(f"Product {product_key}")
    results = await asyncio.to_thread(enter)
    await changes.registry_changed(product_key, None)
    counts = {outcome: sum(one.outcome is outcome for one in results) for outcome in Outcome}
    return ImportResult(created=counts[Outcome.CREATED], exists=counts[Outcome.EXISTS], errors=counts[Outcome.ERROR], rows=results)
