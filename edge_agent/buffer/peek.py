"""The state of a buffer file that no agent has open, for `edgectl`: reads, changes nothing, begins no boot."""

import os
from pathlib import Path

import apsw

from edge_agent.buffer.frame_file import APPLICATION_ID, translated
from edge_agent.buffer.lane_rows import LaneRows
from edge_agent.ports import OutboxDamaged, OutboxState


def peek(path: Path, quota_bytes: int) -> OutboxState | None:
    """The state on disk; None when there is no file. Raises OutboxUnavailable (an agent has it open) and OutboxDamaged."""
    if not path.exists():
        return None
    try:
        db = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)  # what a killed agent left has to be recovered first
        try:
            db.set_busy_timeout(500)
            if db.pragma("application_id") != APPLICATION_ID:
                raise OutboxDamaged(f"{path} is no buffer")
            return _read(db, quota_bytes)
        finally:
            db.close()
    except apsw.Error as error:
        raise translated(error) from error


def _read(db: apsw.Connection, quota_bytes: int) -> OutboxState:
    rows = LaneRows(db)
    db.execute("begin")
    [(buffer_id, boot)] = rows.query("select buffer_id, boot from identity")
    rows.load()
    db.execute("rollback")
    return OutboxState(buffer_id, boot, {lane: held.freeze() for lane, held in rows.lanes.items()}, quota_bytes)
