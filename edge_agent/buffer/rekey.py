"""Give a buffer file another key, its first one, or none. The agent has to be stopped; a run that was cut short is run again."""

import os
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw

from edge_agent.buffer.frame_file import FORMAT, KEY_CHECK, REKEYING, opened_alone, translated
from edge_agent.buffer.lane_rows import head_check
from edge_agent.buffer.sealing import Seal, Unsealable
from edge_agent.ports import OutboxUnavailable

_AT_ONCE = 256  # rows of a transaction
_NEXT = "select id, crc, boot, created_ms, readings, is_gap, body from frame where id > ? order by id limit ?"
_THIRD = "the buffer was encrypted with another key than these two: give the one it had with --from"


def rekey(path: Path, before: Seal, after: Seal) -> int:
    """Seal everything anew; the number of frames. Raises OutboxUnavailable (an agent runs, neither key opens it) and OutboxDamaged."""
    try:
        db = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            opened_alone(db)
            if db.pragma("user_version") != FORMAT:
                raise OutboxUnavailable(f"{path} is of an older format: start the agent once, as it was, and stop it")
            return _all_rows(db, before, after)
        finally:
            db.close(True)
    except apsw.BusyError as error:
        raise OutboxUnavailable(f"an agent has {path} open: stop it, then ask again") from error
    except apsw.Error as error:
        raise translated(error) from error


def _all_rows(db: apsw.Connection, before: Seal, after: Seal) -> int:
    _refuse_others(db, before, after)
    set_check = "insert into mark values (?, ?) on conflict do update set value = excluded.value"
    db.execute(set_check, (KEY_CHECK, REKEYING))
    done, last = 0, -1
    while rows := _all(db, _NEXT, last, _AT_ONCE):
        db.execute("begin immediate")
        for row, crc, boot, created_ms, readings, is_gap, body in rows:
            if crc32(body) == crc:  # a damaged one stays as it is: it is found when it is read
                fresh = _resealed(body, before, after)
                check = head_check(crc32(fresh), boot, created_ms, readings, is_gap)
                db.execute("update frame set body = ?, crc = ?, head = ? where id = ?", (fresh, crc32(fresh), check, row))
            last = row
        done += len(rows)
        db.execute("commit")
    db.execute("begin immediate")
    for key, value in _all(db, "select key, value from mark where key <> ?", KEY_CHECK):
        db.execute("update mark set value = ? where key = ?", (_resealed(value, before, after), key))
    for row, body in _all(db, "select id, body from quarantine"):
        db.execute("update quarantine set body = ? where id = ?", (_resealed(body, before, after), row))
    if after.check:
        db.execute(set_check, (KEY_CHECK, after.check))
    else:
        db.execute("delete from mark where key = ?", (KEY_CHECK,))
    db.execute("commit")
    db.execute("vacuum")  # what was written before must not stay between cells and in free pages
    db.execute("pragma wal_checkpoint(truncate)").fetchall()
    return done


def _refuse_others(db: apsw.Connection, before: Seal, after: Seal) -> None:
    """Before anything is changed: a file with a third key."""
    found = db.execute("select value from mark where key = ?", (KEY_CHECK,)).get
    if found not in (None, REKEYING, before.check, after.check):
        raise OutboxUnavailable(_THIRD)


def _resealed(data: bytes, before: Seal, after: Seal) -> bytes:
    for seal in (after, before):  # a run before this one may have come as far as here
        try:
            return after.close(seal.open(data))
        except Unsealable:
            continue
    raise OutboxUnavailable(_THIRD)


def _all(db: apsw.Connection, query: str, *values: str | int) -> list[Any]:
    return db.execute(query, values).fetchall()
