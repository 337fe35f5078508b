"""Routes of telemetry: the newest values of a device, and the history of one property."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from cloud.devices.model import DeviceFacts
from cloud.devices.registry import reported
from cloud.devices.service import device_with_gateways
from cloud.foundation.db import Database
from cloud.foundation.problems import Problem, not_found
from cloud.products.service import thing_models
from cloud.telemetry.model import EARLIEST_MS, LATEST_MS, ClockNote, Cursor, Gap, Kind, Points, parse_time
from cloud.telemetry.service import MOST_BUCKETS, History, Property, grid
from cloud.tenancy.api import Caller
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import BoolType, DataType, DateType, EnumType, IntType, is_numeric

router = APIRouter(prefix="/v1/telemetry", tags=["telemetry"])

_json = msgspec.json.Encoder()
_WHOLE = (IntType, BoolType, EnumType, DateType)


class LatestValue(BaseModel):
    value: Any
    time: Annotated[int, Field(description="Event time, epoch ms.")]


def _device(request: Request, tenant_id: int, product_key: str, device_name: str) -> tuple[DeviceFacts, list[tuple[str, str]]]:
    """The caller's device, and the gateways through which its readings may come."""
    found = device_with_gateways(request.app.state.database, product_key, device_name)
    if found is None or found[0].tenant_id != tenant_id:
        raise not_found(f"Device {device_name} of product {product_key}")
    return found


def _data_type(request: Request, product_key: str, identifier: str) -> tuple[Kind, DataType | None]:
    """How the history of this property, or of this event, is stored; no data type for an event."""
    database: Database = request.app.state.database
    model = thing_models(database, [product_key]).get(product_key)
    if model is not None and identifier in model.properties:
        data_type = model.properties[identifier].data_type
        return Kind.NUMBER if is_numeric(data_type) else Kind.TEXT, data_type
    if model is not None and identifier in model.events:
        return Kind.EVENT, None
    raise Problem(404, "not-found", f"Product {product_key} has no property {identifier}; GET /v1/products/{product_key} lists them.")


def _values(points: Points, data_type: DataType | None) -> list[Any]:
    """As JSON values of the property's type: whole numbers without a fraction, texts and structures as they were."""
    if isinstance(points.values, list):
        return [msgspec.Raw(text.encode()) for text in points.values]
    whole = isinstance(data_type, _WHOLE)
    values: list[Any] = points.values.astype("int64").tolist() if whole else points.values.tolist()
    return values


def _gaps(gaps: Sequence[Gap]) -> list[dict[str, object]]:
    return [{"from": gap.from_ms, "to": gap.to_ms, "count": gap.count, "reason": gap.reason} for gap in gaps]


def _notes(notes: Sequence[ClockNote]) -> list[dict[str, object]]:
    return [{"from": note.from_ms, "to": note.to_ms, "shift_ms": note.shift_ms} for note in notes]


@router.get("/{product_key}/{device_name}", operation_id="get_latest")
def latest(request: Request, caller: Caller, product_key: str, device_name: str) -> dict[str, LatestValue]:
    """The newest value of each property, from the reported shadow."""
    database: Database = request.app.state.database
    facts, _ = _device(request, caller.tenant_id, product_key, device_name)
    with database.reading(caller.tenant_id) as work:
        values = reported(work, facts.device_id)
    return {identifier: LatestValue(value=value, time=time_ms) for identifier, (value, time_ms) in values.items()}


@router.get("/{product_key}/{device_name}/{identifier}", operation_id="get_history")
def history(
    request: Request,
    caller: Caller,
    product_key: str,
    device_name: str,
    identifier: str,
    from_: Annotated[str | None, Query(alias="from", description="RFC 3339 or epoch ms, inclusive; the beginning by default.")] = None,
    to: Annotated[str | None, Query(description="RFC 3339 or epoch ms, exclusive; the end by default.")] = None,
    limit: Annotated[int, Query(ge=1, le=100_000, description="Points of one page.")] = 1000,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
    buckets: Annotated[
        int | None,
        Query(
            ge=1,
            le=MOST_BUCKETS,
            description="n buckets instead of points. From a minute on they and the range are widened to whole minutes: at most n + 1.",
        ),
    ] = None,
    raw: Annotated[
        bool,
        Query(description="Every stored row with its position, when it came and when its gateway sent it, before duplicates are removed."),
    ] = False,
) -> Response:
    """Points `[ts, value]` (raw: `[ts, value, position, received, sent]`) in order of time, or buckets.

    With the first page: the gaps of the range, and where the device's gateway did not know the time (`clock`).
    """
    _, gateways = _device(request, caller.tenant_id, product_key, device_name)
    kind, data_type = _data_type(request, product_key, identifier)
    start = EARLIEST_MS if from_ is None else parse_time(from_)
    end = LATEST_MS if to is None else parse_time(to)
    store: History = request.app.state.history
    of = Property(product_key, device_name, identifier, gateways)
    body: dict[str, object]
    if buckets is not None:
        if kind is not Kind.NUMBER:
            raise Refused(Reason.WRONG_TYPE, f"buckets: {identifier} is not a number")
        if from_ is None or to is None:
            raise Refused(Reason.BAD_TIME, "buckets: give `from` and `to`")
        found = store.buckets(of, *grid(start, end, buckets))
        columns = (found.start, found.minimum, found.maximum, found.average, found.count)
        names = ("from", "min", "max", "avg", "count")
        body = {"buckets": [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]}
        body["gaps"] = _gaps(store.gaps(of, start, end))
        body["clock"] = _notes(store.notes(of, start, end))
        return Response(_json.encode(body), media_type="application/json")
    query = store.rows if raw else store.page
    page = query(of, kind, start, end, limit, None if cursor is None else Cursor.parse(cursor))
    values = _values(page.points, data_type)
    ts = page.points.ts.tolist()
    if raw:
        body = {
            "points": list(
                zip(ts, values, page.points.position.tolist(), store.received(page.points), store.sent(of, page.points), strict=True)
            )
        }
    else:
        body = {"points": list(zip(ts, values, strict=True))}
    body["gaps"] = [] if cursor is not None else _gaps(store.gaps(of, start, end))
    body["clock"] = [] if cursor is not None else _notes(store.notes(of, start, end))
    body["next"] = None if page.next is None else str(page.next)
    return Response(_json.encode(body), media_type="application/json")
