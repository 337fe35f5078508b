"""The route of binding by a token that a device shows."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.devices.binding import LONGEST, SHORTEST, bind
from cloud.devices.ports import Changes
from cloud.foundation.db import Database
from cloud.foundation.idempotency import Once
from cloud.tenancy.api import Caller

router = APIRouter(tags=["devices"])


class Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(min_length=SHORTEST, max_length=LONGEST, description="What the device shows.")]
    site: Annotated[str, Field(min_length=1, max_length=128, description="Home or line; made when it is new.")]


class Bound(BaseModel):
    product_key: str
    device_name: str
    site: str


@router.post("/v1/devices/bind", operation_id="bind_device", response_model=Bound)
async def bind_device(request: Request, caller: Caller, body: Shown, once: Once) -> Response:
    """Claim the device that has shown this token in the last ten minutes, for a home or a line: the token counts once."""
    database: Database = request.app.state.database
    changes: Changes = request.app.state.changes

    def apply() -> tuple[Response, tuple[str, str] | None]:
        with database.unit_of_work(caller.tenant_id) as work:
            if (known := once.known(work)) is not None:
                return known, None
            key = bind(work, body.token, body.site, caller.key_name)
            return once.commit(work, Bound(product_key=key[0], device_name=key[1], site=body.site)), key

    answer, key = await asyncio.to_thread(apply)
    if key is not None:
        await changes.registry_changed(*key)
    return answer
