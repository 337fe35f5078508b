"""What ingest reads from and commits to the metadata. Everything here blocks: asyncio code runs it in a thread."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Table, delete, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cloud.devices.model import PresenceChange
from cloud.devices.service import apply_presence, apply_reported, complete_commands, reset_presence
from cloud.foundation.db import Database, UnitOfWork, upsert
from cloud.foundation.logs import get_logger
from cloud.ingest.model import Answered, Asked, Effects, Mark, Memory, Quarantined, Reset
from cloud.ingest.tables import AccountStretch, IngestPosition, Quarantine, UnreadableMessage, Watermark
from cloud.telemetry.model import Position
from protocols.edgelink.lanes import Lane
from protocols.edgelink.stretches import STRETCHES

_position: Table = IngestPosition.__table__  # type: ignore[assignment]
_watermark: Table = Watermark.__table__  # type: ignore[assignment]
_stretch: Table = AccountStretch.__table__  # type: ignore[assignment]
_quarantine: Table = Quarantine.__table__  # type: ignore[assignment]
_unreadable: Table = UnreadableMessage.__table__  # type: ignore[assignment]


def load_memory(database: Database, partition: int) -> Memory:
    """What was committed last. Raises DatabaseAway."""
    with database.system_reading() as work:
        marks = {
            (row.gateway_id, row.buffer_id, Lane(row.lane)): Mark(row.sequence, row.created_ms, row.readings, row.in_gaps, row.announced)
            for row in work.session.scalars(select(Watermark))
        }
        held = work.session.get(IngestPosition, partition)
        if held is None:
            return Memory(marks=marks)
        return Memory(Position(held.stream_id, held.sequence), held.received_ms, marks)


Respond = Callable[[UnitOfWork, Sequence[Asked]], Answered]
"""Answers requests inside the transaction; one that fails harms no other."""


def _nobody_answers(_work: UnitOfWork, _requests: Sequence[Asked]) -> Answered:
    return Answered()


def commit(database: Database, partition: int, effects: Effects, respond: Respond = _nobody_answers) -> Answered:
    """Step (b): everything that follows from a batch, and the position behind it, in one transaction. Raises DatabaseAway.

    Requests are answered last, so that they see what was posted before them; a batch that is committed already asks nothing again.
    """
    try:
        return _commit(database, partition, effects, _at_once, respond)
    except IntegrityError as error:
        get_logger().warning("ingest.device_gone", error=str(error.orig))
        return _commit(database, partition, effects, _one_by_one, respond)


HELD_OF_A_DEVICE: Final = 1_000
"""Entries held of one device; what comes beyond is counted by the newest one."""
HELD_OF_A_TENANT: Final = 100_000
"""The same for a tenant."""

_Apply = Callable[[Session, Sequence[Any], Callable[[Sequence[Any]], None]], None]


def _at_once(session: Session, parts: Sequence[Any], apply: Callable[[Sequence[Any]], None]) -> None:
    apply(parts)


def _one_by_one(session: Session, parts: Sequence[Any], apply: Callable[[Sequence[Any]], None]) -> None:
    """A device deleted meanwhile must not stop the others."""
    for part in parts:
        with contextlib.suppress(IntegrityError), session.begin_nested():
            apply([part])


def _commit(database: Database, partition: int, effects: Effects, apply: _Apply, respond: Respond) -> Answered:
    with database.system() as work:
        session, end = work.session, effects.append.end
        row = {"partition": partition, "stream_id": end.stream_id, "sequence": end.sequence, "received_ms": effects.received_ms}
        held = session.get(IngestPosition, partition)
        known = held is not None and held.stream_id == end.stream_id and held.sequence >= end.sequence  # repeated: it is counted
        upsert(session, _position, [row], keys=("partition",))
        marks = [
            {"gateway_id": gateway_id, "buffer_id": buffer_id, "lane": str(lane), **msgspec.structs.asdict(mark)}
            for (gateway_id, buffer_id, lane), mark in effects.marks.items()
        ]
        upsert(session, _watermark, marks, keys=("gateway_id", "buffer_id", "lane"))
        if not known:
            _book(session, effects)
        _put_aside(session, end.stream_id, effects.quarantined, apply)
        unreadable = [
            {"stream_id": end.stream_id, "sequence": u.sequence, "detail": u.detail, "size": len(u.payload), "payload": u.payload}
            for u in effects.unreadable
        ]
        upsert(session, _unreadable, unreadable, keys=("stream_id", "sequence"))
        _presence(session, effects.presence, apply)
        apply(session, list(effects.reported.items()), lambda reported: apply_reported(session, dict(reported)))
        complete_commands(session, effects.commands)
        answered = respond(work, effects.requests) if effects.requests and not known else Answered()
        _put_aside(session, end.stream_id, answered.quarantined, apply)
        work.commit()
        return answered


def _put_aside(session: Session, stream_id: str, entries: Sequence[Quarantined], apply: _Apply) -> None:
    kept, beyond = _room(session, entries)
    apply(
        session,
        [_quarantine_row(stream_id, entry) for entry in kept],
        lambda rows: upsert(session, _quarantine, rows, keys=("stream_id", "sequence", "number")),
    )
    _only_count(session, beyond)


def _book(session: Session, effects: Effects) -> None:
    """Add to the account by stretches. Once a day the oldest ones of a lane go, if there are more than are kept."""
    rows = [
        {
            "gateway_id": gateway_id,
            "buffer_id": buffer_id,
            "lane": str(lane),
            "from_ms": from_ms,
            "delivered": delivered,
            "in_gaps": in_gaps,
        }
        for (gateway_id, buffer_id, lane, from_ms), (delivered, in_gaps) in effects.booking.entries.items()
    ]
    upsert(session, _stretch, rows, keys=("gateway_id", "buffer_id", "lane", "from_ms"), added=("delivered", "in_gaps"))
    for gateway_id, buffer_id, lane in effects.booking.new_day:
        of_lane = (_stretch.c.gateway_id == gateway_id, _stretch.c.buffer_id == buffer_id, _stretch.c.lane == str(lane))
        beyond = select(_stretch.c.from_ms).where(*of_lane).order_by(_stretch.c.from_ms.desc()).limit(1).offset(STRETCHES).scalar_subquery()
        session.execute(delete(_stretch).where(*of_lane, _stretch.c.from_ms <= beyond))


def _room(session: Session, entries: Sequence[Quarantined]) -> tuple[Sequence[Quarantined], Sequence[Quarantined]]:
    """Which entries are kept, and which are only counted since their device or their tenant has as many as it may."""
    if not entries:
        return (), ()
    held = (Quarantine.tenant_id, Quarantine.product_key, Quarantine.device_name)
    wanted = {(entry.tenant_id, entry.product_key, entry.device_name) for entry in entries}
    query = select(*held, func.count()).where(Quarantine.state == "held", tuple_(*held).in_(wanted)).group_by(*held)
    devices = Counter({(row[0], row[1], row[2]): row[3] for row in session.execute(query)})
    tenants = {entry.tenant_id for entry in entries}
    totals = select(Quarantine.tenant_id, func.count()).where(Quarantine.state == "held", Quarantine.tenant_id.in_(tenants))
    whole = Counter({row[0]: row[1] for row in session.execute(totals.group_by(Quarantine.tenant_id))})
    kept: list[Quarantined] = []
    beyond: list[Quarantined] = []
    for entry in entries:
        key = (entry.tenant_id, entry.product_key, entry.device_name)
        if devices[key] >= HELD_OF_A_DEVICE or whole[entry.tenant_id] >= HELD_OF_A_TENANT:
            beyond.append(entry)
        else:
            devices[key] += 1
            whole[entry.tenant_id] += 1
            kept.append(entry)
    return kept, beyond


def _only_count(session: Session, entries: Sequence[Quarantined]) -> None:
    """The newest entry of the same device and reason counts what is not kept; else the tenant's newest of that reason does."""
    groups: dict[tuple[int, str, str, str], list[Quarantined]] = {}
    for entry in entries:
        groups.setdefault((entry.tenant_id, entry.product_key, entry.device_name, entry.reason), []).append(entry)
    for (tenant_id, product_key, device_name, reason), group in groups.items():
        held = select(Quarantine.id).where(Quarantine.tenant_id == tenant_id, Quarantine.state == "held").order_by(Quarantine.id.desc())
        of_device = held.where(Quarantine.product_key == product_key, Quarantine.device_name == device_name)
        tries = (of_device.where(Quarantine.reason == reason), of_device, held)
        number = next((found for query in tries if (found := session.scalar(query.limit(1))) is not None), None)
        count, last_ms = sum(entry.count for entry in group), max(entry.received_ms for entry in group)
        change = update(Quarantine).where(Quarantine.id == number)
        session.execute(change.values(count=Quarantine.count + count, last_ms=last_ms))


def _quarantine_row(stream_id: str, entry: Quarantined) -> dict[str, object]:
    return {"stream_id": stream_id, **msgspec.structs.asdict(entry)}


def _presence(session: Session, entries: Sequence[PresenceChange | Reset], apply: _Apply) -> None:
    """In order: a reset closes what was opened before it."""
    for is_reset, group in itertools.groupby(entries, lambda entry: isinstance(entry, Reset)):
        if is_reset:
            for entry in group:
                assert isinstance(entry, Reset)
                reset_presence(session, entry.time_ms, entry.epoch)
        else:
            apply(session, list(group), lambda changes: apply_presence(session, changes))
