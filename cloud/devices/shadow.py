"""Use cases of the shadow: what a device reported and what is desired of it. Everything here blocks: asyncio code runs it in a thread.

`session` is that of a unit of work in which the device was found; the caller commits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, delete, select
from sqlalchemy.orm import Session

from cloud.devices.model import DesiredValue, Shadow
from cloud.devices.tables import DesiredRow, ReportedRow, ShadowRow
from cloud.foundation.db import upsert
from protocols.alink.shadow import Entry, ShadowDocument, shadow_delta

_reported: Table = ReportedRow.__table__  # type: ignore[assignment]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def load_shadow(session: Session, device_id: int) -> Shadow:
    """Everything that is known; a device that never said anything has an empty one of version 0."""
    head = session.get(ShadowRow, device_id)
    reported = session.execute(
        select(ReportedRow.identifier, ReportedRow.value, ReportedRow.time_ms)
        .where(ReportedRow.device_id == device_id)
        .order_by(ReportedRow.identifier)
    )
    desired = session.scalars(select(DesiredRow).where(DesiredRow.device_id == device_id).order_by(DesiredRow.identifier))
    return Shadow(
        version=0 if head is None else head.version,
        spoken=head is not None and head.spoken,
        reported={row.identifier: Entry(msgspec.json.decode(row.value), row.time_ms) for row in reported},
        desired={row.identifier: DesiredValue(msgspec.json.decode(row.value), row.version, row.time_ms) for row in desired},
    )


def document_of(shadow: Shadow) -> ShadowDocument:
    """The shadow as the device is shown it."""
    desired = {name: Entry(held.value, held.time_ms) for name, held in shadow.desired.items()}
    return ShadowDocument(shadow.version, shadow.reported, desired)


def delta_of(shadow: Shadow) -> dict[str, object]:
    """What the device still has to change."""
    return shadow_delta(
        {name: held.value for name, held in shadow.desired.items()}, {name: entry.value for name, entry in shadow.reported.items()}
    )


def store_document(session: Session, device_id: int, before: Shadow, after: ShadowDocument, now_ms: int) -> None:
    """What a message of the device made of its shadow. Only what changed is written."""
    gone = before.reported.keys() - after.reported.keys()
    if gone:
        session.execute(delete(ReportedRow).where(ReportedRow.device_id == device_id, ReportedRow.identifier.in_(gone)))
    changed = {name: entry for name, entry in after.reported.items() if before.reported.get(name) is not entry}
    upsert(
        session,
        _reported,
        [
            {"device_id": device_id, "identifier": name, "value": _json(entry.value), "time_ms": entry.time_ms}
            for name, entry in changed.items()
        ],
        keys=("device_id", "identifier"),
    )
    if before.desired.keys() - after.desired.keys():
        session.execute(delete(DesiredRow).where(DesiredRow.device_id == device_id))
    _set_head(session, device_id, after.version, now_ms, spoken=True)


def set_spoken(session: Session, device_id: int, shadow: Shadow, now_ms: int) -> None:
    """The device uses the shadow's own topics: what applications change is told it there."""
    if not shadow.spoken:
        _set_head(session, device_id, shadow.version, now_ms, spoken=True)


def _set_head(session: Session, device_id: int, version: int, now_ms: int, *, spoken: bool) -> None:
    head = session.get(ShadowRow, device_id)
    if head is None:
        session.add(ShadowRow(device_id=device_id, version=version, spoken=spoken, updated_ms=now_ms))
        session.flush()
    else:
        head.version, head.updated_ms = version, now_ms
        head.spoken = head.spoken or spoken


def change_desired(session: Session, device_id: int, changes: Mapping[str, Any], now_ms: int) -> Shadow:
    """Set what is desired; None takes a value back. Each property counts its changes, and so does the shadow. The shadow after it."""
    held = {row.identifier: row for row in session.scalars(select(DesiredRow).where(DesiredRow.device_id == device_id))}
    for identifier, value in changes.items():
        row = held.get(identifier)
        if value is None:
            if row is not None:
                session.delete(row)
        elif row is None:
            session.add(DesiredRow(device_id=device_id, identifier=identifier, value=_json(value), version=1, time_ms=now_ms))
        else:
            row.value, row.version, row.time_ms = _json(value), row.version + 1, now_ms
    head = session.get(ShadowRow, device_id)
    _set_head(session, device_id, (0 if head is None else head.version) + 1, now_ms, spoken=False)
    session.flush()
    return load_shadow(session, device_id)


def desired_values(session: Session, device_id: int, identifiers: Sequence[str]) -> dict[str, DesiredValue]:
    """What is desired of these; what is not desired is left out."""
    rows = session.scalars(select(DesiredRow).where(DesiredRow.device_id == device_id, DesiredRow.identifier.in_(identifiers)))
    return {row.identifier: DesiredValue(msgspec.json.decode(row.value), row.version, row.time_ms) for row in rows}


def delete_desired(session: Session, device_id: int, versions: Mapping[str, int | None], now_ms: int) -> list[str]:
    """Take desired values back: each if it still has the version given, without one in any case. Which went."""
    rows = session.scalars(select(DesiredRow).where(DesiredRow.device_id == device_id, DesiredRow.identifier.in_(list(versions))))
    gone = [row for row in rows if versions[row.identifier] in (None, row.version)]
    for row in gone:
        session.delete(row)
    if gone:
        head = session.get(ShadowRow, device_id)
        _set_head(session, device_id, (0 if head is None else head.version) + 1, now_ms, spoken=False)
        session.flush()
    return [row.identifier for row in gone]
