"""The state of a buffer file that no agent has open, for `edgectl`: reads, changes nothing, begins no boot."""

import os
from pathlib import Path
from typing import Any

import apsw

from edge_agent.buffer.frame_file import APPLICATION_ID, translated
from edge_agent.ports import LaneState, OutboxDamaged, OutboxState
from protocols.edgelink.lanes import LANES


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
    def rows(query: str) -> list[Any]:
        return db.execute(query).fetchall()

    db.execute("begin")
    (buffer_id, boot) = rows("select buffer_id, boot from identity")[0]
    frames = rows("select id >> 56, min(id) & ((1 << 56) - 1), count(*), sum(length(body)), sum(readings) from frame group by 1")
    held = {code: figures for code, *figures in frames}
    lanes = {}
    for code, next_seq, *counted in rows("select code, next_seq, collected, delivered, in_gaps, appended_bytes, delivered_bytes from lane"):
        floor, count, used, readings = held.get(code, (next_seq, 0, 0, 0))
        lanes[LANES[code]] = LaneState(floor, next_seq, count, used, readings, *counted)
    db.execute("rollback")
    return OutboxState(buffer_id, boot, lanes, quota_bytes)
