"""Use cases of tags: short texts by key, set by the device itself or by people. Everything here blocks."""

from collections.abc import Collection, Mapping
from typing import Final, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from cloud.devices.model import Tag
from cloud.devices.tables import TagRow
from protocols.errors import Reason, Refused

MOST_TAGS: Final = 100
"""Of one device; more are refused."""

Source = Literal["device", "api"]


def tags_of(session: Session, device_id: int) -> dict[str, Tag]:
    """The tags of a device, by key."""
    rows = session.scalars(select(TagRow).where(TagRow.device_id == device_id).order_by(TagRow.key))
    return {row.key: Tag(row.value, row.source, row.time_ms) for row in rows}


def set_tags(session: Session, device_id: int, tags: Mapping[str, str], source: Source, now_ms: int) -> None:
    """Set tags; others stay. Raises Refused(TOO_MANY)."""
    held = {row.key: row for row in session.scalars(select(TagRow).where(TagRow.device_id == device_id))}
    if len(held.keys() | tags.keys()) > MOST_TAGS:
        raise Refused(Reason.TOO_MANY, f"a device has at most {MOST_TAGS} tags, and this one has {len(held)}: delete some first")
    for key, value in tags.items():
        row = held.get(key)
        if row is None:
            session.add(TagRow(device_id=device_id, key=key, value=value, source=source, time_ms=now_ms))
        else:
            row.value, row.source, row.time_ms = value, source, now_ms
    session.flush()


def delete_tags(session: Session, device_id: int, keys: Collection[str]) -> int:
    """How many of them there were."""
    held = session.scalar(select(func.count()).select_from(TagRow).where(TagRow.device_id == device_id, TagRow.key.in_(keys))) or 0
    session.execute(delete(TagRow).where(TagRow.device_id == device_id, TagRow.key.in_(keys)))
    return held
