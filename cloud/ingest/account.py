"""The cloud's own account of a gateway: what came of each lane of each of its buffers, to be held against `edgectl account`."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud.devices.service import device_facts
from cloud.foundation.db import Database
from cloud.foundation.problems import not_found
from cloud.ingest.tables import AccountStretch, Watermark
from cloud.products.model import GATEWAY
from cloud.telemetry.model import parse_time
from cloud.tenancy.api import Caller
from protocols.edgelink.stretches import STRETCH_MS

router = APIRouter(prefix="/v1/gateways", tags=["gateways"])


class LaneAccount(BaseModel):
    """One lane of one buffer. A gateway whose disk was replaced has a buffer for each."""

    buffer_id: str
    lane: str
    watermark: Annotated[int, Field(description="The last frame that is committed.")]
    delivered: Annotated[int, Field(description="Readings in its committed frames.")]
    in_gaps: Annotated[int, Field(description="Readings that the buffer gave up, as its frames say.")]


class GatewayAccount(BaseModel):
    """Sums over all lanes and buffers: once a gateway has an empty buffer, `delivered` and `in_gaps` are those of `edgectl account`."""

    from_ms: Annotated[int | None, Field(description="Begin of the interval, widened to whole ten minutes; null: no bound.")] = None
    to_ms: Annotated[int | None, Field(description="Its end, widened too.")] = None
    delivered: int
    in_gaps: int
    lanes: Sequence[LaneAccount]


@router.get("/{device_name}/account", operation_id="get_gateway_account")
def account(
    request: Request,
    caller: Caller,
    device_name: str,
    from_: Annotated[
        str | None, Query(alias="from", description="RFC 3339 or epoch ms: only readings whose frames the gateway made from then on.")
    ] = None,
    to: Annotated[str | None, Query(description="RFC 3339 or epoch ms: only those whose frames it made before.")] = None,
) -> GatewayAccount:
    """What the platform has committed of a gateway's buffers, in all, or of an interval by the gateway's clock (ten minutes, 92 days)."""
    database: Database = request.app.state.database
    begin_ms = None if from_ is None else parse_time(from_) // STRETCH_MS * STRETCH_MS
    end_ms = None if to is None else -(-parse_time(to) // STRETCH_MS) * STRETCH_MS
    facts = device_facts(database, [(GATEWAY, device_name)]).get((GATEWAY, device_name))
    if facts is None or facts.tenant_id != caller.tenant_id:
        raise not_found(f"Gateway {device_name}")
    with database.system_reading() as work:
        marks = work.session.scalars(
            select(Watermark).where(Watermark.gateway_id == facts.device_id).order_by(Watermark.buffer_id, Watermark.lane)
        )
        sums = {(mark.buffer_id, mark.lane): (mark.sequence, mark.readings, mark.in_gaps) for mark in marks}
        if begin_ms is not None or end_ms is not None:
            inside = _between(work.session, facts.device_id, begin_ms, end_ms)
            sums = {lane: (mark[0], *inside.get(lane, (0, 0))) for lane, mark in sums.items()}
    lanes = [
        LaneAccount(buffer_id=buffer_id, lane=lane, watermark=watermark, delivered=delivered, in_gaps=in_gaps)
        for (buffer_id, lane), (watermark, delivered, in_gaps) in sums.items()
    ]
    return GatewayAccount(
        from_ms=begin_ms,
        to_ms=end_ms,
        delivered=sum(lane.delivered for lane in lanes),
        in_gaps=sum(lane.in_gaps for lane in lanes),
        lanes=lanes,
    )


def _between(session: Session, gateway_id: int, begin_ms: int | None, end_ms: int | None) -> dict[tuple[str, str], tuple[int, int]]:
    """Delivered and in gaps of each buffer and lane."""
    lane = (AccountStretch.buffer_id, AccountStretch.lane)
    query = select(*lane, func.sum(AccountStretch.delivered), func.sum(AccountStretch.in_gaps)).group_by(*lane)
    query = query.where(AccountStretch.gateway_id == gateway_id)
    if begin_ms is not None:
        query = query.where(AccountStretch.from_ms >= begin_ms)
    if end_ms is not None:
        query = query.where(AccountStretch.from_ms < end_ms)
    return {(buffer_id, name): (int(delivered), int(in_gaps)) for buffer_id, name, delivered, in_gaps in session.execute(query)}
