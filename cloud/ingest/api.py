"""Routes of the quarantine: what devices sent and nobody could take, and what becomes of it."""

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from cloud.access.model import ReplayRequest, SessionRow
from cloud.access.service import replay as send_again
from cloud.foundation.db import Database
from cloud.foundation.paging import Cursor, Limit, next_page, read_cursor
from cloud.foundation.problems import Problem, not_found
from cloud.ingest.preview import preview
from cloud.ingest.quarantine import (
    State,
    Wanted,
    begin_replay,
    count_held,
    discard,
    end_replay,
    find_entry,
    list_entries,
    unreadable_messages,
)
from cloud.ingest.tables import Quarantine
from cloud.tenancy.api import Caller
from cloud.tenancy.model import Principal
from cloud.tenancy.service import operators_tenant
from protocols.errors import Reason, TryAgain
from protocols.refusals import ADVICE

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])

AT_ONCE = 500  # entries of one mass replay


class QuarantineEntry(BaseModel):
    id: int
    product_key: str
    device_name: str
    topic: str
    reason: Annotated[str, Field(description="Stable word, the label of the counter.")]
    detail: Annotated[str, Field(description="What was wrong, for a person.")]
    received: Annotated[int, Field(description="Epoch ms, of the first.")]
    last: Annotated[int, Field(description="Epoch ms, of the last of `count`.")]
    count: Annotated[int, Field(description="How many refusals the entry stands for.")]
    address: Annotated[str, Field(description="Where it came from, for refusals at the front door.")]
    size: Annotated[int, Field(description="Bytes of the payload as it came.")]
    state: State
    replayable: Annotated[bool, Field(description="It is a whole message of a device.")]
    replay_of: Annotated[int | None, Field(description="The entry whose replay was refused again.")]
    resolved: Annotated[int | None, Field(description="Epoch ms, when it was replayed or discarded.")]
    resolved_by: Annotated[str | None, Field(description="The name of the key that did it.")]
    payload: Annotated[str, Field(description="The payload, base64, up to 256 KiB.")]


class Words(BaseModel):
    en: str
    zh: str


class QuarantineDetails(QuarantineEntry):
    preview: Annotated[str, Field(description="The payload as a person can read it.")]
    meaning: Annotated[Words, Field(description="What the reason means.")]
    next_step: Annotated[Words, Field(description="What to do about it.")]


class QuarantinePage(BaseModel):
    items: list[QuarantineEntry]
    next: str | None


class Selection(BaseModel):
    """Which held entries; every condition that is given has to hold, and one has to be."""

    reason: Annotated[str | None, Field(max_length=64)] = None
    product_key: Annotated[str | None, Field(max_length=64)] = None
    device_name: Annotated[str | None, Field(max_length=64)] = None
    all: Annotated[bool, Field(description="Everything that is held: instead of a condition.")] = False

    def wanted(self) -> Wanted:
        """Raises Problem 422 for a selection of nothing in particular."""
        if not self.all and (self.reason, self.product_key, self.device_name) == (None, None, None):
            detail = "Say which entries: give reason, product_key or device_name, or `all: true`."
            raise Problem(422, "nothing-selected", detail)
        return Wanted(State.HELD, self.reason, self.product_key, self.device_name)


class Outcome(BaseModel):
    done: int
    failed: Annotated[dict[int, str], Field(description="Entries that stay held, and why.")] = {}
    left: Annotated[int, Field(description="Held entries of the selection that were not reached: call again.")] = 0


class UnreadableEntry(BaseModel):
    sequence: int
    detail: str
    size: int
    payload: Annotated[str, Field(description="Base64.")]


def _fields(row: Quarantine) -> dict[str, object]:
    return {
        "id": row.id,
        "product_key": row.product_key,
        "device_name": row.device_name,
        "topic": row.topic,
        "reason": row.reason,
        "detail": row.detail,
        "received": row.received_ms,
        "last": row.last_ms or row.received_ms,
        "count": row.count,
        "address": row.address,
        "size": row.size,
        "state": row.state,
        "replayable": row.replayable and row.size == len(row.payload),
        "replay_of": row.replay_of,
        "resolved": row.resolved_ms,
        "resolved_by": row.resolved_by,
        "payload": base64.b64encode(row.payload).decode(),
    }


@router.get("", operation_id="list_quarantine")
def list_all(
    request: Request,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[State | None, Query(description="`held` by default.")] = State.HELD,
    every: Annotated[bool, Query(description="Entries of every state.")] = False,
    reason: Annotated[str | None, Query(max_length=64)] = None,
    product_key: Annotated[str | None, Query(max_length=64)] = None,
    device_name: Annotated[str | None, Query(max_length=64)] = None,
    from_: Annotated[int | None, Query(alias="from", description="Received at or after, epoch ms.")] = None,
    to: Annotated[int | None, Query(description="Received before, epoch ms.")] = None,
) -> QuarantinePage:
    """The tenant's quarantined messages and refusals, oldest first."""
    database: Database = request.app.state.database
    wanted = Wanted(None if every else state, reason, product_key, device_name, from_, to)
    with database.reading(caller.tenant_id) as work:
        rows = list_entries(work, wanted, read_cursor(cursor), limit + 1)
    items = [QuarantineEntry.model_validate(_fields(row)) for row in rows[:limit]]
    return QuarantinePage(items=items, next=next_page(rows, limit, lambda one: one.id))


