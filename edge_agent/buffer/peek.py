"""The state of a buffer file that no agent has open, for `edgectl`: reads, changes nothing, begins no boot."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from edge_agent.buffer.frame_file import APPLICATION_ID, FORMAT, translated
from edge_agent.buffer.lane_rows import LaneRows, ledger_of
from edge_agent.ports import OutboxDamaged, OutboxState, OutboxUnavailable, Stretch

_T = TypeVar("_T")


def peek(path: Path, quota_bytes: int) -> OutboxState | None:
    """The state on disk; None when there is no file. Raises OutboxUnavailable (an agent has it open) and OutboxDamaged."""
    return _looked_into(path, lambda db: _read(db, quota_bytes))


def peek_ledger(path: Path) -> list[Stretch] | None:
    """The account by stretches of time; None when there is no file. Raises as `peek` does."""
    return _looked_into(path, ledger_of)


def _looked_into(path: Path, look: Callable[[apsw.Connection], _T]) -> _T | None:
    if not path.exists():
        return None
    try:
        db = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)  # what a killed agent left has to be recovered first
        try:
            db.set_busy_timeout(500)
            if db.pragma("application_id") != APPLICATION_ID:
                raise OutboxDamaged(f"{path} is no buffer")
            if db.pragma("user_version") != FORMAT:
                raise OutboxUnavailable(f"{path} is of another version; the agent makes it one of this version when it starts")
            db.execute("begin")
            try:
                return look(db)
            finally:
                db.execute("rollback")
        finally:
            db.close()
    except apsw.Error as error:
        raise translated(error) from error


def _read(db: apsw.Connection, quota_bytes: int) -> OutboxState:
    rows = LaneRows(db)
    [(buffer_id, boot)] = rows.query("select buffer_id, boot from identity")
    rows.load()
    return OutboxState(buffer_id, boot, {lane: held.freeze() for lane, held in rows.lanes.items()}, quota_bytes)
