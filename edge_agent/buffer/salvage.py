"""A buffer file whose pages are damaged: what can still be read moves to a new file, and what cannot becomes gaps.

The new file takes the old one's place in three renames; a stop between them is made good at the next opening. The damaged file stays
beside it: when the root page of the frames is hit, a way to them would have to be sought page by page, which is not done here.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import apsw

from edge_agent.buffer.lane_rows import ADD_TO_LEDGER, MASK, head_check, head_is_whole, ledger_of, row_id
from edge_agent.ports import OutboxDamaged
from protocols.edgelink.columns import NO_COLUMNS
from protocols.edgelink.frame import encode_body
from protocols.edgelink.lanes import LANES, Gap, GapReason, Lane
from protocols.edgelink.records import GapRecord, TallyRecord
from protocols.edgelink.stretches import tally

log = logging.getLogger(__name__)

_COLUMNS = "id, covers, boot, created_ms, readings, is_gap, crc, age_s, thinned, period, head, body"
_READ = f"select {_COLUMNS} from frame where id "  # noqa: S608 - names of our own
_WRITE = f"insert into frame ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_REST = (
    ("mark", "select key, value from mark", "insert or ignore into mark values (?, ?)"),
    ("ledger", "select * from ledger", "insert or ignore into ledger values (?, ?, ?, ?)"),
    ("quarantine", "select * from quarantine", "insert or ignore into quarantine values (?, ?, ?, ?, ?, ?, ?, ?)"),
)


def is_sound(db: apsw.Connection) -> bool:
    """Whether SQLite finds the file's pages and types in order. About half a second for 1 GB; frames carry their own checksum."""
    try:
        if [str(row[0]) for row in db.execute("pragma quick_check(1)")] != ["ok"]:
            return False
        if not db.execute("select count(*) from sqlite_schema where name = 'frame'").get:
            return True
        return not _broken_chains(db) and _balances(db)
    except (apsw.CorruptError, UnicodeDecodeError):
        return False


def _broken_chains(db: apsw.Connection) -> int:
    """Frames that do not begin where the one before them in their lane ends: each accounts for all seqs since it."""
    links = "select id, covers, lag(id) over (order by id) as before from frame"
    return int(db.execute(f"select count(*) from ({links}) where id >> 56 = before >> 56 and covers <> (before & {MASK}) + 1").get)  # noqa: S608 - a number of our own


def _balances(db: apsw.Connection) -> bool:
    """Whether each lane holds as many readings as its counters leave: a row whose count was changed makes them differ."""
    counted = "select code, collected - delivered - in_gaps from lane"
    return all(
        left == db.execute("select coalesce(sum(readings), 0) from frame where id between ? and ?", (code << 56, code << 56 | MASK)).get
        for code, left in _all(db, counted)
    )


def finish_exchange(path: Path) -> None:
    """Before opening: carry an exchange that was cut short to its end."""
    fresh, damaged = _beside(path, ".salvaged"), _beside(path, ".damaged")
    if path.exists() or not fresh.exists():
        return
    _move(_beside(path, "-wal"), _beside(damaged, "-wal"))
    fresh.rename(path)
    _sync(path.parent)


def forget_copy(path: Path) -> None:
    """Remove a copy that was never finished. Only for who holds the lock on `path`: another agent may be making one."""
    for suffix in (".salvaged", ".salvaged-wal"):
        _beside(path, suffix).unlink(missing_ok=True)