@router.get("/count", operation_id="count_quarantine")
def count(request: Request, caller: Caller) -> dict[str, int]:
    """How many refusals the held entries stand for, by reason."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return count_held(work)


@router.get("/unreadable", operation_id="list_unreadable_messages")
def unreadable(request: Request, caller: Caller, limit: Limit = 100) -> list[UnreadableEntry]:
    """Whole messages of the platform's own stream that did not decode, newest first; only for the tenant that was made first."""
    database: Database = request.app.state.database
    with database.system_reading() as work:
        operator = operators_tenant(work)
    if caller.tenant_id != operator:
        raise not_found("This list")
    return [
        UnreadableEntry(sequence=row.sequence, detail=row.detail, size=row.size, payload=base64.b64encode(row.payload).decode())
        for row in unreadable_messages(database, limit)
    ]


@router.get("/{number}", operation_id="get_quarantine_entry")
def show(request: Request, caller: Caller, number: int) -> QuarantineDetails:
    """One entry with its payload in readable form, what its reason means and what to do about it."""
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        row = find_entry(work, number)
    advice = ADVICE[Reason(row.reason) if row.reason in tuple(Reason) else Reason.UNEXPECTED_ERROR]
    words = {name: dict(zip(("en", "zh"), getattr(advice, name), strict=True)) for name in ("meaning", "next_step")}
    return QuarantineDetails.model_validate({**_fields(row), **words, "preview": preview(row.topic, row.payload)})


@router.post("/{number}/replay", operation_id="replay_quarantine_entry")
async def replay_one(request: Request, caller: Caller, number: int) -> QuarantineEntry:
    """Send the message again as its device sent it, at the time it came. It is stored; it acts on nothing and nobody is answered."""
    await _replay(request, caller, number)
    return await asyncio.to_thread(_entry, request, caller, number)


@router.post("/{number}/discard", operation_id="discard_quarantine_entry")
def discard_one(request: Request, caller: Caller, number: int) -> QuarantineEntry:
    """Decide that the message is not wanted. It stays visible among the discarded for a while."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        discard(work, Wanted(), caller.key_name, number)
        work.commit()
    return _entry(request, caller, number)


@router.post("/replay", operation_id="replay_quarantine")
async def replay_many(request: Request, caller: Caller, selection: Selection) -> Outcome:
    """Replay what is held of a selection, oldest first, up to 500 at once; what cannot be replayed stays held and is named."""
    wanted = selection.wanted()
    numbers = await asyncio.to_thread(_numbers, request, caller, wanted)
    outcome = Outcome(done=0, left=max(0, len(numbers) - AT_ONCE))
    for number in numbers[:AT_ONCE]:
        try:
            await _replay(request, caller, number)
            outcome.done += 1
        except Problem as problem:
            outcome.failed[number] = problem.detail
    return outcome


@router.post("/discard", operation_id="discard_quarantine")
def discard_many(request: Request, caller: Caller, selection: Selection) -> Outcome:
    """Discard what is held of a selection."""
    database: Database = request.app.state.database
    with database.unit_of_work(caller.tenant_id) as work:
        done = discard(work, selection.wanted(), caller.key_name)
        work.commit()
    return Outcome(done=done)


def _entry(request: Request, caller: Principal, number: int) -> QuarantineEntry:
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return QuarantineEntry.model_validate(_fields(find_entry(work, number)))


def _numbers(request: Request, caller: Principal, wanted: Wanted) -> list[int]:
    database: Database = request.app.state.database
    with database.reading(caller.tenant_id) as work:
        return [row.id for row in list_entries(work, wanted, 0, AT_ONCE + 1)]


async def _replay(request: Request, caller: Principal, number: int) -> None:
    """Raises Problem 404, 409; TryAgain, with the entry held as before, when the message is not on disk for sure."""
    state = request.app.state
    database: Database = state.database
    taken = await asyncio.to_thread(begin_replay, database, caller.tenant_id, number, caller.key_name)
    sender = taken.sender
    session = SessionRow(sender.tenant_id, sender.device_id, sender.product_key, sender.device_name, 0)
    done = False
    try:
        done = await send_again(state.bus, ReplayRequest(session, taken.topic, taken.payload, taken.received_ms, number))
    finally:
        await asyncio.shield(asyncio.to_thread(end_replay, database, caller.tenant_id, number, done=done))
    if not done:
        raise TryAgain("the stream does not take messages now")
