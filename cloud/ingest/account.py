"""The cloud's own account of a gateway: what came of each lane of each of its buffers, to be held against `edgectl account`."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from sqlalchemy import select

from cloud.devices.service import device_facts
from cloud.foundation.db import Database
from cloud.foundation.problems import not_found
from cloud.ingest.tables import Watermark
from cloud.products.model import GATEWAY
from cloud.tenancy.api import Caller

router = APIRouter(prefix="/v1/gateways", tags=["gateways"])


class LaneAccount(BaseModel):
    """One lane of one buffer. A gateway whose disk was replaced has a buffer for each."""

    buffer_id: str
    lane: str
    watermark: Annotated[int, Field(description="The last frame that is committed.")]
    delivered: Annotated[int, Field(description="Readings in its committed frames.")]
    in_gaps: Annotated[int, Field(description="Readings that the buffer gave up, as its gap records count them.")]


class GatewayAccount(BaseModel):
    """Sums over all lanes and buffers: once a gateway has an empty buffer, `delivered` and `in_gaps` are those of `edgectl account`."""

    delivered: int
    in_gaps: int
    lanes: Sequence[LaneAccount]


@router.get("/{device_name}/account", operation_id="get_gateway_account")
def account(request: Request, caller: Caller, device_name: str) -> GatewayAccount:
    """What the platform has committed of a gateway's buffers."""
    database: Database = request.app.state.database
    facts = device_facts(database, [(GATEWAY, device_name)]).get((GATEWAY, device_name))
    if facts is None or facts.tenant_id != caller.tenant_id:
        raise not_found(f"Gateway {device_name}")
    with database.system_reading() as work:
        marks = select(Watermark).where(Watermark.gateway_id == facts.device_id).order_by(Watermark.buffer_id, Watermark.lane)
        lanes = [
            LaneAccount(buffer_id=mark.buffer_id, lane=mark.lane, watermark=mark.sequence, delivered=mark.readings, in_gaps=mark.in_gaps)
            for mark in work.session.scalars(marks)
        ]
    return GatewayAccount(delivered=sum(lane.delivered for lane in lanes), in_gaps=sum(lane.in_gaps for lane in lanes), lanes=lanes)