def salvage(path: Path, gateway: tuple[str, str], make: Callable[[apsw.Connection], None], version: int) -> None:
    """Copy what is readable and exchange the files; `make` lays out an empty one. OutboxDamaged: identity or counters are gone."""
    fresh, damaged = _beside(path, ".salvaged"), _beside(path, ".damaged")
    try:
        with _opened(path) as old:
            old.execute("select count(*) from sqlite_schema").fetchall()  # takes the lock, and keeps it
            if old.pragma("user_version") != version:
                raise OutboxDamaged(f"{path} is damaged, and of an older format that is not salvaged: move it away and start again")
            forget_copy(path)
            lost = _into(fresh, old, gateway, make)
    except OutboxDamaged:
        fresh.unlink(missing_ok=True)
        raise
    _sync(fresh.parent)
    for suffix in ("-wal", "-shm"):
        _beside(damaged, suffix).unlink(missing_ok=True)
    path.replace(damaged)
    _sync(path.parent)
    finish_exchange(path)
    log.error("buffer.salvaged", extra={"readings_lost": lost, "damaged_file": str(damaged)})


def _into(fresh: Path, old: apsw.Connection, gateway: tuple[str, str], make: Callable[[apsw.Connection], None]) -> int:
    with _opened(fresh) as new:
        make(new)
        new.execute("begin immediate")
        lost = _copy(old, new, gateway)
        new.execute("commit")
        new.execute("pragma wal_checkpoint(truncate)").fetchall()
    return lost


def _copy(old: apsw.Connection, new: apsw.Connection, gateway: tuple[str, str]) -> int:
    """Readings lost."""
    try:
        [(buffer_id, boot)] = _all(old, "select buffer_id, boot from identity")
        counters = _all(old, "select * from lane")
        if [row[0] for row in counters] != [lane.code for lane in LANES] or len(counters[0]) != 12:
            raise ValueError("its lanes are not those of this version")
    except (apsw.Error, ValueError) as error:
        raise OutboxDamaged(
            f"the buffer file is damaged beyond its frames ({error}): move it away and start again; keep it, support may read more of it"
        ) from error
    new.execute("update identity set buffer_id = ?, boot = ?", (buffer_id, boot))
    for table, read, write in _REST:
        try:
            for row in old.execute(read):
                new.execute(write, row)
        except (apsw.Error, UnicodeDecodeError) as error:  # duplicate memory and put-aside frames: the rest is worth more than they are
            log.warning("buffer.salvage_partial", extra={"table": table, "problem": str(error)})
    lost = 0
    for code, next_seq, collected, delivered, in_gaps, last_ms, appended, sent, *stretch in counters:
        lane = LANES[code]
        held = _copy_frames(old, new, lane, next_seq, gateway)
        missing = collected - delivered - in_gaps - held
        if missing < 0:  # a counter is damaged, nobody knows which: no reading may be missing that is there
            collected, missing = collected - missing, 0
        lost += missing
        values = (next_seq, collected, delivered, in_gaps + missing, last_ms, appended, sent, code)
        new.execute(
            "update lane set next_seq = ?, collected = ?, delivered = ?, in_gaps = ?, last_ms = ?, appended_bytes = ?, delivered_bytes = ?"
            " where code = ?",
            values,
        )
        if any(stretch[1:]):
            new.execute(ADD_TO_LEDGER, stretch)
    _tell(new, boot, _balance_stretches(new, lost))
    return lost


def _balance_stretches(new: apsw.Connection, lost: int) -> dict[int, int]:
    """What the ledger has and nobody holds any more was lost; where it has too little, it was damaged itself. Lost ones by stretch."""
    found: dict[int, int] = {}
    for one in ledger_of(new):
        missing = one.collected - one.delivered - one.buffered - one.in_gaps
        found[one.from_ms] = max(0, missing)
        if missing:
            new.execute(ADD_TO_LEDGER, (one.from_ms, max(0, -missing), 0, max(0, missing)))
    unknown = lost - sum(found.values())  # the ledger was hit as well
    if unknown > 0:
        newest = max(found, default=0)
        found[newest] = found.get(newest, 0) + unknown
        new.execute(ADD_TO_LEDGER, (newest, unknown, 0, unknown))
    return {from_ms: count for from_ms, count in found.items() if count}


