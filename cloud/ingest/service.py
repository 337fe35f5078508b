"""What ingest reads from and commits to the metadata, and the quarantine. Everything here blocks: asyncio code runs it in a thread."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cloud.devices.model import PresenceChange
from cloud.devices.service import apply_presence, apply_reported, complete_commands, reset_presence
from cloud.foundation.db import Database, UnitOfWork, upsert
from cloud.foundation.logs import get_logger
from cloud.ingest.model import Effects, Mark, Memory, Quarantined, Reset
from cloud.ingest.tables import IngestPosition, Quarantine, UnreadableMessage, Watermark
from cloud.telemetry.model import Position
from protocols.edgelink.lanes import Lane

_position: Table = IngestPosition.__table__  # type: ignore[assignment]
_watermark: Table = Watermark.__table__  # type: ignore[assignment]
_quarantine: Table = Quarantine.__table__  # type: ignore[assignment]
_unreadable: Table = UnreadableMessage.__table__  # type: ignore[assignment]


def load_memory(database: Database, partition: int) -> Memory:
    """What was committed last. Raises DatabaseAway."""
    with database.system_reading() as work:
        marks = {
            (row.gateway_id, row.buffer_id, Lane(row.lane)): Mark(row.sequence, row.created_ms)
            for row in work.session.scalars(select(Watermark))
        }
        held = work.session.get(IngestPosition, partition)
        if held is None:
            return Memory(marks=marks)
        return Memory(Position(held.stream_id, held.sequence), held.received_ms, marks)


def commit(database: Database, partition: int, effects: Effects) -> None:
    """Step (b): everything that follows from a batch, and the position behind it, in one transaction. Raises DatabaseAway."""
    try:
        _commit(database, partition, effects, _at_once)
    except IntegrityError as error:
        get_logger().warning("ingest.device_gone", error=str(error.orig))
        _commit(database, partition, effects, _one_by_one)


_Apply = Callable[[Session, Sequence[Any], Callable[[Sequence[Any]], None]], None]


def _at_once(session: Session, parts: Sequence[Any], apply: Callable[[Sequence[Any]], None]) -> None:
    apply(parts)


def _one_by_one(session: Session, parts: Sequence[Any], apply: Callable[[Sequence[Any]], None]) -> None:
    """A device deleted meanwhile must not stop the others."""
    for part in parts:
        with contextlib.suppress(IntegrityError), session.begin_nested():
            apply([part])


def _commit(database: Database, partition: int, effects: Effects, apply: _Apply) -> None:
    with database.system() as work:
        session, end = work.session, effects.append.end
        row = {"partition": partition, "stream_id": end.stream_id, "sequence": end.sequence, "received_ms": effects.received_ms}
        upsert(session, _position, [row], keys=("partition",))
        marks = [
            {"gateway_id": gateway_id, "buffer_id": buffer_id, "lane": str(lane), "sequence": mark.sequence, "created_ms": mark.created_ms}
            for (gateway_id, buffer_id, lane), mark in effects.marks.items()
        ]
        upsert(session, _watermark, marks, keys=("gateway_id", "buffer_id", "lane"))
        apply(
            session,
            [_quarantine_row(end.stream_id, entry) for entry in effects.quarantined],
            lambda rows: upsert(session, _quarantine, rows, keys=("stream_id", "sequence", "number")),
        )
        unreadable = [
            {"stream_id": end.stream_id, "sequence": u.sequence, "detail": u.detail, "size": len(u.payload), "payload": u.payload}
            for u in effects.unreadable
        ]
        upsert(session, _unreadable, unreadable, keys=("stream_id", "sequence"))
        _presence(session, effects.presence, apply)
        apply(session, list(effects.reported.items()), lambda reported: apply_reported(session, dict(reported)))
        complete_commands(session, effects.commands)
        work.commit()


def _quarantine_row(stream_id: str, entry: Quarantined) -> dict[str, object]:
    return {"stream_id": stream_id, **{name: getattr(entry, name) for name in entry.__struct_fields__ if name in _quarantine.c}}


def _presence(session: Session, entries: Sequence[PresenceChange | Reset], apply: _Apply) -> None:
    """In order: a reset closes what was opened before it."""
    for is_reset, group in itertools.groupby(entries, lambda entry: isinstance(entry, Reset)):
        if is_reset:
            for entry in group:
                assert isinstance(entry, Reset)
                reset_presence(session, entry.time_ms, entry.epoch)
        else:
            apply(session, list(group), lambda changes: apply_presence(session, changes))


# The quarantine


def list_quarantine(
    work: UnitOfWork, after: int, limit: int, reason: str | None = None, product_key: str | None = None, device_name: str | None = None
) -> Sequence[Quarantine]:
    """The tenant's entries, oldest first."""
    query = select(Quarantine).where(Quarantine.id > after)
    for column, wanted in ((Quarantine.reason, reason), (Quarantine.product_key, product_key), (Quarantine.device_name, device_name)):
        if wanted is not None:
            query = query.where(column == wanted)
    return work.session.scalars(query.order_by(Quarantine.id).limit(limit)).all()


def newest_quarantine(work: UnitOfWork, limit: int) -> Sequence[Quarantine]:
    """The tenant's entries, newest first."""
    return work.session.scalars(select(Quarantine).order_by(Quarantine.id.desc()).limit(limit)).all()


def count_quarantine(work: UnitOfWork) -> dict[str, int]:
    """The tenant's entries by reason."""
    query = select(Quarantine.reason, func.count()).group_by(Quarantine.reason).order_by(Quarantine.reason)
    return {row[0]: row[1] for row in work.session.execute(query)}