def _tell(new: apsw.Connection, boot: int, lost: dict[int, int]) -> None:
    """The cloud counts what was lost, as the gaps that name it cannot: nobody knows which frame held how much."""
    if lost:
        seq = int(new.execute("select next_seq from lane where code = ?", (Lane.ALARM.code,)).get)
        _insert_frame(new, Lane.ALARM, (seq, seq), boot, max(lost), tally(lost))
        new.execute("update lane set next_seq = next_seq + 1 where code = ?", (Lane.ALARM.code,))


def _copy_frames(old: apsw.Connection, new: apsw.Connection, lane: Lane, next_seq: int, gateway: tuple[str, str]) -> int:
    """Readings copied. Seqs that nobody accounts for any more get a gap frame, dated by its neighbours."""
    held, expected, boot, before_ms = 0, 0, 0, 0
    for row in _frames(old, lane, next_seq):
        seq, covers = row[0] & MASK, row[1]
        if covers < expected or seq >= next_seq:
            continue
        if expected and covers > expected:
            _insert_gap(new, lane, (expected, covers - 1), boot, (before_ms, row[3]), gateway)
        new.execute(_WRITE, row)
        held += row[4]
        expected, boot, before_ms = seq + 1, row[2], row[3]
    if expected and expected < next_seq:
        _insert_gap(new, lane, (expected, next_seq - 1), boot, (before_ms, before_ms), gateway)
    return held


def _frames(old: apsw.Connection, lane: Lane, next_seq: int) -> Iterator[Any]:
    """Every row that can be read: in one go until the first damage, then one by one, each by its own way down the tree."""
    seq = 0
    try:
        for row in old.execute(_READ + "> ? and id <= ? order by id", (row_id(lane, seq), row_id(lane, MASK))):
            if _is_whole(row) and row[0] >> 56 == lane.code:  # SQLite believes the order of ids, and one may be damaged
                yield row
            seq = row[0] & MASK
    except (apsw.CorruptError, UnicodeDecodeError):
        for one in range(max(seq + 1, next_seq - _MOST_HELD), next_seq):
            try:
                yield from filter(_is_whole, old.execute(_READ + "= ?", (row_id(lane, one),)).fetchall())
            except (apsw.CorruptError, UnicodeDecodeError):
                continue


def _is_whole(row: Any) -> bool:
    """Whether a row has the types that were written, and covers what it can cover: itself, or as a gap what it stands for."""
    *numbers, head, body = row
    if not all(isinstance(number, int) for number in numbers) or not isinstance(body, bytes):
        return False
    if not head_is_whole(head, row[6], row[2], row[3], row[4], row[5]):
        return False
    seq, covers, is_gap = row[0] & MASK, row[1], row[5]
    return covers == seq or bool(is_gap and 0 < covers < seq)


_MOST_HELD = 10_000_000
"""Frames of a lane that are looked for one by one."""


def _insert_gap(
    new: apsw.Connection, lane: Lane, seqs: tuple[int, int], boot: int, around_ms: tuple[int, int], gateway: tuple[str, str]
) -> None:
    gap = Gap(*gateway, (), around_ms[0] - 60_000, around_ms[1] + 60_000, None, GapReason.BUFFER_DAMAGED)
    _insert_frame(new, lane, seqs, boot, around_ms[0], (GapRecord(gap),))


def _insert_frame(
    new: apsw.Connection, lane: Lane, seqs: tuple[int, int], boot: int, created_ms: int, records: tuple[GapRecord | TallyRecord, ...]
) -> None:
    body = encode_body(NO_COLUMNS, records)
    crc = crc32(body)
    head = head_check(crc, boot, created_ms, 0, True)
    new.execute(_WRITE, (row_id(lane, seqs[1]), seqs[0], boot, created_ms, 0, True, crc, 0, 0, 0, head, body))


def _all(db: apsw.Connection, query: str) -> list[Any]:
    return db.execute(query).fetchall()


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    db = apsw.Connection(os.fspath(path))
    try:
        db.execute("pragma locking_mode = exclusive")
        yield db
    finally:
        db.close(True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _move(source: Path, target: Path) -> None:
    if source.exists():
        source.replace(target)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
